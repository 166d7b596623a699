"""Request bodies -> image bytes and checked options, whichever of the two forms the client chose."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from frozenseg.errors import UserInputError
from frozenseg.types import Category, Vocabulary
from frozenseg.vocabulary import PUBLISHED_NAMES, parse_vocabulary, published_vocabulary
from serve.fetch import fetch_image
from serve.problems import InvalidFieldsError, RequestRefusedError
from serve.schema import BatchRequest, FieldProblem, ImageIn, SegmentOptions, SegmentRequest
from serve.settings import Limits, ServeSettings

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """One image with its options."""

    image: bytes
    options: SegmentOptions


def _validated(model: type[Model], text: str | bytes, prefix: str = "") -> Model:
    """`text` as `model`.

    Raises:
        InvalidFieldsError: not JSON, or not of the schema; every fault is named with its field.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        problems = tuple(
            FieldProblem(
                field=".".join([*([prefix] if prefix else []), *map(str, fault["loc"])]) or "body",
                message=fault["msg"],
            )
            for fault in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise InvalidFieldsError(problems) from error


async def read_segment(request: Request, settings: ServeSettings) -> ParsedRequest:
    """Reads the multipart form (parts `image` and `options`) or the JSON form of a request.

    Raises:
        InvalidFieldsError, RequestRefusedError: what is wrong, with the field.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        body = _validated(SegmentRequest, await request.body())
        return ParsedRequest(image=await image_bytes(body.image, settings), options=body.options)
    if kind == "multipart/form-data":
        return await _read_form(request, settings.limits)
    raise RequestRefusedError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"expected multipart/form-data or application/json, found {kind or 'no content type'!r}",
        field="content-type",
    )


async def _read_form(request: Request, limits: Limits) -> ParsedRequest:
    try:
        form = await request.form(max_files=1, max_fields=4, max_part_size=2**20)
    except HTTPException as error:
        raise RequestRefusedError(HTTPStatus.BAD_REQUEST, str(error.detail), field="body") from error
    async with _closing(form):
        unknown = sorted(set(form) - {"image", "options"})
        if unknown:
            raise RequestRefusedError(
                HTTPStatus.UNPROCESSABLE_ENTITY, "expected the parts image and options only", field=unknown[0]
            )
        upload, options = form.get("image"), form.get("options")
        if not isinstance(upload, UploadFile):
            raise RequestRefusedError(
                HTTPStatus.UNPROCESSABLE_ENTITY, "expected a file part with the image", field="image"
            )
        if not isinstance(options, str):
            raise RequestRefusedError(
                HTTPStatus.UNPROCESSABLE_ENTITY, "expected a text part with the options as JSON", field="options"
            )
        checked = _validated(SegmentOptions, options, prefix="options")
        return ParsedRequest(image=_bounded(await upload.read(), limits), options=checked)


class _closing:
    """Closes the form's temporary files whatever happens."""

    def __init__(self, form: object) -> None:
        self._form = form

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        await self._form.close()  # type: ignore[attr-defined]


async def read_batch(request: Request, settings: ServeSettings) -> BatchRequest:
    """The JSON body of a batch request.

    Raises:
        InvalidFieldsError, RequestRefusedError: what is wrong, with the field.
    """
    body = _validated(BatchRequest, await request.body())
    if len(body.images) > settings.limits.images_per_batch:
        raise RequestRefusedError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"expected at most {settings.limits.images_per_batch} images, found {len(body.images)}",
            field="images",
        )
    return body


async def image_bytes(image: ImageIn, settings: ServeSettings) -> bytes:
    """The bytes of an image given in base64 or by address.

    Raises:
        RequestRefusedError: neither or both given, not base64, too large, or the address is refused.
    """
    if (image.base64 is None) == (image.url is None):
        raise RequestRefusedError(
            HTTPStatus.UNPROCESSABLE_ENTITY, "expected exactly one of base64 and url", field="image"
        )
    if image.url is not None:
        return await fetch_image(image.url, settings.url, settings.limits.image_bytes)
    try:
        data = base64.b64decode(image.base64 or "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestRefusedError(
            HTTPStatus.UNPROCESSABLE_ENTITY, "this is not base64", field="image.base64"
        ) from error
    return _bounded(data, settings.limits)


def _bounded(data: bytes, limits: Limits) -> bytes:
    if not data:
        raise RequestRefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "the image is empty", field="image")
    if len(data) > limits.image_bytes:
        raise RequestRefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the image has {len(data)} bytes; at most {limits.image_bytes} are read",
            field="image",
        )
    return data


def read_vocabulary(options: SegmentOptions, limits: Limits) -> Vocabulary:
    """The request's vocabulary. A published one is named after `@`; no text is ever taken for a path.

    Raises:
        RequestRefusedError: empty, too many categories or synonyms, or a name that is too long or not printable.
    """
    field = "options.vocabulary"
    try:
        vocabulary = _vocabulary(options)
    except UserInputError as error:
        raise RequestRefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), field=field) from error
    checks = (
        ("categories", len(vocabulary), limits.categories),
        ("names of one category", max(len(c.names) for c in vocabulary.categories), limits.synonyms + 1),
        ("characters of one name", max(len(n) for c in vocabulary.categories for n in c.names), limits.name_length),
    )
    for what, found, allowed in checks:
        if found > allowed:
            raise RequestRefusedError(
                HTTPStatus.UNPROCESSABLE_ENTITY, f"{what}: at most {allowed} are allowed, found {found}", field=field
            )
    if not all(name.isprintable() for category in vocabulary.categories for name in category.names):
        raise RequestRefusedError(
            HTTPStatus.UNPROCESSABLE_ENTITY, "a name has a character that cannot be printed", field=field
        )
    return vocabulary


def _vocabulary(options: SegmentOptions) -> Vocabulary:
    given = options.vocabulary
    if not isinstance(given, str):
        return Vocabulary(
            categories=tuple(Category(name=c.name, synonyms=tuple(c.synonyms), is_thing=c.is_thing) for c in given)
        )
    if given.startswith("@"):
        if given[1:] not in PUBLISHED_NAMES:
            raise UserInputError(f"no published vocabulary is named {given[1:]!r}")
        return published_vocabulary(given[1:])
    return parse_vocabulary(given)
