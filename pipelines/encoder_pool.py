"""The frozen encoders in an actor: built once, then batch after batch. Training, labeling and serving share it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from frozenseg.encoders import OpenClipEncoder, SamImageEncoder, encode_batch
from frozenseg.errors import UserInputError
from frozenseg.model import ModelSpec, WeightsSource, read_spec, with_random_encoders
from frozenseg.model.load_encoders import load_clip, load_sam
from frozenseg.types import Batch, EncoderFeatures, stack_features
from pipelines.codec import Codec
from pipelines.columns import IMAGE, IMAGE_ID, VALID_SIZE, Columns, features_to_columns

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
        self.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(source.dtype)
        if self.dtype is None:
            raise UserInputError(f"encoder dtype: expected float32 or bfloat16, found {source.dtype!r}")
        root = Path(source.folder)
        self.clip: OpenClipEncoder = load_clip(spec.clip, root).to(self.device)
        self.sam: SamImageEncoder | None = load_sam(spec.sam, root).to(self.device) if spec.sam is not None else None
        self.largest_batch: int | None = None
        """Set after the first time that memory ran out: larger batches are split right away."""

    def encode(self, batch: Batch) -> EncoderFeatures:
        """images [B,3,H,W] uint8 -> features on this device. Raises torch.OutOfMemoryError for a single image only."""
        num_images = len(batch.image_ids)
        if self.largest_batch is not None and num_images > self.largest_batch:
            return self._encode_halves(batch)
        try:
            return self._encode(batch)
        except torch.OutOfMemoryError:
            if num_images == 1:
                raise
        # Outside of the except block, which would keep the failed attempt's tensors alive through its traceback.
        self.largest_batch = num_images // 2
        logger.warning("out of memory with %d images at once; going on with %d", num_images, self.largest_batch)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._encode_halves(batch)

    def _encode(self, batch: Batch) -> EncoderFeatures:
        autocast = torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)
        with torch.no_grad(), autocast:
            return encode_batch(self.clip, self.sam, batch.to(self.device))

    def _encode_halves(self, batch: Batch) -> EncoderFeatures:
        middle = len(batch.image_ids) // 2
        return stack_features([self.encode(_part(batch, 0, middle)), self.encode(_part(batch, middle, None))])


def _part(batch: Batch, start: int, stop: int | None) -> Batch:
    return Batch(
        image_ids=batch.image_ids[start:stop],
        images=batch.images[start:stop],
        valid_sizes=batch.valid_sizes[start:stop],
        targets=batch.targets[start:stop],
    )


class EncoderActor:
    """A stage of a Ray Data graph: image columns in, feature columns out, every other column passed on."""

    def __init__(self, source: EncoderSource, codec: Codec = "float32", with_dense: bool = True) -> None:
        self.encoders = FrozenEncoders(source)
        self.codec: Codec = codec
        self.with_dense = with_dense

    def __call__(self, columns: Columns) -> dict[str, npt.NDArray[Any]]:
        passed = {name: values for name, values in columns.items() if name not in (IMAGE, VALID_SIZE)}
        features = self.encoders.encode(columns_to_batch(columns))
        return {**passed, **features_to_columns(features, self.codec, self.with_dense)}


def columns_to_batch(columns: Columns) -> Batch:
    """IMAGE [B,3,H,W] uint8 and VALID_SIZE [B,2] -> a batch without targets."""
    return Batch(
        image_ids=tuple(str(image_id) for image_id in columns[IMAGE_ID]),
        # A copy: Ray's arrays are read-only, and the GPU wants memory of its own to copy from anyway.
        images=torch.from_numpy(columns[IMAGE].copy()),
        valid_sizes=torch.from_numpy(columns[VALID_SIZE].copy()),
    )
