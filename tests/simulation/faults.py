"""What is done to a cluster: processes, disks, networks, clocks and versions, each fault with its end.

Rules of this module: what destroys data destroys a minority's at most, until that is replaced; a fault says what it did
(`fault: ...`) only when it did it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from tests.simdisk import crash_at, failing, healthy
from tests.simulation.admin import Admin
from tests.simulation.disk import Disk
from tests.simulation.network import Connection, Network
from tests.simulation.process import Process
from tests.simulation.scheduler import Loop, World

from oarlock.kv.head import read_head, write_head
from oarlock.machine.protocol import Trees
from oarlock.storage.segment import SEGMENT_HEADER_BYTES

CALM = (0.0002, 0.002)  # seconds of latency
BY_THE_MEMBER = ("a write begins", "a message is sent", "a message has come", "the machine works")
"""Hand-overs in the middle of a member's code, which must not go on without its process: it ends right behind them,
before anything that they led to."""
HANDOVERS = (*BY_THE_MEMBER, "a write is done", "in a thread", "a thread is done")


class Faults:
    def __init__(
        self, world: World, network: Network, processes: list[Process], admin: Admin, without: Collection[str]
    ) -> None:
        """`without`: names of faults that this run shall not know, though its seed drew them."""
        rng = world.rng
        self.world, self.network, self.processes, self.admin = world, network, processes, admin
        self.keeper = Loop(world, "sim")  # what happens to members happens on no member's clock
        self.ended = False
        self._cuts = 0
        self.old_disks: dict[str, list[Disk]] = {}
        faults: list[Callable[[], None]] = [
            *(
                self.kill,
                self.kill_at_handover,
                self.kill_several,
                self.kill_leader,
                self.power_loss,
                self.power_loss_of_all,
                self.clean_stop,
            ),
            *(self.pause, self.partition, self.one_way_cut, self.isolate_leader, self.depose, self.depose),
            *(self.freeze_leader, self.freeze_leader),
            *(self.break_connections, self.break_fetch, self.noisy, self.slow_network, self.slow_disk, self.hung_disk),
            *(self.failing_disk, self.full_disk, self.wipe, self.old_disk, self.flip_log, self.flip_snapshot),
            *(self.clock_jump, self.wall_clock_jump, self.upgrade, self.upgrade, self.go_astray, self.rot),
            self.swallow,
        ]
        drawn = [fault for fault in faults if rng.random() < 0.4] or [self.kill]
        self.known = [fault for fault in drawn if fault.__name__ not in without]
        self.every = rng.choice((0.2, 0.7, 2.0))
        self.keeper.after(2.0, self.strike)

    @property
    def names(self) -> list[str]:
        return sorted({fault.__name__ for fault in self.known})

    def strike(self) -> None:
        """One of those that this run knows; then the next, after a while."""
        if self.ended or not self.known:
            return
        self.world.rng.choice(self.known)()
        self.keeper.after(self.world.rng.expovariate(1 / self.every), self.strike)

    def heal(self) -> None:
        self.ended = True
        self.network.heal()
        self.network.latency = CALM
        for process in self.processes:
            process.disk.fail, process.disk.capacity_bytes, process.disk.slow = healthy, None, False
            process.disk.unhang()
            if process.loop.paused:
                process.loop.resume()
            if not process.up:
                process.start()

    def _later(self, heal: Callable[[], None], mean: float = 2.0) -> None:
        self.keeper.after(self.world.rng.expovariate(1 / mean), heal)

    def did(self, what: str) -> None:
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
            self.did("kill -9")
            process.kill()
            self._restart_later(process)

    def kill_leader(self) -> None:
        leader = self.admin.leader()
        if leader is not None:
            self.did("the leader killed")
            leader.kill()
            self._restart_later(leader)

    def kill_several(self) -> None:
        self.did("several killed at once")
        for process in self._running():
            if self.world.rng.random() < 0.5:
                process.kill()
                self._restart_later(process)

    def kill_at_handover(self) -> None:
        """Not at any time, but where loop, log, machine, threads and network hand work to each other."""
        process = self._one()
        if process is None:
            return
        wanted = self.world.rng.choice(HANDOVERS)
        loop, disk, power = process.loop, process.disk, self.world.rng.random() < 0.3

        def strike() -> None:
            if not loop.dead:
                process.kill(power=power)
                self.did(f"killed as {wanted}" if wanted != "in a thread" else "killed in a thread")
                self._restart_later(process)

        def handover(moment: str) -> None:
            if wanted == "in a thread" and moment == "a thread begins":
                disk.fail = crash_at(self.world.rng.randrange(4))
                return
            if moment == wanted or (wanted == "in a thread" and moment.startswith("a thread")):
                loop.handover = lambda _: None
                if wanted == "in a thread":
                    disk.fail = healthy
                if moment in BY_THE_MEMBER:
                    self.keeper.after(0.0, strike)
                else:
                    strike()

        loop.handover = handover

    def power_loss(self) -> None:
        if process := self._one():
            self.did("power loss")
            process.kill(power=True)
            self._restart_later(process)

    def power_loss_of_all(self) -> None:
        self.did("power loss of all at once")
        for process in self._running():
            process.kill(power=True)
            self._restart_later(process)

    def clean_stop(self) -> None:
        process = self._one()
        if process is None or process.node is None:
            return
        self.did("clean stop")
        node = process.node

        async def stop() -> None:
            await node.stop()
            process.gone(power=self.world.rng.random() < 0.5)
            self._restart_later(process)

        process.loop.create_task(stop())

    def pause(self) -> None:
        if process := self._one():
            self.did("SIGSTOP")
            process.loop.pause()
            loop = process.loop
            self._later(loop.resume, self.world.rng.choice((0.3, 2.5)))

    def partition(self) -> None:
        rng, names = self.world.rng, [p.name for p in self.processes]
        groups = {name: rng.randrange(rng.choice((2, 2, 3))) for name in names}
        cut = {(a, b) for a in names for b in names if groups[a] != groups[b]}
        shape = rng.random()
        if shape < 0.2:  # each sees its neighbours
            cut = {
                (a, b) for i, a in enumerate(names) for j, b in enumerate(names) if abs(i - j) % (len(names) - 1) > 1
            }
            self._cut("a ring", cut)
        elif shape < 0.4:  # two halves, and one that both see
            _, *others = rng.sample(names, len(names))
            left, right = others[: len(others) // 2], others[len(others) // 2 :]
            cut = {pair for a in left for b in right for pair in ((a, b), (b, a))}
            self._cut("a bridge", cut)
        else:
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

    def freeze_leader(self) -> None:
        """It is cut off and stands still for longer than an election; when it goes on, it is still cut off, and clients
        that can reach it ask what it knows."""
        leader = self.admin.leader()
        if leader is None:
            return
        names = [p.name for p in self.processes if p is not leader]
        pairs = {(leader.name, n) for n in names} | {(n, leader.name) for n in names}
        self._cut("the leader frozen and cut off", pairs)
        loop = leader.loop
        loop.pause()
        self.keeper.after(self.world.rng.uniform(1.5, 4.0), loop.resume)

    def _cut(self, what: str, pairs: set[tuple[str, str]]) -> None:
        if not pairs:
            return
        self.did(what)
        self.network.heal_cuts()
        self.network.cut = pairs
        self._cuts += 1
        number = self._cuts

        def heal() -> None:
            if number == self._cuts:  # a later cut lasts its own time
                self.network.heal_cuts()

        self._later(heal, 3.0)

    def break_connections(self) -> None:
        self.did("connections broken")
        for _ in range(self.world.rng.randint(1, 4)):
            self.network.break_one()

    def swallow(self) -> None:
        """Connections that are open, or the next ones."""
        rng, network = self.world.rng, self.network
        self.did("connections swallowed")
        if network.connections and rng.random() < 0.5:
            for connection in rng.sample(network.connections, min(3, len(network.connections))):
                network.swallow(connection)
        else:
            network.swallowing = rng.randint(1, 4)

    def break_fetch(self) -> None:
        """The next ranges of a snapshot, of which some has come already, break off on their way."""
        left = self.world.rng.randint(1, 3)

        def begun(connection: Connection) -> None:
            nonlocal left
            if left and not self.ended:
                left -= 1
                self.did("a snapshot broken off")
                self.keeper.after(self.world.rng.uniform(0.0, 0.001), lambda: connection.lost(""))

        self.network.on_range = begun

    def noisy(self) -> None:
        self.did("messages lost, doubled, swapped")
        rng, network = self.world.rng, self.network
        network.loss, network.doubling, network.swapping = (rng.choice((0.0, 0.02, 0.2)) for _ in range(3))

        def quiet() -> None:
            network.loss = network.doubling = network.swapping = 0.0

        self._later(quiet, 4.0)

    def slow_network(self) -> None:
        self.did("slow network")
        self.network.latency = self.world.rng.choice(((0.0002, 0.002), (0.01, 0.06), (0.0, 0.4)))

        def fast() -> None:
            self.network.latency = CALM

        self._later(fast)

    def slow_disk(self) -> None:
        if process := self._one():
            self.did("slow disk")
            disk = process.disk
            disk.slow = True
            self._later(lambda: setattr(disk, "slow", False), 4.0)

    def hung_disk(self) -> None:
        if process := self._one():
            self.did("hung disk")
            process.disk.hung = True
            self._later(process.disk.unhang, 3.0)

    def failing_disk(self) -> None:
        if process := self._one():
            self.did("failing disk")
            disk = process.disk
            disk.fail = failing(self.world.rng.choice(("sync", "write", "read")))

            def mend() -> None:
                disk.fail = healthy
                if not process.up:
                    process.start()

            self._later(mend, 1.0)

    def full_disk(self) -> None:
        if process := self._one():
            self.did("full disk")
            disk = process.disk
            disk.capacity_bytes = disk.used_bytes() + self.world.rng.choice((0, 3000, 40_000))
            self._later(lambda: setattr(disk, "capacity_bytes", None), 3.0)

    # What destroys data.

    def _may_destroy(self, process: Process) -> bool:
        """A minority at most has lost what it knew, and has not been replaced yet."""
        configuration = self.admin.configuration(committed=True)  # else the one before it may still have to decide
        if configuration is None or configuration.outgoing or len(configuration.voters) < 3 or self.admin.busy:
            return False
        if any(m.id in self.world.astray for m in (*configuration.voters, *configuration.learners)):
            return False
        if any(p.disk.rotten for p in self.processes):
            return False
        return process.node is not None and self.admin.every_voter_is_here()

    def wipe(self) -> None:
        process = self._one()
        if process is not None and self._may_destroy(process):
            self.did("disk wiped")
            process.kill(power=True)
            self.old_disks.setdefault(process.name, []).append(process.swap_disk(None))
            self._restart_later(process)

    def old_disk(self) -> None:
        """A disk whose member was replaced comes back, in a process that no configuration names."""
        having = [p for p in self._running() if self.old_disks.get(p.name)]
        configuration = self.admin.configuration(committed=True)  # else the one before it may still have to decide
        if not having or configuration is None:
            return
        process = self.world.rng.choice(having)
        if len(self.admin.wanted) > 1:
            self.admin.wanted.discard(process.name)  # so that, a while later, no configuration names it
        if process.name in self.admin.names_in(configuration):
            return
        self.did("an old disk comes back")
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
        segment = self.world.rng.choice([s for s in process.log._wal._segments if s.end > SEGMENT_HEADER_BYTES])
        process.kill()
        offset = self.world.rng.randrange(SEGMENT_HEADER_BYTES, segment.end)
        process.disk.flip(segment.path, offset, self.world.rng.randrange(8))
        self.did("a bit of the log flipped")
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
                self.did("a bit of a snapshot flipped")
            self._restart_later(process)

    def rot(self) -> None:
        """A bit of a running member's snapshots, a leader's mostly: it may still offer them to others."""
        process = self.admin.leader() if self.world.rng.random() < 0.8 else self._one()
        if process is None or not self._may_destroy(process):
            return
        for path in process.disk.snapshot_files():
            process.disk.rot(path)
            self.did("a snapshot rots")

    def go_astray(self) -> None:
        """A member's digest becomes another one, as if it had applied a command differently (rule 26). What clients
        read of it stays right, so that their histories are judged as always."""
        process = self._one()
        if process is None or process.node is None or not self._may_destroy(process):
            return
        engine = process.node.engine
        if engine is None or engine.halted or engine.environment._job is not None:
            return
        if engine.participant(process.node.node_id) is None:
            return  # it would join as one more that is astray, when another is already
        environment = engine.environment
        with environment._env.begin(write=True) as txn:
            trees = Trees(txn, environment.named)
            head = read_head(trees)
            write_head(trees, head._replace(digest=bytes(255 - byte for byte in head.digest)))
            environment._head = environment.machine.head(trees)
        self.world.astray[process.node.node_id] = environment
        self.world.strayed.add(process.node.node_id)
        self.world.wrong.add((environment.applied.index, environment.state_hash))
        self.did("a state gone astray")

    # Time and versions.

    def clock_jump(self) -> None:
        if process := self._one():
            self.did("clock jump")
            process.loop.jump(self.world.rng.choice((0.05, 0.5, 3.0, 60.0)))

    def wall_clock_jump(self) -> None:
        if process := self._one():
            self.did("wall clock jump")
            process.wall_offset_ms = self.world.rng.choice((-86_400_000, -1000, 0, 5000, 86_400_000))

    def upgrade(self) -> None:
        """To the next version; never back (a member that meets a newer cluster stops, rule 34)."""
        older = [p for p in self._running() if not p.newer]
        if older:
            process = self.world.rng.choice(older)
            self.did("upgrade")
            process.newer = True
            process.kill()
            self._restart_later(process, 0.3)
