"""One seed, one story: a cluster is founded, faults come and go under load, all heals, and everything is judged.

Rule of this module: a seed draws which faults it knows and how often they come (swarm testing: a run with few kinds
goes deeper into them); in the end a cluster that is left alone must be whole again, in bounded time.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.simdisk import healthy
from tests.simulation import coverage
from tests.simulation.admin import Admin
from tests.simulation.clients import Clients
from tests.simulation.faults import Faults
from tests.simulation.network import Network
from tests.simulation.oracles import Oracles, violated
from tests.simulation.process import Process
from tests.simulation.scheduler import Loop, World

from oarlock.kv import query

HEALING_SECONDS = 120.0  # of virtual time, in which a healed cluster must be whole
HEALING_EVENTS = 80_000
LOADED_SECONDS = 1.0  # of clients going on after that
SHARED_MEMORY = Path("/dev/shm")


class Story:
    def __init__(self, seed: int, root: Path, without: Collection[str] = ()) -> None:
        self.world = World(seed)
        self.world.hidden = f"{root}/"
        rng = self.world.rng
        self.network = Network(self.world)
        size = rng.choice((1, 3, 3, 3, 5))
        names = [f"m{number}" for number in range(max(size, rng.choice((3, 4, 5))))]
        self.processes = [Process(self.world, self.network, name, root) for name in names]
        self.oracles = Oracles(self.world)
        self.admin = Admin(self.world, self.processes, size, restless=rng.choice((0.0, 0.1, 0.5)))
        clients, keys = rng.choice((2, 5, 12)), rng.choice((1, 3, 20))
        self.clients = Clients(self.world, self.oracles.ledger, self.processes, clients, keys)
        self.faults = Faults(self.world, self.network, self.processes, self.admin, without)
        self.keeper = self.faults.keeper
        self.healing = False
        self.world.after_event = self._observe
        for process in self.processes:
            process.start()
        self.keeper.after(0.2, self._administer)
        self.keeper.after(1.0, self._watch)

    # -- the run

    def run(self, events: int) -> None:
        world = self.world
        world.run(events)
        self.heal()
        world.run(HEALING_EVENTS, LOADED_SECONDS)
        before = self.clients.acknowledged
        if not world.run(HEALING_EVENTS, HEALING_SECONDS, lambda: self.clients.acknowledged > before):
            raise violated("liveness", f"no write is acknowledged after all had healed: {self.states()}")
        self.clients.stopped = True
        if not world.run(HEALING_EVENTS, HEALING_SECONDS, self._whole_at_times):
            raise violated("convergence", f"not whole after all had healed: {self.states()}")
        self.clients.judge_at_end()
        self._compare_states()
        world.reach("end: judged")

    def close(self) -> None:
        for process in self.processes:
            if process.up:
                process.kill()

    def _observe(self, loop: Loop) -> None:
        process = self.network.processes.get(loop.name)
        if process is not None and process.loop is loop:
            self.oracles.observe(process)

    # -- keeping the members alive

    def _watch(self) -> None:
        """What a kubelet does: a process that ended is started again, if its disk lets it."""
        self.oracles.look_at_leaders(self.processes, self.network.cut)
        self.oracles.look_for_false_alarms(self.processes)
        self.oracles.look_at_guests(self.processes)
        for process in self.processes:
            if not process.up and process.died_of is not None and process.disk.fail is healthy:
                process.start()
            elif process.up and process.node is not None and process.node.status().state == "Outdated":
                self.faults.did("an outdated member upgraded")
                process.newer = True
                process.kill()
                process.start()
            elif process.up and process.refused_start is not None:
                process.loop.kill()
                process.disk.kill()
                self.faults.old_disks.setdefault(process.name, [])
                process.swap_disk(None)
                process.start()
        self.keeper.after(1.0, self._watch)

    def _administer(self) -> None:
        self.admin.round()
        pace = 0.3 if self.healing else 1.0
        self.keeper.after(self.world.rng.uniform(0.3, 1.5) * pace, self._administer)

    # -- the end

    def heal(self) -> None:
        self.world.note("sim", "everything heals")
        self.healing = True
        self.admin.restless = 0.0
        wanted = self.admin.wanted
        if len(wanted) == 2 or any(p.disk.rotten for p in self.processes):
            for process in self.processes:  # of two nobody can say which one went astray
                if len(wanted) < 3:
                    wanted.add(process.name)
        self.faults.heal()

    def _whole_at_times(self) -> bool:
        return self.world.events % 20 == 0 and not self.clients.open and self.whole()

    def whole(self) -> bool:
        """One leader, the wanted members its voters, every one of them up, caught up, of one mind and of one state, and
        nobody waits for them."""
        leader = self.admin.leader()
        if leader is None or leader.node is None or leader.node.engine is None or self.admin.busy:
            return False
        core = leader.node.engine.core
        configuration = core.committed_placed.configuration
        if core.placed is not core.committed_placed or configuration.outgoing or configuration.learners:
            return False
        ids = {m.id for m in configuration.voters}
        if {id.rpartition("-")[0] for id in ids} != self.admin.wanted or core.commit_index != core.last_index:
            return False
        hashes = set()
        for process in self.processes:
            if process.name not in self.admin.wanted:
                continue
            node = process.node
            if not process.up or node is None or node.engine is None or node.node_id not in ids:
                return False
            if (
                node.engine.halted
                or node.engine.environment.applied.index != core.commit_index
                or node.leader != core.node_id
                or node.engine.member.in_flight_bytes
                or node.engine.member.waiting_reads
            ):
                return False
            hashes.add(node.engine.environment.state_hash)
        return len(hashes) == 1

    def _compare_states(self) -> None:
        """Every key of every voter is what the log says."""
        ledger = self.oracles.ledger
        wanted = {key: (i.value, i.create_revision, i.mod_revision, i.version) for key, i in ledger.store.items()}
        for process in self.processes:
            if process.name not in self.admin.wanted or process.node is None:
                continue
            with process.node.environment.reader() as trees:
                page = query.list_page(trees, limit=1000)
            found = {i.key: (i.value, i.create_revision, i.mod_revision, i.version) for i in page.items}
            if found != wanted:
                raise violated("state", f"{process.name} holds {found}, and the log says {wanted}")

    def states(self) -> str:
        return "; ".join(map(self.state_of, self.processes))

    def state_of(self, process: Process) -> str:
        node = process.node
        if not process.up or node is None:
            return f"{process.name} down ({process.died_of or process.refused_start or 'killed'})"
        status = node.status()
        return (
            f"{status.node_id} {status.state} ({status.reason}) {status.role} of {status.leader} in term {status.term}"
            f", commit {status.commit_index} applied {status.applied_index} last {status.last_index}"
        )


@contextmanager
def opened(seed: int, without: Collection[str] = ()) -> Iterator[Story]:
    """A story that has just begun, on directories of its own; it ends with the block."""
    root = Path(tempfile.mkdtemp(prefix="oarlock-simulation-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None))
    gc.collect()
    gc.disable()  # a coroutine that is thrown away runs its `finally`: not in the middle of another's life
    try:
        story = Story(seed, root, without)
        with coverage.LogTap(story.world):
            try:
                yield story
            finally:
                story.close()
    finally:
        gc.enable()
        shutil.rmtree(root, ignore_errors=True)


def tell(seed: int, events: int, without: Collection[str] = ()) -> Story:
    """Runs one story to its end. Raises what it found, with the end of the trace."""
    with opened(seed, without) as story:
        try:
            story.run(events)
        except BaseException as error:
            story.world.note("sim", f"{type(error).__name__}: {error}")
            error.story = story  # type: ignore[attr-defined]
            raise
    return story
