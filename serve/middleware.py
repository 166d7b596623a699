"""Around every request, before its body is parsed: id, token, header and body size, requests in flight, time, log.

Plain ASGI, since it has to see bytes as they come: a body is refused when it grows past the limit, not when it is
whole.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from serve.problems import RequestRefusedError, problem_response, refusal_problem
from serve.settings import ServeSettings

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LOG = logging.getLogger("frozenseg.serve")


def json_log() -> logging.Logger:
    """The access log: one JSON object a line on stderr; it holds no image content and no vocabulary."""
    if not _LOG.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        _LOG.addHandler(handler)
        _LOG.setLevel(logging.INFO)
        _LOG.propagate = False
    return _LOG


def request_id_of(scope: Scope) -> str:
    """The id that the client sent when it is a plain word, else a fresh one."""
    for name, value in scope.get("headers", []):
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(text):
                return str(text)
    return uuid.uuid4().hex


def route_path(scope: Scope) -> str:
    """The path within the application, wherever it is mounted (`route_prefix`)."""
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")))


class GuardMiddleware:
    """Holds the limits of :class:`serve.settings.ServeSettings` for all routes.

    Args:
        app, settings: what is guarded, and by which limits.
        adds_request_id: put the id into the answer's head; Serve's proxy does that by itself.
        finished: told the route and the status of every request at its end.
    """

    def __init__(
        self,
        app: Application,
        settings: ServeSettings,
        *,
        adds_request_id: bool = True,
        finished: Callable[[str, int], None] | None = None,
    ) -> None:
        self._app = app
        self._finished = finished
        self._adds_request_id = adds_request_id
        self._settings = settings
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        answer = _Answer(send, request_id if self._adds_request_id else "")
        counted = route_path(scope).startswith("/v1/segment")
        try:
            self._check_head(scope)
            if counted and self._in_flight >= self._settings.limits.in_flight:
                raise RequestRefusedError(
                    HTTPStatus.TOO_MANY_REQUESTS, "too many requests at once", headers={"Retry-After": "1"}
                )
            self._in_flight += counted
            try:
                async with asyncio.timeout(self._settings.limits.timeout_s):
                    await self._app(scope, self._bounded(receive), answer)
            finally:
                self._in_flight -= counted
        except RequestRefusedError as error:
            await answer.problem(scope, receive, error, request_id)
        except TimeoutError:
            late = RequestRefusedError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"not answered within {self._settings.limits.timeout_s:g} s",
                headers={"Retry-After": "5"},
            )
            await answer.problem(scope, receive, late, request_id)
        finally:
            # A path that is no route's is the client's own word: not for a metric's label.
            if self._finished is not None:
                self._finished(getattr(scope.get("route"), "path", "unknown"), answer.status)
            milliseconds = round((time.perf_counter() - started) * 1000, 1)
            json_log().info(
                json.dumps(
                    {
                        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                        "request_id": request_id,
                        "method": scope["method"],
                        "path": scope["path"],
                        "status": answer.status,
                        "milliseconds": milliseconds,
                    }
                )
            )

    def _check_head(self, scope: Scope) -> None:
        headers = scope.get("headers", [])
        if sum(len(name) + len(value) for name, value in headers) > self._settings.limits.header_bytes:
            raise RequestRefusedError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"the headers are larger than {self._settings.limits.header_bytes} bytes",
            )
        values = dict(headers)
        length = values.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._settings.limits.body_bytes:
            raise self._too_large()
        if self._settings.token and route_path(scope).startswith("/v1/"):
            sent = values.get(b"authorization", b"")
            if not hmac.compare_digest(sent, f"Bearer {self._settings.token}".encode()):
                raise RequestRefusedError(
                    HTTPStatus.UNAUTHORIZED,
                    "a bearer token is needed in the Authorization header",
                    headers={"WWW-Authenticate": "Bearer"},
                )

    def _bounded(self, receive: Receive) -> Receive:
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._settings.limits.body_bytes:
                raise self._too_large()
            return message

        return bounded

    def _too_large(self) -> RequestRefusedError:
        return RequestRefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the request is larger than {self._settings.limits.body_bytes} bytes",
        )


class _Answer:
    """Watches what is sent: adds the request id to the head if there is one, knows whether a head went out already."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [pair for pair in message.get("headers", []) if pair[0].lower() != b"x-request-id"]
            if self._request_id:
                headers.append((b"x-request-id", self._request_id.encode()))
            message["headers"] = headers
        await self._send(message)

    async def problem(self, scope: Scope, receive: Receive, error: RequestRefusedError, request_id: str) -> None:
        """Sends the error unless an answer has begun, in which case the connection can only be cut."""
        if self.status:
            raise error
        response = problem_response(refusal_problem(error, request_id), error.headers)
        await response(scope, receive, self)
