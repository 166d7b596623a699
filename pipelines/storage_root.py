"""Where relative addresses lead: below the folder that all nodes of a cluster see, when one is named."""

from __future__ import annotations

import os
from pathlib import Path

from frozenseg.data.files import is_remote
from frozenseg.errors import UserInputError

STORAGE_VARIABLE = "FROZENSEG_STORAGE"
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the entry point of a submitted job."""


def below_storage(address: str) -> str:
    """A relative path below $FROZENSEG_STORAGE; absolute paths, addresses with a protocol and an empty text as they
    are, and everything when the variable isn't set."""
    storage = os.environ.get(STORAGE_VARIABLE)
    if not address or storage is None or is_remote(address):
        return address
    return str(Path(storage) / address)


def result_below_storage(address: str, option: str) -> str:
    """The same for what a job writes: a submitted job runs in a folder that is thrown away, and another one next time.

    Args:
        option: how the user gives this address, for the message.

    Raises:
        UserInputError: a relative path in a submitted job without that variable.
    """
    found = below_storage(address)
    if JOB_VARIABLE in os.environ and not is_remote(found) and not Path(found).is_absolute():
        raise UserInputError(
            f"output {address!r} is relative, and a submitted job runs in a folder that is thrown away: set "
            f"{STORAGE_VARIABLE} on the cluster to a folder that all nodes see, or give {option} an absolute path"
        )
    return found
