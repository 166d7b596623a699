"""The application's HTTP side and parts in one process, without Ray: what `FROZENSEG_SERVE_TESTS=local` tests against.

For work on routes and answers, where a Ray session's start would take longer than the tests. Batching, replicas and
the proxy are left out.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from serve.ingress import Service, guarded
from serve.parts import Decoder, Encoders, SamMaskMaker, encode_together
from serve.pipeline import SegmentPipeline
from serve.settings import ServeSettings
from serve.tracing import Tracing
from serve.travel import EncodedImage, PreparedImage


class _Method:
    """`handle.method`: `remote` starts the work in a thread and hands back an awaitable, which other calls may take."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def remote(self, *arguments: Any) -> asyncio.Task[Any]:
        async def call() -> Any:
            ready = [await a if inspect.isawaitable(a) else a for a in arguments]
            return await asyncio.to_thread(self._function, *ready)

        return asyncio.ensure_future(call())


class _Handle:
    def __init__(self, **functions: Any) -> None:
        self.__dict__.update({name: _Method(function) for name, function in functions.items()})


def _pipeline(settings: ServeSettings) -> SegmentPipeline:
    # One model for all parts: there is one process.
    decoder = Decoder.func_or_class(settings)
    segmenter = decoder._segmenter
    model = segmenter.model

    def encode(image: PreparedImage) -> EncodedImage:
        started = time.perf_counter()
        [features] = encode_together(segmenter, [image])
        return EncodedImage(features=features, geometry=image.geometry, seconds=time.perf_counter() - started)

    assert hasattr(Encoders.func_or_class, "encode")
    masks: Any = None
    if model.sam is not None or model.mask_sam is not None:
        maker = SamMaskMaker.func_or_class(settings)
        masks = _Handle(masks=maker.masks, masks_of_image=maker.masks_of_image, check_health=maker.check_health)
    encoders: Any = _Handle(encode=encode)
    segments: Any = _Handle(segment=decoder.segment)
    return SegmentPipeline(encoders, masks, segments, separate_masks=model.mask_sam is not None)


@contextmanager
def serve_in_process(settings: ServeSettings, port: int, tracing: Tracing | None = None) -> Iterator[None]:
    """Answers on `port` of this machine until the block ends."""
    app = guarded(Service(settings, _pipeline(settings), tracing), adds_request_id=True)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
