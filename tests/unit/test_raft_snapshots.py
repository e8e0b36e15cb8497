"""Snapshots: pitfalls S1 to S6, S8 and S9 (paper section 7), and rule 19's part of the core."""

from __future__ import annotations

import msgspec
import pytest
from tests.raft_cluster import Cluster, configuration, node_id, say_configuration
from tests.raft_solo import Solo, change_entry, command, only, snapshot_meta

from oarlock.raft.errors import LocalError
from oarlock.raft.messages import Append, AppendReply, Heartbeat, SnapshotOffer, SnapshotRefusal
from oarlock.raft.progress import ProgressState
from oarlock.raft.state import Role
from oarlock.raft.types import SnapshotMeta

ABC = configuration("abc")


def fetches(solo: Solo) -> list[SnapshotMeta]:
    return [ready.fetch[1] for ready in solo.readys if ready.fetch is not None]


def installs(solo: Solo) -> list[SnapshotMeta]:
    return [ready.install for ready in solo.readys if ready.install is not None]


def leader_with_compacted_log(entries: int = 6) -> Solo:
    """Leads abc with b; c has nothing, and the log begins after `entries`."""
    solo = Solo()
    solo.lead("b")
    while solo.core.last_index < entries:
        solo.core.propose(b"x", solo.now)
        solo.take()
        solo.accept("b")
    solo.core.snapshot_taken(snapshot_meta(entries, 2, ABC))
    solo.core.compact(entries)
    return solo


def offers(messages: list) -> list[int]:
    return [message.meta.index for message in only(messages, SnapshotOffer)]


# -- the follower ------------------------------------------------------------------------------------------------------


def test_stale_snapshot_ignored() -> None:
    """S1: at or below the commit index it is of no use; one that the log matches only moves the commit index."""
    solo = Solo(terms=[1] * 5, commit=4)
    (reply,) = solo.step(SnapshotOffer, "b", 1, snapshot_meta(3, 1, ABC))
    assert (reply.accepted, reply.index) == (True, 3)
    assert not solo.core.install(snapshot_meta(4, 1, ABC), solo.now)
    solo.take()
    (reply,) = solo.step(SnapshotOffer, "b", 1, snapshot_meta(5, 1, ABC))
    assert (reply.accepted, reply.index) == (True, 5)
    assert (solo.core.commit_index, solo.core.last_index) == (5, 6), "the tail stays"
    assert (fetches(solo), installs(solo)) == ([], [])


def test_snapshot_overtaken_by_the_log_is_not_installed() -> None:
    """S1: the fetch took a while, and a leader whose log reaches back was faster."""
    solo = Solo()
    solo.step(SnapshotOffer, "b", 1, snapshot_meta(5, 1, ABC))
    assert [meta.index for meta in fetches(solo)] == [5]
    solo.append("b", 1, (1, 1), 2, *([1] * 5))
    assert not solo.core.install(snapshot_meta(5, 1, ABC), solo.now)
    assert (solo.core.commit_index, solo.core.last_index) == (5, 6)
    assert only(solo.take(), AppendReply)[0].index == 5


@pytest.mark.parametrize(("terms", "what"), [([1] * 9, "conflicts"), ([1] * 2, "misses")])
def test_snapshot_conflict_discards_tail(terms: list[int], what: str) -> None:
    """S2: the whole log, also what lies before the snapshot's place."""
    solo = Solo(terms=terms)
    meta = snapshot_meta(6, 2, ABC)
    solo.step(SnapshotOffer, "b", 2, meta)
    assert solo.core.install(meta, solo.now), what
    assert (solo.core.first_index, solo.core.last_index, solo.core.last_term) == (7, 6, 2)
    assert (solo.core.commit_index, solo.core.applied_index) == (6, 1)
    with pytest.raises(LocalError):
        solo.core.entries(3, 3)


def test_install_is_acknowledged_when_its_marker_is_durable() -> None:
    """Rule 18, D2: nothing at or below the snapshot is handed out any more; what follows it is taken at once."""
    solo = Solo(terms=[1, 1])
    meta = snapshot_meta(6, 2, ABC)
    solo.step(SnapshotOffer, "b", 2, meta)
    solo.core.install(meta, solo.now)
    solo.give(Append, "b", 2, 6, 2, 7, (command(7, 2),))
    assert only(solo.pull(), AppendReply) == []
    (ready,) = solo.waiting
    assert ready.install == meta
    assert [entry.index for entry in ready.entries] == [7]
    assert [entry.index for entry in ready.committed] == [7]
    out = solo.persist()
    assert [message.index for message in only(out, AppendReply)] == [6, 7]


def test_old_write_does_not_vouch_for_an_install() -> None:
    """Rule 7 across an install: a token of before it says nothing of the marker."""
    solo = Solo()
    solo.give(Append, "b", 2, 1, 1, 1, tuple(command(index, 2) for index in range(2, 9)))
    solo.pull()
    meta = snapshot_meta(6, 3, ABC)
    solo.give(SnapshotOffer, "c", 3, meta)
    solo.core.install(meta, solo.now)
    solo.pull()
    first, second = solo.waiting
    solo.core.persisted(first.token, solo.now)
    assert solo.core.durable_index == 1
    solo.core.persisted(second.token, solo.now)
    assert solo.core.durable_index == 6


def test_snapshot_resets_effective_membership() -> None:
    """S3: an appended configuration that the snapshot's place purges is not in force any more."""
    solo = Solo(entries=[change_entry(1, 1, ABC), change_entry(2, 1, configuration("a", outgoing="abc"))])
    assert say_configuration(solo.core.placed.configuration) == "voters a, outgoing abc"
    assert solo.core.install(snapshot_meta(6, 2, configuration("abd"), 5), solo.now)
    assert say_configuration(solo.core.placed.configuration) == "voters abd"
    assert solo.core.placed.id == "1.5"


def test_snapshot_conf_state_roundtrip_joint() -> None:
    """S4: a joint configuration, its learners and tombstones are in force again; one without us is installed too."""
    joint = configuration("ab", "e", "acd", "z")
    solo = Solo()
    solo.core.install(snapshot_meta(6, 2, joint), solo.now)
    assert solo.core.placed.configuration == joint
    solo.core.applied(6)
    restarted = Solo("c", snapshot=snapshot_meta(6, 2, joint), commit=6)
    assert restarted.core.placed.configuration == joint
    restarted.time_out()
    assert restarted.core.role is Role.PRE_CANDIDATE, "a voter of the outgoing half"
    stranger = Solo("x")
    assert stranger.core.install(snapshot_meta(6, 2, joint), stranger.now)
    assert not stranger.core.removed, "rule 10: absence means nothing"


def test_removal_is_learned_from_a_snapshot() -> None:
    """Rule 10: its tombstones are committed ones."""
    solo = Solo("c")
    solo.core.install(snapshot_meta(6, 2, configuration("ab", tombstones="c")), solo.now)
    assert solo.core.removed


def test_two_snapshots_short_interval() -> None:
    """S9: a repeated offer is not fetched twice, a newer one is; and none while one is being installed."""
    solo = Solo()
    first, second, third = (snapshot_meta(index, 1, ABC) for index in (5, 8, 12))
    for meta in (first, first, second, second):
        solo.step(SnapshotOffer, "b", 1, meta)
    assert fetches(solo) == [first, second]
    assert solo.core.install(second, solo.now)
    solo.take()
    solo.step(SnapshotOffer, "b", 1, third)
    assert fetches(solo) == [first, second]
    solo.core.applied(8)
    solo.step(SnapshotOffer, "b", 1, third)
    assert fetches(solo) == [first, second, third]
    assert not solo.core.install(first, solo.now), "the first came late"


def test_failed_fetch_is_told_and_offered_again() -> None:
    solo = Solo()
    meta = snapshot_meta(5, 1, ABC)
    solo.step(SnapshotOffer, "b", 1, meta)
    solo.core.refuse_snapshot(meta, solo.now)
    (refusal,) = only(solo.take(), SnapshotRefusal)
    assert (refusal.to, refusal.index) == (node_id("b"), 5)
    solo.step(SnapshotOffer, "b", 1, meta)
    assert fetches(solo) == [meta, meta]


def test_no_election_during_install() -> None:
    """S8: heartbeats keep a follower quiet however long its fetch takes, and no one campaigns half installed."""
    cluster = Cluster("abc")
    cluster.elect("a")
    cluster.crash(node_id("c"))
    for _ in range(5):
        cluster.propose("a")
        cluster.run(0.05)
    cluster.take_snapshot(node_id("a"))
    cluster.compact(node_id("a"), cluster["a"].applied_index)
    cluster.restart(node_id("c"))
    cluster.run(10)
    node = cluster.nodes[node_id("c")]
    assert node.fetching is not None
    assert cluster["a"].term == 2
    assert cluster.counts["became pre_candidate"] == 1
    cluster.finish_fetch(node.id)
    cluster.run(0.5)
    assert node.machine.digest == cluster.nodes[node_id("a")].machine.digest


# -- the leader --------------------------------------------------------------------------------------------------------


def test_snapshot_at_last_index_resumes() -> None:
    """S5: nothing follows the snapshot, and yet the peer replicates again."""
    solo = leader_with_compacted_log()
    out = solo.step(AppendReply, "c", 2, False, 1, 0, 0)
    peer = solo.core.peers[node_id("c")]
    assert (offers(out), peer.state, peer.snapshot) == ([6], ProgressState.SNAPSHOT, 6)
    solo.accept("c", index=6)
    assert (peer.state, peer.match, peer.next) == (ProgressState.REPLICATE, 6, 7)
    solo.core.propose(b"x", solo.now)
    assert [m.prev_index for m in only(solo.take(), Append) if m.to == peer.id] == [6]


def test_compaction_waits_for_inflight_snapshot() -> None:
    """S6: which one is in flight is to be seen; if the log was compacted beyond it all the same, the newest is offered
    once, and no loop comes of it."""
    solo = leader_with_compacted_log()
    solo.step(AppendReply, "c", 2, False, 1, 0, 0)
    assert {id: peer.snapshot for id, peer in solo.core.peers.items()} == {node_id("b"): 0, node_id("c"): 6}
    for _ in range(4):
        solo.core.propose(b"x", solo.now)
        solo.take()
        solo.accept("b")
    solo.core.snapshot_taken(snapshot_meta(10, 2, ABC))
    solo.core.compact(8)
    out = solo.accept("c", index=6)
    for _ in range(5):
        out += solo.beat("b", "c")
    assert offers(out) == [10], "it has what it was offered, and needs a newer one"
    solo.accept("c", index=10)
    assert solo.core.peers[node_id("c")].state is ProgressState.REPLICATE


def test_finished_older_snapshot_is_accepted_by_a_leader_that_reaches_back() -> None:
    """S6, rule 19: also by one that offered another, or is new and offered none."""
    solo = leader_with_compacted_log()
    solo.step(AppendReply, "c", 2, False, 1, 0, 0)
    for _ in range(3):
        solo.core.propose(b"x", solo.now)
        solo.take()
        solo.accept("b")
    solo.accept("c", index=7)
    assert solo.core.peers[node_id("c")].state is ProgressState.REPLICATE


def test_offer_is_repeated_at_most_every_election_timeout() -> None:
    solo = leader_with_compacted_log()
    out = solo.step(AppendReply, "c", 2, False, 1, 0, 0)
    for _ in range(31):
        out += solo.beat("b", "c")
    assert 3 <= len(offers(out)) <= 4


def test_refused_snapshot_is_offered_again_after_a_pause() -> None:
    solo = leader_with_compacted_log()
    solo.step(AppendReply, "c", 2, False, 1, 0, 0)
    assert offers(solo.step(SnapshotRefusal, "c", 2, 5)) == [], "of another snapshot: stale"
    assert solo.core.peers[node_id("c")].state is ProgressState.SNAPSHOT
    assert offers(solo.step(SnapshotRefusal, "c", 2, 6)) == []
    end = solo.now + solo.core.options.election_timeout_seconds
    early = [offers(solo.beat("b", "c")) for _ in range(5)]
    assert solo.now < end
    assert early == [[]] * 5, "in a loop"
    while solo.now < end:
        found = offers(solo.beat("b", "c"))
    assert found == [6]


def test_refused_snapshot_is_doubted_and_its_successor_offered_at_once() -> None:
    """The file may have rotted since it was published: the driver looks, and takes another, at the same place even."""
    solo = leader_with_compacted_log()
    solo.step(AppendReply, "c", 2, False, 1, 0, 0)
    offered = solo.core.snapshot
    refusal = SnapshotRefusal(node_id("c"), node_id("a"), 2, 6)
    solo.core.step(refusal, solo.now)
    assert solo.core.has_ready()
    assert solo.core.ready(solo.now).doubted == offered
    assert solo.core.ready(solo.now).doubted is None
    successor = msgspec.structs.replace(snapshot_meta(6, 2, ABC), digest="b" * 64)
    solo.core.snapshot_taken(successor)
    assert [m.meta for m in only(solo.beat("b", "c"), SnapshotOffer)] == [successor]
    solo.core.snapshot_taken(snapshot_meta(5, 2, ABC))
    assert solo.core.snapshot == successor, "an older one changes nothing"


def test_disconnection_ends_the_offer() -> None:
    solo = leader_with_compacted_log()
    solo.step(AppendReply, "c", 2, False, 1, 0, 0)
    solo.core.peer_disconnected(node_id("c"), solo.now)
    assert solo.core.peers[node_id("c")].snapshot == 0
    assert offers(solo.take()) == []
    solo.core.peer_connected(node_id("c"), solo.now)
    assert offers(solo.take()) == [6]


def test_heartbeats_go_on_beside_a_snapshot() -> None:
    """S8."""
    solo = leader_with_compacted_log()
    solo.step(AppendReply, "c", 2, False, 1, 0, 0)
    assert [beat.to for beat in only(solo.tick(0.1), Heartbeat)] == [node_id("b"), node_id("c")]


def test_dropped_peer_beyond_the_log_is_left_alone() -> None:
    """A peer that a configuration drops is offered no snapshot, and nothing spins because of that."""
    solo = leader_with_compacted_log()
    solo.accept("c", index=2)
    solo.beat("b", "c")
    solo.core.change_configuration(configuration("ab").voters, (), solo.core.placed.id, solo.now)
    solo.take()
    solo.accept("b")
    assert solo.core.peers[node_id("c")].leaving
    solo.core.propose(b"x", solo.now)
    solo.core.peer_connected(node_id("c"), solo.now)
    assert offers(solo.take()) == []


def test_compaction_is_bounded_by_snapshot_and_applied() -> None:
    """The log is dropped only where a snapshot covers it, a snapshot taken only of what is applied (rule 6)."""
    solo = Solo(terms=[1] * 4, commit=3)
    for meta in (snapshot_meta(4, 1, ABC), snapshot_meta(5, 1, ABC)):
        with pytest.raises(LocalError):
            solo.core.snapshot_taken(meta)
    with pytest.raises(LocalError):
        solo.core.compact(1)
    solo.core.snapshot_taken(snapshot_meta(3, 1, ABC))
    with pytest.raises(LocalError):
        solo.core.compact(4)
    solo.core.compact(3)
    assert (solo.core.first_index, solo.core.term_at(3), solo.core.term_at(2)) == (4, 1, None)
    solo.core.compact(2)
    assert solo.core.first_index == 4


def test_a_follower_knows_how_far_the_cluster_is_and_what_it_waits_for() -> None:
    """A member that restarts must not count as participating before a leader has said how far the cluster is."""
    solo = Solo(terms=[1, 1], commit=3)
    assert solo.core.known_commit is None
    solo.step(Heartbeat, "b", 2, 1, 1)
    assert solo.core.known_commit is None, "a heartbeat's commit index is capped at what this member holds"
    solo.step(Append, "b", 2, 3, 1, 900, ())
    assert (solo.core.known_commit, solo.core.commit_index) == (900, 3)
    assert solo.core.awaited_snapshot is None
    offered = snapshot_meta(950, 2, ABC)
    solo.step(SnapshotOffer, "b", 2, offered)
    assert (solo.core.known_commit, solo.core.awaited_snapshot) == (950, offered)
    assert solo.core.install(offered, solo.now)
    solo.take()
    assert solo.core.awaited_snapshot == offered, "until the machine holds it"
    solo.core.applied(950)
    assert solo.core.awaited_snapshot is None


def test_members_from_single_store_after_restore() -> None:
    """M16: who takes part is told by the log and the snapshot alone; a restored member knows exactly what they say."""
    meta = snapshot_meta(6, 2, configuration("bcd"), placed_at=4)
    solo = Solo(name="b", term=2, commit=6, snapshot=meta, entries=[])
    assert solo.core.placed == solo.core.committed_placed == meta.placed
    later = change_entry(7, 2, configuration("bce"))
    solo = Solo(name="b", term=2, commit=7, snapshot=meta, entries=[later])
    assert solo.core.placed.configuration == configuration("bce"), "the latest in the log holds"
    assert [m.id for m in solo.core.participants().values()] == [node_id(name) for name in "bce"]
