"""Errors that a client sees: one JSON shape for all of them (RFC 9457, `application/problem+json`)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import Response

from serve.schema import FieldProblem, Problem

MEDIA_TYPE = "application/problem+json"


class RequestRefusedError(Exception):
    """A request that is answered with a problem. `field` names the part of the request at fault, where one is."""

    def __init__(
        self, status: HTTPStatus, detail: str, *, field: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.field = field
        self.headers = dict(headers or {})


def problem(
    status: HTTPStatus, detail: str, request_id: str, errors: tuple[FieldProblem, ...] = ()
) -> Problem:
    """The problem object of a status."""
    return Problem(title=status.phrase, status=int(status), detail=detail, request_id=request_id, errors=errors)


def refusal_problem(error: RequestRefusedError, request_id: str) -> Problem:
    """The problem object of a refused request."""
    errors = (FieldProblem(field=error.field, message=error.detail),) if error.field else ()
    return problem(error.status, error.detail, request_id, errors)


def problem_response(found: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The HTTP answer that carries a problem and the request's id."""
    return Response(
        content=found.model_dump_json(),
        status_code=found.status,
        media_type=MEDIA_TYPE,
        headers={**(headers or {}), "X-Request-Id": found.request_id},
    )
