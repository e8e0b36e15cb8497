"""The receiving end of one stream: open it on the peer, read it, and open it again when it breaks.

Rules of this module:
* Nothing that a peer sends raises out of here: a bad frame costs the peer its stream, a bad message only itself.
* Everything that waits on the peer is bounded: the opening by a time-out, the reading by silence (F4).
* Silence is counted in the transport's ticks, so that a late wake-up of our own never looks like a silent peer.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random
from typing import Protocol

from oarlock.peers.client import (
    Address,
    OpeningRefused,
    PeerClient,
    PeerUnreachable,
    check_answer,
    removed_by,
    stale_by,
)
from oarlock.peers.frames import FrameError, FrameReader
from oarlock.peers.hello import Hello, HelloKind
from oarlock.peers.messages import PeerMessage, StreamKind, Undecodable, decode_message, kind_of
from oarlock.peers.options import PeerCounters, PeerOptions
from oarlock.peers.stream_client import StreamBroken
from oarlock.raft.types import NodeId


class LinkOwner(Protocol):
    """What a link asks of the transport that holds it."""

    client: PeerClient
    options: PeerOptions
    counters: PeerCounters
    rng: Random

    def hello_for(self, peer: NodeId, kind: HelloKind) -> Hello: ...
    def addresses_of(self, peer: NodeId) -> list[Address]: ...
    def deliver(self, message: PeerMessage) -> None: ...
    def heard_hello(self, hello: Hello) -> None: ...
    def unheard(self, peer: NodeId, kind: StreamKind) -> None: ...
    def told_removed(self, by: NodeId) -> None: ...
    def told_stale(self, by: NodeId) -> None: ...


class Link:
    """One of the two streams on which we hear `peer`. Runs from `start` to `stop`."""

    def __init__(self, owner: LinkOwner, peer: NodeId, kind: StreamKind) -> None:
        self.peer = peer
        self.kind = kind
        self.connected = False
        self.last_failure = ""  # for status: why there is no stream
        self._owner = owner
        self._reader = FrameReader()
        self._heard = False
        self._quiet_ticks = 0
        self._opened_at = -1.0  # of the last stream that was open
        self._silence: asyncio.Timeout | None = None
        self._opening: asyncio.Timeout | None = None
        self._nudged = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"hear-{self.kind}-{self.peer}")

    def stop(self) -> asyncio.Task[None]:
        """Ends the link, from inside one of its own deliveries too; the task returned is the one to wait for."""
        assert self._task is not None, "stop() follows start()"
        self._task.cancel()
        return self._task

    def nudge(self, moved: bool) -> None:
        """The peer has just been heard of: do not sit out the back-off; nor, if it has `moved` to another IP, the
        opening under way to one where nobody is any more."""
        self._nudged.set()
        if moved and self._opening is not None:
            self._opening.reschedule(asyncio.get_running_loop().time())
            self._opening = None  # a time-out expires once

    def tick(self, silence_ticks: int) -> None:
        """Once each heartbeat; closes the stream after `silence_ticks` without a byte."""
        if self._silence is None:
            return
        if self._heard:
            self._heard = False
            self._quiet_ticks = 0
            return
        self._quiet_ticks += 1
        if self._quiet_ticks >= silence_ticks:
            self._silence.reschedule(asyncio.get_running_loop().time())
            self._silence = None  # a time-out expires once

    async def _run(self) -> None:
        options, rng, loop = self._owner.options, self._owner.rng, asyncio.get_running_loop()
        backoff = options.backoff_min_seconds
        while True:
            self._nudged.clear()
            opened_at = self._opened_at
            try:
                await self._attempts()
            except Exception as error:
                # Ours, not the peer's: a callback raised. The stream was given up with it; say so, and open another.
                loop.call_exception_handler(
                    {"message": f"hearing {self.peer} failed", "exception": error, "task": self._task}
                )
            if self._opened_at != opened_at:
                self._owner.counters.reconnects += 1
                if loop.time() - self._opened_at > options.backoff_max_seconds:
                    backoff = options.backoff_min_seconds  # it had worked; one that breaks at once is not hurried
            # Jittered, so that members that lost each other at once do not meet again in step. A nudge ends the pause,
            # but for its first part: two members that break each other's streams must not do so as fast as they can.
            await asyncio.sleep(options.backoff_min_seconds * rng.uniform(0.5, 1.0))
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff * rng.uniform(0.5, 1.0)):
                    await self._nudged.wait()
            backoff = min(backoff * 2, options.backoff_max_seconds)

    async def _attempts(self) -> None:
        """Try each address once, until one has worked, or the peer has moved."""
        addresses = self._owner.addresses_of(self.peer)
        for address in addresses:
            if self._owner.addresses_of(self.peer) != addresses:
                return
            hello = self._owner.hello_for(self.peer, HelloKind(self.kind.value))
            try:
                if await self._hear(address, hello):
                    return
            except OpeningRefused as refusal:
                self.last_failure = str(refusal)
                self._owner.counters.refused[refusal.code] += 1
                by = removed_by(hello, refusal)
                if by is not None:
                    self._owner.told_removed(by)
                elif stale_by(hello, refusal):
                    self._owner.told_stale(self.peer)
            except PeerUnreachable as error:
                self.last_failure = str(error)
                self._owner.counters.dial_failures += 1

    async def _hear(self, address: Address, hello: Hello) -> bool:
        """Open the stream and read it to its end; True if it was ever open."""
        opened = False
        timeout = self._opening = asyncio.timeout(self._owner.options.dial_timeout_seconds)
        try:
            async with (
                timeout,
                self._owner.client.open_stream(address, f"/raft/stream?kind={self.kind}", hello) as (stream, answer),
            ):
                check_answer(hello, answer)
                opened = True
                self._opened(timeout, answer)
                await stream.read(self._take_chunk)
                self.last_failure = "the peer ended the stream"
        except TimeoutError:
            if not opened:
                raise PeerUnreachable(f"{address.base_url}: no answer in time") from None
            self._owner.counters.streams_silent += 1
            self.last_failure = "the peer fell silent"
        except FrameError as error:
            self._owner.counters.rejected[error.code] += 1
            self.last_failure = str(error)
        except StreamBroken as error:
            self.last_failure = f"the stream broke: {error}"
        finally:
            self.connected = False
            self._silence = self._opening = None
            if opened:
                self._owner.unheard(self.peer, self.kind)
        return opened

    def _opened(self, timeout: asyncio.Timeout, answer: Hello) -> None:
        timeout.reschedule(None)  # from here on tick() decides
        self._opening, self._silence = None, timeout
        self._reader = FrameReader()
        self._heard = True
        self._quiet_ticks = 0
        self._opened_at = asyncio.get_running_loop().time()
        self.connected = True
        self.last_failure = ""
        self._owner.counters.streams_opened += 1
        self._owner.heard_hello(answer)

    def _take_chunk(self, chunk: bytes) -> None:
        """In the turn of the loop in which it arrived. Raises FrameError."""
        self._heard = True
        self._owner.counters.bytes_received += len(chunk)
        for payload in self._reader.feed(chunk):
            self._take(payload, self._owner.counters)

    def _take(self, payload: bytes, counters: PeerCounters) -> None:
        counters.frames_received += 1
        try:
            message = decode_message(payload)
        except Undecodable:
            # A newer member may know more messages than we do: it loses this one, not the stream (rule 34).
            counters.rejected["undecodable"] += 1
            return
        if message.sender != self.peer:
            counters.rejected["misaddressed"] += 1
            return
        if kind_of(message) is not self.kind:
            counters.rejected["wrong_stream"] += 1
            return
        self._owner.deliver(message)
