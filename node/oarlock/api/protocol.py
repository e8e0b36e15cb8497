"""uvicorn's HTTP/1.1 protocol with the bounds it lacks: connections, head size, and time for head, body and answer.

* Every bound ends the connection, with a problem where an answer can still be told from the client's point of view,
  and is counted by reason.
* No timer per request: one sweep a second looks at every connection of the port. A request costs a few attribute
  writes.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, runtime_checkable

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from oarlock.api.asgi import Scope
from oarlock.api.limits import Limits
from oarlock.api.problems import ApiError, body_of
from oarlock.api.whole import SCOPE_KEY, AnswerWhole, answering

SWEEP_SECONDS = 1.0

REASONS = ("malformed", "head_too_large", "slow_head", "slow_body", "stalled_answer", "too_many_connections")


@runtime_checkable
class DirectApp(Protocol):
    """An application that serves some requests by a callback, without a task for each."""

    def takes(self, scope: Scope) -> bool:
        """Asked at the end of the head. Only of requests with a small body, which is gathered first."""
        ...

    def direct(self, scope: Scope, body: bytes, answer: AnswerWhole) -> None:
        """Sees to it that `answer` is called once, now or later. Raises nothing: the parser stands below."""
        ...


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Made by `protocol_for`, which binds `limits` and the counts of its port."""

    limits: Limits
    rejected: dict[str, int]  # by reason, for the metrics
    ended: bool = False  # a bound was reached: the rest of what arrives is dropped

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.head_since: float | None = None  # a request's head is awaited since then
        self.body_since: float | None = None
        self.stalled_since: float | None = None
        self.idle_since: float | None = None  # the last answer is out, and nothing has come since
        self.head_bytes = 0
        self.active: RequestResponseCycle | None = None
        self.direct: DirectApp | None = config.app if isinstance(config.app, DirectApp) else None
        self.gathering: RequestResponseCycle | None = None  # for `direct`: its body is not whole yet

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            why = f"this member serves {self.limits.max_connections} connections a port: close some, or use another"
            self.end("too_many_connections", ApiError(503, "too_many_connections", why, retryable=True))
            return
        self.head_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        self.head_since = self.body_since = self.stalled_since = self.idle_since = None
        self._let_go()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.ended:
            return
        self.idle_since = None
        head_only = self.head_since is not None
        super().data_received(data)
        if head_only and self.head_since is not None and not self.ended:
            self.head_bytes += len(data)
            if self.head_bytes > self.limits.max_head_bytes:
                self._head_too_large()

    def send_400_response(self, msg: str) -> None:
        """What the parser refuses: garbage, two lengths, a length beside chunks, a bare line feed."""
        self.end("malformed", ApiError(400, "malformed_request", "this is not a valid HTTP/1.1 request"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.head_since = self.loop.time()
        self.head_bytes = 0

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])
        if size > self.limits.max_head_bytes:
            self._head_too_large()
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            self.send_400_response("")
        if self.ended:
            return
        self.head_since = None
        self.body_since = self.loop.time()
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.active = cycle
        if self._goes_directly(cycle):
            self.gathering = cycle
            return
        cycle.scope[SCOPE_KEY] = answering(cycle)  # type: ignore[literal-required]  # ASGI lets servers add keys
        super()._start_asgi_task(cycle, app)

    def _goes_directly(self, cycle: RequestResponseCycle) -> bool:
        if self.direct is None or cycle is not self.cycle or not cycle.more_body or cycle.waiting_for_100_continue:
            return False
        # Its answer must find room: a client that takes none of those before is made to wait, the usual way.
        return not cycle.flow.write_paused and self.direct.takes(_mutable(cycle))

    def on_body(self, body: bytes) -> None:
        if not self.ended:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self.body_since = None
        if self.ended:
            return
        super().on_message_complete()
        cycle, self.gathering = self.gathering, None
        if cycle is not None and self.direct is not None:
            self.direct.direct(_mutable(cycle), bytes(cycle.body), answering(cycle))

    def on_response_complete(self) -> None:
        """As uvicorn's, but for its timer, which would be made and dropped for every request: the sweep looks."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self.idle_since = self.loop.time()

    def pause_writing(self) -> None:
        self.stalled_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.stalled_since = None
        super().resume_writing()

    def sweep(self, now: float) -> None:
        """Ends the connection if it has used up a time-out. Called once a second."""
        limits = self.limits
        if self.ended:
            return
        if self.stalled_since is not None and now - self.stalled_since > limits.stalled_write_seconds:
            self.ended = True
            self.rejected["stalled_answer"] += 1
            self.transport.abort()
        elif self.idle_since is not None and now - self.idle_since > limits.idle_seconds:
            self.transport.close()
        elif self.head_since is not None and now - self.head_since > limits.head_seconds:
            why = f"the request's head was not complete after {limits.head_seconds:g} s"
            self.end("slow_head", ApiError(408, "request_timeout", why, retryable=True))
        elif self.body_since is not None and now - self.body_since > limits.body_seconds:
            if self.flow.read_paused:  # the body waits for us, not we for it
                return
            why = f"the request's body was not complete after {limits.body_seconds:g} s"
            self.end("slow_body", ApiError(408, "request_timeout", why, retryable=True))

    def _head_too_large(self) -> None:
        why = f"the request line and headers have more than {self.limits.max_head_bytes} bytes"
        self.end("head_too_large", ApiError(431, "headers_too_large", why))

    def end(self, reason: str, error: ApiError) -> None:
        """Answers with a problem, unless another answer is on its way, and closes."""
        if self.ended:
            return
        self.ended = True
        self.rejected[reason] += 1
        self.head_since = self.body_since = None
        active = self.active
        answering = active is not None and active.response_started and not active.response_complete
        if not answering and not self.transport.is_closing():
            body = body_of(error)
            head = [STATUS_LINE[error.status], b"content-type: application/problem+json\r\n"]
            head += [b"content-length: %d\r\n" % len(body), b"connection: close\r\n\r\n", body]
            self.transport.write(b"".join(head))
        self._let_go()
        self.transport.close()

    def _let_go(self) -> None:
        """The request that is worked on writes nothing any more, and those behind it do not begin. (uvicorn tells only
        the last one that came; an earlier, pipelined one would write to a transport that is closed.)"""
        self.pipeline.clear()
        self.gathering = None
        for cycle in (self.active, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()


def _mutable(cycle: RequestResponseCycle) -> Scope:
    return cycle.scope  # type: ignore[return-value]  # a TypedDict is a dictionary


def protocol_for(limits: Limits, rejected: dict[str, int]) -> type[BoundedProtocol]:
    """A protocol class for one port; `rejected` counts, by reason, what it turned away."""
    for reason in REASONS:
        rejected.setdefault(reason, 0)
    return type("PortProtocol", (BoundedProtocol,), {"limits": limits, "rejected": rejected})


async def sweep_for_ever(state: ServerState) -> None:
    """Looks at every connection of one server, once a second, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        now = loop.time()
        for connection in list(state.connections):
            if isinstance(connection, BoundedProtocol):
                connection.sweep(now)
