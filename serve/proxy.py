"""Around Serve's HTTP proxy: a request whose ingress replica dies is sent again, or told clearly to come back.

The ingress holds the request while the other parts work, so nothing inside the application can save it when its
replica dies; the client would get a 500 in plain text. A proxy takes this middleware when it finds ENVIRONMENT set as
it starts, which `serve.app:build` does for a Ray that it starts itself; on a cluster the nodes have to (the Dockerfile
does).
"""

from __future__ import annotations

import asyncio
import os
from http import HTTPStatus

from starlette.middleware import Middleware

from serve.middleware import Application, Message, Receive, Scope, Send, request_id_of
from serve.problems import RequestRefusedError, problem_response, refusal_problem

ENVIRONMENT = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""Where Ray Serve looks for a proxy's middlewares."""
ATTEMPTS = 4
RETRY_WAIT_S = 1.0
KEPT_BYTES = 64 << 20
"""Of a request's body; a larger one cannot be sent again."""
REPEATABLE = ("/v1/segment", "/v1/segment/batch")
"""Routes that change nothing although they are POST. Other applications' routes are theirs."""


def middlewares() -> list[Middleware]:
    """What Ray Serve puts around its proxy."""
    return [Middleware(RetryMiddleware)]


def install() -> None:
    """For the proxies of a Ray that this process starts later; a setting that is there already stays."""
    os.environ.setdefault(ENVIRONMENT, "serve.proxy:middlewares")


class RetryMiddleware:
    """Sends a request again when the proxy answers in the application's place that its replica failed.

    Args:
        app: the proxy.
        retry_wait_s: between attempts, for the proxy to learn of the replica's death.
    """

    def __init__(self, app: Application, retry_wait_s: float = RETRY_WAIT_S) -> None:
        self._app = app
        self._retry_wait_s = retry_wait_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _may_repeat(scope):
            await self._app(scope, receive, send)
            return
        body = _KeptBody(receive)
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(self._retry_wait_s)
            answer = _HeldAnswer(send)
            # A copy: the proxy writes its own id into the scope's headers.
            await self._app({**scope, "headers": list(scope["headers"])}, body.from_start(), answer)
            if not answer.failed:
                return
            if body.lost:
                break
        late = RequestRefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "no replica could answer; please come back")
        response = problem_response(refusal_problem(late, request_id_of(scope)), {"Retry-After": "2"})
        await response(scope, receive, send)


def _may_repeat(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST" and str(scope["path"]).endswith(REPEATABLE)


class _KeptBody:
    """A request's messages, again and again; `lost` when that is impossible: too large, or the client is gone."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: list[Message] = []
        self._size = 0
        self.lost = False

    def from_start(self) -> Receive:
        position = 0

        async def receive() -> Message:
            nonlocal position
            if self.lost or position == len(self._messages):
                message = await self._receive()
                self._size += len(message.get("body", b""))
                self.lost = self.lost or message["type"] != "http.request" or self._size > KEPT_BYTES
                if self.lost:
                    self._messages.clear()
                    return message
                self._messages.append(message)
            position += 1
            # A copy: whoever takes it may change it.
            return dict(self._messages[position - 1])

        return receive


class _HeldAnswer:
    """Passes an answer on unless it is the proxy's own word that a replica failed: nothing at all (the web server would
    make that a 500), or plain text of status 500 and above. The application's errors are JSON, and a full queue's 503
    says when to come back."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.failed = True

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = {bytes(name).lower(): bytes(value) for name, value in message["headers"]}
            self.failed = (
                message["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR
                and headers.get(b"content-type", b"").startswith(b"text/plain")
                and b"retry-after" not in headers
            )
        if not self.failed:
            await self._send(message)
