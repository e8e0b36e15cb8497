"""The sending end of one stream: a bounded queue that a peer's GET empties.

Rules of this module:
* `put` never waits: it takes a payload or says no (rule 33). What was taken is sent once or lost with the stream;
  nothing is ever sent again on another stream (X5: a forwarded command must not be doubled).
* All that is queued in one turn of the loop leaves in one write, cut at `chunk_bytes` so that the connection's flow
  control is asked between pieces.
* Time is counted in the transport's ticks, so that a late wake-up of our own never looks like a stalled peer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import google_crc32c

from oarlock.peers.frames import EMPTY_FRAME, HEADER, HEADER_BYTES, MAX_FRAME_BYTES
from oarlock.peers.messages import StreamKind
from oarlock.peers.options import PeerCounters
from oarlock.raft.types import NodeId

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Outbox:
    """The queue of one open stream to one peer."""

    __slots__ = (
        "_chunk_bytes",
        "_closed",
        "_counters",
        "_frames",
        "_queued_bytes",
        "_sending",
        "_stalled_ticks",
        "_waiter",
        "_window_bytes",
        "_wrote",
        "kind",
        "peer",
    )

    def __init__(
        self, peer: NodeId, kind: StreamKind, *, window_bytes: int, chunk_bytes: int, counters: PeerCounters
    ) -> None:
        self.peer = peer
        self.kind = kind
        self._window_bytes = window_bytes
        self._chunk_bytes = chunk_bytes
        self._counters = counters
        self._frames: list[bytes] = []
        self._queued_bytes = 0  # in _frames and in the chunk that is being written
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._wrote = False  # anything since the last tick?
        self._sending = False
        self._stalled_ticks = 0

    @property
    def queued_bytes(self) -> int:
        return self._queued_bytes

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, payload: bytes) -> bool:
        """Queue one message. False: the window is full, the message too long, or the stream closed; it is dropped,
        and the core finds out by its heartbeats. The window lets one frame pass when it is empty, however long."""
        size = HEADER_BYTES + len(payload)
        if self._closed:
            self._counters.dropped["no_stream"] += 1
            return False
        if size > HEADER_BYTES + MAX_FRAME_BYTES:
            self._counters.dropped["oversized"] += 1
            return False
        if self._queued_bytes and self._queued_bytes + size > self._window_bytes:
            self._counters.dropped["window"] += 1
            return False
        self._frames.append(HEADER.pack(len(payload), google_crc32c.value(payload)))
        self._frames.append(payload)
        self._queued_bytes += size
        self._counters.frames_sent += 1
        self._wake()
        return True

    def close(self) -> None:
        """Send what is queued, then end the stream."""
        self._closed = True
        self._wake()

    def abandon(self) -> None:
        """Nobody reads it any more, or another stream has replaced it: what is queued is lost."""
        self._frames.clear()
        self.close()

    def greet(self) -> None:
        """The first bytes of a stream: proof to the opener that it is open, whatever stands between."""
        self._frames.append(EMPTY_FRAME)
        self._queued_bytes += HEADER_BYTES

    def tick(self) -> int:
        """Once each heartbeat. An idle stream gets an empty frame; returns for how many ticks one write has hung."""
        if self._sending:
            self._stalled_ticks += 1
        elif not self._wrote and not self._frames and not self._closed:
            self.greet()
            self._wake()
        self._wrote = False
        return self._stalled_ticks

    async def pump(self, send: Send) -> None:
        """Write the response's body until the stream is closed; `send` is ASGI's."""
        while True:
            frames = self._frames
            if not frames:
                if self._closed:
                    break
                self._waiter = asyncio.get_running_loop().create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
                continue
            self._frames = []
            chunk = b"".join(frames)
            self._sending = True
            for start in range(0, len(chunk), self._chunk_bytes):
                piece = chunk if len(chunk) <= self._chunk_bytes else chunk[start : start + self._chunk_bytes]
                self._stalled_ticks = 0
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._wrote = True
                self._counters.bytes_sent += len(piece)
                self._queued_bytes -= len(piece)
            self._sending = False
            self._stalled_ticks = 0
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
