"""Everything that is read from outside: whatever the bytes are, a value or the error that is declared, within bounds.

Bytes are made of valid ones, bent: bits flipped, cut, doubled, joined. Pure noise never gets past a magic number.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from tests.state_driver import Driver
from tests.unit.test_peers_messages import EXAMPLE_IDS, EXAMPLES

from oarlock.api import kv_app, kv_list, parsing
from oarlock.api.limits import Limits
from oarlock.api.problems import ApiError
from oarlock.kv import KvMachine
from oarlock.kv.commands import decode_operation, encode_delete, encode_put
from oarlock.machine import UnknownEntry
from oarlock.machine.command import Batch, Command, decode_batch, encode_batch
from oarlock.peers.asgi import _stream_kind
from oarlock.peers.client import Address, _refused
from oarlock.peers.frames import FrameError, FrameReader, encode_frame
from oarlock.peers.hello import BadHello, Hello, HelloKind, decode_hello, encode_hello
from oarlock.peers.incoming import Link
from oarlock.peers.messages import PeerMessage, StreamKind, Undecodable, decode_message, encode_message, kind_of
from oarlock.peers.options import PeerCounters, PeerOptions
from oarlock.peers.snapshot_serve import answer_range
from oarlock.peers.stream_client import StreamBroken, StreamConnection
from oarlock.raft.configurations import encode, placed_of
from oarlock.raft.errors import RemoteError
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


QUERY_READERS: dict[str, Callable[[Mapping[str, bytes]], object]] = {
    "limit": lambda given: parsing.number(given, "limit", 1, 1000),
    "revision": lambda given: parsing.number(given, "revision", 1, parsing.MAX_REVISION),
    "consistency": parsing.stale_allowed,
    "key_b64": lambda given: parsing.key_of(b"/v1/kv", b"/v1/kv", given, Limits()),
    **{name: partial(parsing.flag, name=name) for name in ("keys_only", "count_only", "redirect", "idempotent")},
    "prefix": lambda given: given.get("prefix"),
    "after": lambda given: given.get("after"),
}


def read_query(data: bytes) -> None:
    """Each parameter by itself, so that one that is refused hides no other; the first refusal is raised."""
    given, refusals = parsing.parse_query(data, frozenset(QUERY_READERS)), []
    for read in QUERY_READERS.values():
        try:
            read(given)
        except ApiError as error:
            refusals.append(error)
    assert {(error.status, error.code) for error in refusals} <= DOCUMENTED, refusals
    if refusals:
        raise refusals[0]


DOCUMENTED = {(400, "invalid_argument"), (400, "empty_key"), (413, "request_too_large")}


def read_key(data: bytes) -> None:
    parsing.key_of(data, b"/v1/kv", {}, Limits())


QUERY = (
    b"limit=10&prefix=%61&revision=3&consistency=stale&after=b+c&keys_only=true&count_only&redirect=false"
    b"&idempotent=true&key_b64=YQ=="
)


def read_headers(data: bytes) -> None:
    for parse in (parsing.idempotency_key, parsing.request_id, parsing.content_length):
        parse(data)
    parsing.parse_etag(data, "If-Match")


ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"10\r\n" + encode_frame(b"8 bytes!") + b"\r\n9\r\n" + encode_frame(b"y") + b"\r\n0\r\n\r\n"
)
REFUSAL = b'{"type":"about:blank","title":"Gone","status":410,"detail":"it was removed","code":"removed"}'


class NoTransport(asyncio.Transport):
    """Of a connection whose bytes are handed to it by hand."""

    def write(self, data: object) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


def read_answer(data: bytes) -> None:
    """As a socket hands it over, in two pieces, and then ends."""

    async def hear(connection: StreamConnection) -> None:
        await connection.head()
        await connection.read(lambda piece: FrameReader().feed(piece) and None)

    async def play() -> None:
        connection = StreamConnection(b"")
        connection.connection_made(NoTransport())
        hearing = asyncio.create_task(hear(connection))
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            connection.data_received(piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        connection.connection_lost(None)
        await hearing

    asyncio.run(play())


def read_refusal(data: bytes) -> None:
    refusal = _refused(410, data, None)
    assert refusal.status == 410
    assert refusal.code


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
    **{
        f"message {name}": (encode_message(message), decode_message, (Undecodable,))
        for name, message in zip(EXAMPLE_IDS, EXAMPLES, strict=True)
    },
    "answer": (ANSWER, read_answer, (StreamBroken, FrameError)),
    "refusal": (REFUSAL, read_refusal, ()),
    "kind": (b"kind=control", _stream_kind, ()),
    "hello": (encode_hello(HELLO), decode_hello, (BadHello,)),
    "range": (b"bytes=0-99", lambda data: answer_range(1000, "d", None, data.decode("latin-1")), ()),
    "log": (wal_bytes(), read_wal, ()),
    "segment": (encode_segment_header(3, NONCE), lambda d: decode_segment_header(d, 3), (Corrupt, NewerFormat)),
    "snapshot": (encode_meta(META), decode_meta, (Corrupt, NewerFormat)),
    "identity": (encode_identity(Identity(name="a", node_id=MEMBER.id)), decode_identity, (Corrupt, NewerFormat)),
    "batch": (ENTRY.data, decode_batch, (msgspec.DecodeError, UnicodeDecodeError, RecursionError)),
    "configuration": (encode(PLACED.configuration), read_configuration, (RemoteError,)),
    "operation": (encode_delete(b"key", 3), decode_operation, (msgspec.DecodeError, RecursionError)),
    "query": (QUERY, read_query, (ApiError,)),
    "key": (b"/v1/kv/a%2Fb/c", read_key, (ApiError,)),
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
    if name != "headers":  # which reads one text as many things
        parse(data)


def test_every_parameter_of_a_query_is_bent() -> None:
    """What the routes of keys know; those of the framework's routes are asked in test_queries.py."""
    known = kv_app.GET_PARAMETERS | kv_app.PUT_PARAMETERS | kv_app.DELETE_PARAMETERS | kv_list.PARAMETERS
    assert set(QUERY_READERS) == set(parsing.parse_query(QUERY, known)) == known


NESTED = b"\x91" * 200_000 + b"\x90"  # deeper than any parser of any Python follows
NESTED_JSON = b"[" * 200_000 + b"]" * 200_000


def with_a_field_more(data: bytes) -> Iterator[bytes]:
    """As a newer member may write it (rule 34), but that the new field holds arrays within arrays."""
    if 0x90 <= data[0] < 0x9F:
        yield bytes([data[0] + 1]) + data[1:] + NESTED
    if data.startswith(b"{"):
        yield data[:-1] + b',"more":' + NESTED_JSON + b"}"


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_answers_what_is_nested_too_deeply(name: str) -> None:
    """No chance bend comes upon it."""
    data, parse, declared = PARSERS[name]
    for nested in (NESTED, NESTED_JSON, *with_a_field_more(data)):
        with suppress(*declared):
            parse(nested)


def test_a_refusal_is_counted_under_a_word_of_ours() -> None:
    """Whoever listens at a peer's address answers what it likes: the counters by code must not grow by it (rule 33)."""
    codes = {_refused(410, b'{"code":"%d"}' % n, None).code for n in range(100)}
    assert len(codes) == 1


# --- streams of peers


class Owner:
    """Holds one link, and a stream for it that brings `data` and then ends."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.client = self
        self.options, self.counters, self.rng = PeerOptions(), PeerCounters(), Random(1)
        self.delivered: list[PeerMessage] = []
        self.ended = asyncio.Event()

    @asynccontextmanager
    async def open_stream(self, address: Address, path: str, hello: Hello) -> AsyncIterator[tuple[Owner, Hello]]:
        yield self, msgspec.structs.replace(hello, node_id=hello.target_node_id)

    async def read(self, on_chunk: Callable[[bytes], None]) -> None:
        on_chunk(self.data)

    def hello_for(self, peer: str, kind: HelloKind) -> Hello:
        return msgspec.structs.replace(HELLO, target_node_id=peer, kind=kind)

    def addresses_of(self, peer: str) -> list[Address]:
        return [Address("http://a:1", "a", 1, "a:1", "a")]

    def deliver(self, message: PeerMessage) -> None:
        self.delivered.append(message)

    def heard_hello(self, hello: Hello) -> None:
        pass

    def unheard(self, peer: str, kind: StreamKind) -> None:
        self.ended.set()


async def hear(data: bytes, peer: str, kind: StreamKind) -> tuple[PeerCounters, list[PeerMessage]]:
    owner = Owner(data)
    link = Link(owner, peer, kind)  # type: ignore[arg-type]
    link.start()
    await owner.ended.wait()
    await asyncio.gather(link.stop(), return_exceptions=True)
    return owner.counters, owner.delivered


def test_a_bent_stream_is_delivered_or_counted() -> None:
    """A message that does not reach the core is counted by its reason, and so is a frame that ends the stream."""
    seen: Counter[str] = Counter()
    peer = EXAMPLES[0].sender

    @settings(max_examples=400, deadline=None, derandomize=True)
    @given(message=st.sampled_from(EXAMPLES), kind=st.sampled_from(StreamKind), how=bends, inside=st.booleans())
    def streams(message: PeerMessage, kind: StreamKind, how: list[tuple[str, int, int]], inside: bool) -> None:
        payload = encode_message(message)
        data = encode_frame(bent(payload, how)) if inside else bent(encode_frame(payload), how)
        try:
            frames, broken = len(FrameReader().feed(data)), ""
        except FrameError as error:
            frames, broken = 0, error.code
        counters, delivered = asyncio.run(hear(data, peer, kind))
        rejected = counters.rejected
        assert counters.frames_received == frames
        lost = sum(rejected[reason] for reason in ("undecodable", "misaddressed", "wrong_stream"))
        assert len(delivered) + lost == frames
        assert rejected.total() - lost == rejected[broken] == bool(broken)
        assert all((one.sender, kind_of(one)) == (peer, kind) for one in delivered)
        seen.update(rejected)
        seen["delivered"] += len(delivered)

    streams()
    reasons = {"oversized", "damaged", "undecodable", "misaddressed", "wrong_stream", "delivered"}
    assert reasons == {what for what, times in seen.items() if times}, seen


# --- what the log holds

ENTRIES = {
    EntryKind.COMMANDS: ENTRY.data,
    EntryKind.CONFIGURATION: encode(PLACED.configuration),
    EntryKind.VERSION: msgspec.msgpack.encode(1),
    EntryKind.NOOP: MEMBER.id.encode(),
}


def apply_entry(kind: int, data: bytes) -> bool:
    """Was it applied? Else it was found unknown, and the state is as it was."""
    with tempfile.TemporaryDirectory() as directory:
        driver = Driver(Path(directory) / "state.mdb", KvMachine())
        try:
            driver.noop()
            before = driver.environment.applied, driver.environment.state_hash
            try:
                driver.apply([driver.entry(kind, data)])
            except UnknownEntry:
                assert (driver.environment.applied, driver.environment.state_hash) == before
                return False
            assert driver.environment.applied.index == 2
            return True
        finally:
            driver.close()


@pytest.mark.parametrize("kind", EntryKind)
@settings(max_examples=60, deadline=None)
@given(how=bends)
def test_an_entry_is_applied_or_unknown(kind: EntryKind, how: list[tuple[str, int, int]]) -> None:
    """Rule 34: what this member cannot read stops it before the entry, with nothing changed."""
    apply_entry(kind, bent(ENTRIES[kind], how))


@pytest.mark.parametrize("kind", EntryKind)
def test_an_entry_that_is_bent_was_sound_before(kind: EntryKind) -> None:
    assert apply_entry(kind, ENTRIES[kind])


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        pytest.param(EntryKind.COMMANDS, NESTED, id="no batch"),
        pytest.param(EntryKind.VERSION, NESTED, id="no version"),
        *(pytest.param(EntryKind.COMMANDS, data, id="batch") for data in with_a_field_more(ENTRY.data)),
        *(
            pytest.param(EntryKind.CONFIGURATION, data, id="configuration")
            for data in with_a_field_more(encode(PLACED.configuration))
        ),
        *(
            pytest.param(EntryKind.COMMANDS, encode_batch(Batch(5, (Command(data),))), id="operation")
            for data in with_a_field_more(encode_delete(b"key", 3))
        ),
    ],
)
def test_an_entry_that_is_nested_too_deeply_is_applied_or_unknown(kind: EntryKind, data: bytes) -> None:
    apply_entry(kind, data)


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=300), how=bends)
def test_the_store_answers_any_payload(payload: bytes, how: list[tuple[str, int, int]]) -> None:
    """A command that makes no sense is INVALID on every member, and changes nothing (machine.protocol)."""
    with tempfile.TemporaryDirectory() as directory:
        driver = Driver(Path(directory) / "state.mdb", KvMachine())
        driver.commands(payload, bent(encode_put(b"k", b"v"), how), encode_put(b"after", b"all"))
        assert driver.environment.applied.index == len(driver.entries)
