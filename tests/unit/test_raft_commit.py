"""Commit and durability: pitfalls C1 to C5, C7, D2, D3, D11, D12, and rules 7 and 28."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.raft_cluster import Cluster, configuration, first_entry, node_id
from tests.raft_solo import Solo, change_entry, command, only, snapshot_meta

from oarlock.raft import quorum
from oarlock.raft.core import Core
from oarlock.raft.durability import Durability
from oarlock.raft.effects import PersistToken
from oarlock.raft.errors import Busy, LocalError
from oarlock.raft.log import size_of
from oarlock.raft.messages import Append, AppendReply, Heartbeat, HeartbeatReply, PreVoteReply, Vote, VoteReply
from oarlock.raft.options import Options
from oarlock.raft.state import Role
from oarlock.raft.types import EntryKind, HardState

# -- commit ------------------------------------------------------------------------------------------------------------


def test_leader_only_commits_current_term_by_counting() -> None:
    """C1, paper 5.4.2, figure 8: an entry of an older term on a majority is not committed by that."""
    solo = Solo(voters="abcde", terms=[2], term=3)
    solo.time_out()
    for voter in "bc":
        solo.step(PreVoteReply, voter, 4, True)
    for voter in "bc":
        solo.step(VoteReply, voter, 4, True)
    assert (solo.core.role, solo.core.last_index) == (Role.LEADER, 3)
    solo.accept("b", "c", "d", "e", index=2)
    assert solo.core.commit_index == 1
    solo.accept("b", index=3)
    assert solo.core.commit_index == 1
    solo.accept("c", index=3)
    assert solo.core.commit_index == 3, "and with it all before it"


def test_noop_commits_previous_terms() -> None:
    """C2: a leader's first entry is a no-op of its own, naming it."""
    solo = Solo(terms=[1, 1])
    solo.lead("b")
    last = solo.core.entries(4, 4)[0]
    assert (last.kind, last.data, last.term) == (EntryKind.NOOP, solo.id.encode(), 2)
    assert solo.core.commit_index == 4
    assert solo.core.noop_committed


def test_single_node_ack_after_fsync() -> None:
    """C3: with one voter too, what is not durable is not committed."""
    solo = Solo(voters="a")
    solo.time_out()
    assert solo.core.commit_index == 2
    solo.core.propose(b"x", solo.now)
    solo.pull()
    assert (solo.core.last_index, solo.core.commit_index) == (3, 2)
    solo.persist()
    assert solo.core.commit_index == 3


def test_leader_counts_itself_only_when_durable() -> None:
    """C3 with three voters: one follower and a write that is still on its way are no majority; two followers are."""
    for followers, committed in (("b", 2), ("bc", 3)):
        solo = Solo()
        solo.lead("b", "c")
        solo.core.propose(b"x", solo.now)
        solo.pull()
        for follower in followers:
            solo.give(AppendReply, follower, 2, True, 3, 0, 0)
        assert solo.core.commit_index == committed
        solo.pull()
        solo.persist()
        assert solo.core.commit_index == 3


def test_removed_leader_not_in_quorum() -> None:
    """C4, rule 14: in the final configuration that leaves it out a leader does not count itself."""
    solo = Solo(voters="abc")
    solo.lead("b", "c")
    solo.beat("b", "c")
    solo.core.change_configuration(configuration("bc").voters, (), solo.core.placed.id, solo.now)
    solo.take()
    solo.accept("b")
    assert solo.core.commit_index == 2, "joint: of b and c, one is no majority, though of a, b and c two are"
    solo.accept("c", index=3)
    assert (solo.core.commit_index, solo.core.last_index) == (3, 4)
    solo.accept("b", index=4)
    assert solo.core.commit_index == 3, "final: itself and b are one of two"
    solo.accept("c", index=4)
    assert solo.core.commit_index == 4


def test_commit_advances_after_remove() -> None:
    """C5: what waited for a voter is committed at once by a configuration without it."""
    solo = Solo(voters="ab", learners="")
    solo.lead("b")
    solo.beat("b")
    solo.core.change_configuration(configuration("a").voters, (), solo.core.placed.id, solo.now)
    solo.take()
    solo.core.propose(b"waits", solo.now)
    solo.take()
    assert (solo.core.commit_index, solo.core.last_index) == (2, 4)
    solo.accept("b", index=3)
    assert solo.core.commit_index == solo.core.last_index == 5, "joint is committed, and by the final one all the rest"


voters = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=7, unique=True)


@given(voters, st.lists(st.sampled_from("abcdefg"), max_size=7, unique=True), st.lists(st.integers(0, 9), min_size=7))
def test_quorum_index_matches_bruteforce(new: list[str], old: list[str], values: list[int]) -> None:
    """C7, M7: by definition, the largest index that a majority of each half has."""
    match = dict(zip("abcdefg", values, strict=False))
    groups = tuple(tuple(half) for half in (new, old) if half)
    expected = max(
        index
        for index in range(10)
        if all(2 * sum(match[voter] >= index for voter in half) > len(half) for half in groups)
    )
    assert quorum.agreed_value(groups, match.__getitem__) == expected


@given(
    voters,
    st.lists(st.sampled_from("abcdefg"), max_size=7, unique=True),
    st.dictionaries(st.sampled_from("abcdefg"), st.booleans()),
)
def test_election_verdict_matches_bruteforce(new: list[str], old: list[str], votes: dict[str, bool]) -> None:
    """C7, M7: won by a majority of each half; lost when no further vote could bring that."""
    groups = tuple(tuple(half) for half in (new, old) if half)

    def wins(cast: dict[str, bool]) -> bool:
        return all(2 * sum(cast.get(voter, False) for voter in half) > len(half) for half in groups)

    expected = "won" if wins(votes) else "open" if wins({**dict.fromkeys("abcdefg", True), **votes}) else "lost"
    assert quorum.verdict(groups, votes) == expected


def test_configuration_without_voters_decides_nothing() -> None:
    assert quorum.agreed_value((), lambda voter: 9) == 0
    assert not quorum.agreed((), lambda voter: True)
    assert quorum.verdict((), {}) == "lost"


# -- durability --------------------------------------------------------------------------------------------------------


def test_no_response_before_persist() -> None:
    """D2: nothing that promises durable state leaves before it is durable: votes, appends, heartbeats of a new term."""
    solo = Solo()
    solo.give(Vote, "b", 2, 1, 1, False)
    assert solo.pull() == []
    assert only(solo.persist(), VoteReply)[0].granted

    solo.give(Append, "b", 2, 1, 1, 1, (command(2, 2),))
    assert solo.pull() == []
    assert only(solo.persist(), AppendReply)[0].index == 2

    solo.give(Heartbeat, "c", 3, 1, 1)
    assert solo.pull() == []
    assert only(solo.persist(), HeartbeatReply) != []
    solo.give(Heartbeat, "c", 3, 1, 2)
    assert only(solo.pull(), HeartbeatReply) != [], "nothing to wait for"


def test_promise_waits_for_a_frame_of_an_earlier_ready() -> None:
    """D2: nothing new is to be written, yet what the answer tells of is still on its way to the disk."""
    solo = Solo()
    append = ("b", 2, 1, 1, 1, (command(2, 2),))
    solo.give(Append, *append)
    solo.pull()
    solo.give(Append, *append)
    solo.give(Vote, "b", 2, 9, 9, False)
    solo.give(Heartbeat, "b", 2, 1, 1)
    assert solo.pull() == []
    assert len(solo.waiting) == 1, "no frame of its own"
    out = solo.persist()
    assert [type(message) for message in out] == [AppendReply, AppendReply, VoteReply, HeartbeatReply]


def test_heartbeat_is_answered_beside_a_slow_write() -> None:
    """Entries on their way to the disk do not hold back an answer that does not depend on them."""
    solo = Solo(term=2)
    solo.give(Append, "b", 2, 1, 1, 1, (command(2, 2),))
    solo.pull()
    solo.give(Heartbeat, "b", 2, 1, 1)
    assert [type(message) for message in solo.pull()] == [HeartbeatReply]


def test_promise_of_a_past_term_is_void() -> None:
    """An acceptance that has not left yet when the term ends must not leave any more: the entry may be gone."""
    solo = Solo()
    solo.give(Append, "b", 2, 1, 1, 1, (command(2, 2),))
    solo.give(Append, "c", 3, 1, 1, 1, ())
    out = solo.take()
    assert [message.term for message in out] == [3]


def test_crash_between_term_and_vote_impossible() -> None:
    """D3: term, vote and commit index are one value, whole with each token."""
    solo = Solo()
    solo.give(Vote, "b", 5, 1, 1, False)
    solo.pull()
    (ready,) = solo.waiting
    assert ready.hard_state == HardState(5, node_id("b"), 1)


def test_commit_alone_is_not_worth_a_write() -> None:
    solo = Solo(terms=[1])
    solo.give(Heartbeat, "b", 1, 2, 1)
    solo.take()
    assert solo.core.commit_index == 2
    assert all(ready.token is None for ready in solo.readys)


def test_commit_meta_ahead_of_log_starts() -> None:
    """D11: a stored commit index beyond the log's end, its tail cut, does not keep a member from starting."""
    solo = Solo(terms=[1], commit=40)
    assert (solo.core.commit_index, solo.core.last_index) == (2, 2)


def test_recovered_state_must_fit_together() -> None:
    def boot(**state) -> None:  # type: ignore[no-untyped-def]
        Core(node_id("a"), rng=random.Random(0), now=0.0, **state)

    with pytest.raises(LocalError):
        boot(entries=[command(2, 1)], hard_state=HardState(1))
    with pytest.raises(LocalError):
        boot(entries=[command(1, 2)], hard_state=HardState(1))
    with pytest.raises(LocalError):
        boot(entries=[command(1, 1)], hard_state=HardState(1), applied=2)
    with pytest.raises(LocalError):
        boot(snapshot=snapshot_meta(5, 1), hard_state=HardState(1), applied=4)


def test_machine_ahead_of_stored_commit_is_committed() -> None:
    """A machine that survived its process may hold more than the stored commit index tells of; that much is true."""
    entries = [first_entry("abc"), command(2, 1), command(3, 1)]
    core = Core(node_id("a"), rng=random.Random(0), now=0.0, hard_state=HardState(1, "", 1), entries=entries, applied=2)
    assert (core.commit_index, core.applied_index) == (2, 2)
    assert not core.has_ready()


def test_disk_hang_steps_down() -> None:
    """D12, rule 6: a leader whose write takes longer than an election timeout gives way, and does not campaign."""
    solo = Solo()
    solo.lead("b", "c")
    solo.core.propose(b"x", solo.now)
    solo.pull()
    for _ in range(9):
        solo.now += 0.1
        hear(solo)
    assert solo.core.role is Role.LEADER
    solo.now += 0.11
    solo.core.tick(solo.now)
    assert (solo.core.role, solo.core.leader) == (Role.FOLLOWER, "")
    for _ in range(3):
        solo.now = solo.core.deadline
        solo.core.tick(solo.now)
    assert solo.core.role is Role.FOLLOWER
    solo.pull()
    while solo.waiting:
        solo.persist()
    solo.time_out()
    assert solo.core.role is Role.PRE_CANDIDATE


def test_a_disk_that_answers_does_not_hang() -> None:
    """D12: what waited behind other writes for longer than an election timeout was only slow; silence counts."""
    solo = Solo()
    solo.lead("b", "c")
    for _ in range(4):
        solo.core.propose(b"x", solo.now)
        solo.pull()
    for _ in range(3):
        solo.now += 0.9
        solo.persist()
        hear(solo)
        assert solo.core.role is Role.LEADER
    solo.now += 0.9
    hear(solo)
    assert solo.core.role is Role.LEADER
    solo.now += 0.11
    hear(solo)
    assert solo.core.role is Role.FOLLOWER


def test_what_waits_for_a_slow_disk_is_bounded() -> None:
    """Rule 6: the others commit it long before the leader has written it, and would do so for ever."""
    entry = size_of(command(1, 1))
    solo = Solo(options=Options(max_uncommitted_bytes=3 * entry))
    solo.lead("b", "c")
    for index in (3, 4, 5):
        solo.core.propose(b"x", solo.now)
        solo.pull()
        for follower in "bc":
            solo.give(AppendReply, follower, 2, True, index, 0, 0)
        assert solo.core.commit_index == index
    with pytest.raises(Busy, match="the leader's disk"):
        solo.core.propose(b"x", solo.now)
    solo.core.propose(b"", solo.now, EntryKind.NOOP)
    solo.pull()
    solo.persist()
    with pytest.raises(Busy):
        solo.core.propose(b"x", solo.now)
    solo.persist()
    solo.core.propose(b"x", solo.now)


def hear(solo: Solo) -> None:
    for peer in "bc":
        solo.give(HeartbeatReply, peer, 2, 0)
    solo.core.tick(solo.now)


def test_persist_tokens_are_cumulative() -> None:
    """Rule 7: one token answers for all before it."""
    solo = Solo(voters="a")
    solo.time_out()
    for _ in range(3):
        solo.core.propose(b"x", solo.now)
        solo.pull()
    last = solo.waiting[-1].token
    assert last is not None
    solo.core.persisted(last, solo.now)
    assert (solo.core.durable_index, solo.core.commit_index) == (5, 5)


def test_append_ack_ignored_after_term_change() -> None:
    """Rule 7: the newer term has its own token, which covers the log."""
    solo = Solo(terms=[1])
    solo.give(Append, "b", 1, 2, 1, 1, (command(3, 1),))
    solo.pull()
    old = solo.waiting[0].token
    assert old is not None
    solo.give(Heartbeat, "c", 2, 1, 1)
    solo.core.persisted(old, solo.now)
    assert solo.core.durable_index == 2
    solo.pull()
    solo.waiting.pop(0)
    solo.persist()
    assert solo.core.durable_index == 3


def test_truncation_caps_what_a_token_vouches_for() -> None:
    """Rule 7, the ABA case: the answer for entries 2..4 comes after they were replaced, in the same term."""
    durability = Durability(1, "", 1)
    first = durability.issue(1, "", 4, 0, 0.0)
    durability.cap(1)
    second = durability.issue(1, "", 3, 0, 0.0)
    assert durability.persisted(first, 1, 0.0)
    assert durability.durable_index == 1
    assert durability.persisted(second, 1, 0.0)
    assert durability.durable_index == 3
    assert not durability.persisted(PersistToken(1, 2), 1, 0.0), "once"

    solo = Solo()
    solo.give(Append, "b", 2, 1, 1, 1, (command(2, 2), command(3, 2), command(4, 2)))
    solo.pull()
    solo.give(Append, "c", 3, 1, 1, 1, (command(2, 3), command(3, 3), command(4, 3)))
    solo.pull()
    (first_ready, second_ready) = solo.waiting
    solo.core.persisted(first_ready.token, solo.now)
    assert solo.core.durable_index == 1
    solo.core.persisted(second_ready.token, solo.now)
    assert solo.core.durable_index == 4


def test_truncation_takes_back_what_was_durable() -> None:
    solo = Solo(terms=[1, 1, 1])
    assert solo.core.durable_index == 4
    solo.give(Append, "b", 2, 2, 1, 1, (command(3, 2),))
    assert solo.core.durable_index == 2


# -- cluster time ------------------------------------------------------------------------------------------------------


def test_cluster_time_counts_on_from_the_log() -> None:
    """Rule 28: the last entry's time plus what has passed since the election; the clock's own value never shows."""
    entries = [first_entry("abc"), command(2, 1, time_ms=5000)]
    solo = Solo(entries=entries)
    solo.lead("b")
    assert solo.core.cluster_time_ms == 5000
    solo.now += 0.25
    solo.core.propose(b"x", solo.now)
    assert solo.core.cluster_time_ms == 5250
    solo.now += 0.5
    solo.core.propose(b"x", solo.now)
    assert solo.core.cluster_time_ms == 5750


def test_cluster_time_never_goes_back() -> None:
    """Rule 28, across leaders whose clocks have nothing to do with each other, and across a snapshot."""
    cluster = Cluster("abc")
    for name in "abcab":
        for node in cluster.nodes.values():
            node.core._state.leader_contact_at = None
        cluster.elect(name)
        cluster.now += 0.05
        cluster.propose(name)
        cluster.settle()
    entries = cluster["a"].entries(1, cluster["a"].last_index)
    times = [entry.time_ms for entry in entries]
    assert times == sorted(times)
    assert times[-1] >= 200

    meta = snapshot_meta(9, 1, configuration("a"))
    solo = Solo(voters="a", snapshot=type(meta)(9, 1, 7000, meta.placed, 1, 1, "d"), commit=9)
    solo.time_out()
    assert solo.core.entries(10, 10)[0].time_ms == 7000


def test_final_configuration_is_not_committed_twice() -> None:
    """One commit index, moved by whichever half is behind (M7)."""
    solo = Solo("a", entries=[change_entry(1, 1, configuration("abc", outgoing="ade"))])
    solo.lead("b", "d")
    assert solo.core.commit_index >= 2
    assert solo.core.placed.configuration.outgoing == ()
    assert len([e for e in solo.core.entries(2, solo.core.last_index) if e.kind == EntryKind.CONFIGURATION]) == 1
