"""Stands for `pipelines.encoder_pool.EncoderActor` where only the way of the features is of interest."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.train_step import make_features, make_targets
from frozenseg.decoder import DecoderConfig
from pipelines import columns as c
from pipelines.codec import Codec


class ReadyFeatures:
    """The same features for every image, coded once. `EncoderActor` codes each encoder batch straight into its block,
    so here the block lies ready, too.

    Args:
        block_images: images of every block.
        seconds_per_image: that a GPU would take; slept.
    """

    def __init__(
        self, config: DecoderConfig, crop: int, codec: Codec, block_images: int, seconds_per_image: float = 0.0
    ) -> None:
        ready = c.features_to_columns(make_features(config, 1, crop), codec, with_dense=False)
        self._columns = {
            c.IMAGE_ID: np.array(["image"] * block_images),
            c.IS_PADDING: np.zeros(block_images, dtype=np.bool_),
            c.ERROR: np.array([""] * block_images),
            # Hardly any truth, which the baseline does not carry.
            **c.target_to_columns(make_targets(block_images, 8, 1, 1)),
            **{name: np.repeat(values, block_images, axis=0) for name, values in ready.items()},
        }
        self._seconds = seconds_per_image * block_images

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        time.sleep(self._seconds)
        return {c.EPOCH: block["id"], c.INDEX: block["id"], **self._columns}
