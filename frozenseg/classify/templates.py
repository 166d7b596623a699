"""The sentences a category's name is put into before CLIP reads it."""

from __future__ import annotations

from collections.abc import Sequence

from frozenseg.errors import UserInputError

VILD_TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)
"""The 14 templates of ViLD that the published model was trained and evaluated with. Source: FACTS (templates)."""


def fill_templates(name: str, templates: Sequence[str]) -> list[str]:
    """The name in every template, in order. Braces in the name mean nothing."""
    return [template.replace("{}", name) for template in templates]


def check_templates(templates: Sequence[str]) -> None:
    """Raises:
    UserInputError: no template at all, or one without exactly one `{}`.
    """
    if not templates:
        raise UserInputError("at least one text template is needed; found none")
    for template in templates:
        if template.count("{}") != 1:
            raise UserInputError(f"a text template needs exactly one '{{}}' for the name; found {template!r}")
