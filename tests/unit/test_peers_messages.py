"""The messages' codec: every message survives the way, and nothing that is none gets through."""

import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oarlock.peers.messages import (
    Diverged,
    Forward,
    ForwardedCommand,
    ForwardReply,
    ForwardResult,
    PeerMessage,
    Report,
    StreamKind,
    Undecodable,
    decode_message,
    encode_message,
    kind_of,
)
from oarlock.raft import messages as raft
from oarlock.raft.types import Configuration, Entry, Member, PlacedConfiguration, SnapshotMeta

A, B = "a-0000000000000001", "b-0000000000000002"
PLACED = PlacedConfiguration(3, 2, Configuration((Member(A, "http://a:2380", "http://a:2379"),), tombstones=("c-1",)))
META = SnapshotMeta(9, 2, 1234, PLACED, 1, 4096, "0" * 64)

EXAMPLES: list[PeerMessage] = [
    raft.PreVote(A, B, 7, 100, 6),
    raft.PreVoteReply(A, B, 7, True),
    raft.Vote(A, B, 7, 100, 6, False),
    raft.VoteReply(A, B, 7, False),
    raft.Append(A, B, 7, 100, 6, 99, (Entry(101, 7, 0, 55, b"\x00\xff"), Entry(102, 7, 999, 56, b""))),
    raft.AppendReply(A, B, 7, True, 102, 0, 0),
    raft.Heartbeat(A, B, 7, 99, 4),
    raft.HeartbeatReply(A, B, 7, 4),
    raft.SnapshotOffer(A, B, 7, META),
    raft.SnapshotRefusal(A, B, 7, 9),
    raft.TimeoutNow(A, B, 7),
    raft.ReadIndex(A, B, 7, 2**40),
    raft.ReadIndexReply(A, B, 7, 2**40, -1),
    Forward(A, B, 1, (ForwardedCommand(b"put", "key", b"f" * 16), ForwardedCommand(b"delete"))),
    ForwardReply(B, A, 1, (ForwardResult(0, 1, 17, b"x"), ForwardResult(1, code="busy", outcome="not_applied"))),
    Report(B, A, True, ((256, "ab" * 16), (300, "cd" * 16)), 200),
    Diverged(A, B, 3, 256, "ab" * 16),
]
EXAMPLE_IDS = [type(example).__name__ for example in EXAMPLES]


def test_the_examples_are_all_there_is() -> None:
    assert {type(example) for example in EXAMPLES} == set(typing.get_args(PeerMessage))


@pytest.mark.parametrize("message", EXAMPLES, ids=EXAMPLE_IDS)
def test_a_message_survives_the_way(message: PeerMessage) -> None:
    assert decode_message(encode_message(message)) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=EXAMPLE_IDS)
def test_a_field_at_the_end_is_no_obstacle(message: PeerMessage) -> None:
    """Rule 34: a newer member may say more in a message that we know."""
    fields = msgspec.msgpack.decode(encode_message(message))
    assert decode_message(msgspec.msgpack.encode([*fields, "from the future"])) == message


def test_only_commands_travel_on_the_data_stream() -> None:
    """Rule 11: what keeps leadership, and the acknowledgements, never wait behind appended data."""
    on_data = {type(message) for message in EXAMPLES if kind_of(message) is StreamKind.DATA}
    assert on_data == {raft.Append, Forward, ForwardReply}


def test_tags_stay_as_they_were_born() -> None:
    tags = {type(message).__name__: msgspec.msgpack.decode(encode_message(message))[0] for message in EXAMPLES}
    assert tags == {name: place for place, name in enumerate(EXAMPLE_IDS, start=1)}


@given(junk=st.binary(max_size=200))
def test_bad_peer_message_rejected(junk: bytes) -> None:
    """F7: whatever a peer's frame holds, it is a message or it is Undecodable."""
    try:
        message = decode_message(junk)
    except Undecodable:
        return
    assert type(message) in typing.get_args(PeerMessage)


@given(
    message=st.sampled_from(EXAMPLES),
    place=st.integers(0, 6),
    value=st.one_of(st.none(), st.integers(-(2**63), 2**64 - 1), st.text(max_size=5), st.floats(), st.just([[]])),
)
def test_bad_peer_message_rejected_with_one_field_wrong(message: PeerMessage, place: int, value: object) -> None:
    """F7: the same, close to a valid message: a field of another type, or a number beyond all sense."""
    fields = msgspec.msgpack.decode(encode_message(message))
    fields[place % len(fields)] = value
    try:
        decoded = decode_message(msgspec.msgpack.encode(fields))
    except Undecodable:
        return
    assert type(decoded) in typing.get_args(PeerMessage)


@pytest.mark.parametrize("junk", [b"", b"\xc1", msgspec.msgpack.encode([99, A, B]), msgspec.msgpack.encode({"a": 1})])
def test_what_is_no_message_is_undecodable(junk: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_message(junk)
    with pytest.raises(Undecodable):
        decode_message(b"\x91" * 5000)  # nested deeper than any parser would follow
