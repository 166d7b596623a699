"""What one unit of each stage takes: measured once on a machine like those of the cluster, then kept in a file."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from frozenseg.errors import UserInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRates:
    """Seconds of one worker per image, each measured alone.

    Fields: read_seconds: of one CPU, to read, decode and augment; encode_seconds: of one encoder actor, CLIP and SAM
    together; train_seconds: of one trainer, forward and backward of the decoder and its share of the optimizer step;
    receive_seconds: of one trainer, to take an image's features out of the object store; coordinate_seconds: of the one
    process that moves the stream's blocks, with `block_images` images in each, 0 for unknown; feature_bytes,
    sample_bytes: of an image's features on their way, and of its files in the shard; start_seconds: from the command to
    the first step; encode_deviation, train_deviation: standard deviation of one call's seconds as a share of them:
    trainers go in step, so the slowest sets the pace.
    """

    read_seconds: float
    encode_seconds: float
    train_seconds: float
    receive_seconds: float = 0.0
    coordinate_seconds: float = 0.0
    block_images: int = 0
    feature_bytes: float = 0.0
    sample_bytes: float = 0.0
    start_seconds: float = 0.0
    encode_deviation: float = 0.0
    train_deviation: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0:
                raise UserInputError(f"rates: expected {field.name} of at least 0, found {value:g}")
        if self.train_seconds == 0:
            raise UserInputError("rates: expected train_seconds above 0")

    def with_blocks_of(self, images: int) -> StageRates:
        """The rates of a stream with other blocks: moving one takes the same, whatever it holds."""
        if not self.block_images:
            return self
        seconds = self.coordinate_seconds * self.block_images / images
        return replace(self, coordinate_seconds=seconds, block_images=images)
