"""OpenTelemetry: off by default; where it is on, one span a request with the stages and without content."""

from __future__ import annotations

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from frozenseg.errors import UserInputError
from serve import tracing
from serve.middleware import GuardMiddleware
from serve.settings import ServeSettings
from serve.tracing import Tracing
from tests.serve.conftest import ARGUMENTS, free_port
from tests.serve.in_process import serve_in_process

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def collect(paths: list[str], **headers: str) -> list[ReadableSpan]:
    """The spans of requests to a small application behind the guard."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traced = Tracing(provider)

    async def segment(_: Request) -> Response:
        traced.record_image("panoptic", {"image": 0.002, "encode": 0.0105})
        return JSONResponse({})

    async def broken(_: Request) -> Response:
        return JSONResponse({}, status_code=503)

    app = Starlette(
        routes=[Route("/v1/segment", segment), Route("/v1/broken/{word}", broken), Route("/healthz", segment)]
    )
    guard = GuardMiddleware(traced.around(app), ServeSettings())

    async def go() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://server") as client:
            for path in paths:
                await client.get(path, headers={"X-Request-Id": "job-7", **headers})

    asyncio.run(go())
    return list(exporter.get_finished_spans())


def test_a_request_is_a_span_with_its_stages_in_the_clients_trace() -> None:
    [span] = collect(["/v1/segment"], traceparent=PARENT)
    assert (span.name, span.kind) == ("GET /v1/segment", SpanKind.SERVER)
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == PARENT.split("-")[1]
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    assert span.attributes == {
        "http.request.method": "GET",
        "http.route": "/v1/segment",
        "http.response.status_code": 200,
        "frozenseg.request_id": "job-7",
    }
    [event] = span.events
    assert event.name == "image"
    assert event.attributes == {"frozenseg.task": "panoptic", "frozenseg.image_ms": 2.0, "frozenseg.encode_ms": 10.5}


def test_failures_are_marked_and_clients_words_stay_out_of_names() -> None:
    broken, unknown = collect(["/v1/broken/secret", "/healthz", "/v1/secret"])
    assert broken.status.status_code == StatusCode.ERROR
    assert broken.name == "GET /v1/broken/{word}"
    assert unknown.name == "GET unknown"
    assert unknown.status.status_code == StatusCode.UNSET
    assert broken.context is not None
    assert unknown.context is not None
    assert broken.context.trace_id != unknown.context.trace_id
    assert "secret" not in broken.to_json() + unknown.to_json()


def test_without_the_extra_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tracing.check_available()
    monkeypatch.setattr(tracing, "_EXPORTER", "opentelemetry.exporter.nothing.there")
    with pytest.raises(UserInputError, match=r"pip install 'frozenseg\[tracing\]'"):
        tracing.check_available()


class Collector(HTTPServer):
    """Keeps what is posted to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Keep)
        self.posts: list[tuple[str, bytes]] = []


class _Keep(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_spans_of_a_real_request_reach_a_collector() -> None:
    """The application with its model; the exporter speaks OTLP over HTTP."""
    from serve.settings import settings_from

    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    traced = Tracing.to_collector(f"http://127.0.0.1:{collector.server_port}/v1/traces")
    port = free_port()
    try:
        with serve_in_process(settings_from(ARGUMENTS), port, traced):
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
                image = client.get("/v1/examples/0").content
                answer = client.post(
                    "/v1/segment", files={"image": ("a", image)}, data={"options": '{"vocabulary": "grass(stuff)"}'}
                )
            assert answer.is_success
        traced.close()
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()
    assert {path for path, _ in collector.posts} == {"/v1/traces"}
    sent = b"".join(body for _, body in collector.posts)
    for word in (b"frozenseg", b"POST /v1/segment", answer.headers["x-request-id"].encode(), b"frozenseg.encode_ms"):
        assert word in sent
    assert b"grass" not in sent
