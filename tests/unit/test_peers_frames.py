"""Frames: what is cut is put together again, and nothing damaged is ever handed over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oarlock.peers.frames import (
    EMPTY_FRAME,
    HEADER,
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    FrameError,
    FrameReader,
    encode_frame,
)


@given(payloads=st.lists(st.binary(max_size=300), max_size=20), sizes=st.lists(st.integers(1, 400), min_size=1))
def test_any_chunking_gives_the_same_payloads(payloads: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(encode_frame(payload) for payload in payloads)
    reader, got, at, turn = FrameReader(), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        got += reader.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert got == [payload for payload in payloads if payload]  # an empty frame says only that the sender lives
    assert reader.buffered_bytes == 0


def test_a_long_frame_arrives_in_many_chunks() -> None:
    payload = bytes(range(256)) * 8192  # 2 MiB
    frame = encode_frame(payload) + EMPTY_FRAME + encode_frame(b"next")
    reader, got = FrameReader(), []
    for at in range(0, len(frame), 65536):
        got += reader.feed(frame[at : at + 65536])
    assert got == [payload, b"next"]


def test_every_flipped_bit_is_noticed() -> None:
    """A flipped bit may end the stream or make it wait for bytes that never come; it never changes a message."""
    payload = b"a committed entry"
    frame = encode_frame(payload)
    for bit in range(len(frame) * 8):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            payloads = FrameReader().feed(bytes(damaged))
        except FrameError:
            continue
        assert payloads == []


def test_every_cut_gives_only_whole_frames() -> None:
    frames = encode_frame(b"one") + encode_frame(b"two")
    first = HEADER_BYTES + 3
    for cut in range(len(frames)):
        assert FrameReader().feed(frames[:cut]) == ([b"one"] if cut >= first else [])


def test_peer_body_limits() -> None:
    """F5, rules 31 and 33: a longer frame than the bound is refused by its header, before a byte of it is kept."""
    assert FrameReader().feed(encode_frame(bytes(MAX_FRAME_BYTES))) == [bytes(MAX_FRAME_BYTES)]
    with pytest.raises(ValueError, match="at most"):
        encode_frame(bytes(MAX_FRAME_BYTES + 1))
    reader = FrameReader()
    with pytest.raises(FrameError) as error:
        reader.feed(HEADER.pack(MAX_FRAME_BYTES + 1, 0) + b"x" * 100)
    assert error.value.code == "oversized"
    assert reader.buffered_bytes == 0


def test_a_reader_holds_at_most_one_frame() -> None:
    """Rule 33: what a peer can make a reader keep."""
    reader = FrameReader()
    reader.feed(HEADER.pack(MAX_FRAME_BYTES, 0))
    for _ in range(MAX_FRAME_BYTES // 65536 - 1):
        reader.feed(bytes(65536))
        assert reader.buffered_bytes <= HEADER_BYTES + MAX_FRAME_BYTES
    with pytest.raises(FrameError, match="checksum"):
        reader.feed(b"\1" * 65536)
    assert reader.buffered_bytes == 0
