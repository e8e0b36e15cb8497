"""The network between members: connections in memory, below the real transport of oarlock.peers.

Rules of this module: a connection delivers in order or breaks, as TCP does, and what is sent into a cut waits for it to
heal; on top of that, whole frames of Raft's own messages may be lost, doubled or swapped, which the core must bear (but
never a forwarded command, which a stream cannot double).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from tests.simulation.scheduler import Loop, World

from oarlock.peers.client import Address, OpeningRefused, PeerClient, PeerUnreachable
from oarlock.peers.frames import EMPTY_FRAME, HEADER
from oarlock.peers.hello import HEADER_NAME, BadHello, Hello, decode_hello, encode_hello
from oarlock.peers.stream_client import StreamBroken

if TYPE_CHECKING:
    from tests.simulation.process import Process

WINDOW_BYTES = 256 * 1024  # taken by a connection before its reader has them
FORWARDS = (14, 15)  # tags of messages that no network may double
END = object()


class Network:
    """Who reaches whom. `cut` holds directions: what `a` sends to `b` waits."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.processes: dict[str, Process] = {}
        self.cut: set[tuple[str, str]] = set()
        self.latency = (0.0002, 0.002)
        self.loss = self.doubling = self.swapping = 0.0
        self.connections: list[Connection] = []
        self.swallowing = 0  # so many of the next connections are swallowed
        self.unfinished: set[tuple[str, str]] = set()  # (who, path of a snapshot): a range began, and has not ended
        self.on_range: Callable[[Connection], None] = lambda _: None  # told of a snapshot's ranges but the first

    def delay(self) -> float:
        rng = self.world.rng
        return rng.uniform(*self.latency) * (20 if rng.random() < 0.01 else 1)

    def heal(self) -> None:
        self.loss = self.doubling = self.swapping = 0.0
        self.swallowing = 0
        self.heal_cuts()

    def heal_cuts(self) -> None:
        self.cut = set()
        for connection in list(self.connections):
            connection.forth.release()
            connection.back.release()

    def died(self, process: Process) -> None:
        """The kernel of a killed process resets its connections; those that it can reach hear of it."""
        for connection in [c for c in self.connections if process.name in (c.opener, c.server)]:
            connection.lost(process.name)

    def swallow(self, connection: Connection) -> None:
        """A way of it, or both, carries nothing any more, and nobody is told: not now, and not when all has healed."""
        pipes = (connection.forth, connection.back)
        for pipe in self.world.rng.choice((pipes, pipes[:1], pipes[1:])):
            pipe.swallows = True

    def break_one(self) -> bool:
        """A connection is reset, at both ends."""
        if not self.connections:
            return False
        connection = self.world.rng.choice(self.connections)
        connection.lost("")
        return True


class Pipe:
    """One direction of a connection."""

    def __init__(self, network: Network, source: str, target: str, loop: Loop, take: Callable[[Any], None]) -> None:
        self._network, self._way, self._loop, self._take = network, (source, target), loop, take
        self._queue: deque[tuple[Any, int]] = deque()
        self._last = 0.0
        self._held = 0
        self.waiting_bytes = 0
        self.swallows = False
        self.drained: Callable[[], None] = lambda: None

    def put(self, item: Any, size: int = 0) -> None:
        self._queue.append((item, size))
        self.waiting_bytes += size
        self._last = max(self._last, self._network.world.now + self._network.delay())
        self._loop.after(self._last - self._network.world.now, self._arrive)
        self._network.processes[self._way[0]].loop.handover("a message is sent")

    def lose_the_last(self, items: int) -> None:
        """What is still on its way, and never comes. Its time of arrival is left to what is sent after it."""
        for _ in range(items):
            self.waiting_bytes -= self._queue.pop()[1]

    @property
    def under_way(self) -> int:
        return len(self._queue)

    def _arrive(self) -> None:
        if not self._queue or self.swallows:
            return
        if self._way in self._network.cut:
            self._held += 1
            return
        item, size = self._queue.popleft()
        self.waiting_bytes -= size
        self.drained()
        self._take(item)
        self._loop.handover("a message has come")

    def release(self) -> None:
        held, self._held = self._held, 0
        for _ in range(held):
            self._loop.after(self._network.delay(), self._arrive)


class Connection:
    """One request and its response. The opener's loop runs `head`, `read` and the iterator; the server's the app."""

    def __init__(self, network: Network, opener: Process, server: Process, scope: dict[str, Any]) -> None:
        self.opener, self.server = opener.name, server.name
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._network, self._scope = network, scope
        self._opener_loop, self._server_loop = opener.loop, server.loop
        self._app = server.node.transport.asgi if server.node is not None else None
        self._head: asyncio.Future[None] = opener.loop.create_future()
        self._end: asyncio.Future[None] = opener.loop.create_future()
        self._pieces: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._on_chunk: Callable[[bytes], None] | None = None
        self._gone: asyncio.Future[None] = server.loop.create_future()
        self._room: asyncio.Future[None] | None = None
        self.forth = Pipe(network, self.opener, self.server, server.loop, self._at_server)
        self.back = Pipe(network, self.server, self.opener, opener.loop, self._at_opener)
        self.back.drained = self._drained
        self._responded = False
        network.connections.append(self)
        if network.swallowing:
            network.swallowing -= 1
            network.swallow(self)
        self.forth.put(scope)

    # -- the server's side

    def _at_server(self, item: Any) -> None:
        if item is END:
            self._disconnect()
        elif self._app is None:
            self.back.put(END)
        else:
            self._server_loop.create_task(self._serve())

    async def _serve(self) -> None:
        async def receive() -> dict[str, Any]:
            await asyncio.shield(self._gone)
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            while self.back.waiting_bytes > WINDOW_BYTES and not self._gone.done():
                self._room = self._server_loop.create_future()
                await self._room
            if not self._gone.done():
                self.back.put(message, len(message.get("body", b"")))

        assert self._app is not None
        await self._app(self._scope, receive, send)  # type: ignore[arg-type]
        self.back.put(END)

    def _disconnect(self) -> None:
        if not self._gone.done():
            self._gone.set_result(None)
        self._drained()

    def _drained(self) -> None:
        if self._room is not None and not self._room.done() and not self._server_loop.dead:
            self._room.set_result(None)

    # -- the opener's side

    def _at_opener(self, message: Any) -> None:
        if message is END:
            self._finish(StreamBroken("the connection was closed"))
        elif message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.lower(): value for name, value in message["headers"]}
            if not self._head.done():
                self._head.set_result(None)
        else:
            if message["body"]:
                self._took(self._mangled(message["body"]))
            if not message.get("more_body", False):
                self._finish(None)

    def _took(self, body: bytes) -> None:
        if self._end.done():
            return
        if self._on_chunk is None:
            self._pieces.append(body)
            self._more.set()
            return
        try:
            self._on_chunk(body)
        except Exception as error:
            self._finish(error)

    def _mangled(self, body: bytes) -> bytes:
        """Frames of Raft's messages are lost, doubled, or swapped with the next."""
        network, rng = self._network, self._network.world.rng
        if not (network.loss or network.doubling or network.swapping) or self._scope["path"] != "/raft/stream":
            return body
        frames, at = [], 0
        while at < len(body):
            end = at + HEADER.size + HEADER.unpack_from(body, at)[0]
            if end > len(body):
                return body  # a frame cut into chunks: left alone
            frame = body[at:end]
            at = end
            if frame == EMPTY_FRAME or msgspec.msgpack.decode(frame[HEADER.size :])[0] in FORWARDS:
                frames.append(frame)
            elif rng.random() < network.loss:
                network.world.reach("network: a message lost")
            elif rng.random() < network.doubling:
                network.world.reach("network: a message doubled")
                frames += [frame, frame]
            elif frames and rng.random() < network.swapping:
                network.world.reach("network: messages swapped")
                frames.insert(-1, frame)
            else:
                frames.append(frame)
        return b"".join(frames)

    async def head(self) -> None:
        await self._head

    async def read(self, on_chunk: Callable[[bytes], None]) -> None:
        self._on_chunk = on_chunk
        pieces, self._pieces = self._pieces, deque()
        for piece in pieces:
            self._took(piece)
        await self._end

    async def pieces(self) -> AsyncIterator[bytes]:
        while True:
            while self._pieces:
                yield self._pieces.popleft()
            if self._end.done():
                self._end.result()
                return
            self._more.clear()
            await self._more.wait()

    def close(self) -> None:
        self._finish(StreamBroken("closed here"))
        if self in self._network.connections:
            self._network.connections.remove(self)
            self.forth.put(END)

    def lost(self, dead: str) -> None:
        """Reset: by the death of one side, or of the way (""). Of what was sent, the last may never come."""
        if self in self._network.connections:
            self._network.connections.remove(self)
        rng = self._network.world.rng
        for pipe in (self.forth, self.back):
            pipe.lose_the_last(rng.randint(0, pipe.under_way))
        if dead != self.server:
            self.forth.put(END)
        if dead != self.opener:
            self.back.put(END)

    def _finish(self, error: Exception | None) -> None:
        self._more.set()
        for future in (self._head, self._end):
            if future.done() or self._opener_loop.dead:
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
                future.exception()


class Response:
    """As much of an httpx.Response as a snapshot's fetch reads."""

    def __init__(self, connection: Connection) -> None:
        self.status_code = connection.status
        self.headers = {name.decode(): value.decode() for name, value in connection.headers.items()}
        self._connection = connection

    def aiter_raw(self) -> AsyncIterator[bytes]:
        return _as_httpx(self._connection.pieces())


async def _as_httpx(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    import httpx

    try:
        async for piece in pieces:
            yield piece
    except StreamBroken as error:
        raise httpx.ReadError(str(error)) from error


class Client(PeerClient):
    """What a member opens its peers with."""

    def __init__(self, network: Network, process: Process, token: str) -> None:
        self._network, self._process = network, process
        self._authorization = f"Bearer {token}"

    async def close(self) -> None:
        pass

    @asynccontextmanager
    async def open_stream(self, address: Address, path: str, hello: Hello) -> AsyncIterator[tuple[Any, Hello]]:
        async with self._open(address, path, hello, {}) as (connection, answer):
            yield connection, answer

    @asynccontextmanager
    async def open(
        self, address: Address, path: str, hello: Hello, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[tuple[Any, Hello]]:
        fetch = (self._process.name, path)
        broken = self._network.unfinished
        first = (headers or {}).get("range", "bytes=0-").startswith("bytes=0-")
        if not first:
            self._network.world.reach("peers: a snapshot came in parts")
            if fetch in broken:
                self._network.world.reach("peers: an interrupted snapshot was resumed")
        broken.add(fetch)  # until this range has come: an error, and the end of the process, leave it here
        async with self._open(address, path, hello, headers or {}) as (connection, answer):
            if not first:
                self._network.on_range(connection)
            yield Response(connection), answer
        broken.discard(fetch)

    @asynccontextmanager
    async def _open(
        self, address: Address, path: str, hello: Hello, headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[Connection, Hello]]:
        network, here = self._network, self._process
        there = network.processes.get(address.connect_to)
        if there is None or not there.up:
            await asyncio.sleep(network.delay())
            raise PeerUnreachable(f"{address.base_url}: connection refused")
        parts = urlsplit(path)
        scope = {
            "type": "http",
            "method": "GET",
            "path": parts.path,
            "query_string": parts.query.encode(),
            "headers": [
                (b"authorization", self._authorization.encode()),
                (HEADER_NAME.encode(), encode_hello(hello)),
                *((name.encode(), value.encode()) for name, value in headers.items()),
            ],
        }
        connection = Connection(network, here, there, scope)
        try:
            try:
                await connection.head()
            except StreamBroken as error:
                raise PeerUnreachable(f"{address.base_url}: {error}") from error
            answer = _answer(connection.headers.get(HEADER_NAME.encode(), b""))
            if connection.status not in (200, 206):
                body = bytearray()
                async for piece in connection.pieces():
                    body += piece
                code = msgspec.json.decode(bytes(body) or b"{}").get("code", "")
                raise OpeningRefused(connection.status, code or f"http_{connection.status}", "", answer)
            assert answer is not None, "an answer without a hello"
            yield connection, answer
        finally:
            connection.close()


def _answer(value: bytes) -> Hello | None:
    try:
        return decode_hello(value) if value else None
    except BadHello:
        return None
