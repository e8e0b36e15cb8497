"""The sans-IO member: what becomes of writes, on the member that took them (rules 5, 8, 32, 33, 34)."""

from __future__ import annotations

import msgspec
import pytest
from tests.member_cluster import Cluster
from tests.raft_cluster import node_id

from oarlock.machine.command import Command, Result, decode_batch
from oarlock.peers.messages import Forward, ForwardedCommand, ForwardReply, ForwardResult, Report
from oarlock.raft.messages import Append, AppendReply, TimeoutNow
from oarlock.raft.options import Options
from oarlock.raft.types import EntryKind
from oarlock.runtime.errors import Refused, leader_changed
from oarlock.runtime.forwarding import to_wire
from oarlock.runtime.turn import Limits

UNDECIDED = Limits().undecided_seconds


def refused(cluster: Cluster, payload: bytes) -> tuple[str, str, int]:
    refusal = cluster.refusals[payload]
    return refusal.code, refusal.outcome, refusal.status


def lone_leader(cluster: Cluster) -> tuple[str, str]:
    """A leader cut off with two entries that nobody else has, b"lost-1" and b"lost-2"; and the rest of the names."""
    old = cluster.elect()
    rest = "".join(id[0] for id in cluster.sites if id[0] != old)
    cluster.split(old, rest)
    cluster.submit(old, b"lost-1")
    cluster.submit(old, b"lost-2")
    cluster.run(2 * cluster[old].limits.gather_seconds)  # the second gathers behind the first for so long
    return old, rest


# -- outcomes ------------------------------------------------------------------------------------------------------


def test_overwritten_proposal_notified() -> None:
    """X6, rule 8: `not_applied` comes with the other term's entry committed at the same index, and not a moment
    before: not with the step-down, and not with the truncation."""
    cluster = Cluster("abc")
    old, rest = lone_leader(cluster)
    index = cluster[old].core.last_index - 1
    new = cluster.elect(rest)
    cluster.until(lambda: not cluster.leads(old))
    assert not cluster.refusals  # stepped down
    cluster.site(old).apply_waits = True
    cluster.split("abc")
    assert cluster.until(lambda: cluster[old].core.term_at(index) == cluster[new].core.term, 3.0)
    assert not cluster.refusals  # truncated
    cluster.heal()
    cluster.settle()
    assert refused(cluster, b"lost-1") == ("superseded", "not_applied", 503)
    assert cluster.refusals[b"lost-1"].retryable
    assert b"lost-2" not in cluster.refusals  # the log has not grown over its place yet
    cluster.submit(cluster.elect(), b"more")
    cluster.settle()
    assert refused(cluster, b"lost-2") == ("superseded", "not_applied", 503)
    cluster.judge()


def test_truncation_alone_decides_nothing() -> None:
    """Rule 8: the entry is gone from this log, but as long as nothing is committed there it may yet come back."""
    cluster = Cluster("abc")
    old, rest = lone_leader(cluster)
    new = cluster.elect(rest)
    index = cluster[old].core.last_index - 1
    cluster.run(2.5)
    # Only an append with the new leader's no-op arrives, and it says nothing of the commit.
    member = cluster[old]
    noop = cluster[new].core.entries(index, index)[0]
    before = cluster[new].core.term_at(index - 1)
    assert before is not None
    member.receive(
        Append(node_id(new), node_id(old), cluster[new].core.term, index - 1, before, 0, (noop,)), cluster.now
    )
    cluster._turns()
    assert member.core.term_at(index) == noop.term
    assert not cluster.refusals
    cluster.heal()
    cluster.settle()
    assert refused(cluster, b"lost-1")[:2] == ("superseded", "not_applied")
    cluster.judge()


def test_a_proposal_that_survives_its_leader_is_answered_with_its_result() -> None:
    """Rule 8: a step-down is not an end. The entry was replicated, the next leader commits it, its waiter hears so."""
    cluster = Cluster("abc")
    old = cluster.elect()
    cluster.eat = lambda m: m.to == node_id(old)  # nothing comes back, but what it sends arrives
    cluster.submit(old, b"survivor")
    cluster.run(0.05)
    cluster.split(old, "".join(n for n in "abc" if n != old))
    cluster.elect("".join(n for n in "abc" if n != old))
    assert not cluster.results
    assert not cluster.refusals
    cluster.heal()
    cluster.settle()
    assert cluster.results[b"survivor"].body == b"survivor"
    cluster.judge()


def test_timeout_reported_as_unknown() -> None:
    """X1, rule 8: what a former leader cannot decide for long is unknown, and its room is given back. Without that it
    would refuse everybody with 429 until the log of the others happens to grow over it."""
    cluster = Cluster("abc", limits=Limits(in_flight_bytes=1000))
    old = cluster.elect()
    cluster.split(old, "".join(n for n in "abc" if n != old))
    for number in range(3):
        cluster.submit(old, b"%d" % number * 150)
    with pytest.raises(Refused) as full:
        cluster.submit(old, b"x" * 400)
    assert full.value.code == "overloaded"
    cluster.elect("".join(n for n in "abc" if n != old))
    cluster.heal()
    cluster.settle()
    cluster.run(UNDECIDED + 2.0)
    outcomes = {p[:1]: refused(cluster, p)[:2] for p in cluster.refusals}
    assert set(outcomes) == {b"0", b"1", b"2"}
    assert ("leadership_lost", "unknown") in outcomes.values()  # beyond the end of the others' log
    assert cluster[old].in_flight_bytes == 0
    cluster.submit(old, b"again")
    cluster.run(1.0)
    assert b"again" in cluster.results
    cluster.judge()


def test_apply_lag_backpressure() -> None:
    """F3: while a leader's machine stands still, what is committed and not applied holds back what comes. Nothing is
    given up meanwhile: the leader has it in its log."""
    cluster = Cluster("abc", limits=Limits(in_flight_bytes=1000))
    leader = cluster.elect()
    cluster.site(leader).apply_waits = True
    for number in range(7):
        cluster.submit(leader, b"%d" % number)
        cluster.run(0.1)
    with pytest.raises(Refused):
        cluster.submit(leader, b"too much")
    cluster.run(UNDECIDED + 5.0)
    assert cluster.leads(leader)
    assert not cluster.refusals
    with pytest.raises(Refused):
        cluster.submit(leader, b"too much")
    cluster.heal()
    cluster.run(1.0)
    assert len(cluster.results) == 7
    assert cluster[leader].in_flight_bytes == 0


def test_a_snapshot_over_a_proposal_is_unknown() -> None:
    """Rule 8: the log that would tell is gone, so nobody says `not_applied`; the entry may be in the snapshot."""
    cluster = Cluster("abc")
    old = cluster.elect()
    rest = "".join(n for n in "abc" if n != old)
    cluster.eat = lambda m: m.to == node_id(old)
    cluster.submit(old, b"inside")  # reaches the others
    cluster.run(0.05)
    cluster.split(old, rest)
    cluster.submit(old, b"outside")  # reaches nobody
    new = cluster.elect(rest)
    for number in range(5):
        cluster.submit(new, b"%d" % number)
        cluster.run(0.1)
    cluster.until(lambda: all(cluster.site(n).machine.index == cluster[new].core.last_index for n in rest))
    for name in rest:
        cluster.snapshot(name)
    cluster.heal()
    cluster.settle()
    assert refused(cluster, b"inside") == ("snapshot_installed", "unknown", 504)
    assert refused(cluster, b"outside") == ("snapshot_installed", "unknown", 504)
    assert [p for p in cluster.payloads() if p in (b"inside", b"outside")] == [b"inside"]
    assert cluster[old].in_flight_bytes == 0
    cluster.judge()


def test_stop_answers_everybody() -> None:
    """Rule 8: what was proposed or forwarded is unknown, what still waited was not applied; nobody waits on."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    cluster.split(leader, *(n for n in "abc" if n != leader))
    cluster.submit(leader, b"proposed")
    cluster.read(leader, b"read")
    cluster.stop(leader)
    assert refused(cluster, b"proposed") == ("stopping", "unknown", 504)
    assert refused(cluster, b"read")[0] == "stopping"

    cluster.run(0.1)
    cluster.eat = lambda m: isinstance(m, Forward)
    cluster.until(lambda: False, 3.0)
    cluster.submit(name, b"queued")  # no leader: it waits
    cluster.stop(name)
    assert refused(cluster, b"queued")[:2] == ("stopping", "not_applied")
    member = cluster[name]
    assert member.in_flight_bytes == 0
    with pytest.raises(Refused) as late:
        member.submit(Command(b"late"), b"late", cluster.now)
    assert (late.value.code, late.value.outcome) == ("stopping", "not_applied")


def test_a_write_without_a_leader_waits_as_long_as_most_elections_take() -> None:
    """It was handed to nobody: `not_applied`, and worth trying again; but first it waits for a leader to come."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    cluster.split(*"abc")
    cluster.until(lambda: not cluster.leads(leader))
    cluster.submit(leader, b"early")
    cluster.run(2.5)
    assert not cluster.refusals
    cluster.run(1.0)
    assert refused(cluster, b"early") == ("no_leader", "not_applied", 503)
    assert cluster[leader].in_flight_bytes == 0
    cluster.submit(leader, b"soon")
    cluster.heal()
    cluster.run(5.0)
    assert (b"soon" in cluster.results) != (b"soon" in cluster.refusals)
    cluster.settle()
    cluster.judge()


# -- forwarding ----------------------------------------------------------------------------------------------------


def test_a_follower_forwards_in_one_batch_and_relays_the_answers() -> None:
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    member = cluster[name]
    for payload in (b"1", b"2", b"3"):
        member.submit(Command(payload), payload, cluster.now)
    cluster._turns()
    cluster.run(1.0)
    assert {p: r.body for p, r in cluster.results.items()} == {b"1": b"1", b"2": b"2", b"3": b"3"}
    assert [len(m.commands) for m in cluster.sent if isinstance(m, Forward)] == [3]
    assert (member.in_flight_bytes, cluster[leader].in_flight_bytes) == (0, 0)
    assert member.commands_forwarded == 3


def test_forwarding_never_retries_without_session() -> None:
    """X5, rule 8: a forward that left is never sent again, whatever becomes of its stream; its outcome is unknown."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    cluster.eat = lambda m: isinstance(m, ForwardReply)
    cluster.submit(name, b"once")
    cluster.run(0.2)
    assert cluster.payloads() == [b"once"]
    cluster.split(name, "".join(n for n in "abc" if n != name))
    assert refused(cluster, b"once") == ("forward_broken", "unknown", 504)
    assert not cluster.refusals[b"once"].retryable
    cluster.heal()
    cluster.settle()
    assert sum(isinstance(m, Forward) for m in cluster.sent) == 1
    assert cluster.payloads() == [b"once"]
    assert cluster[name].in_flight_bytes == 0


def test_a_forward_whose_answer_can_no_longer_come_is_unknown_at_once() -> None:
    """Only the way back broke: no time-out is waited for, and the leader goes on being heard about."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    cluster.eat = lambda m: isinstance(m, ForwardReply)
    cluster.submit(name, b"once")
    cluster.run(0.2)
    cluster[name].unheard(node_id(leader))
    cluster._turns()
    assert refused(cluster, b"once") == ("forward_broken", "unknown", 504)
    assert cluster[name].in_flight_bytes == 0
    assert cluster[name].core.leader == node_id(leader)


def test_what_waits_for_a_way_to_the_leader_leaves_when_a_hello_opens_one() -> None:
    """It was not sent for want of a stream; no tick is waited for once there may be one."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    member = cluster[cluster.follower(leader)]
    member.submit(Command(b"x"), b"x", cluster.now)
    (forward,) = [m for m in member.turn(cluster.now, 0).messages if isinstance(m, Forward)]
    member.not_sent(forward)
    assert not member.has_work()
    member.heard_version(node_id(leader), 1)
    assert member.has_work()
    assert [m.commands for m in member.turn(cluster.now, 0).messages if isinstance(m, Forward)] == [forward.commands]


def test_a_forward_that_is_never_answered_is_unknown_in_time() -> None:
    """F4: an answer that was swallowed has a deadline."""
    cluster = Cluster("abc")
    name = cluster.follower(cluster.elect())
    cluster.eat = lambda m: isinstance(m, Forward)
    cluster.submit(name, b"swallowed")
    cluster.run(UNDECIDED - 1.0)
    assert not cluster.refusals
    cluster.run(3.0)
    assert refused(cluster, b"swallowed") == ("timeout", "unknown", 504)
    assert cluster[name].in_flight_bytes == 0


def test_a_forward_for_which_there_was_no_room_is_put_back_in_order() -> None:
    """It never left, so trying again is no repetition. The queue keeps its order, and its size."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    member = cluster[name]
    cluster.refuse = lambda m: isinstance(m, Forward)
    cluster.submit(name, b"1")
    size = member.in_flight_bytes
    cluster.submit(name, b"2")
    assert member.in_flight_bytes == 2 * size
    cluster.run(0.1)
    assert not cluster.refusals
    assert not cluster.results
    assert member.commands_forwarded == 0
    cluster.refuse = lambda m: False
    cluster.run(1.0)
    assert cluster.payloads() == [b"1", b"2"]
    assert set(cluster.results) == {b"1", b"2"}
    assert member.in_flight_bytes == 0


def test_a_forward_that_never_finds_room_is_given_up() -> None:
    cluster = Cluster("abc")
    name = cluster.follower(cluster.elect())
    cluster.refuse = lambda m: isinstance(m, Forward)
    cluster.submit(name, b"1")
    cluster.run(4.0)
    assert refused(cluster, b"1") == ("no_leader", "not_applied", 503)
    assert cluster[name].in_flight_bytes == 0


def test_one_hop_only() -> None:
    """Rule 8: who is asked to propose and does not lead refuses; it never forwards further."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    asker = next(n for n in "abc" if n not in (leader, name))
    cluster.sent.clear()
    forward = Forward(node_id(asker), node_id(name), 7, (ForwardedCommand(b"a"), ForwardedCommand(b"b")))
    cluster[name].receive(forward, cluster.now)
    cluster._turns()
    assert not [m for m in cluster.sent if isinstance(m, Forward)]
    (reply,) = [m for m in cluster.sent if isinstance(m, ForwardReply)]
    assert (reply.to, reply.request) == (node_id(asker), 7)
    assert [(r.code, r.outcome, r.retryable) for r in reply.results] == [("no_leader", "not_applied", True)] * 2
    assert cluster[name].in_flight_bytes == 0


def test_what_was_forwarded_to_a_former_leader_goes_back_and_to_the_next() -> None:
    """Rule 8: it came while that one led, and waited there for a hand-over of leadership. Each hop is the first."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    cluster.settle()
    cluster[leader].core.transfer(node_id(name), cluster.now)
    cluster.submit(leader, b"own")
    asker = next(n for n in "abc" if n not in (leader, name))
    cluster.submit(asker, b"theirs")
    assert cluster.until(lambda: cluster.leads(name), 3.0)
    cluster.run(1.0)
    assert cluster.results[b"own"].body == b"own"
    assert cluster.results[b"theirs"].body == b"theirs"
    hops = [(m.sender, m.to) for m in cluster.sent if isinstance(m, Forward)]
    ids = [node_id(one) for one in (asker, leader, name)]
    assert sorted(hops) == sorted([(ids[0], ids[1]), (ids[1], ids[2]), (ids[0], ids[2])])
    assert cluster[leader].in_flight_bytes == cluster[asker].in_flight_bytes == 0
    cluster.judge()


def test_a_forward_whose_leader_has_changed_goes_to_the_next() -> None:
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    held: list[Forward] = []

    def hold(message: object) -> bool:
        if isinstance(message, Forward) and not held:
            held.append(message)
            return True
        return False

    cluster.eat = hold
    cluster.submit(name, b"late")
    other = next(n for n in "abc" if n not in (leader, name))
    cluster.run(0.2)
    cluster[leader].core.transfer(node_id(other), cluster.now)
    cluster._turns()
    cluster.until(lambda: cluster.leads(other))
    cluster[leader].receive(held[0], cluster.now)
    cluster._turns()
    cluster.run(0.5)
    assert cluster.results[b"late"].body == b"late"
    cluster.settle()
    cluster.judge()


def test_a_forward_that_is_given_back_again_and_again_is_refused_in_time() -> None:
    """A member that takes a former leader for the leader asks it once a tick, and tells its client in the end."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    member, replies = cluster[name], 0
    cluster.eat = lambda m: isinstance(m, Forward)
    cluster.submit(name, b"x")
    before = cluster.now
    while b"x" not in cluster.refusals:
        asked = [m for m in cluster.sent if isinstance(m, Forward)]
        if len(asked) > replies:
            replies += 1
            back = to_wire(leader_changed())
            member.receive(ForwardReply(node_id(leader), node_id(name), asked[-1].request, (back,)), cluster.now)
        cluster.run(0.05)
        assert cluster.now < before + 2 * member.limits.leaderless_seconds
    assert refused(cluster, b"x") == ("no_leader", "not_applied", 503)
    assert 2 < replies < 50
    assert member.in_flight_bytes == 0


def test_an_answer_to_an_earlier_process_is_nobodys() -> None:
    """Rule 8: a member crashes with a forward out, comes back, forwards another write; the answer to the first must
    not be taken for the second's, which may be lost."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    replies: list[ForwardReply] = []

    def hold(message: object) -> bool:
        if isinstance(message, ForwardReply):
            replies.append(message)
        return isinstance(message, ForwardReply)

    cluster.eat = hold
    cluster.submit(name, b"first")
    cluster.run(0.2)
    cluster.kill(name)
    cluster.restart(name)
    cluster.until(lambda: cluster[name].core.leader == node_id(leader))
    cluster.eat = lambda m: isinstance(m, Forward)  # the second never arrives
    cluster.submit(name, b"second")
    (reply,) = replies
    cluster[name].receive(reply, cluster.now)
    cluster._turns()
    assert not cluster.results
    forwards = [m.request for m in cluster.sent if isinstance(m, Forward)]
    assert len(set(forwards)) == len(forwards) == 2
    # Nor one with the right number from a member that was not asked.
    other = next(n for n in "abc" if n not in (leader, name))
    forged = ForwardReply(node_id(other), node_id(name), forwards[1], (ForwardResult(0, 0, 9),))
    cluster[name].receive(forged, cluster.now)
    cluster._turns()
    assert not cluster.results


def test_an_answer_for_fewer_commands_leaves_nobody_waiting() -> None:
    """F7: whatever a peer sends, every waiter is answered once, and nothing is claimed for the missing ones."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    cluster.eat = lambda m: isinstance(m, Forward)
    member = cluster[name]
    for payload in (b"1", b"2"):
        member.submit(Command(payload), payload, cluster.now)
    cluster._turns()
    (forward,) = [m for m in cluster.sent if isinstance(m, Forward)]
    short = ForwardReply(node_id(leader), node_id(name), forward.request, (ForwardResult(0, 0, 5, b"1"),))
    member.receive(short, cluster.now)
    member.receive(short, cluster.now)  # and once more
    cluster._turns()
    assert cluster.results == {b"1": Result(0, 5, b"1")}
    assert refused(cluster, b"2") == ("forward_broken", "unknown", 504)
    assert member.in_flight_bytes == 0


def test_a_drained_leader_refuses_what_is_forwarded_to_it() -> None:
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    cluster[leader].draining = True
    cluster.submit(name, b"x")
    cluster.run(0.5)
    assert refused(cluster, b"x")[:2] == ("stopping", "not_applied")


def test_writes_wait_while_leadership_is_handed_over() -> None:
    """T1: nothing is proposed during a transfer, and nothing is refused for it: the new leader gets it."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    cluster[leader].core.transfer(node_id(name), cluster.now)
    assert cluster[leader].core.transferring
    cluster.submit(leader, b"x")
    assert cluster[leader].core.last_index == cluster[name].core.last_index
    cluster.run(1.0)
    assert cluster.leads(name)
    assert b"x" in cluster.results
    cluster.judge()


def test_transfer_blocks_then_times_out() -> None:
    """T1: a target that does not answer costs one election timeout; what waited then goes on here, or was refused."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    cluster.eat = lambda m: isinstance(m, TimeoutNow)
    cluster[leader].core.transfer(node_id(name), cluster.now)
    cluster.run(0.5)
    cluster.submit(leader, b"x")
    cluster.run(0.3)
    assert b"x" not in cluster.results
    cluster.run(1.0)
    assert cluster.leads(leader)
    assert b"x" in cluster.results


# -- bounds --------------------------------------------------------------------------------------------------------


def batches(cluster: Cluster) -> list[list[bytes]]:
    entries = [e for _, e in sorted(cluster.truth.items()) if e.kind == EntryKind.COMMANDS]
    return [[c.payload for c in decode_batch(e.data).commands] for e in entries]


def test_a_turn_is_one_entry_closed_at_512_commands() -> None:
    """Rule 32."""
    cluster = Cluster("a")
    cluster.elect()
    member = cluster["a"]
    for number in range(1100):
        member.submit(Command(b"%04d" % number), b"%04d" % number, cluster.now)
    cluster._turns()
    cluster.run(0.5)
    assert [len(b) for b in batches(cluster)] == [512, 512, 76]
    assert [p for b in batches(cluster) for p in b] == [b"%04d" % n for n in range(1100)]


def test_a_turn_is_one_entry_closed_at_one_mebibyte() -> None:
    """Rule 32: one larger command goes alone."""
    cluster = Cluster("a")
    cluster.elect()
    member = cluster["a"]
    third = (1 << 20) // 3
    for payload in (b"a" * third, b"b" * third, b"c" * third, b"d", b"e" * (3 << 20), b"f"):
        member.submit(Command(payload), payload, cluster.now)
    cluster._turns()
    cluster.run(0.5)
    assert ["".join(chr(p[0]) for p in b) for b in batches(cluster)] == ["abcd", "e", "f"]


def until_refused(cluster: Cluster, name: str, payload_bytes: int) -> tuple[int, Refused]:
    """How many were taken before the first that was not."""
    for accepted in range(10_000):
        try:
            cluster.submit(name, b"%05d" % accepted + bytes(payload_bytes))
        except Refused as refusal:
            return accepted, refusal
    raise AssertionError("nothing was ever refused")


def test_in_flight_bound_refuses_with_429() -> None:
    """Rules 32 and 33: what is beyond the bound is refused at once, nothing of it is queued; answers make room."""
    cluster = Cluster("abc", limits=Limits(in_flight_bytes=1 << 20))
    leader = cluster.elect()
    cluster.split(*"abc")
    accepted, refusal = until_refused(cluster, leader, 10_000)
    assert 90 < accepted < 110
    assert (refusal.code, refusal.status, refusal.outcome) == ("overloaded", 429, "not_applied")
    assert refusal.retry_after_seconds > 0
    assert cluster[leader].in_flight_bytes <= 1 << 20
    cluster.heal()
    cluster.run(40.0)
    assert len(cluster.results) + len(cluster.refusals) == accepted
    assert cluster[leader].in_flight_bytes == 0
    cluster.submit(leader, b"room again")


def test_small_commands_cost_more_than_their_payload() -> None:
    """Rule 33: many tiny commands must not get around a bound in bytes."""
    cluster = Cluster("abc", limits=Limits(in_flight_bytes=10_000))
    leader = cluster.elect()
    cluster.split(*"abc")
    accepted, _ = until_refused(cluster, leader, 0)
    assert accepted < 100


def test_uncommitted_bound_without_quorum() -> None:
    """L13: the core's bound is reported as 429, and what was refused was not appended."""
    cluster = Cluster("abc", options=Options(max_uncommitted_bytes=1000))
    leader = cluster.elect()
    cluster.split(*"abc")
    for number in range(5):
        cluster.submit(leader, b"%d" % number * 400)
        cluster.run(2 * cluster[leader].limits.gather_seconds)  # an entry each
    assert cluster.refusals
    assert {(r.code, r.status, r.outcome) for r in cluster.refusals.values()} == {("overloaded", 429, "not_applied")}
    cluster.heal()
    cluster.settle()
    cluster.judge()


def test_the_table_of_peers_is_bounded() -> None:
    """Rule 33: ids come and go with every incarnation."""
    cluster = Cluster("abc")
    member = cluster[cluster.elect()]
    for number in range(2000):
        member.heard_version(f"x-{number:016x}", 1)
        member.receive(Report(f"x-{number:016x}", member.core.node_id, True), cluster.now)
    assert len(member.peer_versions) <= 256
    assert len(member._space) <= 256


# -- disk space ----------------------------------------------------------------------------------------------------


def test_enospc_is_not_permanent() -> None:
    """D13, rule 5: with a majority low on space what grows gets 507, deletes and reads go on, and all is well again
    when the reports say so."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    others = [n for n in "abc" if n != leader]
    cluster[others[0]].low_on_space = True
    cluster.run(3.0)
    cluster.submit(leader, b"one is low")
    cluster.run(0.5)
    assert b"one is low" in cluster.results

    cluster[others[1]].low_on_space = True
    cluster.run(3.0)
    assert cluster[leader].cluster_low_on_space()
    cluster.submit(leader, b"put")
    cluster.submit(leader, b"delete", grows=False)
    cluster.submit(others[0], b"forwarded put")
    cluster.submit(others[0], b"forwarded delete", grows=False)
    cluster.read(leader, b"read")
    cluster.run(0.5)
    assert refused(cluster, b"put") == ("out_of_space", "not_applied", 507)
    assert refused(cluster, b"forwarded put") == ("out_of_space", "not_applied", 507)
    assert {b"delete", b"forwarded delete"} <= set(cluster.results)
    assert b"read" in cluster.readable

    cluster[others[1]].low_on_space = False
    cluster.run(3.0)
    cluster.submit(leader, b"room")
    cluster.run(0.5)
    assert b"room" in cluster.results
    cluster.judge()


def test_a_lone_member_counts_its_own_disk() -> None:
    cluster = Cluster("a")
    cluster.elect()
    cluster["a"].low_on_space = True
    cluster.submit("a", b"put")
    cluster.submit("a", b"delete", grows=False)
    cluster.run(0.5)
    assert refused(cluster, b"put")[0] == "out_of_space"
    assert b"delete" in cluster.results


def test_disk_hang_steps_down() -> None:
    """D12: a leader whose disk hangs gives up, the others go on; its waiters hear what became of their writes."""
    cluster = Cluster("abc")
    old = cluster.elect()
    cluster.site(old).disk_hangs = True
    cluster.submit(old, b"during")
    rest = "".join(n for n in "abc" if n != old)
    assert cluster.until(lambda: not cluster.leads(old), 3.0)
    new = cluster.elect(rest)
    cluster.submit(new, b"after")
    cluster.run(0.5)
    assert b"after" in cluster.results
    assert b"during" in cluster.results  # it was on a majority of disks
    cluster.heal()
    cluster.settle()
    cluster.judge()


# -- the latch and the version -------------------------------------------------------------------------------------


def test_no_write_before_the_cluster_has_its_voters() -> None:
    """The min_voters latch: an acknowledged write on one disk would be lost with it."""
    cluster = Cluster("a", "bc", min_voters=3)
    leader = cluster.elect("a")
    cluster.submit(leader, b"early")
    cluster.submit(leader, b"early delete", grows=False)
    cluster.run(0.5)
    assert refused(cluster, b"early") == ("awaiting_members", "not_applied", 503)
    assert refused(cluster, b"early delete")[0] == "awaiting_members"
    cluster.until(lambda: cluster["a"].core.is_caught_up(node_id("c")))
    core = cluster["a"].core
    known = {m.id: m for m in (*core.placed.configuration.voters, *core.placed.configuration.learners)}
    core.change_configuration(list(known.values()), [], core.placed.id, cluster.now)
    cluster._turns()
    assert cluster.until(lambda: not core.committed_placed.configuration.outgoing and core.placed.index > 1, 10.0)
    cluster.run(0.5)
    assert core.committed_placed.configuration.min_voters == 0
    cluster.submit(cluster.elect(), b"now")
    cluster.run(1.0)
    assert b"now" in cluster.results


def test_version_is_raised_only_when_every_hello_allows_it() -> None:
    """Rule 34: by the leader, to the lowest of its members, learners too; and again in the same term."""
    cluster = Cluster("abc", "d")
    for name in "abcd":
        cluster[name].speaks_version = 3
    leader = cluster.elect("abc")
    member = cluster[leader]
    cluster.run(2.0)
    assert member.cluster_version == 0
    others = [n for n in "abcd" if n != leader]
    for name in others[:-1]:
        member.heard_version(node_id(name), 3)
    cluster.run(2.0)
    assert member.cluster_version == 0
    member.heard_version(node_id(others[-1]), 2)
    cluster.run(2.0)
    assert [cluster.site(n).machine.version for n in "abcd"] == [2, 2, 2, 2]
    member.heard_version(node_id(others[-1]), 3)
    term = member.core.term
    cluster.run(2.0)
    assert [cluster.site(n).machine.version for n in "abcd"] == [3, 3, 3, 3]
    assert member.core.term == term
    raised = [msgspec.msgpack.decode(e.data) for e in cluster.truth.values() if e.kind == EntryKind.VERSION]
    assert raised == [2, 3]


# -- hanging, spinning ---------------------------------------------------------------------------------------------


def test_queued_work_that_nobody_can_take_is_no_work() -> None:
    """`has_work` would wake the loop again and again: the driver of these tests fails on a member that spins."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    cluster.split(*"abc")
    cluster.until(lambda: not cluster.leads(leader))
    cluster.submit(leader, b"x")
    cluster.read(leader, b"r")
    assert not cluster[leader].has_work()
    assert cluster[leader].deadline - cluster.now <= 0.3  # but it is looked after soon


def test_single_node_ack_after_fsync() -> None:
    """C3: nobody hears of a write that is not on the disk, with one voter too."""
    cluster = Cluster("a")
    cluster.elect()
    cluster.site("a").disk_hangs = True
    cluster.submit("a", b"x")
    cluster.run(0.5)
    assert not cluster.results
    cluster.heal()
    cluster.run(0.5)
    assert b"x" in cluster.results


def test_no_response_before_persist() -> None:
    """D2: a follower's acknowledgement leaves with its frame on the disk, not before."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    others = [n for n in "abc" if n != leader]
    cluster.run(0.5)
    for name in others:
        cluster.site(name).disk_hangs = True
    cluster.submit(leader, b"x")
    index = cluster[leader].core.last_index
    cluster.run(0.5)
    assert not [m for m in cluster.sent if isinstance(m, AppendReply) and m.accepted and m.index >= index]
    assert not cluster.results
    cluster.heal()
    cluster.run(0.5)
    assert b"x" in cluster.results


def test_a_burst_begins_to_be_replicated_while_the_rest_is_read() -> None:
    """With nothing under way a small batch goes first; with one under way the rest gathers (rule 32)."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    member = cluster[leader]
    for n in range(15):
        member.submit(Command(b"%d" % n), n, cluster.now)
        assert not member.could_begin
    member.submit(Command(b"15"), 15, cluster.now)
    assert member.could_begin
    member.turn(cluster.now, 0)
    for n in range(40):
        member.submit(Command(b"more"), n, cluster.now)
        assert not member.could_begin


def test_few_commands_gather_while_an_entry_is_under_way() -> None:
    """They go when that entry is applied, when enough have come, or when their patience is over, never later."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    member, core = cluster[leader], cluster[leader].core
    cluster.run(0.1)
    last = core.last_index

    def send(count: int, seconds: float = 0.0) -> int:
        """`count` more commands and, `seconds` later, a turn; how many entries were proposed since the election."""
        for _ in range(count):
            member.submit(Command(b"x"), None, cluster.now)
        member.turn(cluster.now + seconds, 0)
        return core.last_index - last

    gather = member.limits.gather_seconds
    assert send(1) == 1  # nothing was under way
    assert send(2) == 1  # gathers behind it
    assert not member.has_work()
    assert member.deadline == cluster.now + gather  # the driver must come back
    assert send(0, gather) == 2  # patience is over
    assert send(member.limits.gather_commands - 1) == 2
    assert send(1) == 3  # enough have come


def test_what_gathers_goes_when_the_entry_before_it_is_applied() -> None:
    cluster = Cluster("abc")
    leader = cluster.elect()
    member = cluster[leader]
    cluster.run(0.1)
    last = member.core.last_index
    cluster.submit(leader, b"first")
    member.submit(Command(b"second"), None, cluster.now)
    began = cluster.now
    while member.core.last_index < last + 2:
        cluster.run(0.0002)
    assert cluster.now - began < member.limits.gather_seconds + 0.001
