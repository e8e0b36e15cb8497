"""The ops port (2381): probes and metrics. No probe has side effects or asks anybody else.

* startup: the ports are open and the identity is loaded. Replaying does not count.
* ready: a voter that takes part in the cluster, or has lost sight of it (its clients still get honest answers).
* live: this answer itself is the proof, the event loop turns.
"""

from __future__ import annotations

from time import perf_counter

from oarlock.api.asgi import NO_STORE, Receive, Scope, Send, respond, respond_problem
from oarlock.api.http_counts import OTHER, HttpCounts
from oarlock.api.metrics import CONTENT_TYPE, Exposition
from oarlock.api.problems import ApiError, Headers
from oarlock.runtime.node import Node
from oarlock.runtime.status import state_of

READY_SECONDS = 0.25  # how long an answer of the ready probe is kept

_TEXT = (b"content-type", b"text/plain; charset=utf-8")


class OpsApp:
    def __init__(self, node: Node, counts: HttpCounts) -> None:
        self._node = node
        self._counts = counts
        self._exposition = Exposition(node, counts)
        self._ready: tuple[int, bytes] = (503, b"")
        self._ready_until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        path = scope["path"]
        headers: Headers = [NO_STORE]
        route = f"GET {path}"
        if scope["method"] not in ("GET", "HEAD"):
            allow = [(b"allow", b"GET, HEAD")]
            error = ApiError(405, "method_not_allowed", "this port answers GET and HEAD", headers=allow)
            await respond_problem(send, error, [])
            self._counts.add(OTHER, 405, perf_counter() - started)
            return
        if path == "/metrics":
            status, body = 200, self._exposition.render()
            headers.append((b"content-type", CONTENT_TYPE))
        elif path in ("/healthz/startup", "/healthz/live"):
            status, body = 200, b"ok\n"
            headers.append(_TEXT)
        elif path == "/healthz/ready":
            status, body = self._readiness(started)
            headers.append(_TEXT)
        else:
            why = "this port has /healthz/startup, /healthz/ready, /healthz/live and /metrics"
            await respond_problem(send, ApiError(404, "no_such_route", why), [])
            self._counts.add(OTHER, 404, perf_counter() - started)
            return
        await respond(send, status, headers, body)
        self._counts.add(route, status, perf_counter() - started)

    def _readiness(self, now: float) -> tuple[int, bytes]:
        if now >= self._ready_until:
            status, reason = state_of(self._node)
            line = f"{status}: {reason}" if reason else status
            self._ready = (200 if self._node.ready else 503, line.encode() + b"\n")
            self._ready_until = now + READY_SECONDS
        return self._ready
