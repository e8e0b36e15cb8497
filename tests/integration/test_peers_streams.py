"""Streams between members, on real sockets: who is let in, what gets through, and what breaks without harm."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace

import msgspec
import pytest
from tests.peer_members import FAST, TestMember, ask, meet, open_raw, running, until

from oarlock.peers.client import OpeningRefused, PeerUnreachable
from oarlock.peers.frames import HEADER, MAX_FRAME_BYTES, encode_frame
from oarlock.peers.hello import HEADER_NAME, HelloKind, Verdict, decode_hello, encode_hello
from oarlock.peers.messages import Forward, ForwardedCommand, StreamKind, encode_message
from oarlock.peers.options import PeerOptions
from oarlock.peers.transport import Transport
from oarlock.raft.messages import Append, Heartbeat
from oarlock.raft.types import Entry, Member


def heartbeat(sender: TestMember, to: TestMember, round_: int = 1) -> Heartbeat:
    return Heartbeat(sender.id, to.id, 1, 0, round_)


def append(sender: TestMember, to: TestMember, data: bytes = b"x", index: int = 2) -> Append:
    return Append(sender.id, to.id, 1, index - 1, 1, 1, (Entry(index, 1, 0, 5, data),))


async def test_three_members_hear_each_other_both_ways() -> None:
    members = a, b, _ = TestMember("a"), TestMember("b"), TestMember("c")
    async with running(*members):
        await meet(*members)
        for sender in members:
            for to in members:
                if to is not sender:
                    assert sender.transport.send(heartbeat(sender, to))
                    assert sender.transport.send(append(sender, to))
        for member in members:
            await until(lambda m=member: len(m.got) == 4, f"{member.name} hears all")
            assert {message.sender for message in member.got} == {m.id for m in members} - {member.id}
            statuses = member.transport.statuses()
            assert [set(status.hears) for status in statuses] == [set(StreamKind)] * 2
            assert [set(status.heard) for status in statuses] == [set(StreamKind)] * 2
        assert a.events == [("connected", peer) for _, peer in a.events]
        assert b.hellos[a.id].peer_url == a.url


async def test_messages_of_a_stream_keep_their_order() -> None:
    a, b = TestMember("a"), TestMember("b")
    async with running(a, b):
        await meet(a, b)
        for index in range(2, 1002):
            assert a.transport.send(append(a, b, bytes(index % 997), index))
        await until(lambda: len(b.got) == 1000, "all arrive")
        assert [message.prev_index for message in b.got] == list(range(1, 1001))


async def test_nothing_without_the_token() -> None:
    """Rule 31 and the admin contract: without the token 401, no state touched, no stream opened back."""
    a, b = TestMember("a"), TestMember("b")
    async with running(b):
        for path in ("/raft/stream?kind=control", "/raft/hello", f"/raft/snapshot/{'0' * 64}", "/raft/nothing"):
            for token in (None, "x", "wrong", "correct hors"):
                response = await ask(b, path, a.hello_to(b, HelloKind.CONTROL), token)
                assert response.status_code == 401
                assert HEADER_NAME not in response.headers  # not even who we are
                assert response.json()["outcome"] == "not_applied"
        assert b.transport.statuses() == []
        assert b.hellos == {}
        assert b.transport.counters.rejected == {"unauthorized": 16}
    wrong = TestMember("w", token="another")
    async with running(wrong, b):
        wrong.transport.set_peers([b.member])
        await until(lambda: wrong.transport.counters.refused["unauthorized"] > 1, "it is refused and tries again")
        assert b.transport.statuses() == []
        with pytest.raises(OpeningRefused) as error:
            await wrong.transport.dial(b.member)
        assert (error.value.status, error.value.code) == (401, "unauthorized")


def test_a_peer_port_without_a_token_is_never_made() -> None:
    with pytest.raises(ValueError, match="token"):
        Transport(local=TestMember("a").identity, token="", judge=TestMember("a").judge, on_message=lambda _: None)


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"cluster_id": "other.1"}, 409, "wrong_cluster"),
        ({"cluster_id": ""}, 409, "wrong_cluster"),
        ({"target_node_id": "b-old"}, 409, "wrong_target"),
        ({"node_id": TestMember("b").id}, 409, "wrong_sender"),
        ({"format_version": 2}, 426, "unknown_format"),
        ({"kind": HelloKind.DATA}, 400, "bad_hello"),
        ({"node_id": ""}, 400, "bad_hello"),
    ],
)
async def test_a_wrong_hello_is_answered_and_changes_nothing(fields: dict[str, object], status: int, code: str) -> None:
    """Rules 15, 16, 31 and 34."""
    a, b = TestMember("a"), TestMember("b")
    async with running(b):
        hello = msgspec.structs.replace(a.hello_to(b, HelloKind.CONTROL), **fields)
        response = await ask(b, "/raft/stream?kind=control", hello)
        assert (response.status_code, response.json()["code"]) == (status, code)
        if status == 409:  # the opener learns whom it has reached
            assert decode_hello(response.headers[HEADER_NAME].encode()).node_id == b.id
        assert b.transport.counters.rejected == {code: 1}
        assert b.transport.statuses() == []
        assert b.hellos == {}


@pytest.mark.parametrize(
    ("path", "hello", "status"),
    [
        ("/raft/stream", HelloKind.CONTROL, 400),
        ("/raft/stream?kind=gossip", HelloKind.CONTROL, 400),
        ("/raft/stream?kind=control", None, 400),
        ("/raft/snapshot/..%2f..%2fetc%2fpasswd", HelloKind.SNAPSHOT, 404),
        ("/raft/", HelloKind.CONTROL, 404),
    ],
)
async def test_bad_requests_get_a_sentence(path: str, hello: HelloKind | None, status: int) -> None:
    a, b = TestMember("a"), TestMember("b")
    async with running(b):
        response = await ask(b, path, a.hello_to(b, hello) if hello else None)
        assert response.status_code == status
        assert response.json()["detail"]
        assert b.transport.statuses() == []


async def test_a_removed_member_is_told_so() -> None:
    """Rule 10: 410 to a tombstoned id, and only that; the streams of one that was merely dropped come back."""
    a, b = TestMember("a"), TestMember("b")
    async with running(a, b):
        await meet(a, b)
        b.verdict = Verdict.REMOVED
        b.transport.set_peers([])
        await until(lambda: ("removed", b.id) in a.events, "a is told")
        assert a.transport.counters.refused["removed"] >= 1
        b.verdict = Verdict.OK
        await until(lambda: b.transport.connected(a.id), "a, no longer refused, is a guest")


async def test_a_removed_member_is_told_so_by_whoever_took_the_place_of_those_it_knew() -> None:
    """An old disk comes back when every member that it knows has been replaced: nobody else would tell it."""
    a, b = TestMember("a"), TestMember("b")
    async with running(a, b):
        old = Member("b-00000000000000ff", b.url, "http://unused:1")
        a.transport.set_peers([old])
        await until(lambda: a.transport.counters.refused["wrong_target"] >= 1, "a looks for who is not there any more")
        assert not [e for e in a.events if e[0] == "removed"]
        b.tombstones.add(a.id)
        await until(lambda: ("removed", b.id) in a.events, "a is told")


async def test_a_member_of_another_cluster_is_told_so() -> None:
    a, b = TestMember("a", cluster_id="other.1"), TestMember("b")
    async with running(a, b):
        a.transport.set_peers([b.member])
        await until(lambda: ("stale", b.id) in a.events, "a is told")
        assert b.transport.statuses() == []


async def test_an_idle_member_answers_a_leader_it_has_never_heard_of() -> None:
    """Rules 16 and 31: it takes the cluster's id from the hello, opens its own streams back, and is heard."""
    leader, idle = TestMember("a"), TestMember("i", cluster_id="")
    async with running(leader, idle):
        answer = await leader.transport.dial(idle.member)
        assert (answer.node_id, answer.cluster_id) == (idle.id, "")
        assert idle.cluster_id == ""  # a question commits it to nothing
        leader.transport.set_peers([idle.member])
        await until(lambda: leader.transport.connected(idle.id), "the idle member opens its streams back")
        await until(lambda: idle.transport.connected(leader.id), "and is opened")
        assert idle.cluster_id == leader.cluster_id
        assert not idle.transport.statuses()[0].configured
        assert leader.transport.send(heartbeat(leader, idle))
        assert idle.transport.send(heartbeat(idle, leader))
        await until(lambda: idle.got and leader.got, "both are heard")
        leader.transport.set_peers([])
        await until(lambda: idle.transport.statuses() == [], "a guest that has gone is forgotten")


async def test_guests_are_bounded() -> None:
    """Rule 33: openers that no configuration names."""
    host = TestMember("h", options=PeerOptions(heartbeat_seconds=0.02, silence_seconds=0.4, max_guests=2))
    guests = [TestMember(f"g{n}") for n in range(3)]
    async with running(host, *guests):
        for guest in guests:
            guest.transport.set_peers([host.member])
        await until(lambda: host.transport.counters.rejected[Verdict.TOO_MANY] > 0, "one is refused")
        assert len(host.transport.statuses()) == 2
        host.transport.set_peers([guest.member for guest in guests])
        for guest in guests:
            await until(lambda g=guest: host.transport.connected(g.id), "a member of the configuration is no guest")


async def test_a_restarted_member_is_found_again() -> None:
    a, b = TestMember("a"), TestMember("b")
    async with running(a):
        await b.start()
        await meet(a, b)
        await b.stop()
        await until(lambda: not a.transport.connected(b.id), "a notices")
        assert not a.transport.send(heartbeat(a, b))
        assert a.transport.counters.dropped["no_stream"] == 1
        await b.start()
        b.transport.set_peers([a.member])
        await until(lambda: a.transport.connected(b.id) and b.transport.connected(a.id), "they meet again")
        assert [event for event, _ in a.events] == ["connected", "disconnected", "connected"]
        assert a.transport.counters.reconnects >= 2
        await b.stop()


async def test_forwarding_never_retries_without_session() -> None:
    """X5, rule 8: what was queued for a stream that broke is lost with it; the next stream does not send it again."""
    a, b = TestMember("a"), TestMember("b")
    async with running(a):
        await b.start()
        await meet(a, b)
        await b.stop()
        # Before a's loop has noticed, or after: the message is taken by the dead stream, or refused. Never kept.
        a.transport.send(Forward(a.id, b.id, 1, (ForwardedCommand(b"put"),)))
        await b.start()
        b.transport.set_peers([a.member])
        second = Forward(a.id, b.id, 2, (ForwardedCommand(b"put"),))
        await until(lambda: a.transport.send(second), "they meet again")
        await until(lambda: b.got, "the next one arrives")
        assert [message.request for message in b.got] == [2]
        await b.stop()


async def test_a_forward_leaves_only_where_its_answer_can_come_back() -> None:
    """A member that has restarted hears us before we hear it: what it answered then would be lost."""
    a, b = TestMember("a"), TestMember("b")
    forward = Forward(a.id, b.id, 1, (ForwardedCommand(b"put"),))
    async with running(a, b):
        b.verdict = Verdict.NOT_READY  # of whoever wants to hear b; b itself hears a
        a.transport.set_peers([b.member])
        b.transport.set_peers([a.member])
        await until(lambda: a.transport.connected(b.id), "b hears a")
        assert a.transport.send(append(a, b)), "what needs no answer on that stream leaves"
        assert not a.transport.send(forward)
        b.verdict = Verdict.OK
        await until(lambda: b.transport.connected(a.id), "a hears b")
        await until(lambda: a.transport.send(forward), "the way back is open")
        await until(lambda: forward in b.got, "it arrives")


async def test_the_end_of_the_way_back_is_told() -> None:
    """Who waits for an answer to a forward need not wait for its time-out."""
    a, b = TestMember("a"), TestMember("b")
    async with running(a, b):
        await meet(a, b)
        a.events.clear()
        response = await ask(b, "/raft/stream?kind=data", a.hello_to(b, HelloKind.DATA))
        assert response.status_code == 200
        await until(lambda: a.unheard == [b.id], "another has taken a's stream")
        assert ("disconnected", b.id) not in a.events, "b hears a as before"


async def test_an_opening_to_the_ip_that_a_peer_has_left_is_given_up() -> None:
    """A restarted pod has another IP, and at the old one nobody answers: the new one is tried at once."""
    a, b = TestMember("a", options=replace(FAST, dial_timeout_seconds=60.0)), TestMember("b", ip="127.0.0.3")
    async with running(a, b):
        b.peer_url = f"http://b.invalid:{b.port}"
        with socket.create_server(("127.0.0.3", b.port)) as silent:  # takes connections, and never says a word
            await ask(a, "/raft/stream?kind=control", b.hello_to(a, HelloKind.CONTROL))
            a.transport.set_peers([b.member])
            silent.settimeout(10)
            held = [(await asyncio.to_thread(silent.accept))[0] for _ in StreamKind]
            b.ip = "127.0.0.1"
            b.transport.set_peers([a.member])
            await until(lambda: b.transport.connected(a.id), "a calls the new IP")
            for connection in held:
                connection.close()


async def test_the_ip_of_a_hello_is_tried_before_a_name_without_an_address() -> None:
    """A member whose name DNS does not know (yet) is found by the IP that its hello gave."""
    a, b = TestMember("a"), TestMember("b")
    async with running(a):
        await b.start()
        b.peer_url = f"http://b.invalid:{b.port}"
        with pytest.raises(PeerUnreachable):
            await a.transport.dial(b.member)
        a.transport.set_peers([b.member])
        b.transport.set_peers([a.member])
        await until(lambda: a.transport.connected(b.id) and b.transport.connected(a.id), "b's hello brings its IP")
        assert (await a.transport.dial(b.member)).node_id == b.id
        await b.stop()


async def test_two_members_without_addresses_in_dns_find_each_other_by_a_third() -> None:
    """Two pods that were restarted one after the other know each other's old address, and may know it for 30 s."""
    a, b, c = TestMember("a"), TestMember("b"), TestMember("c")
    async with running(a, b, c):
        for member in (b, c):
            member.peer_url = f"http://{member.name}.invalid:{member.port}"
        for one, others in ((b, (a, c)), (c, (a, b))):
            one.transport.set_peers([other.member for other in others])
        a.transport.set_peers([b.member, c.member])
        await until(lambda: b.transport.connected(c.id) and c.transport.connected(b.id), "a tells where they are")


async def test_what_a_third_says_is_not_believed_of_a_member_that_is_heard() -> None:
    a, b, c = TestMember("a"), TestMember("b"), TestMember("c")
    async with running(a, b, c):
        a.transport.set_peers([b.member, c.member])
        b.transport.set_peers([a.member, c.member])
        c.transport.set_peers([a.member, b.member])
        await until(lambda: all(x.transport.connected(y.id) for x in (a, b, c) for y in (a, b, c) if x is not y), "all")
        told = msgspec.structs.replace(c.hello_to(a, HelloKind.DATA), known={b.id: "127.0.0.9"})
        assert (await ask(a, "/raft/stream?kind=data", told)).status_code == 200
        assert a.hellos[c.id].known == told.known
        assert a.transport.addresses_of(b.id)[0].connect_to == b.ip


async def test_another_member_on_a_known_ip_is_passed_over() -> None:
    """Pods get each other's old addresses: the name is tried when the IP's owner says that it is somebody else."""
    a, b, squatter = TestMember("a"), TestMember("b", ip="127.0.0.2"), TestMember("s")
    async with running(a, b):
        squatter.port = b.port
        a.transport.set_peers([b.member])
        b.transport.set_peers([a.member])
        # 127.0.0.2 refuses connections (b listens on 127.0.0.1 alone): the name must be tried next.
        await until(lambda: a.transport.connected(b.id) and b.transport.connected(a.id), "the name works")
        with pytest.raises(OpeningRefused) as error:
            await a.transport.dial(Member(squatter.id, squatter.url, ""))
        assert error.value.code == "wrong_target"
        assert error.value.hello is not None
        assert error.value.hello.node_id == b.id


async def test_the_newest_stream_replaces_the_one_before() -> None:
    a, b = TestMember("a"), TestMember("b")
    async with running(a, b):
        await meet(a, b)
        response = await ask(a, "/raft/stream?kind=data", b.hello_to(a, HelloKind.DATA))
        assert response.status_code == 200
        await until(lambda: a.transport.counters.streams_accepted >= 4, "b, whose stream ended, comes back")
        await until(lambda: a.transport.connected(b.id), "and is connected")
        assert ("disconnected", b.id) in a.events
        assert a.transport.send(append(a, b))
        await until(lambda: b.got, "it is heard on the newest stream")


async def test_a_pause_of_this_process_is_no_silence_of_its_peers() -> None:
    """Rule 11: after a late wake-up what waits in the sockets is heard before anybody's silence is judged."""
    a, b = TestMember("a"), TestMember("b")
    async with running(a, b):
        await meet(a, b)
        await asyncio.sleep(0.1)
        for _ in range(3):
            time.sleep(FAST.silence_seconds * 2)  # noqa: ASYNC251  the loop itself is what stops
            await asyncio.sleep(FAST.heartbeat_seconds * 2)
        assert a.transport.connected(b.id)
        assert b.transport.connected(a.id)
        for member in (a, b):
            counters = member.transport.counters
            assert (counters.streams_silent, counters.streams_stalled, counters.reconnects) == (0, 0, 0)


async def test_an_idle_stream_costs_one_empty_frame_each_heartbeat() -> None:
    a, b = TestMember("a"), TestMember("b")
    async with running(a, b):
        await meet(a, b)
        before = b.transport.counters.bytes_received
        await asyncio.sleep(FAST.silence_seconds * 3)
        received = b.transport.counters.bytes_received - before
        ticks = FAST.silence_seconds * 3 / FAST.heartbeat_seconds
        assert 8 * 2 * ticks / 4 < received < 8 * 2 * ticks * 2
        assert b.transport.counters.frames_received == 0
        assert b.transport.counters.streams_silent == 0


# --- peers that misbehave -------------------------------------------------------------------------------------------


class Impostor:
    """A listening socket that plays a member: `play` writes what it likes after the request has come."""

    def __init__(self, play: Callable[["Impostor", asyncio.StreamWriter], object] | None) -> None:
        self.me = TestMember("x")
        self.openings = 0
        self._play = play
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Impostor":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.me.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.request = await reader.readuntil(b"\r\n\r\n")
        self.openings += 1
        if self._play is not None:
            self._play(self, writer)
        with suppress(ConnectionError):
            await reader.read()  # until the opener gives up
        writer.close()

    def head(self, status: str = "200 OK", more: bytes = b"") -> bytes:
        hello = encode_hello(self.me.hello_to(TestMember("a"), HelloKind.HELLO))
        return b"HTTP/1.1 %s\r\n%s: %s\r\n%s\r\n" % (status.encode(), HEADER_NAME.encode(), hello, more)


@pytest.fixture
async def a() -> AsyncIterator[TestMember]:
    member = TestMember("a")
    async with running(member):
        yield member


async def test_blackholed_response_recovers(a: TestMember) -> None:
    """F4: a peer that takes the connection and never answers, then one that falls silent, then a sound one."""
    async with Impostor(None) as swallower:
        a.transport.set_peers([swallower.me.member])
        await until(lambda: a.transport.counters.dial_failures >= 3, "it gives up and tries again")
        with pytest.raises(PeerUnreachable, match="no answer"):
            await a.transport.dial(swallower.me.member)
        port = swallower.me.port
    a.transport.set_peers([])

    def greet_and_fall_silent(impostor: Impostor, writer: asyncio.StreamWriter) -> None:
        writer.write(impostor.head() + bytes(8))

    async with Impostor(greet_and_fall_silent) as mute:
        a.transport.set_peers([mute.me.member])
        await until(lambda: a.transport.counters.streams_silent >= 3, "silence closes the stream, again and again")
        assert "silent" in a.transport.statuses()[0].last_failure
    sound = TestMember("x", port=port)
    async with running(sound):
        a.transport.set_peers([sound.member])
        sound.transport.set_peers([a.member])
        await until(lambda: a.transport.connected(sound.id) and sound.transport.connected(a.id), "the network heals")


async def test_a_peer_that_takes_nothing_loses_its_stream(a: TestMember) -> None:
    """F4, rule 33: the window fills, sends are dropped, the hanging write ends within the silence allowed."""
    b = TestMember("b")
    _, writer = await open_raw(a, "/raft/stream?kind=data", b.hello_to(a, HelloKind.DATA))
    await until(lambda: a.transport.statuses(), "the stream is open")
    while a.transport.send(append(a, b, bytes(256 * 1024))):
        assert a.transport.statuses()[0].queued_bytes <= FAST.data_window_bytes
        await asyncio.sleep(0)
    assert a.transport.counters.dropped == {"window": 1}
    await until(lambda: a.transport.counters.streams_stalled == 1, "the write is given up")
    await until(lambda: a.transport.statuses() == [], "the guest is forgotten")
    writer.close()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (HEADER.pack(MAX_FRAME_BYTES + 1, 0), "oversized"),
        (HEADER.pack(2**32 - 1, 2**32 - 1), "oversized"),
        (HEADER.pack(5, 12345) + b"hello", "damaged"),
        (b"\x00garbage that is no frame at all, and long enough", "oversized"),
    ],
)
async def test_peer_body_limits(a: TestMember, body: bytes, reason: str) -> None:
    """F5, rule 31: a frame that is too long or damaged costs the peer its stream, and is counted."""

    def play(impostor: Impostor, writer: asyncio.StreamWriter) -> None:
        writer.write(impostor.head() + encode_frame(encode_message(heartbeat(impostor.me, a))) + body)

    async with Impostor(play) as impostor:
        a.transport.set_peers([impostor.me.member])
        await until(lambda: a.transport.counters.rejected[reason] >= 2, "refused, and opened anew")
        await until(lambda: a.transport.counters.reconnects >= 2, "the stream was closed")
        assert impostor.openings >= 2


async def test_peer_body_limits_of_an_answer(a: TestMember) -> None:
    """F5: a head without an end, and a refusal without an end, are cut off."""

    def endless_head(_: Impostor, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"x-filler: " + b"y" * 100_000)

    def endless_refusal(impostor: Impostor, writer: asyncio.StreamWriter) -> None:
        writer.write(impostor.head("409 Conflict", b"content-length: 1000000000\r\n") + b" " * 100_000)

    async with Impostor(endless_head) as impostor:
        a.transport.set_peers([impostor.me.member])
        await until(lambda: "a head of more than" in a.transport.statuses()[0].last_failure, "the head is cut off")
    async with Impostor(endless_refusal) as impostor:
        a.transport.set_peers([impostor.me.member])
        await until(lambda: a.transport.counters.refused["http_409"] >= 1, "the refusal is cut off")
        with pytest.raises(OpeningRefused):
            await a.transport.dial(impostor.me.member)


async def test_bad_peer_message_rejected(a: TestMember) -> None:
    """F7: a whole frame without a message, or with somebody else's, is dropped and counted; the stream goes on."""
    b = TestMember("b")

    def play(impostor: Impostor, writer: asyncio.StreamWriter) -> None:
        x = impostor.me
        messages = [
            b"\xc1 no msgpack",
            msgspec.msgpack.encode([99, x.id, a.id, "a message from the future"]),
            msgspec.msgpack.encode([7, x.id, a.id, "one", None, []]),
            encode_message(heartbeat(b, a)),  # b's, by x
            encode_message(heartbeat(x, b)),  # to b
            encode_message(append(x, a) if b"kind=control" in impostor.request else heartbeat(x, a)),
            encode_message(Heartbeat(x.id, a.id, 2**63, 2**64 - 1, -(2**63))),  # absurd, but a message: the core's
        ]
        writer.write(impostor.head() + b"".join(map(encode_frame, messages)))

    async with Impostor(play) as impostor:
        a.transport.set_peers([impostor.me.member])
        await until(lambda: a.got, "the stream goes on")
        rejected = a.transport.counters.rejected
        await until(lambda: rejected["undecodable"] >= 6, "both streams are read")
        assert rejected["misaddressed"] >= 3  # a control message to b is wrong twice on the data stream, counted once
        assert rejected["wrong_stream"] >= 4  # an append among control, three heartbeats among data
        assert {type(message) for message in a.got} == {Heartbeat}


async def test_an_answer_of_somebody_else_is_no_stream(a: TestMember) -> None:
    """A web server, a wrong member that says 200, a redirect: none of them is believed."""

    def other_member(impostor: Impostor, writer: asyncio.StreamWriter) -> None:
        hello = encode_hello(TestMember("y").hello_to(a, HelloKind.HELLO))
        writer.write(b"HTTP/1.1 200 OK\r\n%s: %s\r\n\r\n" % (HEADER_NAME.encode(), hello))

    def web_server(_: Impostor, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")

    def redirect(_: Impostor, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n")

    def smtp(_: Impostor, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")

    for play, error in (
        (other_member, OpeningRefused),
        (web_server, PeerUnreachable),
        (redirect, OpeningRefused),
        (smtp, PeerUnreachable),
    ):
        async with Impostor(play) as impostor:
            with pytest.raises(error):
                await a.transport.dial(impostor.me.member)
            openings = impostor.openings
            a.transport.set_peers([impostor.me.member])
            await until(lambda i=impostor, n=openings: i.openings >= n + 4, "tried, refused, tried again")
            assert a.transport.counters.streams_opened == 0
            a.transport.set_peers([])
