"""The guard around every request: limits hold before a body is parsed, and every answer carries its id."""

from __future__ import annotations

import asyncio
import json
import logging

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serve.middleware import GuardMiddleware, json_log
from serve.problems import install_problem_handlers
from serve.settings import Limits, ServeSettings


async def echo(request: Request) -> Response:
    body = await request.body()
    return JSONResponse({"bytes": len(body), "id": request.state.request_id})


async def slow(request: Request) -> Response:
    await asyncio.sleep(float(request.query_params["seconds"]))
    return JSONResponse({})


def client(**limits: float) -> httpx.AsyncClient:
    token = limits.pop("token", "")
    app = Starlette(
        routes=[
            Route("/v1/segment", echo, methods=["POST"]),
            Route("/v1/segment/slow", slow),
            Route("/healthz", slow),
            Route("/v1/models", slow),
        ]
    )
    install_problem_handlers(app)
    settings = ServeSettings(limits=Limits(**limits), token=str(token))  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=httpx.ASGITransport(GuardMiddleware(app, settings)), base_url="http://server")


def ask(method: str, path: str, *, limits: dict[str, object] | None = None, **request: object) -> httpx.Response:
    async def go() -> httpx.Response:
        async with client(**(limits or {})) as connection:  # type: ignore[arg-type]
            return await connection.request(method, path, **request)  # type: ignore[arg-type]

    return asyncio.run(go())


def test_an_id_is_given_and_a_plain_one_is_kept() -> None:
    answer = ask("POST", "/v1/segment", content=b"abc")
    assert answer.json() == {"bytes": 3, "id": answer.headers["x-request-id"]}
    assert len(answer.headers["x-request-id"]) == 32
    kept = ask("POST", "/v1/segment", headers={"X-Request-Id": "job-7.a"})
    assert kept.headers["x-request-id"] == kept.json()["id"] == "job-7.a"
    replaced = ask("POST", "/v1/segment", headers={"X-Request-Id": 'x"} injected'})
    assert "injected" not in replaced.headers["x-request-id"]


def problem(answer: httpx.Response, status: int) -> dict[str, object]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, object] = answer.json()
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


def test_a_declared_body_past_the_limit_is_refused() -> None:
    answer = ask("POST", "/v1/segment", limits={"body_bytes": 10}, content=b"x" * 11)
    assert "larger than 10 bytes" in str(problem(answer, 413)["detail"])
    assert ask("POST", "/v1/segment", limits={"body_bytes": 10}, content=b"x" * 10).status_code == 200


def test_a_streamed_body_past_the_limit_is_refused_without_a_declared_length() -> None:
    async def pieces():  # type: ignore[no-untyped-def]
        for _ in range(4):
            yield b"x" * 4

    problem(ask("POST", "/v1/segment", limits={"body_bytes": 10}, content=pieces()), 413)


def test_large_headers_are_refused() -> None:
    problem(ask("POST", "/v1/segment", limits={"header_bytes": 500}, headers={"X-Large": "x" * 600}), 431)


def test_the_token_guards_the_api_and_nothing_else() -> None:
    limits: dict[str, object] = {"token": "secret"}
    answer = ask("GET", "/v1/models?seconds=0", limits=limits)
    problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"
    for wrong in ("Bearer secre", "Bearer secrets", "secret", "Basic secret"):
        problem(ask("GET", "/v1/models?seconds=0", limits=limits, headers={"Authorization": wrong}), 401)
    right = {"Authorization": "Bearer secret"}
    assert ask("GET", "/v1/models?seconds=0", limits=limits, headers=right).status_code == 200
    assert ask("GET", "/healthz?seconds=0", limits=limits).status_code == 200


def test_the_token_holds_wherever_the_application_is_mounted() -> None:
    """Serve keeps its `route_prefix` in the path."""
    app = Starlette(routes=[Route("/v1/models", echo)])
    install_problem_handlers(app)
    transport = httpx.ASGITransport(GuardMiddleware(app, ServeSettings(token="secret")), root_path="/second")

    async def go(**headers: str) -> int:
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as connection:
            return (await connection.get("/second/v1/models", headers=headers)).status_code

    assert asyncio.run(go()) == 401
    assert asyncio.run(go(Authorization="Bearer secret")) == 200


def test_a_request_past_its_time_gets_503_and_when_to_come_back() -> None:
    answer = ask("GET", "/v1/segment/slow?seconds=5", limits={"timeout_s": 0.05})
    problem(answer, 503)
    assert answer.headers["retry-after"]


def test_requests_past_the_number_in_flight_get_429_and_others_finish() -> None:
    async def go() -> list[int]:
        async with client(in_flight=2) as connection:
            answers = await asyncio.gather(
                *(connection.get("/v1/segment/slow?seconds=0.2") for _ in range(5)),
                connection.get("/healthz?seconds=0"),
            )
            again = await connection.get("/v1/segment/slow?seconds=0")
        refused = [a for a in answers if a.status_code == 429]
        assert all(a.headers["retry-after"] for a in refused)
        return [*(a.status_code for a in answers), again.status_code]

    *segment, health, again = asyncio.run(go())
    assert sorted(segment) == [200, 200, 429, 429, 429]
    assert health == again == 200


def test_the_log_is_one_json_object_a_request_and_holds_no_content(caplog: pytest.LogCaptureFixture) -> None:
    logger = json_log()
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO, logger="frozenseg.serve"):
            answer = ask("POST", "/v1/segment", content=b"the secret picture")
    finally:
        logger.removeHandler(caplog.handler)
    entry = json.loads(caplog.records[-1].message)
    assert entry["request_id"] == answer.headers["x-request-id"]
    assert (entry["method"], entry["path"], entry["status"]) == ("POST", "/v1/segment", 200)
    assert "secret" not in caplog.records[-1].message
