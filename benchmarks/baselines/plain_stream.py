"""Features from actors to a trainer as one would first write it with Ray Data: the baseline of
benchmarks/stream_throughput.py.

One `map_batches` with a pool of one actor, one `iter_torch_batches`, everything else as Ray Data has it by default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.train_step import make_features
from frozenseg.decoder import DecoderConfig


class Encoder:
    """Gives the same features for every image, in 16 bit; numpy has no bfloat16, so the bits travel as int16."""

    def __init__(self, config: DecoderConfig, crop: int, per_block: int) -> None:
        features = make_features(config, per_block, crop)
        maps = {f"clip_{4 << number}": level for number, level in enumerate(features.clip_pyramid)}
        self.maps = {
            name: level.to(torch.bfloat16).view(torch.int16).numpy()
            for name, level in {**maps, "sam": features.sam}.items()
        }

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"id": batch["id"], **self.maps}


def dataset(config: DecoderConfig, crop: int, num_images: int, per_block: int) -> Any:
    """A ray.data.Dataset with one row an image, `per_block` of them to a call of the actor."""
    import ray.data

    return ray.data.range(num_images).map_batches(
        Encoder,
        fn_constructor_kwargs={"config": config, "crop": crop, "per_block": per_block},
        batch_size=per_block,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=1),
    )


def batches(shard: Any, batch_size: int) -> Iterator[list[Tensor]]:
    """The maps of each batch: 4 of CLIP from the finest to the coarsest, SAM's, [B,C,h,w] bfloat16."""
    names = ("clip_4", "clip_8", "clip_16", "clip_32", "sam")
    for batch in shard.iter_torch_batches(batch_size=batch_size):
        yield [batch[name].view(torch.bfloat16) for name in names]
