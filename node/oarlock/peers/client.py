"""Opening a peer: the addresses to try, the two ways to ask, and what a refusal says.

Rules of this module:
* Every request carries the bearer token and a hello, and goes to the member itself: no proxy, no redirect.
* An answer is bounded in time (the caller's time-out) and in size before it is believed.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import httpx
import msgspec

from oarlock.peers.hello import HEADER_NAME, BadHello, Hello, Verdict, decode_hello, encode_hello, split_url
from oarlock.peers.stream_client import StreamBroken, StreamConnection, connect
from oarlock.raft.types import NodeId

_MAX_REFUSAL_BYTES = 8192
_CODES = frozenset(
    {*(verdict.value for verdict in Verdict), "unauthorized", "method_not_allowed", "bad_request", "not_found"}
)


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
    connect_to: str  # an IP or a name
    port: int
    host: str  # value of the Host header
    name: str  # for TLS


def addresses(peer_url: str, ip: str) -> list[Address]:
    """The IP of the peer's last hello first, then the name: DNS caches negative answers for 30 s in real clusters, and
    a restarted member says hello sooner than that. Raises BadHello for a URL that is none."""
    scheme, host, port = split_url(peer_url)
    quoted = f"[{host}]" if ":" in host else host
    authority = f"{quoted}:{port}"
    by_name = Address(f"{scheme}://{authority}", host, port, authority, host)
    if not ip or ip == host:
        return [by_name]
    quoted_ip = f"[{ip}]" if ":" in ip else ip
    return [Address(f"{scheme}://{quoted_ip}:{port}", ip, port, authority, host), by_name]


class _Problem(msgspec.Struct):
    code: str = ""
    detail: str = ""


class PeerClient:
    """What is common to all openings of this member."""

    def __init__(self, token: str, tls: ssl.SSLContext | None = None) -> None:
        self._authorization = f"Bearer {token}"
        self._tls = tls if tls is not None else ssl.create_default_context()
        self._http = httpx.AsyncClient(
            verify=self._tls,
            trust_env=False,
            follow_redirects=False,
            timeout=None,  # each caller has a time-out of its own around the whole opening
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=5.0),
        )

    async def close(self) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def open_stream(
        self, address: Address, path: str, hello: Hello
    ) -> AsyncIterator[tuple[StreamConnection, Hello]]:
        """A response without an end, its headers read, and the answering member's hello.

        Raises OpeningRefused and PeerUnreachable.
        """
        request = b"GET %s HTTP/1.1\r\nhost: %s\r\nauthorization: %s\r\n%s: %s\r\n\r\n" % (
            path.encode(),
            address.host.encode(),
            self._authorization.encode(),
            HEADER_NAME.encode(),
            encode_hello(hello),
        )
        tls = self._tls if address.base_url.startswith("https:") else None
        try:
            connection = await connect(address.connect_to, address.port, request, tls, address.name)
        except OSError as error:
            raise PeerUnreachable(f"{address.base_url}: {error}") from error
        try:
            try:
                await connection.head()
            except StreamBroken as error:
                raise PeerUnreachable(f"{address.base_url}: {error}") from error
            answer = _decode_answer(connection.headers.get(HEADER_NAME.encode()))
            if connection.status != 200:
                raise await _stream_refusal(connection, answer)
            if answer is None:
                raise PeerUnreachable(f"{address.base_url}: no hello in the answer; not a member's peer port")
            yield connection, answer
        finally:
            connection.close()

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
            answer = _decode_answer(response.headers.get(HEADER_NAME, "").encode("utf-8", "replace"))
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
    """The member that told us that we are removed; None unless it is one of our own cluster, whichever: those that we
    knew may all have been replaced. A 410 of anybody else proves nothing: `Removed` is for good."""
    hello = refusal.hello
    if refusal.status != 410 or refusal.code != "removed" or hello is None:
        return None
    if not asked.cluster_id or hello.cluster_id != asked.cluster_id:
        return None
    return hello.node_id


def stale_by(asked: Hello, refusal: OpeningRefused) -> bool:
    """Did the very member that was meant say that it belongs to another cluster, and to which?"""
    hello = refusal.hello
    return (
        refusal.code == Verdict.WRONG_CLUSTER
        and hello is not None
        and hello.node_id == asked.target_node_id
        and hello.cluster_id not in ("", asked.cluster_id)
    )


def _decode_answer(value: bytes | None) -> Hello | None:
    try:
        return decode_hello(value) if value else None
    except BadHello:
        return None


async def _refusal(response: httpx.Response, hello: Hello | None) -> OpeningRefused:
    body = bytearray()
    with suppress(httpx.HTTPError):  # a body that breaks off takes the explanation, not the refusal
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > _MAX_REFUSAL_BYTES:
                break
    return _refused(response.status_code, bytes(body), hello)


async def _stream_refusal(connection: StreamConnection, hello: Hello | None) -> OpeningRefused:
    body = bytearray()

    def keep(piece: bytes) -> None:
        body.extend(piece)
        if len(body) > _MAX_REFUSAL_BYTES:
            raise StreamBroken("a refusal that long explains nothing")

    with suppress(StreamBroken):
        await connection.read(keep)
    return _refused(connection.status, bytes(body), hello)


def _refused(status: int, body: bytes, hello: Hello | None) -> OpeningRefused:
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        problem = _Problem()
    # Codes become labels of a counter, and whoever listens at a peer's address may answer what it likes (rule 33).
    code = problem.code if problem.code in _CODES else f"http_{status}"
    return OpeningRefused(status, code, problem.detail, hello)
