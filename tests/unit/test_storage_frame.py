"""The bytes of a frame, and the outline of a log."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.wal_model import entries, entry, frame, meta

from oarlock.raft.types import HardState
from oarlock.storage.frame import (
    ALIGNMENT_BYTES,
    ORIGIN,
    Frame,
    Position,
    decode_frame,
    decode_header,
    encode_header,
    encode_payload,
    frame_bytes,
    headers_after,
)
from oarlock.storage.replay import Gap, Outline, Replay
from oarlock.storage.segment import decode_segment_header, encode_segment_header

NONCE = bytes(range(16))


def encoded(one: Frame, offset: int = 64, *, nonce: bytes = NONCE, keeps_tail: bool = False) -> bytes:
    payload = encode_payload(one)
    place = Position(3, offset)
    header, _ = encode_header(nonce, place, ORIGIN, Position(2, 640), 7, one, keeps_tail, payload)
    return (header + payload).ljust(frame_bytes(len(payload)), b"\0")


@given(
    st.integers(0, 2**63 - 1),
    st.text(max_size=128),
    st.lists(st.binary(max_size=300), max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_a_frame_comes_back(term: int, vote: str, datas: list[bytes], marked: bool, keeps: bool) -> None:
    new = tuple(entry(index, term, data) for index, data in enumerate(datas, 5))
    one = Frame(HardState(term, vote, 4), new, meta(4, 1) if marked else None)
    data = bytes(64) + encoded(one, keeps_tail=keeps)
    header = decode_header(data, 64, 3, NONCE)
    assert header is not None
    assert decode_frame(data, header) == one
    assert (header.end.offset, header.end.offset % ALIGNMENT_BYTES) == (len(data), 0)
    assert (header.watermark, header.follows, header.previous_crc) == (Position(2, 640), ORIGIN, 7)
    assert (header.keeps_tail, header.entries) == (keeps, len(datas))


def test_a_frame_counts_only_in_its_own_place() -> None:
    """Rule 2: another nonce, another segment, another offset, or a byte beside."""
    data = bytes(64) + encoded(frame(1, entries(1, 3, 1)))
    assert decode_header(data, 64, 3, NONCE)
    assert decode_header(data, 64, 3, bytes(16)) is None
    assert decode_header(data, 64, 4, NONCE) is None
    assert decode_header(bytes(64) + data, 128, 3, NONCE) is None
    assert decode_header(data, 63, 3, NONCE) is None
    assert decode_header(data, len(data) - 20, 3, NONCE) is None
    shifted = bytes(72) + encoded(frame(1), 72)
    assert decode_header(shifted, 72, 3, NONCE)
    assert headers_after(shifted, 0, 3, NONCE) == []  # valid, but no frame begins beside the alignment
    assert [header.place.offset for header in headers_after(data, 0, 3, NONCE)] == [64]
    assert headers_after(data, 65, 3, NONCE) == []


def test_every_flipped_bit_is_seen() -> None:
    one = frame(3, entries(1, 2, 3, b"payload"), vote="a", marker=meta(1, 1))
    whole = bytearray(bytes(64) + encoded(one))
    used = 64 + 92 + len(encode_payload(one))
    for position in range(64 * 8, used * 8):
        whole[position // 8] ^= 1 << position % 8
        data = bytes(whole)
        header = decode_header(data, 64, 3, NONCE)
        assert header is None or decode_frame(data, header) is None
        whole[position // 8] ^= 1 << position % 8
    assert decode_segment_header(encode_segment_header(9, NONCE), 9) == NONCE


def test_an_outline_knows_what_a_replay_finds_out() -> None:
    """Two readings of the same frames: the one without entries must say of every marker what the whole log says."""
    kept = dropped = 0
    for seed in range(400):
        rng = random.Random(seed)
        outline, replay, term, last, floor = Outline(), Replay(), 1, 0, 0
        for _ in range(rng.randrange(1, 25)):
            term += rng.random() < 0.4
            if rng.random() < 0.3:
                index = rng.randint(floor, last + 3)
                mine = {one.index: one.term for one in replay.entries}.get(index, term)
                one = frame(term, marker=meta(index, mine if rng.random() < 0.6 else max(1, term - 1)))
                floor = index
            else:
                first = rng.randint(floor, last) + 1 if last > floor else last + 1
                one = frame(term, entries(first, first + rng.randrange(4), term))
            whole = {x.index: x.term for x in replay.entries}
            if replay.marker is not None:
                whole[replay.marker.index] = replay.marker.term
            keeps = outline.copy().add(one)
            if one.marker is not None:
                assert keeps == (whole.get(one.marker.index) == one.marker.term)
                kept, dropped = kept + keeps, dropped + (not keeps)
            outline.add(one)
            replay.add(one, keeps)
            last = replay.last_index or 0
            assert outline.last_index == replay.last_index
            assert replay.outline().last_index == outline.last_index
            if rng.random() < 0.1:
                outline.forget(floor)
    assert kept > 100
    assert dropped > 100


def test_gaps_are_refused() -> None:
    for log in (Outline(), Replay()):
        add = (lambda one, log=log: log.add(one, False)) if isinstance(log, Replay) else log.add
        add(frame(1, entries(5, 7, 1)))  # the beginning may have been released
        with pytest.raises(Gap, match="entry 9 follows entry 7"):
            add(frame(1, entries(9, 9, 1)))
        with pytest.raises(Gap, match="stands where"):
            add(frame(1, (entry(8, 1), entry(10, 1))))
