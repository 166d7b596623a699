"""What a corpus will take, from a rate measured on a few of its images."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from frozenseg.errors import UserInputError
from pipelines.corpus import ImageReference
from pipelines.label import LabelActor, part_of
from pipelines.labeling.options import LabelOptions
from pipelines.segmenter_pool import PoolOptions, SegmenterSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """seconds_per_image: of one actor, measured; hours: of the run, with all actors busy; actor_hours: their sum, what
    is paid for; cost: in the currency of the price."""

    num_images: int
    num_measured: int
    num_actors: int
    seconds_per_image: float
    hours: float
    actor_hours: float
    cost: float

    def text(self) -> str:
        """Lines for people."""
        return (
            f"{self.num_images} images at {self.seconds_per_image:.3f} s each (measured on {self.num_measured} here), "
            f"{self.num_actors} actors: {self.hours:.3g} hours, {self.actor_hours:.3g} actor-hours, "
            f"cost {self.cost:.2f}\nIf the actors' machines are faster or slower than this one, so is the run."
        )


def estimate(
    num_images: int,
    seconds_per_image: float,
    num_actors: int,
    images_per_part: int,
    price_per_hour: float,
    *,
    start_seconds: float = 0.0,
    num_measured: int = 0,
) -> Estimate:
    """Whole parts are dealt out to actors that are equally fast; all are paid for until the last is done.

    Args:
        seconds_per_image: of one actor.
        price_per_hour: of one actor.
        start_seconds: until an actor is ready.
    """
    num_parts = math.ceil(num_images / images_per_part)
    rounds = math.ceil(num_parts / num_actors)
    # Less than a whole round of whole parts where there are fewer images than that.
    images_of_busiest = min(rounds * images_per_part, num_images)
    hours = (start_seconds + images_of_busiest * seconds_per_image) / 3600
    actors = min(num_actors, num_parts)
    return Estimate(
        num_images=num_images,
        num_measured=num_measured,
        num_actors=actors,
        seconds_per_image=seconds_per_image,
        hours=hours,
        actor_hours=hours * actors,
        cost=hours * actors * price_per_hour,
    )


def estimate_labels(
    segmenter: SegmenterSource,
    images: Sequence[ImageReference],
    options: LabelOptions,
    pool: PoolOptions,
    num_measured: int,
    price_per_hour: float,
) -> Estimate:
    """Labels a few images, evenly spread over the corpus, into a temporary folder, and reckons from there.

    Raises:
        UserInputError: none of them can be read.
    """
    num_measured = min(num_measured, len(images))
    spread = [images[i * len(images) // num_measured] for i in range(num_measured)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        actor = LabelActor(segmenter, replace(options, to=folder), folder)
        start_seconds = time.perf_counter() - start
        # The first image pays for what the others find ready: text rows, thread pools.
        actor(part_of(0, range(1), spread))
        start = time.perf_counter()
        outcome = actor(part_of(1, range(num_measured), spread))
        seconds = time.perf_counter() - start
    if not outcome["num_labelled"]:
        raise UserInputError(f"dry run: none of {num_measured} images can be read: {outcome['reasons'][0]}")
    return estimate(
        len(images),
        seconds / num_measured,
        pool.max_actors,
        options.images_per_part,
        price_per_hour,
        start_seconds=start_seconds,
        num_measured=num_measured,
    )
