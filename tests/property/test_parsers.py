"""Everything that is read from outside: whatever the bytes are, a value or the error that is declared, within bounds.

Bytes are made of valid ones, bent: bits flipped, cut, doubled, joined. Pure noise never gets past a magic number.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from oarlock.api import parsing
from oarlock.api.limits import Limits
from oarlock.api.problems import ApiError
from oarlock.kv.commands import decode_operation, encode_delete, encode_put
from oarlock.machine.command import Batch, Command, decode_batch, encode_batch
from oarlock.peers.frames import FrameError, FrameReader, encode_frame
from oarlock.peers.hello import BadHello, Hello, HelloKind, decode_hello, encode_hello
from oarlock.peers.messages import Undecodable, decode_message, encode_message
from oarlock.peers.snapshot_serve import answer_range
from oarlock.raft.configurations import encode, placed_of
from oarlock.raft.errors import RemoteError
from oarlock.raft.messages import Append, SnapshotOffer, Vote
from oarlock.raft.types import Configuration, Entry, EntryKind, HardState, Member, PlacedConfiguration, SnapshotMeta
from oarlock.storage.errors import Corrupt, NewerFormat
from oarlock.storage.frame import (
    ORIGIN,
    Frame,
    Position,
    decode_frame,
    decode_header,
    encode_header,
    encode_payload,
    headers_after,
)
from oarlock.storage.identity import Identity, decode_identity, encode_identity
from oarlock.storage.segment import decode_segment_header, encode_segment_header
from oarlock.storage.snapshots import decode_meta, encode_meta
from oarlock.wire.admin import (
    BootstrapRequest,
    ConfigurationRequest,
    MemberModel,
    NotesRequest,
    ResetRequest,
    TransferRequest,
)

MEMBER = Member("a-00000000000000ff", "http://a:2380", "http://a:2379")
PLACED = PlacedConfiguration(3, 1, Configuration((MEMBER,)))
META = SnapshotMeta(7, 2, 1000, PLACED, 1, 4096, "0" * 64)
ENTRY = Entry(8, 2, 0, 1001, encode_batch(Batch(5, (Command(encode_put(b"key", b"value"), "idem", bytes(16)),))))
HELLO = Hello(1, "c+1", MEMBER.id, MEMBER.peer_url, "10.0.0.1", "b-00000000000000fe", 1, HelloKind.DATA)
NONCE = bytes(range(16))
MOST_BYTES = 8 << 20


def wal_bytes() -> bytes:
    payload = encode_payload(Frame(HardState(2, MEMBER.id, 7), (ENTRY,), META))
    header, _ = encode_header(NONCE, Position(1, 64), ORIGIN, ORIGIN, 0, Frame(HardState(2), (ENTRY,)), False, payload)
    return bytes(64) + header + payload


def read_wal(data: bytes) -> None:
    header = decode_header(data, 64, 1, NONCE)
    if header is not None:
        decode_frame(data, header)
    headers_after(data, 0, 1, NONCE)


def read_configuration(data: bytes) -> None:
    placed_of(Entry(9, 2, EntryKind.CONFIGURATION, 1001, data))


def read_query(data: bytes) -> None:
    parameters = parsing.parse_query(data, frozenset({"limit", "key_b64", "prefix"}))
    parsing.number(parameters, "limit", 1, 1000)
    parsing.key_of(b"/v1/kv/" + data, b"/v1/kv/", parameters, Limits())


def read_headers(data: bytes) -> None:
    for parse in (parsing.idempotency_key, parsing.request_id, parsing.content_length):
        parse(data)
    parsing.parse_etag(data, "If-Match")


VOTER = MemberModel(id=MEMBER.id, peer_url=MEMBER.peer_url, client_url=MEMBER.client_url)
REQUESTS: dict[str, BaseModel] = {
    "bootstrap": BootstrapRequest(request_id="r", cluster_id="ns/name", min_voters=3),
    "change": ConfigurationRequest(voters=[VOTER], learners=[VOTER], if_config="7.2"),
    "transfer": TransferRequest(target=MEMBER.id),
    "reset": ResetRequest(request_id="r", node_id=MEMBER.id),
    "notes": NotesRequest(pod_uid="p", volume_uid="v"),
}


def read_request(model: type[BaseModel]) -> Callable[[bytes], object]:
    """As the admin application does, which answers 400 to all of what `REFUSED` names."""
    return lambda data: model.model_validate(json.loads(data))


REFUSED = (ValueError, RecursionError)  # no JSON, or not of the model; nested too deeply


PARSERS: dict[str, tuple[bytes, Callable[[bytes], object], tuple[type[Exception], ...]]] = {
    "frames": (encode_frame(b"x" * 50) + encode_frame(b"y"), lambda data: FrameReader().feed(data), (FrameError,)),
    "append": (encode_message(Append("a", "b", 2, 7, 2, 7, (ENTRY,))), decode_message, (Undecodable,)),
    "vote": (encode_message(Vote("a", "b", 2, 7, 2, False)), decode_message, (Undecodable,)),
    "offer": (encode_message(SnapshotOffer("a", "b", 2, META)), decode_message, (Undecodable,)),
    "hello": (encode_hello(HELLO), decode_hello, (BadHello,)),
    "range": (b"bytes=0-99", lambda data: answer_range(1000, "d", None, data.decode("latin-1")), ()),
    "log": (wal_bytes(), read_wal, ()),
    "segment": (encode_segment_header(3, NONCE), lambda d: decode_segment_header(d, 3), (Corrupt, NewerFormat)),
    "snapshot": (encode_meta(META), decode_meta, (Corrupt, NewerFormat)),
    "identity": (encode_identity(Identity(name="a", node_id=MEMBER.id)), decode_identity, (Corrupt, NewerFormat)),
    "batch": (ENTRY.data, decode_batch, (msgspec.DecodeError, UnicodeDecodeError)),
    "configuration": (encode(PLACED.configuration), read_configuration, (RemoteError,)),
    "operation": (encode_delete(b"key", 3), decode_operation, (msgspec.DecodeError,)),
    "query": (b"limit=10&prefix=%61", read_query, (ApiError,)),
    "headers": (b'"123"', read_headers, (ApiError,)),
    **{
        f"admin {name}": (request.model_dump_json().encode(), read_request(type(request)), REFUSED)
        for name, request in REQUESTS.items()
    },
}

bends = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.integers(0, 10_000), st.integers(0, 7)),
        st.tuples(st.just("cut"), st.integers(0, 10_000), st.just(0)),
        st.tuples(st.just("put"), st.integers(0, 10_000), st.integers(0, 255)),
        st.tuples(st.just("join"), st.integers(0, 10_000), st.just(0)),
        st.tuples(st.just("grow"), st.integers(0, 10_000), st.integers(0, 255)),
    ),
    max_size=6,
)


def bent(data: bytes, how: list[tuple[str, int, int]]) -> bytes:
    made = bytearray(data)
    for kind, at, with_ in how:
        place = at % len(made) if made else 0
        if kind == "flip" and made:
            made[place] ^= 1 << with_
        elif kind == "cut":
            del made[place:]
        elif kind == "put" and made:
            made[place] = with_
        elif kind == "join":
            made += data[place:]
        elif kind == "grow":
            made[place:place] = bytes([with_]) * (at % 300)
    return bytes(made)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=400, deadline=None)
@given(how=bends, noise=st.one_of(st.none(), st.binary(max_size=200)))
def test_a_parser_answers_whatever_it_is_given(name: str, how: list[tuple[str, int, int]], noise: bytes | None) -> None:
    """Rules 31 and 33; pitfall F7: nothing that is sent crashes a member or makes it take memory without bound."""
    data, parse, declared = PARSERS[name]
    tracemalloc.start()
    try:
        parse(bent(data, how) if noise is None else noise)
    except declared:
        pass
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < MOST_BYTES


@pytest.mark.parametrize("name", PARSERS)
def test_what_is_bent_was_sound_before(name: str) -> None:
    """Else the property above would hold of a parser that refuses everything."""
    data, parse, _ = PARSERS[name]
    if name not in ("query", "headers"):  # which read one text as many things
        parse(data)


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=300), how=bends)
def test_the_store_answers_any_payload(payload: bytes, how: list[tuple[str, int, int]]) -> None:
    """A command that makes no sense is INVALID on every member, and changes nothing (machine.protocol)."""
    import tempfile

    from tests.state_driver import Driver

    from oarlock.kv import KvMachine

    with tempfile.TemporaryDirectory() as directory:
        driver = Driver(Path(directory) / "state.mdb", KvMachine())
        driver.commands(payload, bent(encode_put(b"k", b"v"), how), encode_put(b"after", b"all"))
        assert driver.environment.applied.index == len(driver.entries)
