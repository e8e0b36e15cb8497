"""A small PUT without a task of its own: the write path's overhead, halved.

    head and body parsed --> command proposed --> [disks, quorum, machine] --> result: the answer is written at once

The engine hands a result to whoever waits. Here that is not a future, which would wake a task a turn later, but an
object that writes the answer. Three rules: nothing that goes wrong here leaves this module, since the parser or the
engine stands below; every PUT gets one answer; what is said is what `KvApp` says.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import perf_counter
from typing import Protocol

from oarlock.api.asgi import NO_STORE, Scope
from oarlock.api.deadlines import Deadlines
from oarlock.api.problems import CONTENT_TYPE, ApiError, Headers, body_of, from_refused, timed_out
from oarlock.api.whole import AnswerWhole
from oarlock.machine import Result
from oarlock.runtime.errors import Refused

logger = logging.getLogger("oarlock.api")

MAX_BODY_BYTES = 16 << 10
"""Larger bodies go the usual way: uvicorn reads no more than 64 KiB of a body until somebody takes them."""

NO_HEADERS: Mapping[bytes, bytes] = {}


class Says(Protocol):
    """What is asked of `KvApp`."""

    deadlines: Deadlines

    def common(self, request_headers: Mapping[bytes, bytes]) -> Headers: ...
    def put_answer(self, key: bytes, result: Result) -> tuple[int, Headers, bytes]: ...
    def count_put(self, status: int, seconds: float) -> None: ...


def is_small(scope: Scope) -> bool:
    """Does the head announce a body that may be kept in memory until it is whole?"""
    length = b""
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = value
    return length.isdigit() and len(length) < 9 and int(length) <= MAX_BODY_BYTES


class DirectPut:
    """One PUT that waits for its result. To the engine and to the deadlines it is what a future would be."""

    __slots__ = ("_answer", "_app", "_done", "_since", "headers", "key")

    def __init__(self, app: Says, answer: AnswerWhole) -> None:
        self._app, self._answer = app, answer
        self._since = perf_counter()
        self._done = False
        self.headers = NO_HEADERS
        self.key = b""

    def done(self) -> bool:
        return self._done

    def set_result(self, result: Result) -> None:
        try:
            status, headers, body = self._app.put_answer(self.key, result)
        except Exception as e:
            self.set_exception(e)
        else:
            self._write(status, headers + self._app.common(self.headers), body)

    def set_exception(self, error: Exception) -> None:
        if isinstance(error, Refused):
            error = from_refused(error)
        elif not isinstance(error, ApiError):
            logger.error("a PUT failed in a way that no rule foresees", exc_info=error)
            why = "the member failed at this request; its log says why"
            error = ApiError(500, "internal", why, outcome="unknown")
        headers = [*self._app.common(self.headers), CONTENT_TYPE, NO_STORE, *error.headers]
        self._write(error.status, headers, body_of(error))

    def cancel(self, msg: object = None) -> None:
        """Its time is over."""
        self.set_exception(timed_out(write=True, seconds=self._app.deadlines.seconds))

    def _write(self, status: int, headers: Headers, body: bytes) -> None:
        self._done = True
        self._app.deadlines.forget(self)
        try:
            if not self._answer(status, headers, body, False):
                logger.error("the answer to a PUT could not be written")
            self._app.count_put(status, perf_counter() - self._since)
        except Exception:
            logger.exception("the answer to a PUT could not be written")
