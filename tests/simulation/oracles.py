"""What must hold after every event, whatever was done to the cluster.

Rules of this module: it only looks; it counts majorities by the book, and not with the core's own arithmetic; each
oracle has a name, and a test in which it fires (test_oracles.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tests.majorities import has_majorities
from tests.simulation import coverage
from tests.simulation.ledger import Ledger
from tests.simulation.scheduler import Violated, World

from oarlock.machine.environment import Environment
from oarlock.raft.core import Core
from oarlock.raft.errors import InvariantViolated
from oarlock.raft.invariants import Glimpse, Witness, check_basic, check_delta, glimpse
from oarlock.raft.state import Role
from oarlock.raft.types import Configuration, NodeId, PlacedConfiguration
from oarlock.runtime.member import members_of

if TYPE_CHECKING:
    from tests.simulation.process import Process


ALONE_SECONDS = 4.5  # more than two election time-outs, of slow clocks too


def violated(oracle: str, what: str) -> Violated:
    return Violated(f"[{oracle}] {what}")


class Oracles:
    def __init__(self, world: World) -> None:
        self.world = world
        self.witness = Witness()
        self.ledger = Ledger()
        self.hashes: dict[int, tuple[str, str]] = {}  # applied index -> (state hash, who had it first)
        self.votes: dict[tuple[int, NodeId], set[NodeId]] = {}  # (term, candidate) -> who durably voted for it
        self.durable: dict[NodeId, dict[int, int]] = {}  # what is on a member's disk: index -> term
        self.floors: dict[NodeId, int] = {}  # and the index that its snapshot covers
        self.terms: dict[NodeId, int] = {}  # the highest that was durable
        self.voted: dict[tuple[NodeId, int], NodeId] = {}  # (who, term) -> for whom, durably
        self.gone: set[NodeId] = set()  # dropped by a committed configuration
        self.settled = PlacedConfiguration(0, 0, Configuration())  # the latest that is committed
        self._seen: dict[str, tuple[Core, Glimpse, int]] = {}
        self._alone: dict[str, tuple[float, int]] = {}  # leaders that reach no majority: since when, in which term
        self._quick: dict[str, tuple[object, ...]] = {}
        self._placed: dict[str, tuple[Core, PlacedConfiguration]] = {}

    def observe(self, process: Process) -> None:
        """After an event of this process."""
        node = process.node
        if not process.up or node is None or node.engine is None or node.engine.halted:
            return
        engine = node.engine
        core, environment = engine.core, engine.environment
        quick = (core, core.term, core.vote, core.role, core.commit_index, core.applied_index, core.last_index,
                 core.last_term, core.first_index, core.durable_index, environment.applied.index, core.leader,
                 core.placed, core._state.durability.durable_sequence)  # fmt: skip
        if self._quick.get(process.name) == quick:
            return
        self._quick[process.name] = quick
        try:
            self._core(process.name, core)
        except InvariantViolated as error:
            raise violated("invariant", str(error)) from error
        self._applied(process.name, node.node_id, environment)

    def _core(self, name: str, core: Core) -> None:
        check_basic(core)
        before = self._seen.get(name)
        if before is None or before[0] is not core:
            self.witness.forget(core.node_id)
            if core.term < self.terms.get(core.node_id, 0):
                raise violated("vote", f"{core.node_id} is in term {core.term}, and was in {self.terms[core.node_id]}")
            self._trace(name, core, None)
            elected = core.role is Role.LEADER
        else:
            check_delta(before[1], core)
            self._trace(name, core, before[1])
            elected = core.role is Role.LEADER and (before[1].role is not Role.LEADER or before[1].term != core.term)
        placed = self._placed.get(name)
        coverage.see_configuration(self.world, name, core, placed[1] if placed and placed[0] is core else None)
        self._placed[name] = (core, core.placed)
        seen = glimpse(core)
        if self._remember_disk(core):
            self._kept()
        if elected:
            self._elected(core)
        advanced = before is not None and before[0] is core and core.commit_index > before[1].commit
        if advanced and core.role is Role.LEADER:
            self._committed(core, placed[1] if placed else core.placed)
        self.witness.observe(core)
        self._settled(core.committed_placed)
        while (term := self.witness.committed.get(self.ledger.index + 1)) is not None:
            floor = self.ledger.floor
            self.ledger.apply(self.witness.entries[self.ledger.index + 1, term][0])
            if self.ledger.floor > floor:
                self.world.reach("machine: the history was compacted")
        self._seen[name] = (core, seen, core.durable_index)

    def _settled(self, placed: PlacedConfiguration) -> None:
        """Rule 15: an id that was dropped never returns."""
        if placed.index <= self.settled.index:
            return
        before, now = (
            set(members_of(one.configuration.voters, one.configuration.learners, one.configuration.outgoing))
            for one in (self.settled, placed)
        )
        self.gone |= before - now
        self.settled = placed
        self.world.reach("raft: a configuration was committed")
        self._kept()
        if returned := sorted(self.gone & now):
            raise violated("removed", f"{returned} were removed, and are in configuration {placed.id} again")

    def look_at_leaders(self, processes: Sequence[Process], cut: set[tuple[str, str]]) -> None:
        """Once a second. Check-quorum: a leader that no majority can have answered for so long has stepped down."""
        running = {p.name for p in processes if p.up and not p.loop.paused}
        for process in processes:
            node = process.node
            leads = process.name in running and node is not None and node.engine is not None and not node.engine.halted
            core = node.engine.core if leads and node is not None and node.engine is not None else None
            if core is None or core.role is not Role.LEADER:
                self._alone.pop(process.name, None)
                continue
            names = {id: id.rpartition("-")[0] for id in participants(core.placed.configuration)}
            here = process.name
            reached = [
                id
                for id, name in names.items()
                if name == here or (name in running and (name, here) not in cut and (here, name) not in cut)
            ]
            if has_majorities(core.placed.configuration, reached):
                self._alone.pop(here, None)
                continue
            since, term = self._alone.setdefault(here, (self.world.now, core.term))
            if term == core.term and self.world.now - since > ALONE_SECONDS:
                raise violated("check quorum", f"{core.node_id} has led term {term} alone for {ALONE_SECONDS} s")

    def look_at_guests(self, processes: Iterable[Process]) -> None:
        """Nothing is kept of a peer that no configuration names and that listens no more (rule 33)."""
        for process in processes:
            if process.up and process.node is not None and not process.node.stopping:
                kept = [p.node_id for p in process.node.transport.statuses() if not p.configured and not p.heard]
                if kept:
                    raise violated("guests", f"{process.name} keeps {kept}")

    def look_for_false_alarms(self, processes: Sequence[Process]) -> None:
        """Once a second. Rule 26: nobody is called diverged whose state is what it applied, and there is an alarm only
        between two of whom one had another state."""
        astray, strayed = self.world.astray, self.world.strayed
        for node in [p.node for p in processes if p.up and p.node is not None]:
            judged = node.broken is not None and node.broken.lasting
            alarms = [] if node.node_id in strayed else [peer for peer, _ in node.alarmed if peer not in strayed]
            if (judged and node.node_id not in astray) or alarms:
                raise violated("false alarm", f"{node.node_id}: {node.broken}, alarmed by {sorted(node.alarmed)}")

    def _remember_disk(self, core: Core) -> bool:
        """Has it less than before, or another's?"""
        held = self.durable.setdefault(core.node_id, {})
        gone = [i for i in held if i > core.last_index]
        for index in gone:
            del held[index]
        lost = bool(gone)
        for index in range(core.first_index, core.durable_index + 1):
            term = core.term_at(index)
            if term is not None:
                lost = lost or held.get(index, term) != term
                held[index] = term
        if core.snapshot is not None:
            self.floors[core.node_id] = max(self.floors.get(core.node_id, 0), core.snapshot.index)
        state = core._state
        if state.durability.state_is_durable(core.term, core.vote):
            self.terms[core.node_id] = core.term
            if core.vote:
                self.votes.setdefault((core.term, core.vote), set()).add(core.node_id)
                known = self.voted.setdefault((core.node_id, core.term), core.vote)
                if known != core.vote:
                    raise violated("vote", f"{core.node_id} votes for {known} and {core.vote} in term {core.term}")
        return lost

    def _kept(self) -> None:
        """An acknowledged write is in every later quorum's log: those that lack the last one are no quorum."""
        index, configuration = self.ledger.acknowledged, self.settled.configuration
        term = self.witness.committed.get(index)
        lacking = [
            id
            for id in participants(configuration)
            if self.durable.get(id, {}).get(index) != term and self.floors.get(id, 0) < index
        ]
        if index and has_majorities(configuration, lacking):
            raise violated("lost", f"{term}.{index} was acknowledged, and {lacking} can decide without it")

    def _elected(self, core: Core) -> None:
        placed = core.placed.configuration
        voters = self.votes.get((core.term, core.node_id), set())
        if not has_majorities(placed, sorted(voters)):
            raise violated("election quorum", f"{core.node_id} leads term {core.term} by the votes of {sorted(voters)}")

    def _committed(self, core: Core, before: PlacedConfiguration) -> None:
        """Figure 8 and section 3.6: an index is committed only when majorities hold it durably. One event may commit,
        and then append the next configurations: any that was in force since `before` will do."""
        in_force = [one for one in core._state.configurations.newest_first() if one.index >= before.index]
        ids = dict.fromkeys(id for one in in_force for id in participants(one.configuration))
        index, term = core.commit_index, core.term_at(core.commit_index)
        holders = [id for id in ids if self.durable.get(id, {}).get(index) == term or self.floors.get(id, 0) >= index]
        if not any(has_majorities(one.configuration, holders) for one in in_force):
            raise violated("commit quorum", f"{core.node_id} commits {term}.{index}, which is on {holders} alone")

    def _applied(self, name: str, node_id: NodeId, environment: Environment) -> None:
        applied = environment.applied
        self._compare(name, node_id, environment)
        if applied.index > self.ledger.index:
            raise violated("apply", f"{name} applied {applied.index}, and only {self.ledger.index} is committed")
        if applied.index and self.witness.committed[applied.index] != applied.term:
            raise violated("apply", f"{name} applied {applied.term}.{applied.index}, which was not committed")
        if applied.index == self.ledger.index and environment.revision != self.ledger.revision:
            raise violated("revision", f"{name} is at revision {environment.revision}, not {self.ledger.revision}")

    def _compare(self, name: str, node_id: NodeId, environment: Environment) -> None:
        """A state that was led astray is the product's to find; so is a copy of it, and nothing else: those have a hash
        that a state astray had at that index. A member that has built its state anew since is as good as any."""
        index, state_hash = environment.applied.index, environment.state_hash
        astray, wrong = self.world.astray, self.world.wrong
        if astray.get(node_id) is not environment:
            astray.pop(node_id, None)
        if node_id in astray:
            wrong.add((index, state_hash))
        elif (index, state_hash) in wrong:
            astray[node_id] = environment
            self.world.strayed.add(node_id)
        else:
            known = self.hashes.setdefault(index, (state_hash, name))
            if known[0] != state_hash:
                raise violated("state hash", f"{name} and {known[1]} differ at index {index}")

    def _trace(self, name: str, core: Core, before: Glimpse | None) -> None:
        world = self.world
        if before is None:
            world.note(name, f"is {core.node_id}, term {core.term}, log {core.first_index}..{core.last_index}")
            return
        if (before.role, before.term) != (core.role, core.term):
            world.note(name, f"{core.role} in term {core.term}, log to {core.last_term}.{core.last_index}")
            world.reach(f"raft: became {core.role}")
        if before.role is Role.LEADER and core.role is Role.FOLLOWER and before.term == core.term:
            world.reach("raft: a leader stepped down in its own term")
            if core._state.disk_hangs:
                world.reach("raft: a leader stepped down for its disk")
        if core.leader and core.leader != core.node_id and not core.placed.configuration.voters:
            world.reach("raft: a newcomer heard its first leader")
        if before.entries and core.first_index <= before.entries[-1][0]:
            last, term = before.entries[-1]
            if core.term_at(last) != term:
                world.note(name, f"truncated below {last}, log to {core.last_term}.{core.last_index}")
                world.reach("raft: the log was truncated")
        if core.commit_index > before.commit:
            world.mark(f"{name} commit {core.commit_index}")


def participants(configuration: Configuration) -> Iterable[NodeId]:
    return {m.id: None for m in (*configuration.voters, *configuration.outgoing)}
