"""The HTTP side: routes, decoding of images, rendering of answers. It holds no model."""

from __future__ import annotations

import asyncio
import logging
import time
import warnings
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle
from starlette.responses import HTMLResponse, JSONResponse, Response

import frozenseg
from frozenseg.config import from_mapping
from frozenseg.data import decode_image
from frozenseg.errors import UserInputError
from frozenseg.inference.loading import model_folder
from frozenseg.inference.options import InferenceOptions
from frozenseg.model import read_spec
from frozenseg.types import ImageSample, Vocabulary
from frozenseg.vocabulary import PUBLISHED_NAMES, parse_vocabulary, published_vocabulary
from serve import openapi
from serve.catalog import NUM_EXAMPLES, describe_model, example_png
from serve.metrics import Metrics
from serve.middleware import Application, GuardMiddleware
from serve.parts import inference_options
from serve.pipeline import SegmentPipeline
from serve.problems import RequestRefusedError, install_problem_handlers, refusal_problem
from serve.rendering import category_hex, render
from serve.requests import ParsedRequest, image_bytes, read_batch, read_segment, read_vocabulary
from serve.schema import (
    BatchItem,
    BatchResponse,
    CategoryOut,
    ModelsResponse,
    SegmentOptions,
    SegmentResponse,
    VocabulariesResponse,
    VocabularyOut,
)
from serve.settings import ServeSettings
from serve.tracing import Tracing
from serve.travel import PreparedImage, SegmentedImage, prepare_image, share_tensors

PAGE = Path(__file__).with_name("page.html")
READY_SECONDS = 5.0
"""How long a passed readiness check is remembered, so that probes don't become load."""


class Service:
    """What the routes do; one per ingress replica.

    Args:
        settings, pipeline: by what rules, with what model.
        tracing: where an operator wants spans.
    """

    def __init__(self, settings: ServeSettings, pipeline: SegmentPipeline, tracing: Tracing | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.tracing = tracing
        self.model = describe_model(settings.model)
        self._pipeline = pipeline
        spec = read_spec(model_folder(settings.model))
        self._has_sam = spec.sam is not None or spec.mask_sam is not None
        self._options = from_mapping(spec.inference, InferenceOptions, where="the model's inference options")
        self._ready_until = 0.0

    async def segment(self, parsed: ParsedRequest, request_id: str) -> Response:
        """One image's answer in the format that the options ask for, with times per stage in a header."""
        vocabulary = self.checked(parsed.options)
        response, sample, seconds = await self.answer(parsed.image, vocabulary, parsed.options, request_id)
        started = time.perf_counter()
        body, media_type = await asyncio.to_thread(render, response, sample, parsed.options)
        seconds["render"] = time.perf_counter() - started
        timing = ", ".join(f"{stage};dur={value * 1000:.1f}" for stage, value in seconds.items())
        return Response(content=body, media_type=media_type, headers={"Server-Timing": timing})

    async def answer(
        self, image: bytes, vocabulary: Vocabulary, options: SegmentOptions, request_id: str
    ) -> tuple[SegmentResponse, ImageSample, dict[str, float]]:
        """The JSON answer, the decoded image and seconds by stage, for options that are checked.

        Raises:
            RequestRefusedError: what is wrong with the image, or a word that the model does not know.
        """
        started = time.perf_counter()
        sample, prepared = await asyncio.to_thread(self._prepare, image)
        decoded = time.perf_counter() - started
        with_masks = inference_options(self._options, options).needs_sam_masks
        result = await self._pipeline.segment(prepared, vocabulary, options, with_masks=with_masks)
        seconds = {"image": decoded, **result.seconds}
        self.metrics.count_image(options.task, seconds)
        if self.tracing is not None:
            self.tracing.record_image(options.task, seconds)
        return self._response(result, sample, vocabulary, options, request_id), sample, seconds

    def checked(self, options: SegmentOptions) -> Vocabulary:
        """The vocabulary of options that this server can follow.

        Raises:
            RequestRefusedError: what is wrong with the vocabulary, the model's name or the ensemble.
        """
        if options.model not in ("default", self.model.name):
            raise RequestRefusedError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"no model is named {options.model!r}; this server has {self.model.name!r}",
                field="options.model",
            )
        if options.ensemble and not self._has_sam:
            raise RequestRefusedError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"the model {self.model.name!r} has no SAM for the ensemble",
                field="options.ensemble",
            )
        return read_vocabulary(options, self.settings.limits)

    def _prepare(self, image: bytes) -> tuple[ImageSample, PreparedImage]:
        try:
            sample = decode_image(image, "request", max_pixels=self.settings.limits.image_pixels)
        except UserInputError as error:
            raise RequestRefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), field="image") from error
        return sample, prepare_image(sample, self._options)

    def _response(
        self,
        result: SegmentedImage,
        sample: ImageSample,
        vocabulary: Vocabulary,
        options: SegmentOptions,
        request_id: str,
    ) -> SegmentResponse:
        categories = tuple(
            CategoryOut(id=i, name=c.name, synonyms=c.synonyms, is_thing=c.is_thing, seen=result.seen[i], color=color)
            for i, (c, color) in enumerate(zip(vocabulary.categories, category_hex(vocabulary), strict=True))
        )
        return SegmentResponse(
            request_id=request_id,
            model=result.model,
            task=options.task,
            size=sample.original_size,
            categories=categories,
            segments=result.segments,
            warnings=(result.notice,) if result.notice else (),
        )

    async def batch(self, request: Request, request_id: str) -> BatchResponse:
        """Answers of several images, worked on together; a bad one has its problem in its place."""
        body = await read_batch(request, self.settings)
        # Wrong options are the whole request's fault, not an image's.
        vocabulary = self.checked(body.options)

        async def one(index: int) -> BatchItem:
            try:
                data = await image_bytes(body.images[index], self.settings)
                response, _, _ = await self.answer(data, vocabulary, body.options, request_id)
                return BatchItem(index=index, result=response)
            except RequestRefusedError as error:
                return BatchItem(index=index, problem=refusal_problem(error, request_id))

        return BatchResponse(
            request_id=request_id, items=tuple(await asyncio.gather(*map(one, range(len(body.images)))))
        )

    async def check_ready(self) -> None:
        """Runs a small picture through every part.

        Raises:
            RequestRefusedError: a part does not answer (503).
        """
        if time.monotonic() < self._ready_until:
            return
        name = self.model.training_categories[0] if self.model.training_categories else "object"
        await self._pipeline.check(parse_vocabulary(name), SegmentOptions(vocabulary=name))
        self._ready_until = time.monotonic() + READY_SECONDS


def build_api(service: Service) -> FastAPI:
    """The routes. Names under `/v1` are stable."""
    app = FastAPI(
        title="frozenseg",
        version=frozenseg.__version__,
        summary="Open-vocabulary segmentation: any image, any names.",
        docs_url=None,
        redoc_url=None,
    )
    install_problem_handlers(app)

    @app.post("/v1/segment", responses=openapi.SEGMENT_ANSWER, openapi_extra=openapi.SEGMENT_BODY)
    async def segment(request: Request) -> Response:
        """Segments one image for any list of names."""
        return await service.segment(await read_segment(request, service.settings), request.state.request_id)

    @app.post(
        "/v1/segment/batch",
        response_model=BatchResponse,
        responses=openapi.PROBLEMS,
        openapi_extra=openapi.BATCH_BODY,
    )
    async def segment_batch(request: Request) -> BatchResponse:
        """Segments several images with one set of options; always answers in JSON."""
        return await service.batch(request, request.state.request_id)

    @app.get("/v1/models", responses={401: openapi.PROBLEMS[401]})
    async def models() -> ModelsResponse:
        """The models of this server."""
        return ModelsResponse(default=service.model.name, models=(service.model,))

    @app.get("/v1/vocabularies", responses={401: openapi.PROBLEMS[401]})
    async def vocabularies() -> VocabulariesResponse:
        """Published vocabularies that a request may name as `@name`."""
        return VocabulariesResponse(vocabularies=tuple(_describe_vocabulary(name) for name in PUBLISHED_NAMES))

    @app.get("/v1/examples/{index}", include_in_schema=False)
    async def example(index: int) -> Response:
        if not (service.model.examples and 0 <= index < NUM_EXAMPLES):
            raise RequestRefusedError(HTTPStatus.NOT_FOUND, f"there is no example {index}")
        return Response(await asyncio.to_thread(example_png, index), media_type="image/png")

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """The HTTP side is alive."""
        return JSONResponse({"status": "alive"})

    @app.get("/readyz", responses={503: openapi.PROBLEMS[503]})
    async def readyz() -> JSONResponse:
        """Every part of the model answered a small picture within the last seconds."""
        await service.check_ready()
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=service.metrics.content_type)

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes, openapi_version="3.1.0"
        )
        app.openapi_schema = openapi.add_schemas(document)
    return app.openapi_schema


def _describe_vocabulary(name: str) -> VocabularyOut:
    vocabulary = published_vocabulary(name)
    return VocabularyOut(name=name, num_categories=len(vocabulary), num_things=int(vocabulary.is_thing.sum()))


def guarded(service: Service, *, adds_request_id: bool) -> GuardMiddleware:
    """The routes behind the guard, counted, and traced where that is wanted."""
    app: Application = build_api(service)
    if service.tracing is not None:
        app = service.tracing.around(app)
    return GuardMiddleware(
        app,
        service.settings,
        adds_request_id=adds_request_id,
        finished=service.metrics.count_request,
    )


@ray_serve.deployment
@ray_serve.ingress()
class Ingress:
    """The application's HTTP entry: the guard around the routes."""

    def __init__(
        self,
        settings: ServeSettings,
        encoders: DeploymentHandle[Any],
        sam_masks: DeploymentHandle[Any] | None,
        decoder: DeploymentHandle[Any],
    ) -> None:
        share_tensors()
        # What Pillow and the form parser think of a client's bytes is no line of the operator's log.
        warnings.filterwarnings("ignore", module="PIL")
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        self._tracing = Tracing.to_collector(settings.otlp_endpoint) if settings.otlp_endpoint else None
        separate_masks = read_spec(model_folder(settings.model)).mask_sam is not None
        pipeline = SegmentPipeline(encoders, sam_masks, decoder, separate_masks=separate_masks)
        self._service = Service(settings, pipeline, self._tracing)

    def __serve_build_asgi_app__(self) -> GuardMiddleware:
        """Serve asks for the application once the replica is there, since routes hold handles."""
        return guarded(self._service, adds_request_id=False)

    def __del__(self) -> None:
        """Serve calls this when the replica stops."""
        if self._tracing is not None:
            self._tracing.close()
