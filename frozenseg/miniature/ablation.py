"""What an ablation of the miniature world consists of: rows, readings, SAMs, and where its files lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frozenseg.encoders import SamArchitecture
from frozenseg.errors import UserInputError
from frozenseg.inference.options import InferenceOptions
from frozenseg.miniature.assemble import INFERENCE, MODEL_FOLDER
from frozenseg.miniature.encoders import MINIATURE_SAM
from frozenseg.miniature.pretrain_sam import SamPretraining
from frozenseg.miniature.train_decoder import DecoderTraining


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionRow:
    """Another way to read a trained decoder. Fields: name; options: inference options that differ from the default."""

    name: str
    options: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamRow:
    """Another SAM, pre-trained for the ablation. Fields: name; architecture: with the out_channels of the model's own,
    because all decoders read as many; training."""

    name: str
    architecture: SamArchitecture = MINIATURE_SAM
    training: SamPretraining = field(default_factory=SamPretraining)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRow:
    """A decoder to train. Fields: name; the injectors' layers (layer i reads the map at stride 32, 16, 8 for i mod 3 =
    0, 1, 2); num_seeds; num_steps: None for the ablation's; sam: name of one of the ablation's SAMs, empty for the
    model's own; read_as: names of option rows evaluated with it, too."""

    name: str
    query_injector_layers: tuple[int, ...] = ()
    feature_injector_layers: tuple[int, ...] = ()
    num_seeds: int = 3
    num_steps: int | None = None
    sam: str = ""
    read_as: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """Fields: to: folder of results; model: folder whose encoders are used, "miniature" for the one in the package;
    num_train_views, num_test_views: scenes; num_steps: of a trained row; num_workers: processes of one thread each;
    baseline: the row that others are paired with; rows; options; sams: further ones that rows name."""

    to: Path = Path("runs/miniature-ablation")
    model: str = "miniature"
    num_train_views: int = 600
    num_test_views: int = 150
    num_steps: int = 300
    num_workers: int = 2
    baseline: str = "fc-clip"
    rows: tuple[TrainedRow, ...] = ()
    options: tuple[OptionRow, ...] = ()
    sams: tuple[SamRow, ...] = ()
    training: DecoderTraining = field(default_factory=DecoderTraining)

    def __post_init__(self) -> None:
        names = [row.name for row in self.options]
        for row in self.rows:
            for name in row.read_as:
                if name not in names:
                    raise UserInputError(
                        f"row {row.name!r} is to be read as {name!r}, which [[options]] doesn't define"
                    )
            if row.sam and row.sam not in [sam.name for sam in self.sams]:
                raise UserInputError(f"row {row.name!r} is to have SAM {row.sam!r}, which [[sams]] doesn't define")
        if self.baseline not in [row.name for row in self.rows]:
            raise UserInputError(f"the baseline {self.baseline!r} is none of the rows")

    @property
    def model_folder(self) -> Path:
        return MODEL_FOLDER if self.model == "miniature" else Path(self.model)

    def jobs(self) -> Iterator[tuple[TrainedRow, int]]:
        """All (row, seed), first seeds first, so that an interrupted run has something of every row."""
        for seed in range(max(row.num_seeds for row in self.rows)):
            yield from ((row, seed) for row in self.rows if seed < row.num_seeds)

    def result_file(self, row: str, seed: int, read_as: str = "") -> Path:
        return self.to / "results" / f"{row}{'+' + read_as if read_as else ''}.{seed}.json"

    def decoder_file(self, row: str, seed: int) -> Path:
        return self.to / "decoders" / f"{row}.{seed}.safetensors"

    def options_of(self, read_as: str) -> InferenceOptions:
        """Of a reading; of the miniature's defaults when it is empty."""
        changes = {row.name: row.options for row in self.options}.get(read_as, {})
        return InferenceOptions(**{**INFERENCE, **changes})
