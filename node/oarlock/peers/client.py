"""Opening a peer: one HTTP client for the process, the addresses to try, and what a refusal says.

Rules of this module:
* Every request carries the bearer token and a hello, and goes to the member itself: no proxy, no redirect.
* An answer is bounded in time (the caller's time-out) and in size before it is believed.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import msgspec

from oarlock.peers.hello import HEADER_NAME, BadHello, Hello, decode_hello, encode_hello, split_url
from oarlock.raft.types import NodeId

_MAX_REFUSAL_BYTES = 8192


class PeerUnreachable(Exception):
    """No connection, no answer in time, or an answer that is not ours."""


class OpeningRefused(Exception):
    """The peer answered and said no. `code` is the problem's (a Verdict's value, or `unauthorized`, ...); `hello` is
    the answering member's own where it told it."""

    def __init__(self, status: int, code: str, why: str, hello: Hello | None) -> None:
        super().__init__(f"{status} {code}: {why}")
        self.status = status
        self.code = code
        self.hello = hello


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect, and whom to ask for there: the name in `host` is also what TLS verifies."""

    base_url: str
    host: str  # value of the Host header
    name: str  # for TLS


def addresses(peer_url: str, ip: str) -> list[Address]:
    """The IP of the peer's last hello first, then the name: DNS caches negative answers for 30 s in real clusters, and
    a restarted member says hello sooner than that. Raises BadHello for a URL that is none."""
    scheme, host, port = split_url(peer_url)
    quoted = f"[{host}]" if ":" in host else host
    authority = f"{quoted}:{port}"
    by_name = Address(f"{scheme}://{authority}", authority, host)
    if not ip or ip == host:
        return [by_name]
    quoted_ip = f"[{ip}]" if ":" in ip else ip
    return [Address(f"{scheme}://{quoted_ip}:{port}", authority, host), by_name]


class _Problem(msgspec.Struct):
    code: str = ""
    detail: str = ""


class PeerClient:
    """What is common to all openings of this member."""

    def __init__(self, token: str, tls: ssl.SSLContext | None = None) -> None:
        self._authorization = f"Bearer {token}"
        self._http = httpx.AsyncClient(
            verify=tls if tls is not None else True,
            trust_env=False,
            follow_redirects=False,
            timeout=None,  # each caller has a time-out of its own around the whole opening
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=5.0),
        )

    async def close(self) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def open(
        self, address: Address, path: str, hello: Hello, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[tuple[httpx.Response, Hello]]:
        """A response with its headers read (200 or 206) and the answering member's hello.

        Raises OpeningRefused and PeerUnreachable; the body is the caller's to read, and to bound.
        """
        request = self._http.build_request(
            "GET",
            address.base_url + path,
            headers=[
                (b"host", address.host.encode()),
                (b"authorization", self._authorization.encode()),
                (b"accept-encoding", b"identity"),
                (HEADER_NAME.encode(), encode_hello(hello)),
                *((name.encode(), value.encode()) for name, value in (headers or {}).items()),
            ],
            extensions={"sni_hostname": address.name},
        )
        try:
            response = await self._http.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise PeerUnreachable(f"{address.base_url}: {type(error).__name__} {error}".rstrip()) from error
        try:
            answer = _answering_hello(response)
            if response.status_code not in (200, 206):
                raise await _refusal(response, answer)
            if answer is None:
                raise PeerUnreachable(f"{address.base_url}: no hello in the answer; not a member's peer port")
            yield response, answer
        finally:
            await response.aclose()


def check_answer(asked: Hello, answer: Hello) -> None:
    """An accepting answer must come from the member that was meant. Raises OpeningRefused (wrong_target)."""
    if answer.node_id != asked.target_node_id:
        raise OpeningRefused(409, "wrong_target", f"{answer.node_id} answered for {asked.target_node_id}", answer)


def removed_by(asked: Hello, refusal: OpeningRefused) -> NodeId | None:
    """The member that told us that we are removed; None unless it is the one we meant, in our own cluster. A 410 of
    anybody else proves nothing: `Removed` is for good."""
    hello = refusal.hello
    if refusal.status != 410 or refusal.code != "removed" or hello is None:
        return None
    if hello.node_id != asked.target_node_id or not asked.cluster_id or hello.cluster_id != asked.cluster_id:
        return None
    return hello.node_id


def _answering_hello(response: httpx.Response) -> Hello | None:
    value = response.headers.get(HEADER_NAME)
    if value is None:
        return None
    try:
        return decode_hello(value.encode("utf-8", "replace"))
    except BadHello:
        return None


async def _refusal(response: httpx.Response, hello: Hello | None) -> OpeningRefused:
    body = b""
    try:
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > _MAX_REFUSAL_BYTES:
                break
        problem = msgspec.json.decode(body, type=_Problem)
    except (httpx.HTTPError, msgspec.MsgspecError, UnicodeDecodeError):
        problem = _Problem()
    return OpeningRefused(response.status_code, problem.code or f"http_{response.status_code}", problem.detail, hello)
