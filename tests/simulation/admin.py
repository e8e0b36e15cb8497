"""The administrator: founds the cluster, changes its members by what the admin contract allows, and replaces the lost.

Rule of this module: it asks members what anybody could ask over the admin port, and takes every refusal for an answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from tests.simulation.process import Process
from tests.simulation.scheduler import Violated, World

from oarlock.raft.state import Role
from oarlock.raft.types import Configuration, Member
from oarlock.runtime.errors import Refused

if TYPE_CHECKING:
    from oarlock.runtime.node import Node

CLUSTER = "simulated"
ALARM_SECONDS = 5.0  # so long a person waits for the members to find out by themselves who went astray


class Admin:
    def __init__(self, world: World, processes: list[Process], wanted: int, restless: float) -> None:
        self.world, self.processes = world, processes
        self.wanted = {p.name for p in processes[:wanted]}
        self.restless = restless  # how likely a round changes something that nobody needs changed
        self.min_voters = world.rng.choice((1, 1, wanted))
        self.founded = False
        self.busy = False
        self.given_up: set[str] = set()  # ids that a person found to be astray
        self._alarmed_at: float | None = None
        self._requests = itertools.count()

    # -- what is seen

    def leader(self) -> Process | None:
        leading = [p for p in self.processes if p.up and p.node and p.node.engine and self._leads(p.node)]
        return max(leading, key=lambda p: p.node.term if p.node else 0, default=None)

    @staticmethod
    def _leads(node: Node) -> bool:
        return node.engine is not None and not node.engine.halted and node.engine.core.role is Role.LEADER

    def configuration(self, *, committed: bool = False) -> Configuration | None:
        """The leader's; if it is committed, where that is asked for."""
        leader = self.leader()
        if leader is None or leader.node is None or leader.node.engine is None:
            return None
        core = leader.node.engine.core
        return None if committed and core.placed is not core.committed_placed else core.placed.configuration

    def member(self, process: Process, *, promote: bool = False) -> Member | None:
        """As it is now; None if nobody answers."""
        node = process.node
        if not process.up or node is None or node.removed or node.broken is not None:
            return None
        return Member(node.node_id, f"http://{process.name}:2380", f"http://{process.name}:2379", promote)

    def every_voter_is_here(self) -> bool:
        """With the disk that it had, and done with reading it: what a member that starts has lost shows only then."""
        configuration = self.configuration()
        here = {m.id for p in self.processes if (m := self.member(p)) is not None and p.node and p.node.engine}
        return configuration is not None and all(m.id in here for m in (*configuration.voters, *configuration.outgoing))

    # -- what is done

    def round(self) -> None:
        """Once in a while. One thing at a time."""
        if self.busy:
            return
        if not self.founded:
            self._found()
            return
        for process in self.processes:
            node = process.node
            if process.up and node is not None and self._is_lost(node):
                if node.status().state == "Outdated":
                    continue  # it waits for a newer version, not for another disk
                self._do(process, "reset", self._reset(process))
                return
            if self._nobody_tells(process):
                self.world.note("adm", f"wipes {process.name}")
                process.kill()
                process.swap_disk(None)
                process.start()
                return
        leader = self.leader()
        if leader is None:
            return
        self._look_into_alarm(leader)
        if self._reconcile(leader):
            return
        rng = self.world.rng
        if self._alarmed_at is not None:
            return  # whoever is right may be the one that would go
        if rng.random() < self.restless:
            acts = (self._scale, self._transfer, self._snapshot, self._stale_change, self._demote, self._move)
            rng.choice(acts)(leader)

    def _look_into_alarm(self, leader: Process) -> None:
        """Where the members cannot tell who is wrong, a person looks at what they hold, and gives those members up."""
        assert leader.node is not None
        if not leader.node.alarmed:
            self._alarmed_at = None
        elif self._alarmed_at is None:
            self._alarmed_at = self.world.now
        elif self.world.now - self._alarmed_at > ALARM_SECONDS:
            if self.world.astray.keys() - self.given_up:
                self.world.reach("admin: a person told who went astray")
            self.given_up |= self.world.astray.keys()

    def _is_lost(self, node: Node) -> bool:
        """It says so itself; or it was removed before it had heard of any configuration, and so nobody tells it."""
        if node.removed or node.stale or node.broken is not None:
            return True
        configuration, engine = self.configuration(), node.engine
        gone = configuration is not None and node.node_id in configuration.tombstones
        return gone and engine is not None and engine.participant(node.node_id) is None

    def _nobody_tells(self, process: Process) -> bool:
        """It was removed while it was cut off, and nobody is a member any more where those were whom it knew: it says
        that it is isolated, and refuses a reset. A person can see why, and delete its data."""
        configuration, node = self.configuration(committed=True), process.node
        if not process.up or node is None or node.engine is None or configuration is None:
            return False
        if node.node_id not in configuration.tombstones:
            return False
        known = self.names_in(node.engine.core.placed.configuration) - {process.name}
        return known.isdisjoint(self.names_in(configuration))

    @staticmethod
    def names_in(configuration: Configuration) -> set[str]:
        everybody = (*configuration.voters, *configuration.learners, *configuration.outgoing)
        return {m.id.rpartition("-")[0] for m in everybody}

    def _found(self) -> None:
        first = self.processes[0]
        node = first.node
        if first.up and node is not None and node.engine is not None:
            self._do(first, "bootstrap", self._bootstrap(node))

    async def _bootstrap(self, node: Node) -> None:
        await node.bootstrap("request-1", CLUSTER, self.min_voters)
        self.founded = True

    def _reconcile(self, leader: Process) -> bool:
        """Toward the members that are wanted: lost ones are replaced, new ones come as learners that shall vote."""
        assert leader.node is not None
        assert leader.node.engine is not None
        core = leader.node.engine.core
        now = core.placed.configuration
        if now.outgoing:
            return False
        current = {p.name: m for p in self.processes if (m := self.member(p, promote=True)) is not None}
        voters, learners = [], []
        for one in (*now.voters, *now.learners):
            name = one.id.rpartition("-")[0]
            lost = one.id in self.given_up or (name in current and current[name].id != one.id)
            if name not in self.wanted or lost:
                continue
            if one in now.voters:
                voters.append(one)
            elif one.promote or self.world.rng.random() < 0.5:
                learners.append(replace(one, promote=True))
            else:  # one that was demoted is named among the voters, which is refused unless it has caught up
                voters.append(one)
        here = {m.id.rpartition("-")[0] for m in (*voters, *learners)}
        for name in sorted(self.wanted - here):
            if name in current and current[name].id not in {*now.tombstones, *self.given_up}:
                learners.append(current[name])
        if not voters:  # none that is wanted votes yet: those that do go on until one does
            voters = [m for m in now.voters if current.get(m.id.rpartition("-")[0], m).id == m.id]
        if self._too_few(voters):  # nobody who votes goes yet
            voters = [*now.voters, *(m for m in voters if m not in now.voters)]
        as_it_is = set(voters) == set(now.voters) and set(learners) == set(now.learners)
        if not voters or as_it_is:
            return False
        answering = {m.id for m in current.values()}
        if 2 * sum(m.id in answering for m in voters) <= len(voters):
            return False  # such a configuration could decide nothing, and maybe never again: it waits for them
        self._do(leader, "configuration", self._change(leader.node, voters, learners, core.placed.id))
        return True

    def _too_few(self, voters: list[Member]) -> bool:
        """Without one of them that has lost what it knew, and is about to find out: it takes two others to go on."""
        rotten = {p.name for p in self.processes if p.disk.rotten}
        lost = any(m.id in self.world.astray or m.id.rpartition("-")[0] in rotten for m in voters)
        return lost and len(voters) < 3

    async def _change(self, node: Node, voters: list[Member], learners: list[Member], token: str) -> None:
        now = self.configuration()
        await node.change_configuration(voters, learners, token, 5.0)
        self.world.reach("admin: a change of members was committed")
        if now is not None and any(one in now.learners for one in voters):
            self.world.reach("admin: a learner was given a vote")

    async def _reset(self, process: Process) -> None:
        node = process.node
        assert node is not None
        await node.reset(f"reset-{next(self._requests)}", node.node_id)
        self.world.reach("admin: a member was reset")

    def _scale(self, leader: Process) -> None:
        rng = self.world.rng
        names = [p.name for p in self.processes]
        self.wanted = set(rng.sample(names, rng.choice((1, 3, 3, 3, min(5, len(names))))))
        self.world.note("adm", f"wants {sorted(self.wanted)}")

    def _transfer(self, leader: Process) -> None:
        assert leader.node is not None
        target = self.world.rng.choice(self.processes).node
        if target is not None:
            self._do(leader, "transfer", leader.node.transfer(target.node_id, 3.0))

    def change_at(self, leader: Process) -> None:
        """A voter less, or a learner more, whatever was wanted: for a leader that may not be one any more."""
        node, rng = leader.node, self.world.rng
        if self.busy or node is None or node.engine is None or not self.every_voter_is_here():
            return
        placed = node.engine.core.placed
        now = placed.configuration
        voters, learners = list(now.voters), list(now.learners)
        if len(voters) > 1 and rng.random() < 0.7:
            voters.remove(rng.choice(voters))
        if self._too_few(voters):
            return
        spare = [m for p in self.processes if (m := self.member(p)) is not None]
        known = {*now.tombstones, *(m.id for m in (*voters, *learners))}
        learners += [m for m in spare if m.id not in known][: rng.randint(0, 1)]
        self._do(leader, "a change", node.change_configuration(voters, learners, placed.id, 2.0))

    def _snapshot(self, leader: Process) -> None:
        process = self.world.rng.choice(self.processes)
        if process.up and process.node is not None:
            self._do(process, "snapshot", self._take(process.node))

    async def _take(self, node: Node) -> None:
        await node.take_snapshot()
        self.world.reach("admin: a snapshot was taken")

    def _demote(self, leader: Process) -> None:
        def wanted(voters: list[Member], learners: list[Member]) -> None:
            learners.append(voters.pop(self.world.rng.randrange(len(voters))))

        self._rearrange(leader, "a voter was demoted", wanted)

    def _move(self, leader: Process) -> None:
        """A member is told of under other addresses, where it listens as well."""

        def wanted(voters: list[Member], learners: list[Member]) -> None:
            port = self.world.rng.randrange(1024, 65536)
            name = voters[0].id.rpartition("-")[0]
            voters[0] = replace(voters[0], peer_url=f"http://{name}:{port}", client_url=f"http://{name}:{port + 1}")

        self._rearrange(leader, "a member was moved", wanted)

    def _rearrange(self, leader: Process, what: str, wanted: Callable[[list[Member], list[Member]], None]) -> None:
        """One change of what the members are; nobody comes, nobody goes, and nobody is missed: a voter that has lost
        its disk can be replaced only by those who vote now."""
        node = leader.node
        if not self.every_voter_is_here():
            return
        assert node is not None
        assert node.engine is not None
        placed = node.engine.core.placed
        voters, learners = list(placed.configuration.voters), list(placed.configuration.learners)
        try:
            wanted(voters, learners)
        except IndexError:  # there is none
            return
        if self._too_few(voters):
            return

        async def change() -> None:
            await node.change_configuration(voters, learners, placed.id, 5.0)
            self.world.reach(f"admin: {what}")

        self._do(leader, what, change())

    def _stale_change(self, leader: Process) -> None:
        assert leader.node is not None
        configuration = self.configuration()
        if configuration is not None:
            change = leader.node.change_configuration(list(configuration.voters), [], "1.1", 3.0)
            self._do(leader, "stale", change)

    def _do(self, process: Process, what: str, work: Coroutine[Any, Any, Any]) -> None:
        self.busy = True
        self.world.note("adm", f"{what} on {process.name}")

        async def run() -> None:
            try:
                await work
            except Refused as refused:
                self.world.reach(f"admin: refused, {refused.code}")
                self.world.note("adm", f"{what} refused: {refused.code} {refused.why}")
            except Exception as error:
                self.world.found = Violated(f"[uncaught] {what} on {process.name} raised {error!r}")
            self.busy = False

        process.loop.create_task(run())
        process.deaths.append(lambda: setattr(self, "busy", False))
