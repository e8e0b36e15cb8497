"""What the FastAPI applications of this member have in common: every error is a problem, nothing is ignored."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from oarlock import __version__
from oarlock.api.problems import ApiError, body_of, from_refused
from oarlock.runtime.errors import Refused
from oarlock.wire.problem import Problem

PROBLEM = "application/problem+json"

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {"model": Problem, "description": "Every error is a problem (RFC 9457)", "content": {PROBLEM: {}}}
}

_CODES = {404: "no_such_route", 405: "method_not_allowed"}


def make_app(title: str, description: str, *, docs: bool) -> FastAPI:
    app = FastAPI(
        title=title,
        description=description,
        version=__version__,
        docs_url="/docs" if docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if docs else None,
        responses=PROBLEMS,
    )
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    return app


def problem_response(error: ApiError) -> Response:
    headers = {name.decode(): value.decode("latin-1") for name, value in error.headers}
    return Response(body_of(error), error.status, {**headers, "cache-control": "no-store"}, PROBLEM)


def json_response(model: BaseModel, headers: dict[str, str] | None = None) -> Response:
    return Response(model.model_dump_json(), 200, headers, "application/json")


def known_parameters(*names: str) -> Any:
    """A dependency that refuses every query parameter but `names`: a misspelt one must not be ignored."""

    def check(request: Request) -> None:
        for name in request.query_params:
            if name not in names:
                knows = ", ".join(names) or "none"
                why = f"unknown query parameter {name[:64]!r}; this call knows: {knows}"
                raise ApiError(400, "unknown_parameter", why)

    return check


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return problem_response(error)


async def _on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return problem_response(from_refused(error))


async def _on_invalid(request: Request, error: Exception) -> Response:
    """400, with the places and the reasons, without the input: it may be large, or a secret."""
    assert isinstance(error, RequestValidationError)
    errors = [{"at": ".".join(str(x) for x in e["loc"])[:200], "why": str(e["msg"])[:300]} for e in error.errors()[:20]]
    first = errors[0] if errors else {"at": "body", "why": "not understood"}
    detail = f"{first['at']}: {first['why']}"
    if isinstance(error.body, bytes):  # as it came: its content type does not say that it is JSON
        detail = "the body is JSON here, and its content type has to say so: send Content-Type: application/json"
    return problem_response(ApiError(400, "invalid_argument", detail, extra={"errors": errors}))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "invalid_argument")
    headers = [(k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items()]
    detail = "there is no such route; GET /docs on the client port lists them" if code == "no_such_route" else ""
    return problem_response(ApiError(error.status_code, code, detail or str(error.detail), headers=headers))
