"""The hot path: PUT, GET, HEAD and DELETE of one key, as a plain ASGI application.

* No framework, no model validation and no await that need not wait: a request costs its parsing, one future, and two
  sends (design: a FastAPI route alone costs three times what all of this does).
* This module translates; it decides nothing about the store. Conditions are checked where the command is applied.
* Everything is validated before a command is proposed: what is in the log can always be applied.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from hashlib import blake2b
from itertools import count
from time import perf_counter

import msgspec

from oarlock.api import store
from oarlock.api.asgi import (
    CLIENT_CLOSED,
    NO_STORE,
    Bodies,
    Disconnected,
    Receive,
    Scope,
    Send,
    body_too_large,
    read_body,
    refuse_body,
    respond,
    respond_problem,
)
from oarlock.api.deadlines import DeadlineExceeded, Deadlines
from oarlock.api.direct import NO_HEADERS, DirectPut, is_small
from oarlock.api.http_counts import OTHER, HttpCounts
from oarlock.api.kv_list import ListPages
from oarlock.api.limits import Limits
from oarlock.api.parsing import (
    MAX_REVISION,
    content_length,
    etag_matches,
    flag,
    idempotency_key,
    key_of,
    number,
    parse_etag,
    parse_query,
    request_id,
    stale_allowed,
)
from oarlock.api.problems import ApiError, BodyRefused, Headers, bad_request, from_refused, timed_out
from oarlock.api.whole import SCOPE_KEY, AnswerWhole
from oarlock.kv import result_number
from oarlock.machine import Result, Status
from oarlock.machine.command import Command
from oarlock.runtime.errors import Refused, stopping
from oarlock.runtime.node import Node

logger = logging.getLogger("oarlock.api")

PREFIX = b"/v1/kv"
ROUTES = {method: f"{method} /v1/kv/{{key}}" for method in ("PUT", "GET", "HEAD", "DELETE")}
LIST_ROUTE = "GET /v1/kv"

JSON = (b"content-type", b"application/json")
OCTETS = (b"content-type", b"application/octet-stream")
NO_SNIFF = (b"x-content-type-options", b"nosniff")

PUT_PARAMETERS = frozenset({"key_b64", "redirect"})
GET_PARAMETERS = frozenset({"key_b64", "redirect", "consistency", "revision"})
DELETE_PARAMETERS = frozenset({"key_b64", "redirect", "idempotent"})

_PUT_STATUS = {int(Status.CREATED): 201, int(Status.OK): 200}

_HEADERS = frozenset({b"content-length", b"if-match", b"if-none-match", b"idempotency-key", b"x-request-id", b"accept"})
_ONCE = frozenset({b"if-match", b"if-none-match", b"idempotency-key"})

Answer = tuple[int, Headers, bytes]


class KvApp:
    """`/v1/kv` and below. One a member; `counts` are shared with the other applications of the process."""

    def __init__(self, node: Node, limits: Limits, counts: HttpCounts) -> None:
        self._node = node
        self._limits = limits
        self._counts = counts
        self._bodies = Bodies(limits.max_bodies_bytes, counts)
        self.deadlines = Deadlines(limits.request_seconds)
        self._list = ListPages(node, limits, self.deadlines)
        self._place: tuple[int, str, str] = (-1, "", "")  # term, leader and own id that the cached headers stand for
        self._place_headers: Headers = []
        self._request_prefix = os.urandom(6).hex().encode()
        self._request_numbers = count(1)
        self._handlers = {"PUT": self._put, "GET": self._get, "HEAD": self._get, "DELETE": self._delete}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        method: str = scope["method"]
        raw_path: bytes = scope["raw_path"]
        route = ROUTES.get(method, OTHER)
        headers: dict[bytes, bytes] = {}
        # Taken out of the scope, which it refers to: a cycle a request keeps the garbage collector busy.
        whole: AnswerWhole | None = scope.pop(SCOPE_KEY, None)
        error: ApiError
        try:
            if self._node.stopping:
                raise stopping()
            headers = _headers_of(scope)
            handler = self._handlers.get(method)
            if handler is None:
                allow = [(b"allow", b"GET, HEAD, PUT, DELETE")]
                raise ApiError(405, "method_not_allowed", "a key takes GET, HEAD, PUT and DELETE", headers=allow)
            if method == "GET" and raw_path == PREFIX and b"key_b64=" not in scope["query_string"]:
                route = LIST_ROUTE
                status = await self._list.answer(scope["query_string"], headers.get(b"accept", b""), self.common, send)
                self._counts.add(route, status, perf_counter() - started)
                return
            status, extra, body = await handler(scope, headers, receive)
            extra += self.common(headers)
            if whole is None or not whole(status, extra, body, method == "HEAD"):
                await respond(send, status, extra, body, head=method == "HEAD")
            self._counts.add(route, status, perf_counter() - started)
            return
        # Without their tracebacks: those lead to this frame, and to the body, in a cycle that waits for the collector.
        except ApiError as e:
            error = e.with_traceback(None)
        except Refused as e:
            error = from_refused(e.with_traceback(None))
        except DeadlineExceeded:
            error = timed_out(write=method in ("PUT", "DELETE"), seconds=self._limits.request_seconds)
        except Disconnected:
            self._counts.add(route, CLIENT_CLOSED, perf_counter() - started)
            return
        except Exception:
            logger.exception("a request failed in a way that no rule foresees")
            outcome = "unknown" if method in ("PUT", "DELETE") else "not_applied"
            error = ApiError(500, "internal", "the member failed at this request; its log says why", outcome=outcome)
        self._counts.add(route, error.status, perf_counter() - started)
        if isinstance(error, BodyRefused):
            await refuse_body(scope, receive, send, error, self.common(headers))
        else:
            await respond_problem(send, error, self.common(headers))

    def common(self, request_headers: Mapping[bytes, bytes] = NO_HEADERS) -> Headers:
        """The headers of every answer: store revision, term, leader, member and request id. A new list."""
        node = self._node
        place = (node.term, node.leader, node.node_id)
        if place != self._place:
            self._place = place
            self._place_headers = [
                (b"oarlock-term", b"%d" % node.term),
                (b"oarlock-leader", node.leader.encode()),
                (b"oarlock-member", node.node_id.encode()),
            ]
        given = request_headers.get(b"x-request-id")
        request = request_id(given) if given is not None else b""
        if not request:
            request = b"%s-%x" % (self._request_prefix, next(self._request_numbers))
        return [(b"oarlock-revision", b"%d" % node.revision), (b"x-request-id", request), *self._place_headers]

    # -- writes -----------------------------------------------------------------------------------------------------

    async def _put(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> Answer:
        limits = self._limits
        key, if_match, create_only = self._put_head(scope, headers)
        announced = headers.get(b"content-length")
        if announced is not None and content_length(announced) > limits.max_body_bytes:
            raise body_too_large(limits.max_body_bytes)
        value = await read_body(receive, limits.max_body_bytes, self._bodies)
        result = await self._propose(store.encode_put(key, value, if_match, create_only), headers, grows=True)
        return self.put_answer(key, result)

    def takes(self, scope: Scope) -> bool:
        """May `direct_put` serve this request, once its body is there?"""
        return scope["method"] == "PUT" and is_small(scope)

    def direct_put(self, scope: Scope, value: bytes, answer: AnswerWhole) -> None:
        """The same as `_put`, answered by a callback. Raises nothing."""
        put = DirectPut(self, answer)
        try:
            if self._node.stopping:
                raise stopping()
            put.headers = headers = _headers_of(scope)
            put.key, if_match, create_only = self._put_head(scope, headers)
            if len(value) > self._limits.max_body_bytes:
                raise body_too_large(self._limits.max_body_bytes)
            payload = store.encode_put(put.key, value, if_match, create_only)
            self.deadlines.watch(put)
            self._node.submit(Command(payload, *_once(payload, headers)), put, grows=True)
        except Exception as e:
            put.set_exception(e)

    def _put_head(self, scope: Scope, headers: Mapping[bytes, bytes]) -> tuple[bytes, int | None, bool]:
        """Key, If-Match revision, create only. Raises ApiError, also for the redirect that was asked for."""
        parameters = parse_query(scope["query_string"], PUT_PARAMETERS)
        key = key_of(scope["raw_path"], PREFIX, parameters, self._limits)
        if_match, create_only = _conditions(headers)
        if parameters:
            self._redirect(scope, parameters)
        return key, if_match, create_only

    def put_answer(self, key: bytes, result: Result) -> Answer:
        status = _PUT_STATUS.get(result.status)
        if status is None:
            raise store.refusal(result)
        revision = result.revision
        version = result_number(result.body)
        body = b'{%s,"revision":%d,"version":%d}' % (store.json_key(key), revision, version)
        return status, [JSON, (b"etag", b'"%d"' % revision), (b"oarlock-version", b"%d" % version)], body

    def count_put(self, status: int, seconds: float) -> None:
        self._counts.add(ROUTES["PUT"], status, seconds)

    async def _delete(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> Answer:
        parameters = parse_query(scope["query_string"], DELETE_PARAMETERS)
        key = key_of(scope["raw_path"], PREFIX, parameters, self._limits)
        idempotent = flag(parameters, "idempotent")
        if_match, create_only = _conditions(headers)
        if create_only:
            raise bad_request("If-None-Match is for PUT; a DELETE takes If-Match")
        if parameters:
            self._redirect(scope, parameters)
        result = await self._propose(store.encode_delete(key, if_match), headers, grows=False)
        if result.status == Status.OK or (result.status == Status.NOT_FOUND and idempotent):
            return 204, [], b""
        raise store.refusal(result)

    async def _propose(self, payload: bytes, headers: Mapping[bytes, bytes], *, grows: bool) -> Result:
        return await self.deadlines.wait(self._node.propose(payload, *_once(payload, headers), grows=grows))

    # -- reads ------------------------------------------------------------------------------------------------------

    async def _get(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> Answer:
        parameters = parse_query(scope["query_string"], GET_PARAMETERS)
        key = key_of(scope["raw_path"], PREFIX, parameters, self._limits)
        revision = None
        stale = False
        if parameters:
            revision = number(parameters, "revision", 1, MAX_REVISION)
            stale = stale_allowed(parameters)
            self._redirect(scope, parameters)
        if not stale:
            await self.deadlines.wait(self._node.read())
        found = store.get(self._node.environment, key, revision)
        if found is None:
            raise ApiError(404, "key_not_found", "there is no such key" + (" at that revision" if revision else ""))
        extra: Headers = [
            (b"etag", b'"%d"' % found.mod_revision),
            (b"oarlock-create-revision", b"%d" % found.create_revision),
            (b"oarlock-version", b"%d" % found.version),
            NO_STORE,
        ]
        seen = headers.get(b"if-none-match")
        if seen is not None and etag_matches(seen, found.mod_revision):
            return 304, extra, b""
        if b"application/json" in headers.get(b"accept", b""):
            body = msgspec.json.encode(store.envelope(found))
            extra.append(JSON)
        else:
            body = found.value
            extra.append(OCTETS)
            extra.append(NO_SNIFF)
        return 200, extra, body

    def _redirect(self, scope: Scope, parameters: Mapping[str, bytes]) -> None:
        """`?redirect=true` on a member that does not lead: 307 to the leader instead of forwarding."""
        node = self._node
        if not flag(parameters, "redirect") or node.leader == node.node_id:
            return
        if not node.leader or node.leader_client_url is None:
            raise ApiError(503, "no_leader", "no leader is known to redirect to: try again shortly", retryable=True)
        target = node.leader_client_url.encode() + scope["raw_path"] + b"?" + scope["query_string"]
        why = "the leader answers this; follow the Location header"
        raise ApiError(307, "redirect", why, retryable=True, headers=[(b"location", target)])


def _headers_of(scope: Scope) -> dict[bytes, bytes]:
    """Those that this module knows. Raises 400 for one that is given twice and must not be."""
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _HEADERS:
            if name in headers and name in _ONCE:
                raise bad_request(f"the header {name.decode()} is given twice")
            headers[name] = value
    return headers


def _once(payload: bytes, headers: Mapping[bytes, bytes]) -> tuple[str, bytes]:
    """The Idempotency-Key and the fingerprint of what it stands for; both empty without one."""
    given = headers.get(b"idempotency-key")
    if given is None:
        return "", b""
    return idempotency_key(given), blake2b(payload, digest_size=16).digest()


def _conditions(headers: Mapping[bytes, bytes]) -> tuple[int | None, bool]:
    """(If-Match revision, create only). Raises 400 for conditions that no write can have."""
    match = headers.get(b"if-match")
    none_match = headers.get(b"if-none-match")
    if match is None and none_match is None:
        return None, False
    if none_match is None:
        assert match is not None
        return parse_etag(match, "If-Match"), False
    if match is not None:
        raise bad_request("If-Match and If-None-Match exclude each other")
    if none_match.strip() != b"*":
        raise bad_request("a write takes If-None-Match: * alone, which means: create the key, do not replace it")
    return None, True
