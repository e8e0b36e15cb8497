"""A member at work: the loop, the log's thread, the machine and the peers' streams, around the sans-IO Member.

Rules of this module: the member's clock is the host's `monotonic` (the loop's own counts whole milliseconds); all that
changes the member happens on the loop, in a turn or in what leads to one; nothing here blocks; once `halted`, nothing
is written, sent or applied any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog

from oarlock.machine.command import Command, Result
from oarlock.machine.environment import Environment
from oarlock.machine.errors import OutOfSpace
from oarlock.machine.protocol import Machine
from oarlock.peers.messages import PeerMessage
from oarlock.peers.transport import Transport
from oarlock.raft.core import Core
from oarlock.raft.errors import InvariantViolated
from oarlock.raft.options import Options
from oarlock.raft.state import Role
from oarlock.raft.types import Entry, EntryKind, HardState, NodeId, SnapshotMeta
from oarlock.raft.types import Member as Participant
from oarlock.runtime.apply import Applier
from oarlock.runtime.changes import Changes, Events
from oarlock.runtime.divergence import StateDiverged
from oarlock.runtime.errors import OUTDATED, out_of_order
from oarlock.runtime.host import Host
from oarlock.runtime.member import Member
from oarlock.runtime.metrics import Counters
from oarlock.runtime.recovery import Recovered, copy_state, drop_states, newest_state, next_state, sync_state
from oarlock.runtime.settings import NodeSettings
from oarlock.runtime.snapshotting import Snapshotter
from oarlock.runtime.timer import Timer
from oarlock.runtime.turn import Limits, ResultWaiter, Turn
from oarlock.runtime.wal_thread import Durable, Submission
from oarlock.storage.directory import DataDirectory
from oarlock.storage.frame import Frame

log = structlog.get_logger()


class Engine:
    def __init__(
        self,
        settings: NodeSettings,
        machine: Machine,
        directory: DataDirectory,
        transport: Transport,
        metrics: Counters,
        recovered: Recovered,
        events: Events,
        host: Host,
    ) -> None:
        self.settings, self.machine, self.directory, self.metrics = settings, machine, directory, metrics
        self.host = host
        self._now = host.monotonic
        self.loop = asyncio.get_running_loop()
        self.halted = False
        self.disk_full = False
        self.since = self._now()
        self.replay_target = recovered.hard_state.commit
        self.cut_bytes = recovered.cut_bytes
        self.snapshots = Snapshotter(self, recovered.store, recovered.snapshot)
        self._transport, self._events = transport, events
        self._applier = Applier(
            recovered.environment,
            self.loop,
            self._applied,
            self._swap,
            self._clear,
            self._swapped,
            self._apply_failed,
            host.work_clock,
        )
        self._wal = host.log_thread(
            recovered.wal, self.loop, self._durable, self._wal_failed, self._space_changed, host.work_clock
        )
        self._turn_due = False
        self._timer = Timer(self.loop, host.monotonic, self._deadline, self._tick)
        self._changes = Changes(transport, metrics, events, host.monotonic)
        core = self._core(recovered.hard_state, recovered.entries, recovered.snapshot)
        self.member = self._member(core)
        self._wal.start()
        self.wake()

    # -- what others ask --------------------------------------------------------------------------------------------

    @property
    def core(self) -> Core:
        return self.member.core

    @property
    def environment(self) -> Environment:
        return self._applier.environment

    @property
    def applying_blocked(self) -> bool:
        return self._applier.out_of_space

    def submit(self, command: Command, waiter: ResultWaiter | None, *, grows: bool) -> None:
        self.member.submit(command, waiter, self._now(), grows=grows)
        if self.member.could_begin:
            self._turn()  # replicated while the rest of a burst is parsed
        else:
            self.wake()

    def read(self, waiter: asyncio.Future[int]) -> None:
        self.member.read(waiter, self._now())
        self.wake()

    def receive(self, message: PeerMessage) -> None:
        if self.halted:
            return
        try:
            self.member.receive(message, self._now())
        except Exception as e:
            self._failed(e)
            return
        self.wake()

    def connected(self, peer: NodeId) -> None:
        self.member.connected(peer, self._now())
        self.wake()

    def disconnected(self, peer: NodeId) -> None:
        self.member.disconnected(peer, self._now())
        self.wake()

    def unheard(self, peer: NodeId) -> None:
        self.member.unheard(peer)
        self.wake()

    def heard_version(self, peer: NodeId, version: int) -> None:
        self.member.heard_version(peer, version)
        self.wake()

    def wake(self) -> None:
        """Something was asked of the member: take a turn, once for all that was asked since the last."""
        if not self._turn_due and not self.halted:
            self._turn_due = True
            self.loop.call_soon(self._turn)

    def participant(self, node_id: NodeId) -> Participant | None:
        """The member with this id in the latest configuration, either half."""
        placed = self.core.placed.configuration
        for group in (placed.voters, placed.learners, placed.outgoing):
            for participant in group:
                if participant.id == node_id:
                    return participant
        return None

    def in_log_thread(self, function: Callable[..., Any]) -> asyncio.Future[Any]:
        """Runs `function(wal)` between two writes."""
        return self._wal.call(function)

    async def begin_log(self) -> None:
        """The log has a frame when it returns, durably (pitfall D15). Raises OutOfSpace of the storage, WalFailed."""
        await self.in_log_thread(lambda wal: wal.begin())

    async def begin_from(self, hard_state: HardState, entries: tuple[Entry, ...]) -> None:
        """Bootstrap: the log of a member that has none begins with `entries`, durable before anything acts on them."""
        assert self.core.last_index == 0, "only an empty log can begin"
        await self.in_log_thread(lambda wal: wal.append([Frame(hard_state, entries, None)]))
        self.member = self._member(self._core(hard_state, entries, None))
        self.wake()

    def maintain(self) -> bool:
        return not self.halted and self._applier.maintain()

    def halt(self) -> None:
        """No further part in anything; every waiter gets its answer."""
        if self.halted:
            return
        self.halted = True
        self._applier.halt()
        self.member.stop()
        self._deliver(self.member.take_answers())
        self._timer.cancel()

    async def close(self) -> bool:
        """After `halt`: ends the threads, closes log and state. True: the state is synced, and fit for reuse."""
        assert self.halted, "halt first"
        await self._applier.close()  # first: a swap that is under way needs the snapshots' thread
        await self.snapshots.close()
        await self._wal.close()
        try:
            await asyncio.to_thread(sync_state, self.directory)
        except OSError as e:
            log.error("the state could not be synced: the next start builds it anew", why=str(e))
            return False
        finally:
            self.environment.close()
        return True

    # -- the turn ---------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._turn_due = False
        if self.halted:
            return
        try:
            self._take_turn()
        except Exception as e:  # half of a turn is done: what was promised and not written must never be built upon
            self._failed(e)

    def _take_turn(self) -> None:
        """Everything that arrived since the last turn becomes one set of effects (rule 32)."""
        member = self.member
        now = self._now()
        turn = member.turn(now, self.host.wall_ms())
        ready = turn.ready
        send = self._transport.send
        if ready.token is not None:  # first of all, since the log's thread takes a while to wake
            if ready.install is not None:
                self._applier.add_swap(ready.install)
            frame = Frame(ready.hard_state, ready.entries, ready.install)
            self._wal.submit(Submission(frame, ready.token, ready.messages_after_persist))
        for message in turn.messages:
            if not send(message):
                member.not_sent(message)
        self.metrics.commands_forwarded = member.commands_forwarded
        if ready.committed:
            self._observe_commits(ready.committed, now)
            self._applier.add(ready.committed)
        if not self._applier.idle:
            # A follower's apply keeps nobody waiting but its own readers; at once, it would hold up the log's thread.
            if member.core.role is Role.LEADER or member.awaits_applying:
                self._applier.run()
            else:
                self._applier.run_later()
        if ready.fetch is not None:
            self._fetch(*ready.fetch)
        if ready.doubted is not None:
            self.snapshots.doubt(ready.doubted)
        self._deliver(turn)
        self._changes.notice(member.core)
        if member.has_work():
            self.wake()
        self._timer.arm(member.deadline)

    def _deliver(self, turn: Turn) -> None:
        for waiter, result in turn.answers:
            if waiter is not None and not waiter.done():
                waiter.set_result(result)
        for waiter, refused in turn.refusals:
            if refused.outcome == "not_applied":
                self.metrics.commands_refused += 1
            if waiter is not None and not waiter.done():
                waiter.set_exception(refused)
        if turn.readable:
            index = self.environment.applied.index
            for waiter in turn.readable:
                if not waiter.done():
                    waiter.set_result(index)

    def _deadline(self) -> float:
        return self.member.deadline

    def _tick(self, now: float) -> None:
        if self.halted:
            return
        try:
            self.member.tick(now)
        except Exception as e:
            self._failed(e)
            return
        self.wake()

    def _observe_commits(self, committed: Sequence[Entry], now: float) -> None:
        for entry in committed:
            handed = self.member.proposal(entry.index, entry.term)
            if handed is not None:
                count, at = handed
                self.metrics.commit_latency.observe_many(now - at, count)
                self.metrics.commands_proposed += count

    # -- the log ----------------------------------------------------------------------------------------------------

    def _durable(self, durable: Durable) -> None:
        self.metrics.wal_fsync.observe(durable.seconds)
        self.metrics.wal_bytes_written += durable.wal_bytes
        if self.halted:
            return
        send = self._transport.send
        for submission in durable.submissions:
            if submission.frame.marker is not None:
                self._applier.marker_durable()
                self._applier.run()
            for message in submission.after:
                send(message)
        try:
            self.core.persisted(durable.submissions[-1].token, self._now())
        except Exception as e:
            self._failed(e)
            return
        self.wake()

    def _wal_failed(self, error: BaseException) -> None:
        self.halt()
        self._events.fatal(f"the log could not be written: {error!r}")

    def _space_changed(self, full: bool) -> None:
        self.disk_full = full
        if full:
            log.error("the disk is full: nothing is acknowledged until there is space")
            self.member.low_on_space = True
            self.loop.run_in_executor(None, self.directory.ballast.release)

    # -- the machine ------------------------------------------------------------------------------------------------

    def _applied(self, entries: Sequence[Entry], results: Sequence[Sequence[Result]], seconds: float) -> None:
        if self.halted:
            return
        member = self.member
        self.metrics.apply_seconds.observe(seconds)
        member.applied(entries, results)
        member.states.note(self.environment.applied.index, self.environment.state_hash)
        self._deliver(member.take_answers())
        if any(e.kind != EntryKind.COMMANDS for e in entries):
            member.cluster_version = self.environment.cluster_version
            self._events.changed()
        if member.has_work():
            self.wake()

    def _apply_failed(self, error: BaseException) -> None:
        self._failed(error)

    async def _swap(self, meta: SnapshotMeta) -> Environment:
        """Opens the installed snapshot as the next state (rule 18)."""
        path = next_state(self.directory)
        await self.snapshots.with_file(meta, lambda source: copy_state(source, path))
        try:
            return Environment.open(path, self.machine)
        except OutOfSpace:
            path.unlink(missing_ok=True)
            raise

    async def _clear(self) -> None:
        """Drops the states before the newest, which is in use; one that is still read lasts until its reader leaves."""
        await asyncio.to_thread(lambda: drop_states(self.directory, but=newest_state(self.directory)))

    def _swapped(self, meta: SnapshotMeta) -> None:
        if self.halted:
            return
        self.metrics.snapshots_installed += 1
        self.member.cluster_version = self.environment.cluster_version
        self.member.installed(meta)
        self.member.states.note(meta.index, self.environment.state_hash)
        log.info("snapshot installed", index=meta.index, term=meta.term, bytes=meta.size_bytes)
        self._events.changed()
        self.wake()

    # -- snapshots --------------------------------------------------------------------------------------------------

    def _fetch(self, source: NodeId, meta: SnapshotMeta) -> None:
        participant = self.participant(source)
        url = participant.peer_url if participant is not None else self._transport.url_of(source)
        if url is None:
            self.snapshot_refused(meta, f"no address of {source} is known")
            return

        async def transfer(destination: Path) -> None:
            await self._transport.fetch_snapshot(Participant(source, url, ""), meta, destination)

        self.snapshots.fetch(source, meta, transfer)

    def snapshot_published(self, meta: SnapshotMeta) -> None:
        """A local snapshot is durable: offers name it, and log that nothing needs goes (rules 6 and 19)."""
        if self.halted:
            return
        self.core.snapshot_taken(meta)
        self.snapshots.let_go()

    def snapshot_fetched(self, meta: SnapshotMeta) -> None:
        if self.halted:
            return
        if not self.core.install(meta, self._now()):
            log.info("snapshot not needed any more", index=meta.index)
        self.wake()

    def snapshot_refused(self, meta: SnapshotMeta, why: str) -> None:
        log.warning("snapshot could not be fetched", index=meta.index, why=why)
        if not self.halted:
            self.core.refuse_snapshot(meta, self._now())
            self.wake()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _core(self, hard_state: HardState, entries: Sequence[Entry], snapshot: SnapshotMeta | None) -> Core:
        return Core(
            self.directory.identity.node_id,
            rng=self.host.rng,
            now=self._now(),
            options=Options(
                election_timeout_seconds=self.settings.election_timeout_seconds,
                heartbeat_seconds=self.settings.heartbeat_seconds,
            ),
            hard_state=hard_state,
            snapshot=snapshot,
            entries=entries,
            applied=self.environment.applied.index,
        )

    def _member(self, core: Core) -> Member:
        # Numbers that no earlier process of this member has used: a late answer must find nobody who waits for it.
        member = Member(core, self._now(), Limits(), first_number=self.host.rng.getrandbits(56))
        member.speaks_version = self.machine.version
        member.cluster_version = self.environment.cluster_version
        member.states.note(self.environment.applied.index, self.environment.state_hash)
        return member

    def _failed(self, error: BaseException) -> None:
        """What Raft excludes, a newer version wrote, or a state gone astray: stay, and say so. Else nobody knows, so
        the process ends."""
        if isinstance(error, (InvariantViolated, StateDiverged, *OUTDATED)):
            self.halt()
            self._events.out_of_order(out_of_order(error))
        else:
            log.error("the member failed", exc_info=error)
            self.halt()
            self._events.fatal(f"the member failed: {error!r}")
