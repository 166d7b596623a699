"""Errors that a client sees: one JSON shape for all of them (RFC 9457, `application/problem+json`)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
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


class InvalidFieldsError(Exception):
    """A body that does not fit the schema, field by field."""

    def __init__(self, problems: tuple[FieldProblem, ...]) -> None:
        super().__init__("the request does not fit the schema")
        self.problems = problems


def problem(status: HTTPStatus, detail: str, request_id: str, errors: tuple[FieldProblem, ...] = ()) -> Problem:
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


def install_problem_handlers(app: Starlette) -> None:
    """Gives every error of `app` the one shape; an error that is ours names nothing of the inside."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestRefusedError)
        return problem_response(refusal_problem(error, request.state.request_id), error.headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, InvalidFieldsError)
        detail = "; ".join(f"{fault.field}: {fault.message}" for fault in error.problems)
        status = HTTPStatus.UNPROCESSABLE_ENTITY
        return problem_response(problem(status, detail, request.state.request_id, error.problems))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        found = problem(HTTPStatus(error.status_code), str(error.detail), request.state.request_id)
        return problem_response(found, error.headers)

    async def defect(request: Request, _: Exception) -> Response:
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        detail = "something went wrong here; the log has more under this request id"
        return problem_response(problem(status, detail, request.state.request_id))

    app.add_exception_handler(RequestRefusedError, refused)
    app.add_exception_handler(InvalidFieldsError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, defect)
