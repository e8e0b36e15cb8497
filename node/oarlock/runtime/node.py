"""One process's member, for the API: directory, transport and engine, from start to clean stop.

Rules of this module: it answers probes and status from the first moment, and takes part when the engine exists; a
request that cannot be served raises Refused, which says whether a write may have happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec
import structlog

from oarlock.machine import errors as machine_errors
from oarlock.machine.command import Command, Result
from oarlock.machine.environment import Environment
from oarlock.machine.protocol import Machine
from oarlock.peers.hello import Hello, LocalIdentity
from oarlock.peers.messages import PeerMessage
from oarlock.peers.options import PeerOptions
from oarlock.peers.transport import Transport
from oarlock.raft.types import NOBODY, Member, NodeId, SnapshotMeta
from oarlock.runtime import admin, joining, resetting
from oarlock.runtime.changes import Events
from oarlock.runtime.engine import Engine
from oarlock.runtime.errors import OUTDATED, OutOfOrder, Refused, disk_refused, out_of_order
from oarlock.runtime.handover import hand_over
from oarlock.runtime.host import Host
from oarlock.runtime.housekeeping import finish_bootstrap, housekeep
from oarlock.runtime.metrics import Counters
from oarlock.runtime.recovery import Recovered, recover
from oarlock.runtime.settings import NodeSettings
from oarlock.runtime.status import MemberStatus, is_ready, status_of
from oarlock.runtime.turn import ResultWaiter
from oarlock.storage import errors as storage_errors
from oarlock.storage.directory import DataDirectory
from oarlock.storage.errors import Corrupt
from oarlock.storage.identity import Identity

log = structlog.get_logger()
T = TypeVar("T")

HOUSEKEEPING_SECONDS = 1.0
HANDOVER_SECONDS = 2.0
NO_SPACE_SECONDS = 1.0  # between tries to recover while the disk is full


class Node:
    """Use `await Node.start(...)`."""

    def __init__(
        self,
        settings: NodeSettings,
        machine: Machine,
        directory: DataDirectory,
        on_fatal: Callable[[str], None],
        host: Host,
    ) -> None:
        self.host = host
        self.settings = settings
        self.machine = machine
        self.directory = directory
        self.loop = asyncio.get_running_loop()
        self.metrics = Counters()
        self.engine: Engine | None = None
        self.broken: OutOfOrder | None = None
        self.stale: str | None = None
        self.removed = False
        self.alarmed: frozenset[tuple[NodeId, bool]] = frozenset()  # whose divergence has been told, and is it judged
        self.stopping = False
        self.free_bytes = directory.free_bytes()
        self.wal_bytes = 0
        self.changed = asyncio.Event()  # set and replaced whenever leader, configuration or state moves
        self.transport = Transport(
            local=self._identity,
            token=settings.token,
            on_message=self._received,
            judge=lambda hello: joining.judge(self, hello),
            is_removed=lambda node_id: joining.is_removed(self, node_id),
            on_connected=self._connected,
            on_disconnected=self._disconnected,
            on_unheard=self._unheard,
            on_hello=self._heard_hello,
            on_removed=self._told_removed,
            on_stale=self._told_stale,
            snapshot_file=self._snapshot_file,
            on_snapshot_progress=self._snapshot_served,
            options=PeerOptions(
                heartbeat_seconds=settings.heartbeat_seconds, silence_seconds=settings.election_timeout_seconds
            ),
            rng=host.rng,
            client=host.peer_client(settings.token),
        )
        self.life = asyncio.Lock()  # one at a time of: reset, stop
        self.bootstrapping = asyncio.Lock()
        self.amending = asyncio.Lock()  # whoever writes the identity
        self._on_fatal = on_fatal
        self._running: asyncio.Task[None] | None = None
        self._remembering: asyncio.Task[None] | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    @classmethod
    async def start(
        cls, settings: NodeSettings, machine: Machine, on_fatal: Callable[[str], None], host: Host | None = None
    ) -> Node:
        """Opens the directory and begins to recover. Raises storage errors, with a sentence, where it is not ours.

        `on_fatal` is called when the process must end (rule 5); it must not return to work.
        """
        host = host or Host()
        open_directory = functools.partial(DataDirectory.open, new_incarnation=host.token)
        directory = await asyncio.to_thread(open_directory, settings.data_dir, settings.name, host.files)
        node = cls(settings, machine, directory, on_fatal, host)
        node.transport.start()
        node.begin()
        return node

    def begin(self) -> None:
        self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._recover()
            while not self.stopping:
                await asyncio.sleep(HOUSEKEEPING_SECONDS)
                await housekeep(self)
        except Exception as e:
            log.exception("the member failed")
            self.fatal(f"the member failed: {e!r}")

    async def _recover(self) -> None:
        if self.settings.pod_uid:
            await self._with_space(lambda: self._amend(None, {"pod_uid": self.settings.pod_uid}))
        if self.broken is not None:  # found before a reset that the disk refused, and not noted yet
            return
        if (why := self.directory.identity.diverged) is not None:
            self._found_out_of_order(OutOfOrder("Corrupt", why))
            return
        try:
            recovered = await self._with_space(self._recovered)
        except (Corrupt, *OUTDATED) as e:
            self._found_out_of_order(out_of_order(e))
            return
        events = Events(self.announce, self._found_out_of_order, self.fatal, lambda: self._told_removed(NOBODY))
        engine = Engine(
            self.settings, self.machine, self.directory, self.transport, self.metrics, recovered, events, self.host
        )
        self.engine = engine
        log.info(
            "recovered",
            node_id=self.node_id,
            term=engine.core.term,
            last_index=engine.core.last_index,
            commit_index=engine.core.commit_index,
            applied_index=engine.environment.applied.index,
            state="reused" if recovered.reused_state else "rebuilt",
            cut_bytes=recovered.cut_bytes,
        )
        await finish_bootstrap(self)
        self.host.settled()
        self.announce()

    async def _with_space(self, work: Callable[[], Awaitable[T]]) -> T:
        """Waits for space where there is none (rule 5). A thread is never left behind: if this task is cancelled, what
        it opened is closed first, before the directory may become another's."""
        while True:
            begun = asyncio.ensure_future(work())
            try:
                return await asyncio.shield(begun)
            except (storage_errors.OutOfSpace, machine_errors.OutOfSpace, OSError) as e:
                if isinstance(e, OSError) and e.errno not in storage_errors.SPACE_ERRNOS:
                    raise
                log.error("the disk is full: the start waits for space", why=str(e))
                await asyncio.to_thread(self.directory.ballast.release)
                await asyncio.sleep(NO_SPACE_SECONDS)
            except asyncio.CancelledError:
                (found,) = await asyncio.gather(begun, return_exceptions=True)
                if isinstance(found, Recovered):
                    found.close()
                raise

    async def _recovered(self) -> Recovered:
        return await asyncio.to_thread(
            recover, self.directory, self.machine, self.settings.segment_bytes, self.host.nonce
        )

    async def stop(self) -> None:
        """A clean stop: leadership handed over, waiters answered, log settled, state synced and marked as clean."""
        if self.stopping:
            return
        self.stopping = True
        async with self.life:
            engine = self.engine
            if engine is not None:
                engine.member.draining = True
                await hand_over(engine, HANDOVER_SECONDS)
            clean = await self.end_work()
            await self.transport.close()
            if self.broken is None and clean:
                try:
                    await asyncio.to_thread(self.directory.mark_clean_stop)
                except OSError as e:
                    log.warning("a clean stop could not be noted: the next start builds the state anew", why=str(e))
            await asyncio.to_thread(self.directory.close)
        log.info("stopped", node_id=self.node_id)

    async def end_work(self) -> bool:
        """Whether the state is synced, and fit for reuse. Holding `life`."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._remembering is not None:
            await self._remembering
        if self.engine is None:
            return False
        self.engine.halt()
        return await self.engine.close()

    # -- clients ----------------------------------------------------------------------------------------------------

    def propose(
        self, payload: bytes, key: str = "", fingerprint: bytes = b"", *, grows: bool = True
    ) -> asyncio.Future[Result]:
        """Hands a command to the cluster, through its leader. The future gets the Result, or raises Refused."""
        future: asyncio.Future[Result] = self.loop.create_future()
        try:
            self.submit(Command(payload, key, fingerprint), future, grows=grows)
        except Refused as e:
            future.set_exception(e)
        return future

    def submit(self, command: Command, waiter: ResultWaiter, *, grows: bool) -> None:
        """Hands a command to the cluster, through its leader; `waiter` gets the Result, or a Refused. Raises Refused,
        and then `waiter` hears nothing."""
        try:
            self._working().submit(command, waiter, grows=grows)
        except Refused:
            self.metrics.commands_refused += 1
            raise

    def read(self) -> asyncio.Future[int]:
        """Resolves with the applied index once `environment` may answer a linearizable read that began now."""
        future: asyncio.Future[int] = self.loop.create_future()
        self.metrics.reads += 1
        try:
            self._working().read(future)
        except Refused as e:
            future.set_exception(e)
        return future

    @property
    def environment(self) -> Environment:
        """For reads within one turn of the loop. Raises Refused while there is none."""
        return self._working().environment

    @property
    def node_id(self) -> NodeId:
        return self.directory.identity.node_id

    @property
    def cluster_id(self) -> str | None:
        return self.directory.identity.cluster_id

    @property
    def term(self) -> int:
        return self.engine.core.term if self.engine is not None else 0

    @property
    def leader(self) -> NodeId:
        return self.engine.core.leader if self.engine is not None and not self.engine.halted else NOBODY

    @property
    def revision(self) -> int:
        return self.engine.environment.revision if self.engine is not None else 0

    @property
    def leader_client_url(self) -> str | None:
        participant = self.engine.participant(self.leader) if self.engine is not None else None
        return participant.client_url if participant is not None else None

    @property
    def ready(self) -> bool:
        return is_ready(self)

    def status(self) -> MemberStatus:
        return status_of(self)

    # -- operators --------------------------------------------------------------------------------------------------

    async def bootstrap(self, request_id: str, cluster_id: str, min_voters: int) -> str:
        return await admin.bootstrap(self, request_id, cluster_id, min_voters)

    async def change_configuration(
        self, voters: Sequence[Member], learners: Sequence[Member], if_config: str, timeout_seconds: float
    ) -> str:
        return await admin.change_configuration(self, voters, learners, if_config, timeout_seconds)

    async def transfer(self, target: NodeId, timeout_seconds: float) -> tuple[NodeId, int]:
        return await admin.transfer(self, target, timeout_seconds)

    async def barrier(self, timeout_seconds: float) -> tuple[int, int]:
        return await admin.barrier(self, timeout_seconds)

    async def take_snapshot(self) -> SnapshotMeta:
        return await self._working().snapshots.take()

    def newest_snapshot(self, *, fresh: bool = False) -> AbstractAsyncContextManager[tuple[SnapshotMeta, BinaryIO]]:
        """The newest finished snapshot, open while the body runs; one is taken first if there is none, or `fresh`."""
        return self._working().snapshots.opened_newest(fresh=fresh)

    async def reset(self, request_id: str, node_id: NodeId) -> tuple[NodeId, str]:
        return await resetting.reset(self, request_id, node_id)

    async def record_notes(self, pod_uid: str | None, volume_uid: str | None) -> None:
        notes = {"pod_uid": pod_uid, "volume_uid": volume_uid}
        await self.amend_identity(**{name: value for name, value in notes.items() if value is not None})

    async def amend_identity(self, expected: Identity | None = None, /, **changes: object) -> bool:
        """Durable when it returns. One at a time, so that none undoes another. False, and nothing is changed, if the
        identity is not `expected` any more. Raises Refused where the disk refuses."""
        try:
            return await self._amend(expected, changes)
        except OSError as e:
            raise disk_refused("the identity could not be written", e) from e

    async def _amend(self, expected: Identity | None, changes: Mapping[str, object]) -> bool:
        async with self.amending:
            identity = self.directory.identity
            if expected is not None and identity != expected:
                return False
            changed = msgspec.structs.replace(identity, **changes)
            if changed != identity:
                await asyncio.to_thread(self.directory.save, changed)
            return True

    # -- peers ------------------------------------------------------------------------------------------------------

    def _identity(self) -> LocalIdentity:
        identity, settings = self.directory.identity, self.settings
        return LocalIdentity(
            identity.node_id, identity.cluster_id or "", settings.peer_url, settings.advertise_ip, self.machine.version
        )

    def _received(self, message: PeerMessage) -> None:
        if self.engine is not None:
            self.engine.receive(message)

    def _connected(self, peer: NodeId) -> None:
        if self.engine is not None:
            self.engine.connected(peer)

    def _disconnected(self, peer: NodeId) -> None:
        if self.engine is not None:
            self.engine.disconnected(peer)

    def _unheard(self, peer: NodeId) -> None:
        if self.engine is not None:
            self.engine.unheard(peer)

    def _snapshot_file(self, digest: str) -> Path | None:
        return self.engine.snapshots.file_for(digest) if self.engine is not None else None

    def _snapshot_served(self, peer: NodeId, digest: str) -> None:
        if self.engine is not None:
            self.engine.snapshots.served(peer, digest)

    def _heard_hello(self, hello: Hello) -> None:
        if self.engine is not None:
            self.engine.heard_version(hello.node_id, hello.version)
        self.stale = None

    def _told_removed(self, by: NodeId) -> None:
        if not self.removed:
            self.removed = True
            log.warning("this member has been removed from the cluster", told_by=by or "the log")
            self.announce()

    def _told_stale(self, by: NodeId) -> None:
        if self.stale is None and self.leader == NOBODY:
            self.stale = f"{by} belongs to another cluster than this directory ({self.cluster_id})"
            log.warning("stale", why=self.stale)
            self.announce()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _working(self) -> Engine:
        engine = self.engine
        if self.broken is not None:
            raise self.broken.refusal
        if self.removed:
            raise Refused("removed", "this member was removed from the cluster: use another one", status=503)
        if engine is None or engine.halted:
            why = "this member is starting or stopping: use another one, or try again shortly"
            raise Refused("not_ready", why, status=503, retry_after_seconds=1.0)
        if self.cluster_id is None:
            raise Refused("idle", "this member is in no cluster yet: bootstrap it, or add it to one", status=503)
        return engine

    def _found_out_of_order(self, broken: OutOfOrder) -> None:
        """Neither votes nor counts any more, but stays to say so (rules 2 and 34, pitfall L5)."""
        if self.broken is None:
            self.broken = broken
            log.error("this member is out of order", state=broken.state, why=broken.why)
            self.remember()
            self.announce()

    def remember(self) -> None:
        """A state that has gone astray looks sound to the next start: that one must know (rule 26). Asked again until
        it is noted."""
        noted = self.directory.identity.diverged is not None
        under_way = self._remembering is not None and not self._remembering.done()
        if self.broken is not None and self.broken.lasting and not noted and not under_way:
            self._remembering = asyncio.create_task(self._remember(self.broken.why))

    async def _remember(self, why: str) -> None:
        with contextlib.suppress(OSError):  # it tells itself, below
            await asyncio.to_thread(self.directory.ballast.release)  # nothing is written here any more but this
        try:
            await self.amend_identity(diverged=why)
        except Refused as e:
            log.error("this could not be noted yet: do not restart this member, it would take part again", why=e.why)

    def fatal(self, why: str) -> None:
        log.critical("fatal", why=why)
        self._on_fatal(why)

    def announce(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()
