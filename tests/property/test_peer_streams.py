"""Streams between members, without a network: every answer to a hello, every damaged bit, any way to fill a window."""

from __future__ import annotations

import asyncio
import random
from itertools import product

import pytest

from oarlock.peers.client import OpeningRefused, check_answer
from oarlock.peers.frames import HEADER_BYTES, FrameError, FrameReader, encode_frame
from oarlock.peers.hello import Hello, HelloKind, LocalIdentity, Verdict, judge_identity
from oarlock.peers.messages import StreamKind
from oarlock.peers.options import PeerCounters
from oarlock.peers.outgoing import Outbox

A, B, C = (f"{name}-00000000000000{number:02x}" for number, name in enumerate("abc", 0x61))
CLUSTERS = ("", "one", "two")
WINDOW, CHUNK = 1000, 300


def hello_of(sender: str, target: str, cluster_id: str) -> Hello:
    return Hello(1, cluster_id, sender, "http://b:2380", "", target, 1, HelloKind.CONTROL)


@pytest.mark.parametrize("mine", CLUSTERS)
def test_every_opener_and_whom_it_means(mine: str) -> None:
    """Rules 16 and 31: only who means this very member, is another one and belongs to our cluster; to any, while we
    belong to none."""
    me = LocalIdentity(A, mine, "http://a:2380", "", 1)
    for sender, target, theirs in product((A, B), (A, B, C, ""), CLUSTERS):
        verdict = judge_identity(me, hello_of(sender, target, theirs))
        fits = target == A and sender != A and theirs != "" and mine in ("", theirs)
        assert (verdict is Verdict.OK) == fits, (sender, target, theirs, verdict)


def test_every_member_that_may_answer() -> None:
    """Rule 31: an address may have changed hands between two openings."""
    for asked, answering in product((A, B, C), repeat=2):
        refused = False
        try:
            check_answer(hello_of(C, asked, "one"), hello_of(answering, C, "one"))
        except OpeningRefused as refusal:
            refused = refusal.code == "wrong_target"
        assert refused == (asked != answering)


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_every_flipped_bit_of_a_stream(cut: int) -> None:
    """What comes out is what was sent, up to the damage, and never all of it."""
    sent = [b"first", b"\0" * 9, b"the last of them"]
    whole = b"".join(encode_frame(payload) for payload in (sent[0], b"", *sent[1:]))
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        reader, got = FrameReader(), []
        try:
            for at in range(0, len(damaged), cut):
                got += reader.feed(bytes(damaged[at : at + cut]))
        except FrameError:
            pass
        else:
            assert reader.buffered_bytes  # it waits for the rest of a frame that is not so long
        assert got == sent[: len(got)]
        assert len(got) < len(sent)


async def life(seed: int) -> None:
    """Puts of all sizes, while the peer takes a piece, or all, or nothing."""
    rng, counters = random.Random(seed), PeerCounters()
    outbox = Outbox(B, StreamKind.DATA, window_bytes=WINDOW, chunk_bytes=CHUNK, counters=counters)
    accepted: list[bytes] = []
    taken = bytearray()
    pieces = asyncio.Semaphore(0)

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        await pieces.acquire()
        taken.extend(message["body"])

    pump = asyncio.create_task(outbox.pump(send))
    for number in range(60):
        if rng.random() < 0.6:
            payload = bytes([number]) * rng.choice((1, 10, 200, 900, WINDOW, 3 * WINDOW))
            held = sum(HEADER_BYTES + len(p) for p in accepted) - len(taken)
            assert outbox.queued_bytes == held
            fits = held == 0 or held + HEADER_BYTES + len(payload) <= WINDOW
            assert outbox.put(payload) == fits
            accepted += [payload] * fits
        else:
            for _ in range(rng.choice((1, 1, 3, 50))):
                pieces.release()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
    outbox.close()
    while not pump.done():
        pieces.release()
        await asyncio.sleep(0)
    assert FrameReader().feed(bytes(taken)) == accepted
    assert outbox.queued_bytes == 0


@pytest.mark.parametrize("seed", range(40))
def test_a_window_holds_what_it_says_and_one_frame_of_any_length(seed: int) -> None:
    """Rule 33: bounded; and nothing is so long that it never leaves."""
    asyncio.run(life(seed))
