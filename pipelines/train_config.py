"""The config of a training run, read from TOML by `frozenseg.config.load_toml`. Defaults are the paper's recipe.

"FACTS" in a source is the list of hyper-parameters in the published code that docs/parity.md refers to.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Literal

from frozenseg.data import JitterConfig
from frozenseg.data.files import absolute
from frozenseg.decoder import DecoderConfig
from frozenseg.errors import UserInputError
from frozenseg.losses import LossWeights
from frozenseg.model import ClipReference, ModelSpec, SamReference, WeightsSource, read_spec
from frozenseg.training import OptimizerSettings, StepDecay
from frozenseg.types import Vocabulary
from pipelines.codec import Codec
from pipelines.encoder_pool import EncoderSource
from pipelines.feature_cache import CacheOptions
from pipelines.stream import FeatureMode, StreamConfig

MINIATURE = "miniature"
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSection:
    """The model to train.

    Fields: encoders_of: model folder (or `miniature`, the one inside the package) whose encoders are used; clip, sam:
    the encoders instead; decoder: architecture of the trained part; start_from: model folder whose decoder is trained
    on, for fine-tuning, instead of a fresh one; init_seed: of a fresh decoder; random_encoders: random weights.
    """

    encoders_of: str | None = None
    clip: ClipReference | None = None
    sam: SamReference | None = None
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    start_from: str | None = None
    init_seed: int = 0
    random_encoders: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSection:
    """Fields: num_steps: updates of the run; milestones: steps at which the rate is multiplied by `factor`.
    Source: FACTS: 368,750 iterations, x0.1 at 327,778 and 355,092, no warm-up."""

    num_steps: int = 368_750
    milestones: tuple[int, ...] = (327_778, 355_092)
    factor: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSection:
    """Fields: num_points: sampled per mask; weights: of class, mask, dice and of void in the class term; from FACTS."""

    num_points: int = 12_544
    weights: LossWeights = field(default_factory=LossWeights)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSection:
    """How a step is computed.

    Fields: kind; zero_stage: of DeepSpeed: 1 partitions the optimizer's state, enough for 26.5 M parameters; dtype: of
    autocast, parameters and moments stay float32 (source: FACTS, "mixed precision"); max_skipped: non-finite steps
    after which the run stops.
    """

    kind: Literal["deepspeed", "torch"] = "deepspeed"
    zero_stage: Literal[0, 1, 2] = 1
    dtype: Dtype = "float32"
    max_skipped: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersSection:
    """The group of trainers. Source of num_workers: FACTS: 4 GPUs x 4 images.

    Fields: num_workers; cpus, gpus: of each, for Ray's scheduler (fractions allowed); threads: torch threads of each;
    micro_batches: per worker and step (gradient accumulation); max_failures: restarts after a worker or node is lost.
    """

    num_workers: int = 4
    cpus: float = 1.0
    gpus: float = 1.0
    threads: int = 1
    micro_batches: int = 1
    max_failures: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesSection:
    """Fields: mode: `stream` (encoders in a pool of actors), `inline` (in the trainers) or `cache` (`stream`, and the
    features of views that repeat are kept); codec: how features travel;
    encoder_dtype: of the encoders' computation; encoder_batch: images per encoder call; min_actors, max_actors: of the
    pool; actor_cpus, actor_gpus: of each; max_readers: tasks that read and augment at once, by default as many as CPUs
    are free; object_store_mb: bound of the data under way, in MiB; max_skipped_share: of unreadable samples;
    cache: where and how much is kept, with `cache` only."""

    mode: FeatureMode = "stream"
    codec: Codec = "bfloat16"
    encoder_dtype: Dtype = "bfloat16"
    encoder_batch: int = 1
    min_actors: int = 1
    max_actors: int = 8
    actor_cpus: float = 1.0
    actor_gpus: float = 1.0
    max_readers: int | None = None
    object_store_mb: int | None = None
    max_skipped_share: float = 0.01
    cache: CacheOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointsSection:
    """Fields: every: steps between two; keep_last: how many of the newest stay; address: fsspec address, by default the
    folder `checkpoints` of the output."""

    every: int = 2_500
    keep_last: int = 3
    address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A run.

    Fields: name; shards: address of the shard set; output: folder that all nodes see, for checkpoints, metrics and the
    model; batch_size: images per step over all workers (source: FACTS: 16); seed: of sample order, augmentation and
    sampled points; the rest: see each section.
    """

    name: str = "coco-convnext-large"
    shards: str = "shards/coco-train2017"
    output: str = "runs/train"
    batch_size: int = 16
    seed: int = 0
    model: ModelSection = field(default_factory=ModelSection)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    loss: LossSection = field(default_factory=LossSection)
    augmentation: JitterConfig = field(default_factory=JitterConfig)
    engine: EngineSection = field(default_factory=EngineSection)
    workers: WorkersSection = field(default_factory=WorkersSection)
    features: FeaturesSection = field(default_factory=FeaturesSection)
    checkpoints: CheckpointsSection = field(default_factory=CheckpointsSection)

    def __post_init__(self) -> None:
        per_step = self.workers.num_workers * self.workers.micro_batches
        if self.batch_size % per_step:
            raise UserInputError(
                f"batch_size {self.batch_size}: expected a multiple of num_workers x micro_batches = {per_step}"
            )
        model = self.model
        if (model.encoders_of is None) == (model.clip is None):
            raise UserInputError("model: expected either `encoders_of` or `clip` (with `sam`), and not both")

    @property
    def micro_batch_size(self) -> int:
        """Images per worker and forward pass."""
        return self.batch_size // (self.workers.num_workers * self.workers.micro_batches)

    def anchored(self) -> TrainConfig:
        """Every local path made absolute: the workers run in folders of their own."""
        model, checkpoints, features = self.model, self.checkpoints, self.features
        if features.cache is not None:
            kept = dataclasses.replace(features.cache, address=absolute(features.cache.address))
            features = dataclasses.replace(features, cache=kept)
        if model.encoders_of is not None and model.encoders_of != MINIATURE:
            model = dataclasses.replace(model, encoders_of=absolute(model.encoders_of))
        if model.start_from is not None:
            model = dataclasses.replace(model, start_from=absolute(model.start_from))
        address = checkpoints.address or str(Path(self.output) / "checkpoints")
        return dataclasses.replace(
            self,
            shards=absolute(self.shards),
            output=str(Path(self.output).absolute()),
            model=model,
            features=features,
            checkpoints=dataclasses.replace(checkpoints, address=absolute(address)),
        )

    @property
    def checkpoint_address(self) -> str:
        return self.checkpoints.address or str(Path(self.output) / "checkpoints")

    def step_decay(self) -> StepDecay:
        schedule = self.schedule
        return StepDecay(base=self.optimizer.learning_rate, milestones=schedule.milestones, factor=schedule.factor)

    def encoders_folder(self) -> Path:
        """Where the relative file names of the encoders start."""
        source = self.model.encoders_of
        if source is None:
            return Path.cwd()
        return Path(str(files("frozenseg.miniature") / "model")) if source == MINIATURE else Path(source)

    def model_spec(self, vocabulary: Vocabulary | None) -> ModelSpec:
        """The spec of the model to train. Raises as `read_spec` when `encoders_of` is no model folder."""
        section = self.model
        if section.encoders_of is not None:
            base = read_spec(self.encoders_folder())
            base = dataclasses.replace(base, decoder=section.decoder, training_vocabulary=vocabulary, name=self.name)
            return dataclasses.replace(base, decoder_is_random=False)
        assert section.clip is not None
        return ModelSpec(
            name=self.name,
            clip=section.clip,
            sam=section.sam,
            decoder=section.decoder,
            training_vocabulary=vocabulary,
        )

    @property
    def weights(self) -> WeightsSource:
        return WeightsSource.RANDOM if self.model.random_encoders else WeightsSource.REFERENCE

    def stream_config(self, spec: ModelSpec) -> StreamConfig:
        features = self.features
        return StreamConfig(
            shards=self.shards,
            encoders=EncoderSource(
                spec=spec,
                folder=str(self.encoders_folder()),
                weights=self.weights,
                dtype=features.encoder_dtype,
                num_threads=self.workers.threads,
            ),
            mode=features.mode,
            jitter=self.augmentation,
            seed=self.seed,
            codec=features.codec,
            encoder_batch=features.encoder_batch,
            min_actors=features.min_actors,
            max_actors=features.max_actors,
            actor_cpus=features.actor_cpus,
            actor_gpus=features.actor_gpus,
            max_readers=features.max_readers,
            object_store_mb=features.object_store_mb,
            max_skipped_share=features.max_skipped_share,
            cache=features.cache,
        )


def override(
    config: TrainConfig,
    *,
    shards: str | None = None,
    output: str | None = None,
    num_steps: int | None = None,
    engine: Literal["deepspeed", "torch"] | None = None,
    random_encoders: bool = False,
) -> TrainConfig:
    """The config with what the command line says in place of what the file says."""
    if num_steps is not None:
        config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, num_steps=num_steps))
    if engine is not None:
        config = dataclasses.replace(config, engine=dataclasses.replace(config.engine, kind=engine))
    if random_encoders:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, random_encoders=True))
    return dataclasses.replace(config, shards=shards or config.shards, output=output or config.output)
