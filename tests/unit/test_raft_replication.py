"""Replication and the log: pitfalls L1 to L15, F1 and F7 (paper 5.3, thesis 10.2)."""

from __future__ import annotations

import random

import pytest
from tests.raft_cluster import Cluster, configuration, first_entry, node_id
from tests.raft_solo import Solo, change_entry, command, only, snapshot_meta

from oarlock.raft.errors import Busy, InvariantViolated, LocalError
from oarlock.raft.invariants import check_basic, check_delta, glimpse
from oarlock.raft.log import Log
from oarlock.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    PreVote,
    PreVoteReply,
    ReadIndex,
    ReadIndexReply,
    SnapshotOffer,
    SnapshotRefusal,
    TimeoutNow,
    Vote,
    VoteReply,
)
from oarlock.raft.options import Options
from oarlock.raft.progress import ProgressState
from oarlock.raft.state import Role
from oarlock.raft.types import Entry, EntryKind


def entries_of(message: Append) -> list[int]:
    return [entry.index for entry in message.entries]


def to(messages: list, peer: str, kind: type = Append) -> list:
    return [message for message in only(messages, kind) if message.to == node_id(peer)]


# -- the follower ------------------------------------------------------------------------------------------------------


def test_duplicate_append_does_not_truncate() -> None:
    """L1: an older append, late or repeated, must not undo what was acknowledged since."""
    solo = Solo()
    solo.append("b", 1, (1, 1), 1, 1)
    solo.append("b", 1, (2, 1), 1, 1, 1)
    assert solo.core.last_index == 4
    (reply,) = solo.append("b", 1, (1, 1), 1, 1)
    assert solo.core.last_index == 4
    assert (reply.accepted, reply.index) == (True, 2), "it speaks of what this message proved, no more"
    (reply,) = solo.append("b", 1, (1, 1), 1)
    assert (solo.core.last_index, reply.index) == (4, 1)


def test_conflicting_entries_are_replaced() -> None:
    """Paper, figure 2, AppendEntries 3 and 4."""
    solo = Solo(terms=[1, 1, 1])
    (reply,) = solo.append("b", 3, (2, 1), 1, 2, 3)
    assert [solo.core.term_at(index) for index in range(1, 5)] == [1, 1, 2, 3]
    assert (reply.accepted, reply.index) == (True, 4)
    replaced = [ready.entries for ready in solo.readys if ready.entries][-1]
    assert [(entry.index, entry.term) for entry in replaced] == [(3, 2), (4, 3)]


def test_commit_bounded_by_last_new_entry() -> None:
    """L2: our last entry may be one that the leader never had."""
    solo = Solo(terms=[1, 1, 1])
    solo.append("b", 2, (2, 1), 4)
    assert solo.core.commit_index == 2
    solo.append("b", 2, (2, 1), 3, 2, 2)
    assert solo.core.commit_index == 3


def test_heartbeat_commit_not_above_match() -> None:
    """L3: a heartbeat has no log check, so it may only tell of what the receiver is known to hold."""
    solo = Solo(voters="abc")
    solo.lead("b")
    solo.core.propose(b"x", solo.now)
    solo.accept("b")
    assert solo.core.commit_index == 3
    beats = {message.to: message.commit for message in only(solo.tick(0.1), Heartbeat)}
    assert beats == {node_id("b"): 3, node_id("c"): 0}
    follower = Solo()
    follower.step(Heartbeat, "b", 1, 7, 1)
    assert follower.core.commit_index == 1
    assert follower.core.remote_errors.total() == 1


def test_append_below_commit_acks_commit() -> None:
    """L4: and what it holds beyond the commit index is taken all the same."""
    solo = Solo(terms=[1, 1, 1], commit=3)
    (reply,) = solo.append("b", 1, (1, 1), 3, 1)
    assert (reply.accepted, reply.index) == (True, 3)
    (reply,) = solo.append("b", 1, (1, 1), 3, 1, 1, 1, 1)
    assert (reply.accepted, reply.index, solo.core.last_index) == (True, 5, 5)


@pytest.mark.parametrize(
    ("previous", "terms"), [((1, 1), (2,)), ((2, 1), (2, 2)), ((3, 2), (2,)), ((3, 2), ()), ((1, 1), (1, 2, 2))]
)
def test_committed_conflict_halts_node(previous: tuple[int, int], terms: tuple[int, ...]) -> None:
    """L5: nothing is overwritten, the member stops taking part."""
    solo = Solo(terms=[1, 1, 1], commit=3)
    with pytest.raises(InvariantViolated):
        solo.append("b", 2, previous, 3, *terms)
    assert [solo.core.term_at(index) for index in range(1, 5)] == [1, 1, 1, 1]


def test_commit_from_newer_leader_needs_term_first() -> None:
    """L14: the term is entered, the old leader's role lost, before the commit index is believed."""
    solo = Solo(terms=[1, 1])
    solo.time_out()
    out = solo.append("b", 9, (3, 1), 3)
    assert (solo.core.term, solo.core.role, solo.core.commit_index) == (9, Role.FOLLOWER, 3)
    assert all(message.term == 9 for message in out)


def test_entry_cache_truncated_with_log() -> None:
    """L15: an entry that was cut is neither read, nor applied, nor handed to the disk again."""
    solo = Solo(terms=[1, 1, 1])
    solo.append("b", 2, (2, 1), 1, 2)
    assert [entry.term for entry in solo.core.entries(1, 3)] == [1, 1, 2]
    with pytest.raises(LocalError):
        solo.core.entries(4, 4)
    solo.append("b", 2, (3, 2), 4, 2)
    assert [(entry.index, entry.term) for entry in solo.committed] == [(1, 1), (2, 1), (3, 2), (4, 2)]

    unpersisted = Solo()
    unpersisted.give(Append, "b", 1, 1, 1, 1, (command(2, 1), command(3, 1)))
    unpersisted.give(Append, "c", 2, 1, 1, 1, (command(2, 2),))
    unpersisted.take()
    assert [(e.index, e.term) for ready in unpersisted.readys for e in ready.entries] == [(2, 2)]


# -- the leader --------------------------------------------------------------------------------------------------------


def test_backtracking_probes_once_per_term() -> None:
    """L6: the repair costs about as many probes as there are terms, not entries; both directions of a hint matter."""
    for mine, theirs in (
        ([2] * 50 + [5] * 50, [2] * 10 + [3] * 40 + [4] * 60),
        ([2] * 10 + [3] * 60, [2] * 40),
        ([4] * 30, [2] * 40 + [3] * 40),
    ):
        leader, follower = Solo("a", terms=mine, term=6), Solo("b", terms=theirs, term=6)
        messages = leader.lead("c")
        probes = 0
        while messages:
            out = [message for message in messages if message.to == follower.id]
            messages = []
            for message in out:
                probes += isinstance(message, Append)
                follower.core.step(message, follower.now)
                for reply in follower.take():
                    leader.core.step(reply, leader.now)
                    messages += leader.take()
        assert follower.core.last_index == leader.core.last_index
        assert follower.core.last_term == leader.core.last_term
        assert probes <= 6, probes


def test_reordered_reject_is_stale() -> None:
    """L7: neither a repeated refusal nor one of an earlier probe moves `next`, and never to `match`."""
    solo = Solo(terms=[1] * 10)
    solo.lead("b")
    peer = solo.core.peers[node_id("c")]
    asked = peer.next - 1
    solo.step(AppendReply, "c", 2, False, asked, 5, 1)
    assert peer.next == 6
    out = solo.step(AppendReply, "c", 2, False, asked, 2, 1)
    assert (peer.next, to(out, "c")) == (6, [])
    solo.accept("c", index=12)
    assert peer.state is ProgressState.REPLICATE
    solo.step(AppendReply, "c", 2, False, 8, 3, 1)
    assert (peer.state, peer.next, peer.match) == (ProgressState.REPLICATE, 13, 12)


def test_full_inflights_recovers_after_drops() -> None:
    """L8: everything that filled the window is lost; heartbeats are answered, and from that it recovers."""
    solo = Solo(options=Options(max_inflight_appends=3))
    solo.lead("b")
    solo.accept("c")
    peer = solo.core.peers[node_id("c")]
    sent = []
    for _ in range(6):
        solo.core.propose(b"x", solo.now)
        sent += to(solo.take(), "c")
        solo.accept("b")
    assert [entries_of(message) for message in sent] == [[3], [4], [5]]
    probes = []
    for _ in range(3):
        probes += to(solo.beat("b", "c"), "c")
    assert probes, "a full window must not silence the leader"
    assert probes[0].entries == ()
    out = solo.step(AppendReply, "c", 2, False, probes[0].prev_index, 2, 2)
    (resent,) = to(out, "c")
    assert entries_of(resent)[0] == 3
    solo.accept("c", index=entries_of(resent)[-1])
    solo.accept("c")
    assert peer.match == solo.core.last_index


def test_last_append_lost_is_noticed() -> None:
    """L8's quiet case: the log has ended, the window is not full, and the last append never came."""
    solo = Solo()
    solo.lead("b", "c")
    solo.core.propose(b"x", solo.now)
    solo.take()
    solo.accept("b")
    probes = [*to(solo.beat("b", "c"), "c"), *to(solo.beat("b", "c"), "c")]
    assert [message.prev_index for message in probes] == [3]
    (resent,) = to(solo.step(AppendReply, "c", 2, False, 3, 2, 2), "c")
    assert entries_of(resent) == [3]


def test_heartbeat_response_recovers_probe() -> None:
    """L9: a probe was lost; the peer may even have all of it."""
    solo = Solo()
    solo.lead("b", "c")
    solo.core.peer_disconnected(node_id("c"), solo.now)
    peer = solo.core.peers[node_id("c")]
    assert (peer.state, to(solo.take(), "c")) == (ProgressState.PROBE, [])
    (probe,) = to(solo.beat("c"), "c")
    assert (probe.prev_index, probe.entries) == (2, ())
    assert to(solo.take(), "c") == [], "one at a time"
    solo.accept("c")
    assert peer.state is ProgressState.REPLICATE


def test_reconnection_starts_over_from_what_is_certain() -> None:
    """What was in flight on a broken stream may be lost: the window is forgotten, and sent again."""
    solo = Solo()
    solo.lead("b", "c")
    for _ in range(3):
        solo.core.propose(b"x", solo.now)
    assert len(to(solo.take(), "c")) == 3
    solo.core.peer_connected(node_id("c"), solo.now)
    peer = solo.core.peers[node_id("c")]
    assert (peer.state, peer.inflight_bytes) == (ProgressState.PROBE, 0)
    assert [entries_of(message) for message in to(solo.take(), "c")] == [[3, 4, 5]]


def test_slow_follower_after_compaction_gets_snapshot() -> None:
    """L10: even when its window is full."""
    solo = Solo(options=Options(max_inflight_appends=2))
    solo.lead("b", "c")
    for _ in range(5):
        solo.core.propose(b"x", solo.now)
        solo.take()
        solo.accept("b")
    meta = snapshot_meta(6, 2, configuration("abc"))
    solo.core.snapshot_taken(meta)
    solo.core.compact(6)
    out: list = []
    for _ in range(3):
        out += solo.beat("b", "c")
        for message in to(out, "c"):
            out += solo.step(AppendReply, "c", 2, False, message.prev_index, 2, 2)
    offers = to(out, "c", SnapshotOffer)
    assert [offer.meta for offer in offers] == [meta]


def test_packed_entries_contiguous() -> None:
    """L11: runs of at most the size given, one larger entry alone, nothing between them missing."""
    log = Log(0, 0, 0, [command(index, 1, b"x" * size) for index, size in enumerate([10, 10, 900, 10, 200, 200], 1)])
    runs, low = [], 1
    while low <= log.last_index:
        run = [entry.index for entry in log.batch(low, 300)]
        runs.append(run)
        low = run[-1] + 1
    assert runs == [[1, 2], [3], [4, 5], [6]]


def test_pipeline_sends_contiguous_runs_within_the_window() -> None:
    """L11, thesis 10.2.1: a peer far behind gets the whole log in order, a window at a time."""
    solo = Solo(terms=[1] * 40, options=Options(max_append_bytes=100, max_inflight_appends=5))
    solo.lead("b")
    out = to(solo.accept("c", index=1), "c")
    received = 1
    while received < solo.core.last_index:
        assert len(out) <= 5
        for message in out:
            assert message.prev_index == received
            assert entries_of(message) == list(range(received + 1, received + 1 + len(message.entries)))
            received = entries_of(message)[-1]
        out = to(solo.accept("c", index=received), "c")
    assert received == 42


def test_inflight_bytes_bound_the_window() -> None:
    solo = Solo(options=Options(max_append_bytes=1000, max_inflight_bytes=2000))
    solo.lead("b", "c")
    sent = 0
    for _ in range(10):
        solo.core.propose(b"x" * 900, solo.now)
        sent += len(to(solo.take(), "c"))
        solo.accept("b")
    assert sent == 3, "two fill it to just below, the third beyond"


def test_inv_leader_append_only() -> None:
    """L12 (inv_leader_append_only): the check that every simulated step runs does fire."""
    solo = Solo()
    solo.lead("b")
    before = glimpse(solo.core)
    solo.core._state.log.truncate(2)
    with pytest.raises(InvariantViolated, match="must stay"):
        check_delta(before, solo.core)


def test_uncommitted_bound_without_quorum() -> None:
    """L13: proposals are refused at the bound; the first never is, nor what is not a client's; commits make room."""
    solo = Solo(options=Options(max_uncommitted_bytes=1000))
    solo.lead("b")
    assert solo.core.uncommitted_bytes == 0
    solo.core.propose(b"x" * 5000, solo.now)
    with pytest.raises(Busy):
        solo.core.propose(b"x", solo.now)
    last = solo.core.last_index
    solo.core.propose(b"\x02", solo.now, EntryKind.VERSION)
    assert solo.core.last_index == last + 1
    solo.take()
    solo.accept("b")
    assert solo.core.uncommitted_bytes == 0
    for _ in range(7):
        solo.core.propose(b"x" * 100, solo.now)
    solo.take()
    solo.core.propose(b"x" * 100, solo.now)
    with pytest.raises(Busy):
        solo.core.propose(b"x" * 100, solo.now)
    check_basic(solo.core)


def test_configuration_is_not_proposed() -> None:
    solo = Solo()
    solo.lead("b")
    with pytest.raises(LocalError):
        solo.core.propose(b"", solo.now, EntryKind.CONFIGURATION)


def test_idle_followers_hear_of_a_commit_soon() -> None:
    """The commit notice: within 10 ms when nothing carries it, and never beside an append that does."""
    solo = Solo()
    solo.lead("b", "c")
    solo.beat("b", "c")
    solo.core.propose(b"x", solo.now)
    solo.take()
    solo.accept("b", "c")
    assert solo.core.deadline == pytest.approx(solo.now + 0.01)
    beats = only(solo.tick(0.0101), Heartbeat)
    assert [beat.commit for beat in beats] == [3, 3]

    solo.core.propose(b"x", solo.now)
    solo.take()
    solo.accept("b", "c")
    solo.now += 0.005
    solo.core.propose(b"x", solo.now)
    assert only(solo.take(), Append)[0].commit == 4
    solo.now += 0.006
    solo.core.tick(solo.now)
    assert only(solo.take(), Heartbeat) == []


def test_heartbeats_unaffected_by_bulk() -> None:
    """F1: a full window holds back appends, not heartbeats."""
    solo = Solo(options=Options(max_inflight_appends=1))
    solo.lead("b", "c")
    for _ in range(5):
        solo.core.propose(b"x" * 10_000, solo.now)
    solo.take()
    beats = only(solo.tick(0.1), Heartbeat)
    assert [beat.to for beat in beats] == [node_id("b"), node_id("c")]


# -- F7 ----------------------------------------------------------------------------------------------------------------

BAD = [
    (Append, 2, -1, 0, 0, ()),
    (Append, 2, 1, 3, 1, ()),
    (Append, 2, 0, 1, 0, ()),
    (Append, 2, 1, 1, 2**63, ()),
    (Append, 2, 1, 1, 1, (command(3, 1),)),
    (Append, 2, 1, 1, 1, (command(2, 2), command(3, 1))),
    (Append, 2, 1, 1, 1, (command(2, 9),)),
    (Append, 2, 1, 1, 1, (command(2, 1, time_ms=9), command(3, 1, time_ms=8))),
    (Append, 2, 1, 1, 1, (change_entry(2, 1, configuration("")),)),
    (Heartbeat, 2, 99, 1),
    (Heartbeat, 2**62 + 1, 1, 1),
    (Heartbeat, 2, -5, 1),
    (Vote, 2, -1, 1, False),
    (SnapshotOffer, 2, snapshot_meta(0, 1)),
    (SnapshotOffer, 2, snapshot_meta(9, 7)),
    (SnapshotOffer, 2, snapshot_meta(9, 1, configuration("abc"), placed_at=10)),
]


@pytest.mark.parametrize("bad", BAD)
def test_bad_peer_message_is_counted_and_dropped(bad: tuple) -> None:
    kind, term, *fields = bad
    solo = Solo()
    solo.step(kind, "b", term, *fields)
    assert solo.core.remote_errors.total() == 1
    assert (solo.core.last_index, solo.core.commit_index) == (1, 1)
    assert all(ready.fetch is None for ready in solo.readys)


def test_bad_answers_to_a_leader_are_counted_and_dropped() -> None:
    solo = Solo()
    solo.lead("b")
    for kind, *fields in (
        (AppendReply, True, 99, 0, 0),
        (HeartbeatReply, 99),
        (Heartbeat, 1, 1),
        (Append, 1, 1, 1, ()),
    ):
        before = solo.core.remote_errors.total()
        solo.step(kind, "c", 2, *fields)
        assert solo.core.remote_errors.total() == before + 1
    assert (solo.core.role, solo.core.commit_index) == (Role.LEADER, 2)


def test_message_for_another_member_is_dropped() -> None:
    solo = Solo()
    solo.core.step(Heartbeat(node_id("b"), node_id("c"), 5, 1, 1), solo.now)
    solo.core.step(Heartbeat(solo.id, solo.id, 5, 1, 1), solo.now)
    assert (solo.core.term, solo.core.remote_errors.total()) == (1, 2)


@pytest.mark.parametrize("seed", range(40))
def test_bad_peer_message_rejected(seed: int) -> None:
    """F7, a fuzz: whatever numbers peers send, the core raises nothing but a proof of corruption, and stays whole."""
    rng = random.Random(seed)
    solo = Solo(terms=[1, 1, 1], commit=2, seed=seed)
    if seed % 2:
        solo.lead("b")

    def number() -> int:
        return rng.choice((-1, 0, 1, 2, 3, 4, 5, 6, 9, 2**40, 2**62, 2**63))

    def entry() -> Entry:
        return rng.choice(
            (command(number(), number()), first_entry("abc"), change_entry(number(), 2, configuration("a")))
        )

    makers = [
        (PreVote, lambda: (number(), number())),
        (PreVoteReply, lambda: (rng.random() < 0.5,)),
        (Vote, lambda: (number(), number(), rng.random() < 0.5)),
        (VoteReply, lambda: (rng.random() < 0.5,)),
        (Append, lambda: (number(), number(), number(), tuple(entry() for _ in range(rng.randint(0, 3))))),
        (AppendReply, lambda: (rng.random() < 0.5, number(), number(), number())),
        (Heartbeat, lambda: (number(), number())),
        (HeartbeatReply, lambda: (number(),)),
        (SnapshotOffer, lambda: (snapshot_meta(number(), number(), configuration("abc"), number()),)),
        (SnapshotRefusal, lambda: (number(),)),
        (TimeoutNow, lambda: ()),
        (ReadIndex, lambda: (number(),)),
        (ReadIndexReply, lambda: (number(), number())),
    ]
    for _ in range(300):
        kind, fields = rng.choice(makers)
        term = rng.choice((number(), solo.core.term, solo.core.term + 1))
        if term > 10**6:
            term = solo.core.term  # a huge term is a lie that no one can see through; it is not what is tested here
        before = glimpse(solo.core)
        try:
            solo.give(kind, rng.choice("abcz"), term, *fields())
        except InvariantViolated:
            return  # "stop the member": what was sent contradicts what is committed
        check_delta(before, solo.core)
        solo.take()
        solo.tick(rng.choice((0, 0, 0.1, 1.5)))
    assert solo.core.remote_errors.total() > 0


def test_cluster_heals_after_loss() -> None:
    """Half of all messages are lost for a while; then everyone has everything."""
    cluster = Cluster("abc", seed=3)
    cluster.elect("a")
    rng = random.Random(3)
    for _ in range(400):
        cluster.now += 0.01
        cluster.tick()
        leader = cluster.leader()
        if leader is not None and rng.random() < 0.2:
            cluster.propose(leader.node_id)
        cluster.network = [message for message in cluster.network if rng.random() < 0.5]
        cluster.settle()
    cluster.run(3)
    assert len({node.machine.digest for node in cluster.nodes.values()}) == 1
