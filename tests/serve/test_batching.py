"""Batches form from what is waiting."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from frozenseg.inference.geometry import ImageGeometry
from serve.batching import EncoderBatcher
from serve.travel import EncodedImage, PreparedImage, check_image

NO_FEATURES: Any = None
"""The batcher hands them through unseen."""


def image(side: int) -> PreparedImage:
    return PreparedImage(batch=check_image().batch, geometry=ImageGeometry.whole((side, side)))


class Encoders:
    """Answers when it is let; an image of 13 pixels' side cannot be encoded."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go_on = threading.Event()

    def __call__(self, images: list[PreparedImage]) -> list[EncodedImage]:
        sides = [image.geometry.padded_size[0] for image in images]
        self.batches.append(sides)
        assert self.may_go_on.wait(30)
        if 13 in sides:
            raise ValueError("thirteen")
        return [EncodedImage(features=NO_FEATURES, geometry=i.geometry, seconds=0.0) for i in images]


async def ask_while_busy(encoders: Encoders, first: int, *sides: int) -> list[EncodedImage | BaseException]:
    """One image; the others as soon as it is at work."""
    batcher = EncoderBatcher(encoders, batch_pixels=2 * 10 * 10)
    tasks = [asyncio.create_task(batcher(image(first)))]
    while not encoders.batches:
        await asyncio.sleep(0.01)
    tasks += [asyncio.create_task(batcher(image(side))) for side in sides]
    await asyncio.sleep(0)
    encoders.may_go_on.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def sides_of(results: list[EncodedImage | BaseException]) -> list[int]:
    assert all(isinstance(r, EncodedImage) for r in results)
    return [r.geometry.padded_size[0] for r in results if isinstance(r, EncodedImage)]


def test_one_goes_at_once_and_what_came_meanwhile_goes_together_by_pixels() -> None:
    encoders = Encoders()
    results = asyncio.run(ask_while_busy(encoders, 8, 10, 9, 5, 30, 4))
    assert encoders.batches == [[8], [10, 9], [5], [30], [4]]
    assert sides_of(results) == [8, 10, 9, 5, 30, 4]


def test_an_image_that_fails_costs_its_companions_nothing() -> None:
    encoders = Encoders()
    results = asyncio.run(ask_while_busy(encoders, 8, 5, 13, 4))
    assert encoders.batches == [[8], [5, 13], [5], [13], [4]]
    assert sides_of(results[:2] + results[3:]) == [8, 5, 4]
    assert isinstance(results[2], ValueError)


def test_whoever_has_gone_is_not_encoded() -> None:
    async def go(encoders: Encoders) -> list[int]:
        batcher = EncoderBatcher(encoders, batch_pixels=200)
        first = asyncio.create_task(batcher(image(8)))
        while not encoders.batches:
            await asyncio.sleep(0.01)
        gone, second = asyncio.create_task(batcher(image(7))), asyncio.create_task(batcher(image(6)))
        await asyncio.sleep(0)
        gone.cancel()
        encoders.may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return sides_of([await first, await second])

    encoders = Encoders()
    assert asyncio.run(go(encoders)) == [8, 6]
    assert encoders.batches == [[8], [6]]
