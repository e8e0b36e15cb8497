"""Members without a core, for tests of peers/: each a Transport on a real server, in one process."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import httpx
import uvicorn

from oarlock.peers.client import PeerClient
from oarlock.peers.hello import HEADER_NAME, Hello, HelloKind, LocalIdentity, Verdict, encode_hello, make_hello
from oarlock.peers.messages import PeerMessage
from oarlock.peers.options import PeerOptions
from oarlock.peers.transport import Transport
from oarlock.raft.types import Member, NodeId

TOKEN = "correct horse"
CLUSTER = "test.00ff"
FAST = PeerOptions(
    heartbeat_seconds=0.02,
    silence_seconds=0.4,
    dial_timeout_seconds=0.4,
    backoff_min_seconds=0.01,
    backoff_max_seconds=0.1,
    fetch_stall_seconds=2.0,
)


async def until(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Wait for a condition of real sockets; fails loudly when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen in {seconds} s: {what}"
        await asyncio.sleep(0.005)


class _Server(uvicorn.Server):
    """Many in one process: none of them takes the process's signals."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


@dataclass
class TestMember:
    """`judged` may be replaced; `got` holds what arrived, `events` what the runtime would hear."""

    __test__ = False

    name: str
    cluster_id: str = CLUSTER
    ip: str = "127.0.0.1"
    token: str = TOKEN
    options: PeerOptions = FAST
    verdict: Verdict = Verdict.OK
    tombstones: set[NodeId] = field(default_factory=set)
    port: int = 0
    peer_url: str = ""  # advertised; the loopback address unless a test says otherwise
    got: list[PeerMessage] = field(default_factory=list)
    events: list[tuple[str, NodeId]] = field(default_factory=list)
    unheard: list[NodeId] = field(default_factory=list)
    hellos: dict[NodeId, Hello] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    progress: Counter[tuple[NodeId, str]] = field(default_factory=Counter)
    on_message: Callable[[PeerMessage], None] | None = None
    certificate: Path | None = None  # PEM, key and certificate; it is also the only authority that is trusted

    def __post_init__(self) -> None:
        self.id = f"{self.name}-{self.name.encode().hex():0>16}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def member(self) -> Member:
        return Member(self.id, self.peer_url or self.url, "http://unused:1")

    def identity(self) -> LocalIdentity:
        return LocalIdentity(self.id, self.cluster_id, self.peer_url or self.url, self.ip, 1)

    async def judge(self, hello: Hello) -> Verdict:
        if self.verdict is Verdict.OK and not self.cluster_id and hello.kind in ("control", "data"):
            self.cluster_id = hello.cluster_id  # an Idle member believes the first cluster that means it
        return self.verdict

    def _take(self, message: PeerMessage) -> None:
        if self.on_message is not None:
            self.on_message(message)
        else:
            self.got.append(message)

    async def start(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self.transport = Transport(
            local=self.identity,
            token=self.token,
            judge=self.judge,
            is_removed=lambda node_id: node_id in self.tombstones,
            on_message=self._take,
            on_connected=lambda peer: self.events.append(("connected", peer)),
            on_disconnected=lambda peer: self.events.append(("disconnected", peer)),
            on_unheard=self.unheard.append,
            on_removed=lambda by: self.events.append(("removed", by)),
            on_stale=lambda by: self.events.append(("stale", by)),
            on_hello=lambda hello: self.hellos.__setitem__(hello.node_id, hello),
            snapshot_file=self.files.get,
            on_snapshot_progress=lambda peer, digest: self.progress.update([(peer, digest)]),
            options=self.options,
            rng=Random(self.name),
            client=PeerClient(self.token, ssl.create_default_context(cafile=self.certificate))
            if self.certificate
            else None,
        )
        config = uvicorn.Config(
            self.transport.asgi,
            lifespan="off",
            http="httptools",
            ws="none",
            timeout_graceful_shutdown=1,
            log_level="critical",
            access_log=False,
            ssl_certfile=self.certificate,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve([listener]))
        await until(lambda: self._server.started, "the server starts")
        self.transport.start()

    async def stop(self) -> None:
        await self.transport.close()
        self._server.should_exit = True
        await self._serving

    def hello_to(self, other: TestMember, kind: HelloKind) -> Hello:
        return make_hello(self.identity(), other.id, kind)


@asynccontextmanager
async def running(*members: TestMember) -> AsyncIterator[None]:
    for member in members:
        await member.start()
    try:
        yield
    finally:
        for member in members:
            await member.stop()


async def meet(*members: TestMember) -> None:
    """All in one configuration, all streams open, both kinds, both ways."""
    for member in members:
        member.transport.set_peers([other.member for other in members])
    for member in members:
        for other in members:
            if other is not member:
                await until(lambda m=member, o=other: m.transport.connected(o.id), f"{member.name} -> {other.name}")


async def ask(
    target: TestMember, path: str, hello: Hello | None, token: str | None = TOKEN, **headers: str
) -> httpx.Response:
    """One raw request, as a stranger might send it; a stream's body is not waited for."""
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    if hello is not None:
        headers[HEADER_NAME] = encode_hello(hello).decode()
    async with (
        httpx.AsyncClient(trust_env=False, verify=False, timeout=5.0) as client,
        client.stream("GET", target.url + path, headers=headers) as response,
    ):
        if response.status_code != 200 or "content-length" in response.headers:
            await response.aread()
        return response


async def open_raw(target: TestMember, path: str, hello: Hello) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a request, read the answer's head, and leave the rest to the test; the reader takes little of its own."""
    tls = ssl.create_default_context(cafile=target.certificate) if target.certificate else None
    name = urlsplit(target.peer_url).hostname if tls else None
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=4096, ssl=tls, server_hostname=name)
    lines = (f"GET {path} HTTP/1.1", "host: test", f"authorization: Bearer {TOKEN}", f"{HEADER_NAME}: ")
    writer.write("\r\n".join(lines).encode() + encode_hello(hello) + b"\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return reader, writer
