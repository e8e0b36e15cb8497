"""One member's process: the real Node on a simulated loop, disk and network. It can be killed, paused and restarted.

Rule of this module: nothing of a member is made here; what differs from production is the Host that it is given.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
from tests.simulation import coverage
from tests.simulation.disk import Disk, LogThread, log_thread_of
from tests.simulation.network import Client, Network
from tests.simulation.scheduler import Loop, Violated, World

from oarlock.kv import trail
from oarlock.kv.layout import DIGEST_MODULUS
from oarlock.kv.machine import KvMachine, KvSession
from oarlock.machine import ApplyContext, Result, Trees
from oarlock.runtime.host import Host
from oarlock.runtime.node import Node
from oarlock.runtime.settings import NodeSettings
from oarlock.storage.errors import Corrupt, StorageError

TOKEN = "simulated"
RETAIN_MS = 3_000  # of history


class NoRoom(lmdb.Error):
    """As LMDB says it, whose file lies in real memory here."""

    code = errno.ENOSPC


class ForgetfulKv(KvMachine):
    """The store we ship, whose history is compacted after seconds, or no story would see it happen; it cannot apply
    while the disk is full."""

    def __init__(self, is_full: Callable[[], bool]) -> None:
        self.is_full = is_full

    def begin(self, trees: Trees) -> KvSession:
        return ForgetfulSession(trees, self.is_full)

    def housekeeping(self, trees: Trees, time_ms: int) -> bytes | None:
        return super().housekeeping(trees, time_ms + trail.RETAIN_MS - RETAIN_MS)


class NewerKv(ForgetfulKv):
    """The next version of the machine. What it does differently waits until the whole cluster can (rule 34): each
    change counts one more in the digest, so that states differ as soon as one member begins earlier than another."""

    version = KvMachine.version + 1

    def begin(self, trees: Trees) -> KvSession:
        return NewerSession(trees, self.is_full)


class ForgetfulSession(KvSession):
    __slots__ = ("_is_full",)

    def __init__(self, trees: Trees, is_full: Callable[[], bool]) -> None:
        super().__init__(trees)
        self._is_full = is_full

    def apply(self, payload: bytes, context: ApplyContext) -> Result:
        if self._is_full():
            raise NoRoom("no room to apply")
        return super().apply(payload, context)


class NewerSession(ForgetfulSession):
    __slots__ = ()

    def apply(self, payload: bytes, context: ApplyContext) -> Result:
        before = self._revision
        result = super().apply(payload, context)
        if context.cluster_version >= NewerKv.version and self._revision > before:
            self._digest = (self._digest + 1) % DIGEST_MODULUS
        return result


class Process:
    def __init__(self, world: World, network: Network, name: str, root: Path) -> None:
        self.world, self.network, self.name = world, network, name
        self.disk = Disk(world.rng, root / name)
        self.loop = Loop(world, name)
        self.loop.dead = True
        self.node: Node | None = None
        self.newer = False
        self.refused_start: Exception | None = None
        self.died_of: str | None = None
        self.wall_offset_ms = 0
        self._swaps = itertools.count()
        self._pods = itertools.count()
        self.deaths: list[Callable[[], None]] = []  # called once, by the next end of this process
        network.processes[name] = self

    @property
    def up(self) -> bool:
        return not self.loop.dead

    @property
    def log(self) -> LogThread | None:
        if self.node is None or self.node.engine is None:
            return None
        thread = self.node.engine._wal
        assert isinstance(thread, LogThread)
        return thread

    def start(self) -> None:
        world = self.world
        assert not self.up
        self.loop = Loop(world, self.name, rate=world.rng.choice((1.0, 1.0, 0.97, 1.03)))
        self.loop.on_error = self._uncaught
        self.loop.thread_seconds, self.loop.holds = self.disk.thread_seconds, self.disk.holds
        self.died_of = self.refused_start = None
        world.note(self.name, "starts, newer" if self.newer else "starts")
        self.loop.create_task(self._run())

    async def _run(self) -> None:
        loop, ticks = self.loop, itertools.count()

        def work_clock() -> float:
            loop.handover("the machine works")
            return next(ticks) * 0.0007  # a slice of applying holds a few commands

        host = Host(
            monotonic=loop.time,
            work_clock=work_clock,
            wall_ms=lambda: 1_700_000_000_000 + self.wall_offset_ms + int(self.world.now * 1000),
            rng=self.world.rng,
            files=self.disk,
            log_thread=log_thread_of(self.disk),
            peer_client=lambda token: Client(self.network, self, token),
            settled=lambda: None,
        )
        settings = NodeSettings(
            name=self.name,
            data_dir=self.disk.root,
            peer_url=f"http://{self.name}:2380",
            client_url=f"http://{self.name}:2379",
            token=TOKEN,
            pod_uid=f"pod-{next(self._pods)}",
            snapshot_entries=60,
            snapshot_wal_bytes=48 << 10,
            segment_bytes=16 << 10,
            trailing_bytes=2 << 10,
            low_space_bytes=1 << 16,
            ballast_bytes=1 << 14,
        )
        try:
            machine = (NewerKv if self.newer else ForgetfulKv)(self._no_room_to_apply)
            node = await Node.start(settings, machine, self._fatal, host)
        except (Corrupt, StorageError) as error:
            self.refused_start = error
            self.world.note(self.name, f"does not start: {error}")
            return
        except OSError as error:  # as `oarlock serve` does, the process ends, and is started again
            self._fatal(f"does not start: {error}")
            return
        node.transport.options = replace(node.transport.options, range_bytes=12 << 10)
        self.node = node
        coverage.tap_messages(self.world, node)

    def _no_room_to_apply(self) -> bool:
        full = self.disk.capacity_bytes is not None and self.disk.free_bytes(self.disk.root) == 0
        if full:
            self.world.reach("machine: no room to apply")
        return full

    def kill(self, *, power: bool = False) -> None:
        """kill -9, or the machine's power."""
        self.world.note(self.name, "power loss" if power else "killed")
        if self.log is not None:
            self.log.crash(self.world.rng)
        self._end()
        if power:
            self.disk.power_loss()
        else:
            self.disk.kill()

    def swap_disk(self, other: Disk | None) -> Disk:
        """Puts another disk in, or an empty one; the one that was there."""
        assert not self.up
        aside = self.disk.root.with_name(f"{self.name}-aside-{next(self._swaps)}")
        taken = self.disk
        taken.root.rename(aside)
        taken.aside = aside
        if other is None:
            self.disk = Disk(self.world.rng, taken.root)
        else:
            assert other.aside is not None
            other.aside.rename(other.root)
            self.disk = other
        return taken

    def gone(self, *, power: bool) -> None:
        """It has stopped of itself, cleanly; the machine, too, perhaps, and not so cleanly."""
        self.world.note(self.name, "has stopped, then its machine" if power else "has stopped")
        self._end()
        if power:
            self.disk.power_loss()
        else:
            self.disk.kill()

    def _end(self) -> None:
        deaths, self.deaths = self.deaths, []
        for told in deaths:
            told()
        node, self.node = self.node, None
        self.loop.kill()
        self.disk.hung = False
        self.disk.waiting.clear()
        self.network.died(self)
        if node is not None:
            coverage.count_up(self.world, node)
            if node.engine is not None:
                node.engine.environment.close()

    def _fatal(self, why: str) -> None:
        """The process ends itself (rule 5)."""
        self.died_of = why
        self.world.note(self.name, f"ends: {why}")
        self.loop.call_soon(self._exit)

    def _exit(self) -> None:
        self.world.reach("storage: a failed write ended the process")
        self._end()
        self.disk.kill()

    def _uncaught(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.world.found = Violated(f"[uncaught] {self.name}: {context.get('message')}: {error!r}")
        self.world.found.__cause__ = error
