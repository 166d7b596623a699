"""The middleware around Serve's proxy, over a proxy that fails as Serve's does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from unittest import mock

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from serve import proxy
from serve.middleware import Receive, Scope, Send

BODY = b"0123456789" * 1000


class Proxy:
    """Takes the whole body, or only its beginning, and answers as it is told, one answer a request."""

    def __init__(self, *answers: Response | None, reads_all: bool = True) -> None:
        self.answers = list(answers)
        self.reads_all = reads_all
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = b""
        async for piece in request.stream():
            body += piece
            if not self.reads_all and len(self.bodies) == 0:
                break
        self.bodies.append(body)
        scope["headers"].append((b"x-request-id", b"the proxy's own"))
        answer = self.answers.pop(0)
        if answer is not None:
            await answer(scope, receive, send)


def died() -> Response:
    return PlainTextResponse("Internal Server Error", 500)


def ask(app: Proxy, path: str = "/v1/segment", method: str = "POST") -> httpx.Response:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(BODY), 1000):
            yield BODY[start : start + 1000]

    async def go() -> httpx.Response:
        around = proxy.RetryMiddleware(app, retry_wait_s=0.0)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(around), base_url="http://server") as client:
            return await client.request(method, path, content=pieces(), headers={"X-Request-Id": "job-7"})

    return asyncio.run(go())


@pytest.mark.parametrize("reads_all", [True, False])
@pytest.mark.parametrize("path", ["/v1/segment", "/prefix/v1/segment/batch"])
def test_a_request_is_sent_again_whole_when_its_replica_died(path: str, reads_all: bool) -> None:
    unavailable = PlainTextResponse("unavailable", 503)
    app = Proxy(died(), unavailable, None, JSONResponse({"ok": True}), reads_all=reads_all)
    answer = ask(app, path)
    assert answer.json() == {"ok": True}
    assert app.bodies[1:] == [BODY, BODY, BODY]
    assert app.bodies[0] == (BODY if reads_all else BODY[:1000])


def test_after_four_deaths_the_client_is_told_to_come_back() -> None:
    app = Proxy(*(died() for _ in range(5)))
    answer = ask(app)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["request_id"] == "job-7"
    assert len(app.answers) == 1


def test_the_applications_own_errors_pass() -> None:
    for status in (404, 500, 503):
        own = JSONResponse({"title": "ours"}, status, media_type="application/problem+json")
        assert ask(Proxy(own)).json() == {"title": "ours"}


def test_a_full_queue_is_not_filled_further() -> None:
    app = Proxy(PlainTextResponse("full", 503, {"Retry-After": "1"}), JSONResponse({"ok": True}))
    answer = ask(app)
    assert (answer.status_code, answer.headers["retry-after"], answer.text) == (503, "1", "full")
    assert len(app.answers) == 1


@pytest.mark.parametrize(("method", "path"), [("POST", "/another/application"), ("GET", "/-/healthz")])
def test_other_routes_are_left_alone(method: str, path: str) -> None:
    answer = ask(Proxy(died()), path, method)
    assert answer.text == "Internal Server Error"


def test_a_body_that_is_too_large_to_keep_is_not_sent_again() -> None:
    app = Proxy(died(), JSONResponse({"ok": True}))
    with mock.patch.object(proxy, "KEPT_BYTES", 5000):
        answer = ask(app)
    assert answer.status_code == 503
    assert app.bodies == [BODY]


def test_a_setting_that_is_there_stays() -> None:
    with mock.patch.dict(os.environ):
        os.environ.pop(proxy.ENVIRONMENT, None)
        proxy.install()
        assert os.environ[proxy.ENVIRONMENT] == "serve.proxy:middlewares"
        os.environ[proxy.ENVIRONMENT] = "another:one"
        proxy.install()
        assert os.environ[proxy.ENVIRONMENT] == "another:one"
