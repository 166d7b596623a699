"""What a feature stream is made of, and how many images its blocks hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from frozenseg.data import JitterConfig
from frozenseg.errors import UserInputError
from pipelines.codec import Codec, bytes_per_value
from pipelines.encoder_pool import EncoderSource
from pipelines.feature_cache import CacheOptions

FeatureMode = Literal["stream", "inline", "cache"]
OPENED_BLOCKS = 6
"""Blocks that a trainer may hold opened (fetched for the next batches by Ray's threads, or in use): Ray Data no longer
counts them as under way, but they take its memory."""
FEWEST_BLOCKS = 6
"""Blocks that there must be room for besides: Ray Data stops no stage inside a block, nor all stages at once."""
LARGEST_DEFAULT_MB = 256
"""Blocks of more MiB than this are made only where they were asked for: four images of 1024 in bfloat16 take 208."""
ENOUGH_IMAGES = 8
"""Of small micro-batches, that share a block: scheduling one takes Ray Data 20 ms of CPU, whatever it holds
(docs/benchmarks.md)."""


def batches_that_share(batch_size: int) -> int:
    """How many of a trainer's batches a block may hold (`StreamConfig.batches_per_block`), 1 for large ones."""
    return max(1, ENOUGH_IMAGES // batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """The stream of one training run.

    Fields: shards: address; encoders: which; mode: `stream` runs the encoders as a pool of actors, `inline` in the
    trainers' own processes, `cache` is `stream` with features kept for views that come again; jitter: augmentation;
    seed: of order and augmentation; codec: how features travel; dtype: that trainers get; encoder_batch: images per
    encoder call; batch_size: images that a trainer takes at once, None for unknown; block_images: images per block of
    Ray Data, None for what `images_per_block` finds; batches_per_block: of a trainer, that it may put into one, where
    the rows are laid out for it (`stream.packed`); min_actors, max_actors: the pool grows and shrinks between them;
    actor_cpus, actor_gpus: each (a reading task takes 1 CPU); actor_resource: of the cluster's own that each holds one
    of; max_readers: reading tasks at once, None for as many as CPUs are free; object_store_mb: bound, in MiB, of Ray's
    memory that all that was made and is not yet consumed takes, over all nodes, None for half of the cluster's object
    stores; trainers: that take from the stream; max_skipped_share: of unreadable samples; cache: where and how much is
    kept, with mode `cache` only.

    Raises:
        UserInputError: settings that contradict each other, or an `object_store_mb` that cannot be kept.
    """

    shards: str
    encoders: EncoderSource
    mode: FeatureMode = "stream"
    jitter: JitterConfig = field(default_factory=JitterConfig)
    seed: int = 0
    codec: Codec = "float32"
    dtype: Literal["float32", "bfloat16"] = "float32"
    encoder_batch: int = 1
    batch_size: int | None = None
    block_images: int | None = None
    batches_per_block: int = 1
    min_actors: int = 1
    max_actors: int = 1
    actor_cpus: float = 1.0
    actor_gpus: float = 0.0
    actor_resource: str | None = None
    max_readers: int | None = None
    object_store_mb: int | None = None
    trainers: int = 1
    max_skipped_share: float = 0.01
    cache: CacheOptions | None = None

    def __post_init__(self) -> None:
        if self.encoder_batch < 1:
            raise UserInputError(f"encoder_batch: expected at least 1, found {self.encoder_batch}")
        if self.block_images is not None and (self.block_images < 1 or self.block_images % self.encoder_batch):
            raise UserInputError(
                f"block_images: expected a multiple of encoder_batch = {self.encoder_batch}, found {self.block_images}"
            )
        if self.batches_per_block < 1:
            raise UserInputError(f"batches_per_block: expected at least 1, found {self.batches_per_block}")
        if not 1 <= self.min_actors <= self.max_actors:
            raise UserInputError(
                f"expected 1 <= min_actors <= max_actors, found {self.min_actors} and {self.max_actors}"
            )
        if (self.mode == "cache") != (self.cache is not None):
            found = "no cache address" if self.cache is None else "a cache address"
            raise UserInputError(f"features: mode {self.mode!r} with {found}: expected `cache` with one, or neither")
        fewest = self._fewest_mb(self.images_per_block)
        if self.object_store_mb is not None and self.object_store_mb < fewest:
            raise UserInputError(
                f"object_store_mb: expected at least {fewest} ({self.trainers} x {OPENED_BLOCKS} + {FEWEST_BLOCKS} "
                f"blocks of {self.block_bytes / 2**20:.1f} MiB), found {self.object_store_mb}"
            )

    @property
    def images_per_block(self) -> int:
        """`block_images`, or as many images as a trainer takes at once, so that it gets each batch as one block: moving
        a block costs Ray Data the same whatever it holds. Small batches share one, up to `batches_per_block` of them.

        Of these, the most batches are taken, or else the largest part of one, that encoder batches fill, that are no
        larger than `LARGEST_DEFAULT_MB` and of which `object_store_mb` has room for as many as there must be; one
        encoder batch where none is.
        """
        if self.block_images is not None:
            return self.block_images
        whole = self.batch_size or self.encoder_batch
        several = [whole * batches for batches in range(self.batches_per_block, 1, -1)]
        parts = [images for images in range(whole, self.encoder_batch, -1) if whole % images == 0]
        for images in (*several, *parts):
            fits = self.image_bytes * images <= LARGEST_DEFAULT_MB * 2**20 and (
                self.object_store_mb is None or self._fewest_mb(images) <= self.object_store_mb
            )
            if fits and images % self.encoder_batch == 0:
                return images
        return self.encoder_batch

    @property
    def block_bytes(self) -> float:
        """About how much a block takes that waits for a trainer."""
        return self.images_per_block * self.image_bytes

    @property
    def image_bytes(self) -> float:
        """Of a block, for each image: CLIP's maps, beside which SAM's are small, and truth of 24 masks, a bit a pixel;
        with `inline` the picture in the place of the maps."""
        pixels = self.jitter.crop_size**2
        if self.mode == "inline":
            return (3.0 + 24 / 8) * pixels
        strides = zip(self.encoders.spec.decoder.clip_channels, (4, 8, 16, 32), strict=True)
        values = sum(channels / stride**2 for channels, stride in strides)
        return (values * bytes_per_value(self.codec) + 24 / 8) * pixels

    def view(self, epoch: int) -> int:
        """The number that the augmentation of an epoch is drawn with."""
        return epoch if self.cache is None else epoch % self.cache.num_views

    def _fewest_mb(self, images_per_block: int) -> int:
        """The smallest `object_store_mb` that blocks of this many images allow."""
        num_blocks = self.trainers * OPENED_BLOCKS + FEWEST_BLOCKS
        return math.ceil(num_blocks * images_per_block * self.image_bytes / 2**20)
