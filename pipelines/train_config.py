"""The config of a training run, read from TOML by `frozenseg.config.load_toml`. Defaults are the paper's recipe.

"FACTS" in a source is the list of hyper-parameters in the published code that docs/parity.md refers to.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeVar

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
from pipelines.stream_config import FeatureMode, StreamConfig, batches_that_share
from pipelines.train_overrides import Overrides, Score

MINIATURE = "miniature"
T = TypeVar("T")
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSection:
    """The model to train.

    Fields: encoders_of: model folder (or `miniature`, the one inside the package) whose encoders are used; clip, sam:
    the encoders instead; decoder: architecture of the trained part; start_from: model folder (or `miniature`) whose
    decoder is trained on, for fine-tuning, instead of a fresh one; init_seed: of a fresh decoder; random_encoders:
    random weights.
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
    zero_stage: Literal[0, 1, 2, 3] = 1
    dtype: Dtype = "float32"
    max_skipped: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersSection:
    """The group of trainers. Source of num_workers: FACTS: 4 GPUs x 4 images.

    Fields: num_workers; min_workers: makes the group elastic: it starts with this many when there is no room for more,
    and changes its size when the cluster does; cpus, gpus: of each, for Ray's scheduler (fractions allowed, not when
    elastic); resource: of the cluster's own that each holds one of, such as `trainer` of cluster.yaml, which keeps them
    off other nodes; threads: torch threads of each; micro_batches: per worker and step (gradient accumulation);
    max_failures: how often in a row workers or nodes may be lost without a new checkpoint in between.
    """

    num_workers: int = 4
    min_workers: int | None = None
    cpus: float = 1.0
    gpus: float = 1.0
    resource: str | None = None
    threads: int = 1
    micro_batches: int = 1
    max_failures: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesSection:
    """Fields: mode: `stream` (encoders in a pool of actors), `inline` (in the trainers) or `cache` (`stream`, and the
    features of views that repeat are kept); codec: how features travel; encoder_dtype: of the encoders' computation;
    encoder_batch: images per encoder call; block_images: images that travel together, a multiple of it, by default a
    worker's micro-batch, several small ones or a part of a large one (see StreamConfig); min_actors, max_actors: of the
    pool; actor_cpus, actor_gpus, actor_resource: of each, as of the trainers; max_readers: tasks that read and augment
    at once, by default as many as CPUs are free; object_store_mb: bound, in MiB, of all that was made and is not yet
    consumed, over all nodes, by default half of the cluster's object stores; max_skipped_share: of unreadable samples;
    cache: where and how much is kept, with `cache` only."""

    mode: FeatureMode = "stream"
    codec: Codec = "bfloat16"
    encoder_dtype: Dtype = "bfloat16"
    encoder_batch: int = 1
    block_images: int | None = None
    min_actors: int = 1
    max_actors: int = 8
    actor_cpus: float = 1.0
    actor_gpus: float = 1.0
    actor_resource: str | None = None
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
class ValidationSection:
    """The evaluation beside each checkpoint, by the first worker while the others wait: keep the split small.

    Fields: shards: address of the split, None for no evaluation; limit: images of it that are used; pictures: how many
    of these are drawn; select: name of the score whose best checkpoint becomes the model, None for the last one.
    Source: paper, Table 7: the last iteration; FC-CLIP selects by PQ on ADE20K.
    """

    shards: str | None = None
    limit: int = 32
    pictures: int = 4
    select: Score | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingSection:
    """Where numbers and pictures go besides TensorBoard. Needs `frozenseg[tracking]`.

    Fields: mlflow: tracking address: of a server, or `sqlite:////runs/mlflow.db` (which needs the whole mlflow); wandb:
    `offline` writes to the output's folder only, for `wandb sync`; `online` needs WANDB_API_KEY.
    """

    mlflow: str | None = None
    wandb: Literal["offline", "online"] | None = None


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
    validation: ValidationSection = field(default_factory=ValidationSection)
    tracking: TrackingSection = field(default_factory=TrackingSection)

    def __post_init__(self) -> None:
        workers = self.workers
        fewest = workers.num_workers if workers.min_workers is None else workers.min_workers
        if not 1 <= fewest <= workers.num_workers:
            raise UserInputError(f"workers: expected 1 <= min_workers <= num_workers, found {fewest}")
        for num_workers in range(fewest, workers.num_workers + 1):
            per_step = num_workers * workers.micro_batches
            if self.batch_size % per_step:
                raise UserInputError(
                    f"batch_size {self.batch_size}: expected a multiple of num_workers x micro_batches = {per_step}"
                )
            block = self.features.block_images
            images = self.micro_batch_size(num_workers)
            if block is not None and (self.batch_size % block or (images % block and block % images)):
                raise UserInputError(
                    f"features.block_images {block}: expected a divisor of batch_size {self.batch_size} that divides "
                    f"the {images} images of a worker's micro-batch or is a multiple of them"
                )
        if self.validation.select is not None and self.validation.shards is None:
            raise UserInputError("validation: `select` needs `shards`, the split that the score is measured on")
        model = self.model
        if (model.encoders_of is None) == (model.clip is None):
            raise UserInputError("model: expected either `encoders_of` or `clip` (with `sam`), and not both")

    @property
    def common_batch_size(self) -> int:
        """Images that fill whole micro-batches of a group of any size that this run may get."""
        workers = self.workers
        sizes = range(workers.min_workers or workers.num_workers, workers.num_workers + 1)
        return math.gcd(*(self.micro_batch_size(num_workers) for num_workers in sizes))

    @property
    def batches_per_block(self) -> int:
        """Micro-batches of a worker that travel together, at most: a group whose size may change takes each by itself,
        and so do encoders in the trainer, where nothing travels."""
        if self.workers.min_workers is not None or self.features.mode == "inline":
            return 1
        return batches_that_share(self.micro_batch_size())

    def micro_batch_size(self, num_workers: int | None = None) -> int:
        """Images per worker and forward pass, of a group of the config's size or another."""
        return self.batch_size // ((num_workers or self.workers.num_workers) * self.workers.micro_batches)

    def anchored(self) -> TrainConfig:
        """Every local path made absolute: the workers run in folders of their own."""
        model, checkpoints, features = self.model, self.checkpoints, self.features
        if features.cache is not None:
            kept = dataclasses.replace(features.cache, address=absolute(features.cache.address))
            features = dataclasses.replace(features, cache=kept)
        if model.encoders_of is not None and model.encoders_of != MINIATURE:
            model = dataclasses.replace(model, encoders_of=absolute(model.encoders_of))
        if model.start_from is not None and model.start_from != MINIATURE:
            model = dataclasses.replace(model, start_from=absolute(model.start_from))
        validation = self.validation
        if validation.shards is not None:
            validation = dataclasses.replace(validation, shards=absolute(validation.shards))
        address = checkpoints.address or str(Path(self.output) / "checkpoints")
        return dataclasses.replace(
            self,
            shards=absolute(self.shards),
            output=str(Path(self.output).absolute()),
            model=model,
            features=features,
            validation=validation,
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
            batch_size=self.common_batch_size,
            block_images=features.block_images,
            batches_per_block=self.batches_per_block,
            min_actors=features.min_actors,
            max_actors=features.max_actors,
            actor_cpus=features.actor_cpus,
            actor_gpus=features.actor_gpus,
            actor_resource=features.actor_resource,
            max_readers=features.max_readers,
            object_store_mb=features.object_store_mb,
            trainers=self.workers.num_workers,
            max_skipped_share=features.max_skipped_share,
            cache=features.cache,
        )


def override(config: TrainConfig, changes: Overrides) -> TrainConfig:
    """The config with what the command line says in place of what the file says."""

    def section(found: T, **values: object) -> T:
        given = {name: value for name, value in values.items() if value is not None}
        return dataclasses.replace(found, **given) if given else found  # type: ignore[type-var]

    workers = section(config.workers, num_workers=changes.workers)
    if changes.workers is not None:
        workers = dataclasses.replace(workers, min_workers=None)
    return dataclasses.replace(
        config,
        shards=changes.shards or config.shards,
        output=changes.output or config.output,
        schedule=section(config.schedule, num_steps=changes.steps),
        engine=section(config.engine, kind=changes.engine),
        workers=workers,
        validation=section(config.validation, shards=changes.validation, select=changes.select),
        model=section(config.model, random_encoders=changes.random_encoders or None),
    )
