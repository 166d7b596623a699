"""The types that flow between the rooms. Plain data: no behaviour beyond validation and small conversions.

Shape legend
    B images, Q queries, K categories, T synonym rows, D CLIP width, C channels, N segments, M SAM masks,
    H W pixels (padded where a batch is meant), h w pixels of one original image or of a feature map.
A size is always (height, width). A "contiguous" category id is the index of a category in its vocabulary; a
"dataset" id is what an annotation file calls it. "Nothing found" is an ordinary empty value, never None.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from frozenseg.errors import UserInputError

Size = tuple[int, int]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserInputError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """One category: `name` first, then its `synonyms`; a thing is countable, stuff is not."""

    name: str
    synonyms: tuple[str, ...] = ()
    is_thing: bool = True
    dataset_id: int | None = None
    color: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for name in self.names:
            _require(bool(name.strip()), f"a category of the vocabulary has an empty name: {self.names!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """`name` followed by the synonyms."""
        return (self.name, *self.synonyms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """An ordered, non-empty list of categories. The contiguous id of a category is its index.

    Raises:
        UserInputError: no category at all, or two categories with the same first name.
    """

    categories: tuple[Category, ...]
    name: str = "custom"

    def __post_init__(self) -> None:
        _require(len(self.categories) > 0, f"the vocabulary {self.name!r} is empty: at least one category is needed")
        first_names = [category.name for category in self.categories]
        for position, first_name in enumerate(first_names):
            _require(
                first_name not in first_names[:position],
                f"the vocabulary {self.name!r} holds the category {first_name!r} twice",
            )

    def __len__(self) -> int:
        return len(self.categories)

    @property
    def is_thing(self) -> Tensor:
        """[K] bool."""
        return torch.tensor([category.is_thing for category in self.categories], dtype=torch.bool)

    @property
    def content_hash(self) -> str:
        """sha256 hex digest of names, order, thing/stuff and dataset ids: equal when two vocabularies mean the same."""
        text = repr([(c.names, c.is_thing, c.dataset_id) for c in self.categories])
        return hashlib.sha256(text.encode()).hexdigest()

    def seen_mask(self, training_vocabulary: Vocabulary) -> Tensor:
        """[K] bool: a category is seen when any of its names is one of the training vocabulary (the paper's rule)."""
        known = {name for category in training_vocabulary.categories for name in category.names}
        return torch.tensor([any(name in known for name in c.names) for c in self.categories], dtype=torch.bool)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextEmbeddings:
    """Text rows of a vocabulary, synonyms flattened. Void is the decoder's learned row and no part of this.

    Fields: rows [T,D] float, unit norm; row_category [T] int64, contiguous category of each row, ascending.
    """

    rows: Tensor
    row_category: Tensor

    @property
    def num_categories(self) -> int:
        return int(self.row_category[-1]) + 1

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> TextEmbeddings:
        return TextEmbeddings(rows=self.rows.to(device, dtype), row_category=self.row_category.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthSegment:
    """One annotated segment of an image. `category_id` is contiguous."""

    id: int
    category_id: int
    is_thing: bool
    is_crowd: bool = False
    area: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PanopticTarget:
    """What the loss is measured against. masks [N,H,W] bool; category_ids [N] int64 contiguous; is_thing [N] bool."""

    masks: Tensor
    category_ids: Tensor
    is_thing: Tensor

    def __post_init__(self) -> None:
        n = self.masks.shape[0]
        _require(
            self.masks.ndim == 3 and self.category_ids.shape == (n,) and self.is_thing.shape == (n,),
            "a PanopticTarget needs masks [N,H,W], category_ids [N] and is_thing [N]; found "
            f"{tuple(self.masks.shape)}, {tuple(self.category_ids.shape)}, {tuple(self.is_thing.shape)}",
        )

    def to(self, device: torch.device | str) -> PanopticTarget:
        return PanopticTarget(
            masks=self.masks.to(device), category_ids=self.category_ids.to(device), is_thing=self.is_thing.to(device)
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PanopticAnnotation:
    """Truth of one image as annotated. segment_ids [h,w] int32, 0 = void; segments name every other id in it."""

    segment_ids: Tensor
    segments: tuple[TruthSegment, ...]

    def target(self) -> PanopticTarget:
        """Masks of the segments that are not crowds, in annotation order; segments without pixels are dropped."""
        kept = [(s, self.segment_ids == s.id) for s in self.segments if not s.is_crowd]
        kept = [(s, mask) for s, mask in kept if bool(mask.any())]
        size = tuple(self.segment_ids.shape)
        masks = torch.stack([mask for _, mask in kept]) if kept else torch.zeros((0, *size), dtype=torch.bool)
        return PanopticTarget(
            masks=masks,
            category_ids=torch.tensor([s.category_id for s, _ in kept], dtype=torch.int64),
            is_thing=torch.tensor([s.is_thing for s, _ in kept], dtype=torch.bool),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSample:
    """One sample as it lies on disk or in a shard, nothing decoded.

    Fields: image_id: unique in its data set, without dots; image_bytes: the original file's bytes; panoptic_png: COCO
    panoptic PNG (id = R + 256 G + 65536 B), empty bytes when there is no truth; segments: of that PNG, with
    contiguous category ids; file_name: the original file name.
    """

    image_id: str
    image_bytes: bytes
    panoptic_png: bytes = b""
    segments: tuple[TruthSegment, ...] = ()
    file_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageSample:
    """A decoded image. image [3,H,W] uint8 RGB; original_size: of the file it came from, after EXIF rotation."""

    image_id: str
    image: Tensor
    original_size: Size

    def __post_init__(self) -> None:
        _require(
            self.image.ndim == 3 and self.image.shape[0] == 3 and self.image.dtype == torch.uint8,
            f"image {self.image_id!r}: expected [3,H,W] uint8, found {tuple(self.image.shape)} {self.image.dtype}",
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Images padded at the right and bottom to one size, a multiple of 32.

    Fields: image_ids; images [B,3,H,W] uint8 RGB, padding 0; valid_sizes [B,2] int64, (height, width) of each image
    without padding; targets: one per image at the padded size, or empty when there is no truth.
    """

    image_ids: tuple[str, ...]
    images: Tensor
    valid_sizes: Tensor
    targets: tuple[PanopticTarget, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        return Batch(
            image_ids=self.image_ids,
            images=self.images.to(device),
            valid_sizes=self.valid_sizes.to(device),
            targets=tuple(target.to(device) for target in self.targets),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureKey:
    """What made a set of features: two feature sets may be mixed only when their keys are equal."""

    clip: str
    sam: str
    weights_hash: str
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncoderFeatures:
    """All that the decoder and the classifier read of an image: the seam between encoders and decoder.

    Fields: clip_pyramid: 4 maps [B,C_l,H/s,W/s] for s = 4, 8, 16, 32; clip_dense [B,C,H/32,W/32], input of mask
    pooling; sam [B,C_sam,h,w], or [B,0,0,0] for a model without SAM; source: what made them.
    """

    clip_pyramid: tuple[Tensor, Tensor, Tensor, Tensor]
    clip_dense: Tensor
    sam: Tensor
    source: FeatureKey

    @property
    def batch_size(self) -> int:
        return int(self.clip_dense.shape[0])

    @property
    def padded_size(self) -> Size:
        """(H, W) of the padded images these features were made from."""
        return int(self.clip_pyramid[0].shape[-2]) * 4, int(self.clip_pyramid[0].shape[-1]) * 4

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> EncoderFeatures:
        first, second, third, fourth = (level.to(device, dtype) for level in self.clip_pyramid)
        return EncoderFeatures(
            clip_pyramid=(first, second, third, fourth),
            clip_dense=self.clip_dense.to(device, dtype),
            sam=self.sam.to(device, dtype),
            source=self.source,
        )


def stack_features(features: Sequence[EncoderFeatures]) -> EncoderFeatures:
    """Concatenates along the batch axis.

    Raises:
        UserInputError: the feature sets come from different encoders.
    """
    sources = {f.source for f in features}
    _require(len(sources) == 1, f"features of different encoders cannot be mixed: {sorted(map(repr, sources))}")
    first, second, third, fourth = (torch.cat([f.clip_pyramid[i] for f in features]) for i in range(4))
    return EncoderFeatures(
        clip_pyramid=(first, second, third, fourth),
        clip_dense=torch.cat([f.clip_dense for f in features]),
        sam=torch.cat([f.sam for f in features]),
        source=features[0].source,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingBatch:
    """Features with their truth.

    Fields: is_padding [B] marks rows that only keep ranks in step and carry no loss, empty for none; consumed: ids by
    epoch that a checkpoint must remember as used: not those of padding, but those of unreadable samples too.
    """

    image_ids: tuple[str, ...]
    features: EncoderFeatures
    targets: tuple[PanopticTarget, ...]
    is_padding: tuple[bool, ...] = ()
    consumed: dict[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecoderPrediction:
    """mask_logits [B,Q,H/4,W/4]; class_logits [B,Q,K+1], void last."""

    mask_logits: Tensor
    class_logits: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecoderOutput:
    """The decoder's final prediction, and those before it in order: before layer 0, after layer 0, ..."""

    mask_logits: Tensor
    class_logits: Tensor
    auxiliary: tuple[DecoderPrediction, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One predicted segment. category_id contiguous; score in [0,1]; area in pixels."""

    id: int
    category_id: int
    is_thing: bool
    score: float
    area: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SegmentationOutput:
    """A panoptic result at the image's own size. segment_ids [h,w] int32, 0 = void, else the id of a segment."""

    segment_ids: Tensor
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Instances:
    """Instance result sorted by score. masks [N,h,w] bool; category_ids [N] int64 contiguous; scores [N] in [0,1]."""

    masks: Tensor
    category_ids: Tensor
    scores: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamMasks:
    """Class-agnostic SAM masks of one image, largest first. logits [M,h,w] at SAM's low resolution or the image's
    size as the producer says; predicted_iou [M]; stability [M]; boxes [M,4] xyxy pixels of the image. M may be 0."""

    logits: Tensor
    predicted_iou: Tensor
    stability: Tensor
    boxes: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFile:
    """One tar of a shard set.

    Fields: its name; size in bytes; sha256 hex digest; ids of its samples in order; sample_offsets: byte position of
    each sample's first member header, so that one sample is one ranged read (a sample ends where the next begins).
    """

    name: str
    num_bytes: int
    sha256: str
    sample_ids: tuple[str, ...]
    sample_offsets: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedSample:
    """A sample of the source that could not be used, and why in one line."""

    image_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardManifest:
    """What a shard set holds. `columns` are the member extensions that occur in it, `vocabulary_hash` names the
    category list that the contiguous ids in it refer to, `source` says what it was made from, `skipped` what of the
    source is not in it."""

    format_version: int
    files: tuple[ShardFile, ...]
    columns: tuple[str, ...]
    vocabulary: Vocabulary
    vocabulary_hash: str
    source: dict[str, str] = field(default_factory=dict)
    skipped: tuple[SkippedSample, ...] = ()

    @property
    def num_samples(self) -> int:
        return sum(len(file.sample_ids) for file in self.files)
