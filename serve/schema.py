"""The HTTP API's words: requests, answers and problems. Names under `/v1` are stable (docs/decisions/0003-versions.md).

Every request model refuses keys it does not know, by name. Sizes are (height, width); boxes are [x, y, width, height]
in pixels; masks are COCO run-length encodings in the compressed text form that pycocotools reads.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Task = Literal["panoptic", "semantic", "instance", "proposals"]
AnswerFormat = Literal["json", "png", "overlay", "zip"]


class _Request(BaseModel):
    # Strict: JSON's false is not the number 0, nor "1" the number 1.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class CategoryIn(_Request):
    """One category to look for."""

    name: Annotated[str, Field(min_length=1, examples=["flag"])]
    synonyms: Annotated[tuple[str, ...], Field(examples=[["banner"]])] = ()
    is_thing: Annotated[bool, Field(description="A thing is countable, stuff is not.")] = True


class SegmentOptions(_Request):
    """What to look for and how to answer."""

    vocabulary: Annotated[
        str | tuple[CategoryIn, ...],
        Field(
            description="Categories as text (`;` between categories, `,` between synonyms, `(stuff)` after a name), "
            "as a list, or the name of a published vocabulary after `@`, e.g. `@coco-panoptic`.",
            examples=["red button; green flag; water(stuff)"],
        ),
    ]
    model: Annotated[str, Field(description="A name from /v1/models.")] = "default"
    task: Task = "panoptic"
    ensemble: Annotated[
        bool, Field(description="Let SAM masks join the semantic result of unseen categories (paper, Eq. 4).")
    ] = False
    object_threshold: Annotated[float | None, Field(ge=0.0, le=1.0, description="Null keeps the model's own.")] = None
    overlap_threshold: Annotated[float | None, Field(ge=0.0, le=1.0, description="Null keeps the model's own.")] = None
    min_score: Annotated[float, Field(ge=0.0, le=1.0, description="Segments below it are left out.")] = 0.0
    top_k: Annotated[int, Field(ge=1, le=1000, description="Most instances or proposals in the answer.")] = 100
    format: AnswerFormat = "json"


class ImageIn(_Request):
    """An image in a JSON request: its bytes in base64, or an address where the server allows that."""

    base64: str | None = None
    url: str | None = None


class SegmentRequest(_Request):
    """The JSON form of a request; the multipart form has the parts `image` (file) and `options` (this `options`)."""

    image: ImageIn
    options: SegmentOptions


class BatchRequest(_Request):
    """Several images with one set of options; the answer keeps their order, a bad image has a problem in its place."""

    images: Annotated[tuple[ImageIn, ...], Field(min_length=1)]
    options: SegmentOptions


class MaskOut(_Answer):
    """COCO RLE: size [height, width] and compressed counts."""

    size: tuple[int, int]
    counts: str


class CategoryOut(_Answer):
    """A category of the request's vocabulary. `id` is its position, `seen` whether training annotations held it."""

    id: int
    name: str
    synonyms: tuple[str, ...]
    is_thing: bool
    seen: bool
    color: Annotated[str, Field(examples=["#3366cc"])]


class SegmentOut(_Answer):
    """One segment. `category_id` and `category` are null for class-agnostic proposals."""

    id: int
    category_id: int | None
    category: str | None
    is_thing: bool | None
    score: float
    area: int
    bbox: tuple[int, int, int, int]
    mask: MaskOut


class SegmentResponse(_Answer):
    """The JSON answer. Times per stage are in the `Server-Timing` header."""

    request_id: str
    model: str
    task: Task
    size: tuple[int, int]
    categories: tuple[CategoryOut, ...]
    segments: tuple[SegmentOut, ...]
    warnings: tuple[str, ...] = ()


class FieldProblem(_Answer):
    """Where in the request the fault lies."""

    field: str
    message: str


class Problem(_Answer):
    """An error in the one shape that all errors have (RFC 9457, `application/problem+json`)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
    errors: tuple[FieldProblem, ...] = ()


class BatchItem(_Answer):
    """One image's answer or problem."""

    index: int
    result: SegmentResponse | None = None
    problem: Problem | None = None


class BatchResponse(_Answer):
    """Answers in the order of the request."""

    request_id: str
    items: tuple[BatchItem, ...]


class ModelOut(_Answer):
    """A model that is served."""

    name: str
    description: str
    clip: str
    sam: str
    random_weights: bool
    training_categories: tuple[str, ...]
    suggested_vocabulary: str
    examples: Annotated[tuple[str, ...], Field(description="Addresses of example images, where the model has some.")]


class ModelsResponse(_Answer):
    """All models; `default` answers requests that name none."""

    default: str
    models: tuple[ModelOut, ...]


class VocabularyOut(_Answer):
    """A published vocabulary that requests may name as `@name`."""

    name: str
    num_categories: int
    num_things: int


class VocabulariesResponse(_Answer):
    """All published vocabularies."""

    vocabularies: tuple[VocabularyOut, ...]
