"""The frozen encoders in an actor: built once, then batch after batch. All ways to feed a trainer share them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from frozenseg.encoders import OpenClipEncoder, SamImageEncoder, encode_batch, feature_key
from frozenseg.errors import UserInputError
from frozenseg.memory import keep_freed_memory
from frozenseg.model import ModelSpec, WeightsSource, read_spec, with_random_encoders
from frozenseg.model.load_encoders import load_clip, load_sam
from frozenseg.types import Batch, EncoderFeatures, FeatureKey, stack_features
from pipelines.codec import Codec
from pipelines.columns import (
    IMAGE,
    IMAGE_ID,
    SOURCE,
    VALID_SIZE,
    Columns,
    source_column,
    write_features,
    write_row,
)
from pipelines.feature_cache import CacheOptions, FeatureCache, is_cached

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSource:
    """Which encoders to build, as data that travels to the machine where they are built.

    Fields: spec: names them; folder: where the spec's relative file names start; weights: RANDOM for random ones;
    device: `auto` is the GPU where an actor got one; dtype: of the computation, float32 or bfloat16 (autocast);
    num_threads: of torch in the actor, part of what makes results repeatable to the last bit.
    """

    spec: ModelSpec
    folder: str = "."
    weights: WeightsSource = WeightsSource.REFERENCE
    device: str = "auto"
    dtype: str = "float32"
    num_threads: int = 1

    @classmethod
    def of_model(cls, folder: str | Path, **fields: Any) -> EncoderSource:
        """The encoders of a model folder. Raises as `frozenseg.model.read_spec`."""
        return cls(spec=read_spec(folder), folder=str(Path(folder).absolute()), **fields)


def resolve_device(device: str) -> torch.device:
    """`auto` -> the GPU if this process sees one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


class FrozenEncoders:
    """CLIP and SAM on one device. A batch that doesn't fit into memory is halved, and the log says so."""

    def __init__(self, source: EncoderSource) -> None:
        torch.set_num_threads(source.num_threads)
        spec = with_random_encoders(source.spec) if source.weights is WeightsSource.RANDOM else source.spec
        if spec.clip.source == "random":
            logger.warning("RANDOM WEIGHTS: the encoders of %r never learnt; results mean nothing", spec.name)
        self.device = resolve_device(source.device)
        keep_freed_memory(self.device)
        self.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(source.dtype)
        if self.dtype is None:
            raise UserInputError(f"encoder dtype: expected float32 or bfloat16, found {source.dtype!r}")
        root = Path(source.folder)
        self.clip: OpenClipEncoder = load_clip(spec.clip, root).to(self.device)
        self.sam: SamImageEncoder | None = load_sam(spec.sam, root).to(self.device) if spec.sam is not None else None
        self.largest_batch: int | None = None
        """Set after the first time that memory ran out: larger batches are split right away."""

    @property
    def key(self) -> FeatureKey:
        """What the features of these encoders are marked with."""
        assert self.dtype is not None
        return feature_key(self.clip, self.sam, self.dtype)

    def encode(self, batch: Batch, *, with_sam: bool = True) -> EncoderFeatures:
        """images [B,3,H,W] uint8 -> features on this device. Raises torch.OutOfMemoryError for a single image only.

        Args:
            with_sam: without it SAM does not run, and its map is [B,0,0,0].
        """
        num_images = len(batch.image_ids)
        if self.largest_batch is not None and num_images > self.largest_batch:
            return self._encode_halves(batch, with_sam)
        try:
            return self._encode(batch, with_sam)
        except torch.OutOfMemoryError:
            if num_images == 1:
                raise
        # Outside of the except block, which would keep the failed attempt's tensors alive through its traceback.
        self.largest_batch = num_images // 2
        logger.warning("out of memory with %d images at once; going on with %d", num_images, self.largest_batch)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._encode_halves(batch, with_sam)

    def _encode(self, batch: Batch, with_sam: bool) -> EncoderFeatures:
        autocast = torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)
        with torch.no_grad(), autocast:
            return encode_batch(self.clip, self.sam if with_sam else None, batch.to(self.device))

    def _encode_halves(self, batch: Batch, with_sam: bool) -> EncoderFeatures:
        middle = len(batch.image_ids) // 2
        parts = _part(batch, 0, middle), _part(batch, middle, None)
        return stack_features([self.encode(part, with_sam=with_sam) for part in parts])


def _part(batch: Batch, start: int, stop: int | None) -> Batch:
    return Batch(
        image_ids=batch.image_ids[start:stop],
        images=batch.images[start:stop],
        valid_sizes=batch.valid_sizes[start:stop],
        targets=batch.targets[start:stop],
    )


class EncoderActor:
    """A stage of a Ray Data graph: image columns in, feature columns out, every other column passed on.

    Args:
        with_dense: the map that only the classifier reads, too; it is never cached.
        cache: where features are looked for before they are computed, and kept afterwards.
        encoder_batch: images of a block that the encoders get at once, None for all of them. It decides the last bits
            of the features, and the block's size does not.
    """

    def __init__(
        self,
        source: EncoderSource,
        codec: Codec = "float32",
        with_dense: bool = True,
        cache: CacheOptions | None = None,
        encoder_batch: int | None = None,
    ) -> None:
        # Whatever the device: features leave through this process's memory, a block of some hundred MB each time.
        keep_freed_memory(torch.device("cpu"))
        self.encoders = FrozenEncoders(source)
        self.codec: Codec = codec
        self.with_dense = with_dense
        self.cache = FeatureCache(cache, f"{self.encoders.key}\0{codec}") if cache is not None else None
        self.encoder_batch = encoder_batch

    def __call__(self, columns: Columns) -> dict[str, npt.NDArray[Any]]:
        num_rows = len(columns[IMAGE_ID])
        made: Columns = {}
        size = self.encoder_batch or num_rows
        for start in range(0, num_rows, size):
            rows = slice(start, min(start + size, num_rows))
            images = {name: columns[name][rows] for name in (IMAGE_ID, IMAGE, VALID_SIZE)}
            if self.cache is None:
                self._encode(made, rows, num_rows, images)
            else:
                self._find_or_encode(self.cache, made, rows, num_rows, images)
        passed = {name: values for name, values in columns.items() if name not in (IMAGE, VALID_SIZE)}
        return {**passed, **made, SOURCE: source_column(self.encoders.key, self.codec, num_rows)}

    def _find_or_encode(self, cache: FeatureCache, made: Columns, rows: slice, num_rows: int, images: Columns) -> None:
        """One encoder batch into its rows of `made`, from the cache as far as it goes."""
        names = cache.names(images)
        found = [cache.read(name) for name in names]
        maps = cache.options.maps
        if any(entry is None for entry in found):
            # The whole batch, because its size decides the last bits of its features.
            self._encode(made, rows, num_rows, images)
            for row, name, entry in zip(range(rows.start, rows.stop), names, found, strict=True):
                if entry is None:
                    cache.write(name, {key: made[key][row] for key in made if is_cached(key, maps)})
            return
        if maps == "sam":
            self._encode(made, rows, num_rows, images, with_sam=False)
        for row, entry in zip(range(rows.start, rows.stop), found, strict=True):
            assert entry is not None
            write_row(made, row, num_rows, entry)

    def _encode(self, made: Columns, rows: slice, num_rows: int, images: Columns, with_sam: bool = True) -> None:
        features = self.encoders.encode(columns_to_batch(images), with_sam=with_sam)
        write_features(made, rows, num_rows, features, self.codec, self.with_dense)


def columns_to_batch(columns: Columns) -> Batch:
    """IMAGE [B,3,H,W] uint8 and VALID_SIZE [B,2] -> a batch without targets."""
    return Batch(
        image_ids=tuple(str(image_id) for image_id in columns[IMAGE_ID]),
        # A copy: Ray's arrays are read-only, and the GPU wants memory of its own to copy from anyway.
        images=torch.from_numpy(columns[IMAGE].copy()),
        valid_sizes=torch.from_numpy(columns[VALID_SIZE].copy()),
    )
