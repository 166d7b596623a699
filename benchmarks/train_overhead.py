"""What DeepSpeed and Ray add to a training step at full decoder size, in CPU seconds of the trainer.

    python -m benchmarks.train_overhead [--crop 512] [--batch 1] [--rounds 3] [--blocks 12]

Two parts, one thread, one process:
1. the same step (forward, losses, backward, clip, AdamW) with the plain engine and with DeepSpeed's, in turns;
2. the trainer's side of the feature stream: features of that size come out of Ray's object store, as the encoder pool
   puts them there, and become a batch. Nothing else runs in the trainer meanwhile: nothing hides behind the step.
The overhead is (DeepSpeed's step - plain step + stream per step) / plain step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.train_step import make_features, make_targets, timed_step
from frozenseg.decoder import DecoderConfig, MaskDecoder
from frozenseg.losses import Criterion
from frozenseg.training import OptimizerSettings, TorchEngine
from frozenseg.types import DecoderOutput, TextEmbeddings
from pipelines import columns as c
from pipelines import ray_session
from pipelines.deepspeed_engine import DeepSpeedEngine, ensure_process_group
from pipelines.encoder_pool import EncoderSource
from pipelines.ray_session import RayOptions
from pipelines.stream import training_batches
from pipelines.stream_config import StreamConfig

NUM_CATEGORIES, NUM_SEGMENTS = 133, 15


class FeatureBlocks:
    """A stage that puts the same features into every block, as an encoder actor would."""

    def __init__(self, config: DecoderConfig, crop: int) -> None:
        features, targets = make_features(config, 1, crop), make_targets(1, crop, NUM_SEGMENTS, NUM_CATEGORIES)
        self._columns = {
            c.IMAGE_ID: np.array(["image"]),
            c.IS_PADDING: np.zeros(1, dtype=np.bool_),
            c.ERROR: np.array([""]),
            **c.target_to_columns(targets),
            **c.features_to_columns(features, "bfloat16", with_dense=False),
        }

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        return {c.EPOCH: block["id"], c.INDEX: block["id"], **self._columns}


def stream_seconds(config: DecoderConfig, crop: int, batch: int, num_blocks: int) -> list[float]:
    """CPU seconds of this process for each batch out of the object store, the first ones left out."""
    import ray.data

    blocks = ray.data.range(num_blocks * batch, override_num_blocks=num_blocks * batch).map_batches(
        FeatureBlocks,
        fn_constructor_kwargs={"config": config, "crop": crop},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=1),
        num_cpus=1,
    )
    # Of the stream's config, taking batches reads the block size and the mode only.
    stream = StreamConfig(shards="", encoders=EncoderSource.of_model("frozenseg/miniature/model"), codec="bfloat16")
    seconds, before = [], time.process_time()
    for _ in training_batches(blocks, stream, batch):
        now = time.process_time()
        seconds.append(now - before)
        before = now
    return seconds[num_blocks // 3 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = DecoderConfig()
    with ray_session.session(options=RayOptions(num_cpus=4, num_gpus=0, dashboard=False)):
        per_batch = stream_seconds(config, options.crop, options.batch, options.blocks)
    stream = statistics.median(per_batch)
    print(f"stream: {stream:.3f} s a batch ({min(per_batch):.3f} to {max(per_batch):.3f})", flush=True)
    features = make_features(config, options.batch, options.crop)
    targets = make_targets(options.batch, options.crop, NUM_SEGMENTS, NUM_CATEGORIES)
    rows = torch.nn.functional.normalize(torch.randn(NUM_CATEGORIES, config.embedding_dim), dim=1)
    text = TextEmbeddings(rows=rows, row_category=torch.arange(NUM_CATEGORIES))
    criterion = Criterion()

    def loss_of(output: DecoderOutput) -> torch.Tensor:
        return criterion(output, targets).total

    torch.manual_seed(0)
    decoder = MaskDecoder(config)
    twin = MaskDecoder(config)
    twin.load_state_dict(decoder.state_dict())
    plain = TorchEngine(decoder, OptimizerSettings())
    ensure_process_group()
    deep = DeepSpeedEngine(twin, OptimizerSettings(), micro_batch_size=options.batch)
    timed_step(plain, features, text, loss_of)
    timed_step(deep, features, text, loss_of)
    plain_seconds, deep_seconds = [], []
    for number in range(options.rounds):
        seconds, plain_loss = timed_step(plain, features, text, loss_of)
        plain_seconds.append(seconds)
        seconds, deep_loss = timed_step(deep, features, text, loss_of)
        deep_seconds.append(seconds)
        print(f"round {number}: plain {plain_seconds[-1]:.2f} s, DeepSpeed {deep_seconds[-1]:.2f} s", flush=True)
        print(f"  losses {plain_loss:.4f} {deep_loss:.4f}")
    base, with_deepspeed = statistics.median(plain_seconds), statistics.median(deep_seconds)
    share = (with_deepspeed - base + stream) / base
    print(f"overhead {share:+.1%} of a step of {base:.2f} s: DeepSpeed {(with_deepspeed - base) / base:+.1%}, stream "
          f"{stream / base:+.1%} (to stay below: 5 %)")  # fmt: skip


if __name__ == "__main__":
    main()
