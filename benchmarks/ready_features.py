"""Stands for `pipelines.encoder_pool.EncoderActor` where only the way of the features is of interest."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from benchmarks.train_step import make_features, make_targets
from frozenseg.decoder import DecoderConfig
from frozenseg.memory import keep_freed_memory
from pipelines import columns as c
from pipelines.codec import Codec


class ReadyFeatures:
    """The same features for every image, coded once.

    Args:
        encoder_batch: images that come ready at once; where a block holds more, each call copies them into a new block.
            (`EncoderActor` codes them straight into it, which takes no copy.)
        seconds_per_image: that a GPU would take; slept.
    """

    def __init__(
        self, config: DecoderConfig, crop: int, codec: Codec, encoder_batch: int, seconds_per_image: float = 0.0
    ) -> None:
        keep_freed_memory(torch.device("cpu"))  # as EncoderActor does
        features = make_features(config, encoder_batch, crop)
        ready = c.features_to_columns(features, codec, with_dense=False)
        self._source = ready.pop(c.SOURCE)
        self._ready, self._encoder_batch, self._seconds_per_image = ready, encoder_batch, seconds_per_image

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        num_rows = len(block["id"])
        time.sleep(self._seconds_per_image * num_rows)
        maps = self._ready
        if num_rows > self._encoder_batch:
            maps = {name: np.empty((num_rows, *values.shape[1:]), values.dtype) for name, values in maps.items()}
            for start in range(0, num_rows, self._encoder_batch):
                for name, values in self._ready.items():
                    maps[name][start : start + self._encoder_batch] = values
        return {
            c.IMAGE_ID: np.array(["image"] * num_rows),
            c.EPOCH: block["id"],
            c.INDEX: block["id"],
            c.IS_PADDING: np.zeros(num_rows, dtype=np.bool_),
            c.ERROR: np.array([""] * num_rows),
            # Hardly any truth, which the baseline does not carry.
            **c.target_to_columns(make_targets(num_rows, 8, 1, 1)),
            c.SOURCE: np.repeat(self._source[:1], num_rows),
            **maps,
        }
