"""Errors as bytes: RFC 9457 problem details, one shape on every port.

* `outcome` is a promise (rule 8): `not_applied` is said only where the write can never take effect.
* `detail` is a sentence that says what to do. It never repeats what the client sent unescaped or at length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from oarlock.runtime.errors import Refused

Headers = list[tuple[bytes, bytes]]

CONTENT_TYPE = (b"content-type", b"application/problem+json")


class ApiError(Exception):
    """A request that is answered with a problem. `extra` are further members of its body, `headers` of its head."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        retryable: bool = False,
        outcome: str = "not_applied",
        extra: Mapping[str, Any] | None = None,
        headers: Headers | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.retryable = retryable
        self.outcome = outcome
        self.extra = extra or {}
        self.headers = headers or []


class BodyRefused(ApiError):
    """The rest of the request's body is not read: the connection closes with the answer (`asgi.refuse_body`)."""

    def __init__(self, status: int, code: str, detail: str, *, retryable: bool = False, wait: bool = False) -> None:
        headers = [(b"connection", b"close"), *([(b"retry-after", b"1")] if wait else [])]
        super().__init__(status, code, detail, retryable=retryable, headers=headers)


def bad_request(detail: str, code: str = "invalid_argument") -> ApiError:
    return ApiError(400, code, detail)


def too_large(detail: str) -> BodyRefused:
    return BodyRefused(413, "request_too_large", detail)


def timed_out(*, write: bool, seconds: float) -> ApiError:
    """A write that was handed over may still be applied (rule 8); a read changes nothing."""
    if write:
        detail = (
            f"no answer within {seconds:g} s; the write may have been applied, or may yet be: read before you repeat"
        )
        return ApiError(504, "timeout", detail, outcome="unknown")
    return ApiError(504, "timeout", f"no majority confirmed the read within {seconds:g} s: try again", retryable=True)


def from_refused(refused: Refused) -> ApiError:
    headers: Headers = []
    if refused.retry_after_seconds > 0:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(refused.retry_after_seconds))))
    extra = {"leader": refused.leader} if refused.leader or refused.status == 421 else {}
    return ApiError(
        refused.status,
        refused.code,
        refused.why,
        retryable=refused.retryable,
        outcome=refused.outcome,
        extra=extra,
        headers=headers,
    )


def title_of(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def body_of(error: ApiError) -> bytes:
    """The JSON of a problem; `wire.problem.Problem` is its model."""
    return msgspec.json.encode(
        {
            "type": "about:blank",
            "title": title_of(error.status),
            "status": error.status,
            "detail": error.detail,
            "code": error.code,
            "retryable": error.retryable,
            "outcome": error.outcome,
            **error.extra,
        }
    )
