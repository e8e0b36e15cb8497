"""One seed, one story: a cluster is founded, faults come and go under load, all heals, and everything is judged.

Rules of this module: a seed draws which faults it knows and how often they come (swarm testing: a run with few kinds
goes deeper into them); what destroys data destroys a minority's at most, until that is replaced.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.simdisk import failing, healthy
from tests.simulation import coverage
from tests.simulation.admin import Admin
from tests.simulation.clients import Clients
from tests.simulation.disk import Disk
from tests.simulation.network import Network
from tests.simulation.oracles import Oracles, violated
from tests.simulation.process import Process
from tests.simulation.scheduler import Loop, World

from oarlock.kv import query
from oarlock.storage.segment import SEGMENT_HEADER_BYTES

HEALING_SECONDS = 120.0  # of virtual time, in which a healed cluster must be whole
HEALING_EVENTS = 80_000
LOADED_SECONDS = 1.0  # of clients going on after that
SHARED_MEMORY = Path("/dev/shm")


class Story:
    def __init__(self, seed: int, root: Path) -> None:
        self.world = World(seed)
        self.world.hidden = f"{root}/"
        rng = self.world.rng
        self.network = Network(self.world)
        size = rng.choice((1, 3, 3, 3, 5))
        names = [f"m{number}" for number in range(max(size, rng.choice((3, 4, 5))))]
        self.processes = [Process(self.world, self.network, name, root) for name in names]
        self.oracles = Oracles(self.world)
        self.keeper = Loop(self.world, "sim")  # what happens to members happens on no member's clock
        self.admin = Admin(self.world, self.processes, size, restless=rng.choice((0.0, 0.1, 0.5)))
        self.clients = Clients(
            self.world, self.oracles.ledger, self.processes, rng.choice((2, 5, 12)), rng.choice((1, 3, 20))
        )
        self.healing = False
        self.old_disks: dict[str, list[Disk]] = {}
        self._by_loop = {}
        self.world.after_event = self._observe
        faults: list[Callable[[], None]] = [
            self.kill, self.kill_several, self.power_loss, self.power_loss_of_all, self.clean_stop, self.pause,
            self.partition, self.one_way_cut, self.isolate_leader, self.break_connections, self.noisy, self.slow_network,
            self.slow_disk, self.hung_disk, self.failing_disk, self.full_disk, self.wipe, self.flip_log, self.flip_snapshot,
            self.clock_jump, self.wall_clock_jump, self.upgrade, self.old_disk, self.kill_leader, self.depose, self.depose,
        ]  # fmt: skip
        self.known = [fault for fault in faults if rng.random() < 0.4] or [self.kill]
        self.every = rng.choice((0.2, 0.7, 2.0))
        for process in self.processes:
            process.start()
        self.keeper.after(0.2, self._administer)
        self.keeper.after(2.0, self._fault)
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

    # -- faults

    def _fault(self) -> None:
        if self.healing:
            return
        fault = self.world.rng.choice(self.known)
        fault()
        self.keeper.after(self.world.rng.expovariate(1 / self.every), self._fault)

    def _later(self, heal: Callable[[], None], mean: float = 2.0) -> None:
        self.keeper.after(self.world.rng.expovariate(1 / mean), heal)

    def _did(self, what: str) -> None:
        self.world.reach(f"fault: {what}")
        self.world.note("sim", what)

    def _running(self) -> list[Process]:
        return [p for p in self.processes if p.up]

    def _one(self) -> Process | None:
        running = self._running()
        return self.world.rng.choice(running) if running else None

    def _restart_later(self, process: Process, mean: float = 1.5) -> None:
        def restart() -> None:
            if not process.up:
                process.start()

        self._later(restart, mean)

    def kill(self) -> None:
        if process := self._one():
            self._did("kill -9")
            process.kill()
            self._restart_later(process)

    def kill_leader(self) -> None:
        leader = self.admin.leader()
        if leader is not None:
            self._did("the leader killed")
            leader.kill()
            self._restart_later(leader)

    def kill_several(self) -> None:
        self._did("several killed at once")
        for process in self._running():
            if self.world.rng.random() < 0.5:
                process.kill()
                self._restart_later(process)

    def power_loss(self) -> None:
        if process := self._one():
            self._did("power loss")
            process.kill(power=True)
            self._restart_later(process)

    def power_loss_of_all(self) -> None:
        self._did("power loss of all at once")
        for process in self._running():
            process.kill(power=True)
            self._restart_later(process)

    def clean_stop(self) -> None:
        process = self._one()
        if process is None or process.node is None:
            return
        self._did("clean stop")
        node = process.node

        async def stop() -> None:
            await node.stop()
            process.gone()
            self._restart_later(process)

        process.loop.create_task(stop())

    def pause(self) -> None:
        if process := self._one():
            self._did("SIGSTOP")
            process.loop.pause()
            loop = process.loop
            self._later(loop.resume, self.world.rng.choice((0.3, 2.5)))

    def partition(self) -> None:
        rng, names = self.world.rng, [p.name for p in self.processes]
        groups = {name: rng.randrange(rng.choice((2, 2, 3))) for name in names}
        cut = {(a, b) for a in names for b in names if groups[a] != groups[b]}
        if rng.random() < 0.2:  # a ring: each sees its neighbours
            cut = {
                (a, b) for i, a in enumerate(names) for j, b in enumerate(names) if abs(i - j) % (len(names) - 1) > 1
            }
        self._cut("partition", cut)

    def one_way_cut(self) -> None:
        rng, names = self.world.rng, [p.name for p in self.processes]
        self._cut("one-way cut", {(a, b) for a in names for b in names if a != b and rng.random() < 0.3})

    def isolate_leader(self) -> None:
        leader = self.admin.leader()
        if leader is not None:
            names = [p.name for p in self.processes if p is not leader]
            cut = {(leader.name, n) for n in names}
            if self.world.rng.random() < 0.7:
                cut |= {(b, a) for a, b in cut}
            self._cut("the leader isolated", cut)

    def depose(self) -> None:
        """A leader, alone or with one other, goes on writing and changing members while the rest elects another."""
        leader = self.admin.leader()
        if leader is None:
            return
        others = [p.name for p in self.processes if p is not leader]
        beside = {leader.name, *([self.world.rng.choice(others)] if others and self.world.rng.random() < 0.3 else [])}
        cut = {(a, b) for a in beside for b in others if b not in beside}
        self._cut("a leader deposed", cut | {(b, a) for a, b in cut})
        if self.world.rng.random() < 0.6:
            self.admin.change_at(leader)

    def _cut(self, what: str, pairs: set[tuple[str, str]]) -> None:
        if not pairs:
            return
        self._did(what)
        self.network.heal_cuts()
        self.network.cut = pairs
        self._later(self.network.heal_cuts)

    def break_connections(self) -> None:
        self._did("connections broken")
        for _ in range(self.world.rng.randint(1, 4)):
            self.network.break_one()

    def noisy(self) -> None:
        self._did("messages lost, doubled, swapped")
        rng, network = self.world.rng, self.network
        network.loss, network.doubling, network.swapping = (rng.choice((0.0, 0.02, 0.2)) for _ in range(3))

        def quiet() -> None:
            network.loss = network.doubling = network.swapping = 0.0

        self._later(quiet, 4.0)

    def slow_network(self) -> None:
        self._did("slow network")
        self.network.latency = self.world.rng.choice(((0.0002, 0.002), (0.01, 0.06), (0.0, 0.4)))

        def fast() -> None:
            self.network.latency = (0.0002, 0.002)

        self._later(fast)

    def slow_disk(self) -> None:
        if process := self._one():
            self._did("slow disk")
            disk = process.disk
            disk.slow = True
            self._later(lambda: setattr(disk, "slow", False), 4.0)

    def hung_disk(self) -> None:
        if process := self._one():
            self._did("hung disk")
            process.disk.hung = True
            self._later(process.disk.unhang, 3.0)

    def failing_disk(self) -> None:
        if process := self._one():
            self._did("failing disk")
            disk = process.disk
            disk.fail = failing(self.world.rng.choice(("sync", "write")))

            def mend() -> None:
                disk.fail = healthy
                if not process.up:
                    process.start()

            self._later(mend, 1.0)

    def full_disk(self) -> None:
        if process := self._one():
            self._did("full disk")
            disk = process.disk
            disk.capacity_bytes = disk.used_bytes() + self.world.rng.choice((0, 3000, 40_000))
            self._later(lambda: setattr(disk, "capacity_bytes", None), 3.0)

    # What destroys data.

    def _may_destroy(self, process: Process) -> bool:
        """A minority at most has lost what it knew, and has not been replaced yet."""
        configuration = self.admin.configuration()
        if configuration is None or configuration.outgoing or len(configuration.voters) < 3 or self.admin.busy:
            return False
        return process.node is not None and self.admin.every_voter_is_here()

    def wipe(self) -> None:
        process = self._one()
        if process is not None and self._may_destroy(process):
            self._did("disk wiped")
            process.kill(power=True)
            self.old_disks.setdefault(process.name, []).append(process.swap_disk(None))
            self._restart_later(process)

    def old_disk(self) -> None:
        """A disk whose member was replaced comes back, in a process that no configuration names."""
        process = self._one()
        configuration = self.admin.configuration()
        if process is None or configuration is None or not self.old_disks.get(process.name):
            return
        if any(
            m.id.rpartition("-")[0] == process.name
            for m in (*configuration.voters, *configuration.learners, *configuration.outgoing)
        ):
            return
        self._did("an old disk comes back")
        process.kill(power=True)
        process.swap_disk(self.old_disks[process.name].pop())
        process.start()

    def flip_log(self) -> None:
        """Within what later frames vouch for (rule 3: the last group commit is protected by replication)."""
        process = self._one()
        if process is None or not self._may_destroy(process) or process.log is None or not process.log.idle:
            return
        if not process.log._wal.begun:
            return
        end = process.log._wal._segments[-1]
        process.kill()
        offset = self.world.rng.randrange(SEGMENT_HEADER_BYTES, end.end)
        process.disk.flip(end.path, offset, self.world.rng.randrange(8))
        self._did("a bit of the log flipped")
        self._restart_later(process)

    def flip_snapshot(self) -> None:
        process = self._one()
        if process is None or not self._may_destroy(process):
            return
        snapshots = process.disk.snapshot_files()
        if snapshots:
            path = self.world.rng.choice(snapshots)
            process.kill(power=True)
            if path in process.disk.snapshot_files():
                size = len(process.disk.contents(path))
                process.disk.flip(path, self.world.rng.randrange(max(1, size)), self.world.rng.randrange(8))
                self._did("a bit of a snapshot flipped")
            self._restart_later(process)

    # Time and versions.

    def clock_jump(self) -> None:
        if process := self._one():
            self._did("clock jump")
            process.loop.jump(self.world.rng.choice((0.05, 0.5, 3.0, 60.0)))

    def wall_clock_jump(self) -> None:
        if process := self._one():
            self._did("wall clock jump")
            process.wall_offset_ms = self.world.rng.choice((-86_400_000, -1000, 0, 5000, 86_400_000))

    def upgrade(self) -> None:
        """To the next version; never back (a member that meets a newer cluster stops, rule 34)."""
        older = [p for p in self._running() if not p.newer]
        if older:
            process = self.world.rng.choice(older)
            self._did("upgrade")
            process.newer = True
            process.kill()
            self._restart_later(process, 0.3)

    # -- keeping the members alive

    def _watch(self) -> None:
        """What a kubelet does: a process that ended is started again, if its disk lets it."""
        for process in self.processes:
            if not process.up and process.died_of is not None and process.disk.fail is healthy:
                process.start()
            elif process.up and process.node is not None and process.node.status().state == "Outdated":
                self._did("an outdated member upgraded")
                process.newer = True
                process.kill()
                process.start()
            elif process.up and process.refused_start is not None:
                process.loop.kill()
                process.disk.kill()
                self.old_disks.setdefault(process.name, [])
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
        self.network.heal()
        self.network.latency = (0.0002, 0.002)
        self.admin.restless = 0.0
        for process in self.processes:
            process.disk.fail, process.disk.capacity_bytes, process.disk.slow = healthy, None, False
            process.disk.unhang()
            if process.loop.paused:
                process.loop.resume()
            if not process.up:
                process.start()

    def _whole_at_times(self) -> bool:
        return self.world.events % 20 == 0 and not self.clients.open and self.whole()

    def whole(self) -> bool:
        """One leader, the wanted members its voters, every one of them up, caught up and of one mind."""
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
            ):
                return False
        return True

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
            f"{status.node_id} {status.state} ({status.reason}) {status.role} term {status.term} leader {status.leader} "
            f"commit {status.commit_index} applied {status.applied_index} last {status.last_index}"
        )


def tell(seed: int, events: int) -> Story:
    """Runs one story to its end. Raises what it found, with the end of the trace."""
    root = Path(tempfile.mkdtemp(prefix="oarlock-simulation-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None))
    gc.collect()
    gc.disable()  # a coroutine that is thrown away runs its `finally`: not in the middle of another's life
    try:
        story = Story(seed, root)
        with coverage.LogTap(story.world):
            try:
                story.run(events)
            except BaseException as error:
                story.world.note("sim", f"{type(error).__name__}: {error}")
                error.story = story  # type: ignore[attr-defined]
                raise
            finally:
                story.close()
    finally:
        gc.enable()
        shutil.rmtree(root, ignore_errors=True)
    return story
