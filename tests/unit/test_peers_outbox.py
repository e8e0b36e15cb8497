"""The sending end of one stream, with a writer in place of the connection."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from oarlock.peers.frames import EMPTY_FRAME, MAX_FRAME_BYTES, FrameReader
from oarlock.peers.messages import StreamKind
from oarlock.peers.options import PeerCounters
from oarlock.peers.outgoing import Outbox


class Connection:
    """What ASGI's `send` writes to; `gate` cleared means that the peer takes nothing."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.ended = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await self.gate.wait()
        if message["more_body"]:
            self.writes.append(message["body"])
        else:
            self.ended = True

    def payloads(self) -> list[bytes]:
        return FrameReader().feed(b"".join(self.writes))


def make(window_bytes: int = 1000, chunk_bytes: int = 400) -> tuple[Outbox, PeerCounters]:
    counters = PeerCounters()
    outbox = Outbox("b-01", StreamKind.DATA, window_bytes=window_bytes, chunk_bytes=chunk_bytes, counters=counters)
    return outbox, counters


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_is_queued_in_one_turn_leaves_in_one_write() -> None:
    outbox, counters = make()
    connection = Connection()
    pump = asyncio.create_task(outbox.pump(connection.send))
    await turns()
    for payload in (b"one", b"two", b"three"):
        assert outbox.put(payload)
    await turns()
    assert len(connection.writes) == 1
    assert connection.payloads() == [b"one", b"two", b"three"]
    assert outbox.put(b"four")
    await turns()
    assert len(connection.writes) == 2
    assert outbox.queued_bytes == 0
    assert counters.frames_sent == 4
    assert counters.bytes_sent == sum(map(len, connection.writes))
    outbox.close()
    await pump
    assert connection.ended


async def test_a_full_window_drops_and_says_so() -> None:
    """Rule 33: what a peer that does not read can make us keep."""
    outbox, counters = make(window_bytes=1000)
    connection = Connection()
    connection.gate.clear()
    pump = asyncio.create_task(outbox.pump(connection.send))
    taken = 0
    for _ in range(100):
        taken += outbox.put(bytes(92))
        await turns(1)
        assert outbox.queued_bytes <= 1000
    assert taken == 10
    assert counters.dropped == {"window": 90}
    connection.gate.set()
    await turns(20)
    assert outbox.queued_bytes == 0
    assert len(connection.payloads()) == 10
    assert outbox.put(b"again")
    outbox.close()
    await pump
    assert connection.payloads()[-1] == b"again"


async def test_a_frame_longer_than_the_window_passes_alone() -> None:
    """Rule 32: one larger command goes alone; a window must not hold it up for ever."""
    outbox, counters = make(window_bytes=1000)
    assert outbox.put(bytes(5000))
    assert not outbox.put(b"x")
    assert counters.dropped == {"window": 1}


async def test_a_frame_that_no_reader_would_take_is_not_sent() -> None:
    outbox, counters = make(window_bytes=2 * MAX_FRAME_BYTES)
    assert not outbox.put(bytes(MAX_FRAME_BYTES + 1))
    assert counters.dropped == {"oversized": 1}
    assert outbox.queued_bytes == 0


async def test_long_data_is_cut_so_that_flow_control_is_asked() -> None:
    """Rule 31: data in chunks."""
    outbox, _ = make(window_bytes=10_000, chunk_bytes=400)
    connection = Connection()
    outbox.put(bytes(range(250)) * 4)
    outbox.put(b"tail")
    outbox.close()
    await outbox.pump(connection.send)
    assert [len(write) for write in connection.writes] == [400, 400, 220]
    assert connection.payloads() == [bytes(range(250)) * 4, b"tail"]


async def test_an_idle_stream_says_that_it_lives() -> None:
    """Rule 31: an empty frame each heartbeat, and none where messages say it already."""
    outbox, _ = make()
    connection = Connection()
    pump = asyncio.create_task(outbox.pump(connection.send))
    await turns()
    for _ in range(3):
        outbox.tick()
        await turns()
        outbox.tick()  # the tick before has written: nothing to add
        await turns()
    assert connection.writes == [EMPTY_FRAME] * 3
    outbox.put(b"message")
    await turns()
    outbox.tick()
    await turns()
    assert connection.writes == [EMPTY_FRAME] * 3 + [connection.writes[-1]]
    outbox.close()
    await pump


async def test_a_hanging_write_is_counted_in_ticks() -> None:
    outbox, _ = make()
    connection = Connection()
    pump = asyncio.create_task(outbox.pump(connection.send))
    await turns()
    assert outbox.tick() == 0
    connection.gate.clear()
    outbox.put(b"message")
    await turns()
    assert [outbox.tick() for _ in range(3)] == [1, 2, 3]
    connection.gate.set()
    await turns()
    assert outbox.tick() == 0
    outbox.close()
    await pump


@pytest.mark.parametrize("end", ["close", "abandon"])
async def test_nothing_is_taken_after_the_end(end: str) -> None:
    outbox, counters = make()
    connection = Connection()
    outbox.put(b"queued before")
    getattr(outbox, end)()
    assert not outbox.put(b"after")
    assert counters.dropped == {"no_stream": 1}
    await outbox.pump(connection.send)
    assert connection.ended
    assert connection.payloads() == ([b"queued before"] if end == "close" else [])
