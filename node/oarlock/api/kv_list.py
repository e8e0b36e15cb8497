"""Listing keys by prefix: JSON pages that pin their revision, or every page as one stream of lines.

* A page is at most 1,000 keys or 1 MiB, read in one turn of the loop in a transaction that ends with it (rule 25).
* All pages of one listing show the store at one revision. If compaction overtakes it, that is an error (410), never a
  mixture.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote_from_bytes

import msgspec

from oarlock.api import store
from oarlock.api.asgi import NO_STORE, Send, respond
from oarlock.api.deadlines import Deadlines
from oarlock.api.limits import Limits
from oarlock.api.parsing import MAX_REVISION, flag, number, parse_query, stale_allowed
from oarlock.api.problems import ApiError, Headers, bad_request, body_of, too_large
from oarlock.kv.validate import MAX_PAGE_KEYS
from oarlock.runtime.node import Node

PARAMETERS = frozenset({"prefix", "limit", "after", "keys_only", "count_only", "revision", "consistency"})

NDJSON = b"application/x-ndjson"


class ListPages:
    def __init__(self, node: Node, limits: Limits, deadlines: Deadlines) -> None:
        self._node = node
        self._limits = limits
        self._deadlines = deadlines

    async def answer(self, query_string: bytes, accept: bytes, common: Callable[[], Headers], send: Send) -> int:
        """Sends the whole answer and returns its status. Raises ApiError before anything is sent."""
        parameters = parse_query(query_string, PARAMETERS)
        prefix = parameters.get("prefix", b"")
        after = parameters.get("after", b"")
        if max(len(prefix), len(after)) > self._limits.max_key_bytes:
            raise too_large(f"a prefix has at most {self._limits.max_key_bytes} bytes")
        stream = NDJSON in accept
        limit = number(parameters, "limit", 1, MAX_REVISION if stream else MAX_PAGE_KEYS)
        keys_only = flag(parameters, "keys_only")
        count_only = flag(parameters, "count_only")
        revision = number(parameters, "revision", 1, MAX_REVISION)
        if count_only and stream:
            raise bad_request("count_only has one answer: leave out Accept: application/x-ndjson")
        if not stale_allowed(parameters):
            await self._deadlines.wait(self._node.read())
        if count_only:
            counted, at = await store.count(self._node.environment, prefix, after, revision)
            return await self._json(send, common(), {"count": counted, "revision": at}, None)
        if stream:
            return await self._stream(send, common(), prefix, after, limit, keys_only, revision)
        size = limit or MAX_PAGE_KEYS
        page = store.page(self._node.environment, prefix, after, size, keys_only=keys_only, revision=revision)
        items = [store.envelope(item, with_value=not keys_only) for item in page.items]
        body: dict[str, Any] = {"items": items, "revision": page.revision, "more": page.more}
        link = None
        if page.more:
            link = _next_link(parameters, page.after, page.revision)
            body["next"] = link
        return await self._json(send, common(), body, link)

    async def _json(self, send: Send, headers: Headers, body: Mapping[str, Any], link: str | None) -> int:
        headers += [(b"content-type", b"application/json"), NO_STORE]
        if link is not None:
            headers.append((b"link", f'<{link}>; rel="next"'.encode()))
        await respond(send, 200, headers, msgspec.json.encode(body))
        return 200

    async def _stream(
        self,
        send: Send,
        headers: Headers,
        prefix: bytes,
        after: bytes,
        limit: int | None,
        keys_only: bool,
        revision: int | None,
    ) -> int:
        """One item a line. A problem met on the way is the last line, with the member `code` that no item has."""
        environment = self._node.environment
        size = min(limit or MAX_PAGE_KEYS, MAX_PAGE_KEYS)
        page = store.page(environment, prefix, after, size, keys_only=keys_only, revision=revision)
        headers += [(b"content-type", NDJSON), NO_STORE]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        left = limit
        while True:
            encoded = [msgspec.json.encode(store.envelope(item, with_value=not keys_only)) for item in page.items]
            encoded.append(b"")
            if left is not None:
                left -= len(page.items)
            more = page.more and left != 0
            await send({"type": "http.response.body", "body": b"\n".join(encoded), "more_body": more})
            if not more:
                return 200
            await asyncio.sleep(0)  # other requests have their turn between pages
            size = MAX_PAGE_KEYS if left is None else min(left, MAX_PAGE_KEYS)
            try:
                page = store.page(environment, prefix, page.after, size, keys_only=keys_only, revision=page.revision)
            except ApiError as e:
                await send({"type": "http.response.body", "body": body_of(e) + b"\n"})
                return e.status


def _next_link(parameters: Mapping[str, bytes], last_key: bytes, revision: int) -> str:
    """The next page as a relative URL: the same question, after the last key, at the same revision."""
    following = {**parameters, "after": last_key, "revision": b"%d" % revision}
    return "/v1/kv?" + "&".join(f"{name}={quote_from_bytes(value, safe='/')}" for name, value in following.items())
