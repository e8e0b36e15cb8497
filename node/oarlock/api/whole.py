"""A whole answer in one write, past ASGI's two messages.

uvicorn writes the head and the body of an answer each with a system call of its own, and searches every header for what
no header of ours can hold. The protocol leaves a function in the scope that does both at once; where there is none
(tests, another server), or it says no, the answer goes the usual way.

Rule: only for answers whose headers are made by this program alone, with a Content-Length, and nothing before them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from oarlock.api.problems import Headers

SCOPE_KEY = "oarlock.answer"

AnswerWhole: TypeAlias = Callable[[int, Headers, bytes, bool], bool]
"""(status, headers, body, head only) -> written. False: nothing has been done."""


def answering(cycle: RequestResponseCycle) -> AnswerWhole:
    """The function for one request. It does what `RequestResponseCycle.send` does for a start and a last body."""

    def answer(status: int, headers: Headers, body: bytes, head: bool) -> bool:
        if cycle.response_started or cycle.flow.write_paused:
            return False
        if cycle.disconnected:
            return True  # nobody is there any more
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        parts = [STATUS_LINE[status]]
        for name, value in cycle.default_headers:
            parts += (name, b": ", value, b"\r\n")
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        with_body = status not in (204, 304)
        if with_body:
            parts.append(b"content-length: %d\r\n" % len(body))
        parts.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        if with_body and not head:
            parts.append(body)
        cycle.transport.write(b"".join(parts))
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True

    return answer
