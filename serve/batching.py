"""Batches of what is waiting: no request waits for company, and those that come while the encoders work go together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from serve.travel import EncodedImage, PreparedImage

_Waiting = tuple[PreparedImage, "asyncio.Future[EncodedImage]"]


class EncoderBatcher:
    """One batch at a time, in the order of arrival.

    Ray Serve's own batches are closed by a clock and then wait for the encoders, one behind the other; here a batch is
    closed when the encoders are free, so that an image alone is encoded at once and batches grow with the load.

    Args:
        encode: features of several images, in order; runs in a thread.
        batch_pixels: padded pixels of a batch, since its time and memory follow them; a larger image goes alone.
    """

    def __init__(self, encode: Callable[[list[PreparedImage]], list[EncodedImage]], batch_pixels: int) -> None:
        self._encode = encode
        self._batch_pixels = batch_pixels
        self._waiting: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, image: PreparedImage) -> EncodedImage:
        """Features of one image. Raises what encoding it raises; an image that fails costs its companions nothing."""
        encoded: asyncio.Future[EncodedImage] = asyncio.get_running_loop().create_future()
        self._waiting.append((image, encoded))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await encoded

    async def _work(self) -> None:
        while batch := self._next_batch():
            await self._settle(batch)

    async def _settle(self, batch: list[_Waiting]) -> None:
        """Gives each its features; after a failure each alone, to find whose it was."""
        try:
            results = await asyncio.to_thread(self._encode, [image for image, _ in batch])
        except Exception as error:  # noqa: BLE001 it is the asker's, whatever it is
            if len(batch) > 1:
                for alone in batch:
                    await self._settle([alone])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, encoded), result in zip(batch, results, strict=True):
            if not encoded.done():
                encoded.set_result(result)

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        pixels = 0
        while self._waiting:
            image, encoded = self._waiting[0]
            if batch and pixels + image.num_pixels > self._batch_pixels:
                break
            self._waiting.popleft()
            # Whoever asked may be gone by now.
            if not encoded.done():
                batch.append((image, encoded))
                pixels += image.num_pixels
        return batch
