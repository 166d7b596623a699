"""Errors that a user can act on.

Everything that is the user's to mend (a missing file, a misspelt key, an image that isn't one) is raised as
:class:`UserInputError` with one clear line naming the thing, what was expected and what was found. Entry points print
that line and exit with code 2; anything else is a defect of ours and keeps its traceback.
"""


class FrozenSegError(Exception):
    """Base class of the errors this project raises on purpose."""


class UserInputError(FrozenSegError, ValueError):
    """Input that cannot be used; the message is one line that names the thing, the expectation and the finding."""


class MissingPathError(UserInputError, FileNotFoundError):
    """A file, folder or address that does not exist."""


class FormatVersionError(UserInputError):
    """A shard set, model folder or checkpoint written in a format version that this code does not read."""


class SkippedShareError(FrozenSegError):
    """More samples were skipped than the share that the caller allowed."""
