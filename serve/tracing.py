"""OpenTelemetry spans of requests, for operators who want them (`otlp_endpoint`, and the extra `tracing`).

Nothing of OpenTelemetry is imported unless tracing is on. A span holds the route, the status, the request id and the
milliseconds by stage; no names and no image content.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from frozenseg.errors import UserInputError
from serve.middleware import Application, Message, Receive, Scope, Send, route_path

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SERVER_ERRORS = 500
_EXPORTER = "opentelemetry.exporter.otlp.proto.http"


def check_available() -> None:
    """Raises UserInputError when the extra is not installed."""
    try:
        found = importlib.util.find_spec(_EXPORTER)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise UserInputError("otlp_endpoint: OpenTelemetry is not installed: pip install 'frozenseg[tracing]'")


class Tracing:
    """Makes one span for each request under `/v1`, within the client's own trace where it sent a `traceparent`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("frozenseg.serve")

    @classmethod
    def to_collector(cls, endpoint: str) -> Tracing:
        """Sends spans to an OTLP collector, in batches beside the requests; a collector that is away costs nothing."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(resource=Resource.create({"service.name": "frozenseg"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        return cls(provider)

    def around(self, app: Application) -> Application:
        """`app` with a span around every request under `/v1`."""
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or not route_path(scope).startswith("/v1/"):
                await app(scope, receive, send)
                return
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            context = propagator.extract(headers)
            with self._tracer.start_as_current_span(
                str(scope["method"]), context, SpanKind.SERVER, record_exception=False
            ) as span:
                span.set_attribute("http.request.method", scope["method"])
                span.set_attribute("frozenseg.request_id", scope["state"]["request_id"])

                async def watched(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        span.set_attribute("http.response.status_code", message["status"])
                        if message["status"] >= SERVER_ERRORS:
                            span.set_status(StatusCode.ERROR)
                    await send(message)

                try:
                    await app(scope, receive, watched)
                finally:
                    # The route is known only now; a path that is no route's is the client's own word.
                    route: Any = getattr(scope.get("route"), "path", "unknown")
                    span.set_attribute("http.route", route)
                    span.update_name(f"{scope['method']} {route}")

        return traced

    def close(self) -> None:
        """Sends what still waits."""
        self._provider.shutdown()

    def record_image(self, task: str, seconds: Mapping[str, float]) -> None:
        """Adds one segmented image to the current request's span: an event with milliseconds by stage."""
        from opentelemetry.trace import get_current_span

        stages = {f"frozenseg.{stage}_ms": round(value * 1000, 3) for stage, value in seconds.items()}
        get_current_span().add_event("image", {"frozenseg.task": task, **stages})
