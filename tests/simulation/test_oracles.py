"""Each oracle of the simulation fires: a sound run is told something that is not so, or a member is made to lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest
from tests.simulation import blackbox, clients, runs, story
from tests.simulation.clients import Operation
from tests.simulation.ledger import Fate, Item
from tests.simulation.oracles import participants
from tests.simulation.process import Process
from tests.simulation.scheduler import Loop, Violated, World
from tests.simulation.story import Story, opened

from oarlock.machine.command import Result
from oarlock.peers.transport import _Peer
from oarlock.raft.core import Core
from oarlock.runtime.divergence import StateDiverged
from oarlock.runtime.errors import out_of_order

SEED = 3


@pytest.fixture
def quiet() -> Iterator[Story]:
    """A cluster at work, that nothing has happened to."""
    with opened(SEED) as one:
        one.faults.known = []
        one.admin.restless = 0.0
        assert one.world.run(60_000, until=lambda: one.clients.acknowledged > 40 and one.whole())
        yield one


def leader_of(one: Story) -> tuple[Process, Core]:
    process = one.admin.leader()
    assert process is not None
    assert process.node is not None
    assert process.node.engine is not None
    return process, process.node.engine.core


def found_by(oracle: str) -> pytest.RaisesExc[Violated]:
    return pytest.raises(Violated, match=rf"^\[{oracle}\]")


def acknowledged(one: Story, kind: str = "put") -> Operation:
    """One that changed something, or saw something."""
    done = [op for op in one.clients.done if op.kind == kind and op.outcome == "acknowledged" and not op.idempotency]
    if kind == "put":
        return [op for op in done if op.result is not None and op.result.status in clients.CHANGES][-1]
    return [op for op in done if op.item is not None][-1]


def test_a_commit_without_a_majority(quiet: Story) -> None:
    _, core = leader_of(quiet)
    quiet.oracles.durable.clear()
    quiet.oracles.floors.clear()
    with found_by("commit quorum"):
        quiet.oracles._committed(core, core.placed)


def test_a_leader_without_votes(quiet: Story) -> None:
    _, core = leader_of(quiet)
    quiet.oracles.votes.clear()
    with found_by("election quorum"):
        quiet.oracles._elected(core)


def test_a_vote_for_two_in_one_term(quiet: Story) -> None:
    _, core = leader_of(quiet)
    quiet.oracles.voted[core.node_id, core.term] = "m8-1"
    with found_by("vote"):
        quiet.oracles._remember_disk(core)


def test_a_restart_in_a_term_that_is_over(quiet: Story) -> None:
    process, core = leader_of(quiet)
    quiet.oracles.terms[core.node_id] = core.term + 1
    del quiet.oracles._seen[process.name]
    with found_by("vote"):
        quiet.oracles._core(process.name, core)


def test_an_acknowledged_write_that_a_quorum_lacks(quiet: Story) -> None:
    oracles, ids = quiet.oracles, list(participants(quiet.oracles.settled.configuration))
    last = oracles.ledger.acknowledged
    assert last, "a write was acknowledged"
    oracles.floors.clear()
    del oracles.durable[ids[0]][last]
    oracles._kept()  # a minority may
    for id in ids[1:]:
        oracles.durable[id].pop(last, None)
    with found_by("lost"):
        oracles._kept()


def test_a_restart_with_less_on_the_disk_is_looked_at(quiet: Story) -> None:
    _, core = leader_of(quiet)
    oracles = quiet.oracles
    assert not oracles._remember_disk(core)
    oracles.durable[core.node_id][core.last_index + 1] = core.term
    assert oracles._remember_disk(core)


def test_a_leader_that_nobody_answers(quiet: Story) -> None:
    process, _ = leader_of(quiet)
    others = [p.name for p in quiet.processes if p is not process]
    cut = {(process.name, name) for name in others}
    quiet.oracles.look_at_leaders(quiet.processes, cut)
    quiet.world.now += 6.0
    with found_by("check quorum"):
        quiet.oracles.look_at_leaders(quiet.processes, cut)


def test_a_commit_index_that_falls(quiet: Story) -> None:
    process, core = leader_of(quiet)
    core._state.commit -= 1
    with found_by("invariant"):
        quiet.oracles.observe(process)


def test_a_committed_entry_that_another_member_has_otherwise(quiet: Story) -> None:
    process, core = leader_of(quiet)
    known = quiet.oracles.witness.entries
    place = (core.last_index, core.last_term)
    entry, previous = known[place]
    known[place] = (msgspec.structs.replace(entry, data=b"another"), previous)
    quiet.oracles.witness.forget(core.node_id)
    quiet.oracles._quick.clear()
    with found_by("invariant"):
        quiet.oracles.observe(process)


def test_two_members_that_differ_at_one_index(quiet: Story) -> None:
    process, _ = leader_of(quiet)
    assert process.node is not None
    index = process.node.environment.applied.index
    quiet.oracles.hashes[index] = ("another", "m9")
    with found_by("state hash"):
        quiet.oracles._applied(process.name, process.node.node_id, process.node.environment)


def test_an_entry_that_is_applied_before_it_is_committed(quiet: Story) -> None:
    quiet.oracles.ledger.index -= 1
    process, _ = leader_of(quiet)
    assert process.node is not None
    with found_by("apply"):
        quiet.oracles._applied(process.name, process.node.node_id, process.node.environment)


def test_a_revision_that_nobody_wrote(quiet: Story) -> None:
    quiet.oracles.ledger.revision += 1
    process, _ = leader_of(quiet)
    assert process.node is not None
    with found_by("revision"):
        quiet.oracles._applied(process.name, process.node.node_id, process.node.environment)


def test_a_write_that_was_answered_and_is_not_in_the_log(quiet: Story) -> None:
    op = acknowledged(quiet)
    del quiet.oracles.ledger.fates[op.mark]
    with found_by("acknowledged"):
        quiet.clients._judge_now(op)
    with found_by("lost"):
        quiet.clients.judge_at_end()


def test_an_answer_that_is_another_writes(quiet: Story) -> None:
    op = acknowledged(quiet)
    assert op.result is not None
    wrong = Result(op.result.status, op.result.revision - 1, op.result.body)
    with found_by("acknowledged"):
        quiet.clients._judge_now(replace(op, result=wrong))


@pytest.mark.parametrize("kind", ["put", "read"])
def test_an_operation_older_than_what_had_ended_before_it(quiet: Story, kind: str) -> None:
    with found_by("linearizable"):
        quiet.clients._judge_now(replace(acknowledged(quiet, kind), floor=10**6))


@pytest.mark.parametrize("kind", ["read", "stale"])
def test_a_read_of_what_was_never_there(quiet: Story, kind: str) -> None:
    """A stale read may be old, but what it sees must have been so at its revision."""
    op = replace(acknowledged(quiet, "read"), kind=kind)
    quiet.oracles.ledger.history[op.key] = [(1, Item(b"x", 1, 1, 1))]
    with found_by("read"):
        quiet.clients._judge_now(op)


def test_a_refusal_that_was_applied(quiet: Story) -> None:
    quiet.clients.done.append(replace(acknowledged(quiet), outcome="not_applied"))
    with found_by("outcome"):
        quiet.clients.judge_at_end()


def test_a_write_that_stands_twice_in_the_log(quiet: Story) -> None:
    fates = quiet.oracles.ledger.fates[acknowledged(quiet).mark]
    fates.append(Fate(fates[0].index + 1, 0, 10**6, b""))
    with found_by("doubled"):
        quiet.clients.judge_at_end()


def test_a_key_that_a_member_lacks(quiet: Story) -> None:
    quiet.oracles.ledger.store[b"another"] = Item(b"x", 1, 1, 1)
    with found_by("state"):
        quiet._compare_states()


def test_an_exception_that_nobody_expected(quiet: Story) -> None:
    process, _ = leader_of(quiet)
    process.loop.call_soon(lambda: 1 // 0)
    with found_by("uncaught"):
        quiet.world.run(1000)


def test_a_cluster_that_never_heals(quiet: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "HEALING_SECONDS", 15.0)
    monkeypatch.setattr(quiet.faults, "heal", lambda: None)
    for process in quiet.processes:
        process.kill()
    with found_by("liveness"):
        quiet.run(2000)


def test_a_cluster_that_is_never_whole(quiet: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "HEALING_SECONDS", 15.0)
    monkeypatch.setattr(quiet, "whole", lambda: False)
    with found_by("convergence"):
        quiet.run(2000)


def test_time_that_stands_still() -> None:
    world = World(1)
    loop = Loop(world, "m0")

    def again() -> None:
        loop.call_soon(again)

    again()
    with pytest.raises(Violated, match="time stands still"):
        world.run(10**6)


def test_what_fails_is_told_again_in_fewer_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrinking keeps the oracle, and drops faults and events that it does not need."""

    def suspicious(self: clients.Clients, op: Operation) -> None:
        if len(self.done) > 20:
            raise Violated("[read] planted")

    monkeypatch.setattr(clients.Clients, "_judge_now", suspicious)
    told = runs.run(SEED, 8000)
    assert told.oracle == "read"
    assert told.faults
    shrunk = runs.shrink(told, 8000)
    assert shrunk.told.oracle == "read"
    assert set(shrunk.without) == set(told.faults)
    assert shrunk.events < 8000
    assert f"--from {SEED} --events {shrunk.events} --without" in shrunk.command


def test_a_state_gone_astray_is_found_by_the_members_themselves(quiet: Story) -> None:
    """Rule 26, on the whole way: compared, told, halted, remembered, replaced."""
    others = [p for p in quiet.processes if p.name in quiet.admin.wanted and p is not quiet.admin.leader()]
    quiet.world.rng.choice = lambda _: others[0]  # type: ignore[assignment, method-assign]
    quiet.faults.go_astray()
    del quiet.world.rng.choice
    (astray,) = quiet.world.astray
    quiet.world.run(20, seconds=0.01)
    assert not quiet.whole()  # its state is another
    reset = quiet.world.reached["admin: a member was reset"]
    assert quiet.world.run(200_000, 60.0, lambda: quiet.world.reached["admin: a member was reset"] > reset)
    assert any("out of order state=Corrupt" in line and "majority of the voters" in line for line in quiet.world.lines)
    assert quiet.world.run(200_000, 60.0, quiet.whole)
    configuration = quiet.admin.configuration()
    assert configuration is not None
    assert astray in configuration.tombstones


def test_whose_state_is_wrong_is_known_from_what_it_holds(quiet: Story) -> None:
    """A copy of a state astray is astray; a state that was built anew is not; any other difference is a violation."""
    process, _ = leader_of(quiet)
    assert process.node is not None
    assert process.node.engine is not None
    environment = process.node.engine.environment
    oracles, astray = quiet.oracles, quiet.world.astray
    astray["m8-1"] = environment
    oracles._compare("m8", "m8-1", environment)
    oracles._compare("m9", "m9-1", environment)
    assert astray.keys() == {"m8-1", "m9-1"}
    quiet.world.wrong.clear()
    astray["m8-1"] = object()  # which it has no more
    oracles._compare("m8", "m8-1", environment)
    assert astray.keys() == {"m9-1"}
    oracles.hashes[environment.applied.index] = ("another", "m7")
    with found_by("state hash"):
        oracles._compare("m8", "m8-1", environment)


def test_a_guest_that_stays(quiet: Story) -> None:
    process, _ = leader_of(quiet)
    assert process.node is not None
    quiet.oracles.look_at_guests(quiet.processes)
    process.node.transport._peers["m9-1"] = _Peer("m9-1", "http://m9:2380")
    with found_by("guests"):
        quiet.oracles.look_at_guests(quiet.processes)


def test_what_waits_for_ever_is_not_whole(quiet: Story) -> None:
    process, _ = leader_of(quiet)
    assert process.node is not None
    assert process.node.engine is not None
    quiet.clients.stopped = True
    assert quiet.world.run(20_000, 10.0, lambda: not quiet.clients.open and quiet.whole())
    process.node.engine.member.in_flight_bytes += 1
    assert not quiet.whole()


def two_reads(one: Story) -> tuple[Operation, Operation] | None:
    """Of one key, one after the other, with different answers."""
    reads = [op for op in one.clients.done if op.kind == "read" and op.item]
    pairs = ((a, b) for a in reads for b in reads if a.key == b.key and a.item != b.item and a.end < b.begin)
    return next(pairs, None)


@pytest.fixture
def searched(quiet: Story, monkeypatch: pytest.MonkeyPatch) -> Story:
    """What is told next is found by the search alone: the log is not asked."""
    assert quiet.world.run(60_000, until=lambda: two_reads(quiet) is not None)
    quiet.clients.stopped = True
    assert quiet.world.run(60_000, until=lambda: not quiet.clients.open)
    monkeypatch.setattr(blackbox, "SHORT", 10_000)
    quiet.clients.judge_at_end()
    return quiet


def test_a_history_that_no_order_explains(searched: Story) -> None:
    pair = two_reads(searched)
    assert pair is not None
    early, late = pair
    late.item = early.item
    with found_by("search"):
        searched.clients.judge_at_end()


def test_a_history_that_the_search_cannot_decide(searched: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blackbox, "MOST_STEPS", 3)
    with found_by("search"):
        searched.clients.judge_at_end()


def test_a_removed_id_that_is_a_member_again(quiet: Story) -> None:
    _, core = leader_of(quiet)
    quiet.oracles.settled = msgspec.structs.replace(quiet.oracles.settled, index=0)
    quiet.oracles.gone.add(core.node_id)
    with found_by("removed"):
        quiet.oracles._settled(core.committed_placed)


def test_a_member_that_is_called_diverged_and_is_not(quiet: Story) -> None:
    process, _ = leader_of(quiet)
    assert process.node is not None
    process.node.alarmed = frozenset({("m9-1", False)})
    with found_by("false alarm"):
        quiet.oracles.look_for_false_alarms(quiet.processes)
    quiet.world.strayed.add("m7-1")
    with found_by("false alarm"):
        quiet.oracles.look_for_false_alarms(quiet.processes)
    quiet.world.strayed.add("m9-1")
    quiet.oracles.look_for_false_alarms(quiet.processes)
    process.node.broken = out_of_order(StateDiverged(5, "x", "y"))
    with found_by("false alarm"):
        quiet.oracles.look_for_false_alarms(quiet.processes)
