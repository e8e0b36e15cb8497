"""What stands in front of a FastAPI application: the token, the bound on its body, and the counting by route.

* The token is checked before anything else is looked at, in constant time (design: 401, no state touched).
* A route's name for the counters is its template, never the path that was asked for.
"""

from __future__ import annotations

import hmac
import logging
from time import perf_counter

from oarlock.api.asgi import App, Message, Receive, Scope, Send, body_too_large, refuse_body, respond_problem
from oarlock.api.http_counts import OTHER, HttpCounts
from oarlock.api.problems import ApiError, BodyRefused, too_large

logger = logging.getLogger("oarlock.api")

UNAUTHORIZED = ApiError(
    401,
    "unauthorized",
    "this port wants the cluster's token: Authorization: Bearer <token>",
    headers=[(b"www-authenticate", b'Bearer realm="oarlock"')],
)


class RequireToken:
    """Answers 401 to every request without `Authorization: Bearer <token>`, whatever its path or method."""

    def __init__(self, app: App, token: str, counts: HttpCounts) -> None:
        if not token:
            raise ValueError("an empty token would let everybody in")
        self._app = app
        self._expected = b"Bearer " + token.encode()
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) == 1 and hmac.compare_digest(given[0], self._expected):
            await self._app(scope, receive, send)
            return
        self._counts.add(OTHER, 401, 0.0)
        await respond_problem(send, UNAUTHORIZED, [(b"connection", b"close")])


class Guarded:
    """Bounds the request's body, counts the answer, and turns what nobody foresaw into a problem."""

    def __init__(self, app: App, counts: HttpCounts, max_body_bytes: int) -> None:
        self._app = app
        self._counts = counts
        self._limit = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        status = 0
        received = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise body_too_large(self._limit)
            return message

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        error: ApiError | None = None
        try:
            for name, value in scope["headers"]:
                if name == b"content-length" and int(value) > self._limit:
                    raise too_large(f"the request's body has more than {self._limit} bytes")
            await self._app(scope, counted_receive, watched_send)
        except ApiError as e:
            error = e.with_traceback(None)  # which leads to this frame, in a cycle
        except Exception:
            logger.exception("a request failed in a way that no rule foresees")
            why = "the member failed at this request; its log says why"
            error = ApiError(500, "internal", why, outcome="unknown")
        if error is not None:
            if status:  # an answer had begun: only its end can be cut off
                raise error
            status = error.status
            if isinstance(error, BodyRefused):
                await refuse_body(scope, receive, send, error, [])
            else:
                await respond_problem(send, error, [])
        route = scope.get("route")
        template = getattr(route, "path", None)
        name = f"{scope['method']} {template}" if template else OTHER
        self._counts.add(name, status, perf_counter() - started)
