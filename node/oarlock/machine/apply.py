"""Applying committed entries: one job, one write transaction, in slices (rule 24).

Three rules of this module:
* an entry is applied whole or not at all, and the applied index moves in the same transaction (pitfall C6);
* nothing of a job is seen by a reader, and nothing of the environment's memory changes, before the commit;
* how entries are grouped into jobs, and jobs into slices, changes nothing in the state (rule 27).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

import lmdb
import msgspec

from oarlock.machine import state
from oarlock.machine.command import Command, Result, decode_batch
from oarlock.machine.errors import OutOfSpace, UnknownEntry, out_of_space
from oarlock.machine.protocol import ApplyContext, Trees
from oarlock.machine.records import SWEEP_AFTER_COMMAND, SWEEP_AFTER_ENTRY, Records
from oarlock.raft.types import Configuration, Entry, EntryKind, PlacedConfiguration

if TYPE_CHECKING:
    from oarlock.machine.environment import Environment

_configuration_decoder = msgspec.msgpack.Decoder(Configuration)
_version_decoder = msgspec.msgpack.Decoder(int)


class ApplyJob:
    """`run` until it says True, then `commit`. Between two runs the loop may turn, and read; nobody else may write.

    A job ends before an entry that this member cannot apply; the next job, which starts with it, raises UnknownEntry.
    """

    def __init__(self, environment: Environment, txn: lmdb.Transaction[bytes], entries: Sequence[Entry]) -> None:
        position = environment.position
        for expected, entry in enumerate(entries, position.index + 1):
            if entry.index != expected:
                raise ValueError(f"entry {expected} is next to be applied, not {entry.index}")
        if not entries:
            raise ValueError("a job needs an entry")
        self._environment = environment
        self._txn = txn
        self._entries = entries
        self._trees = Trees(txn, environment.named)
        self._session = environment.machine.begin(self._trees)
        self._records = Records(
            txn, environment.records_tree, environment.expiry_tree, position.records, position.records_digest
        )
        self._position = position
        self._placed = environment.placed
        self._results: list[list[Result]] = []
        self._unknown: UnknownEntry | None = None
        self._work = self._steps()
        self._state = "running"

    def run(self, budget_seconds: float, clock: Callable[[], float]) -> bool:
        """Works until all is applied (True) or the budget is spent (False); one command at least.

        Raises UnknownEntry if the first entry cannot be applied here, OutOfSpace if the disk is full; the job is then
        aborted and the state as it was.
        """
        if self._state != "running":
            raise RuntimeError(f"the job is {self._state}")
        deadline = clock() + budget_seconds
        try:
            for _ in self._work:
                if clock() >= deadline:
                    return False
            if self._unknown is not None and not self._results:
                raise self._unknown
        except BaseException as error:
            self.abort()
            if out_of_space(error):
                raise OutOfSpace(str(error)) from error
            raise
        self._state = "done"
        return True

    def commit(self) -> list[list[Result]]:
        """Makes it all visible at once. One list for each applied entry, in order: a Result for each command of a
        COMMANDS entry, nothing for other kinds. Shorter than the entries if an unknown one follows.

        Raises OutOfSpace: nothing is applied, a new job may try again later.
        """
        if self._state != "done":
            raise RuntimeError(f"the job is {self._state}, not done")
        environment = self._environment
        try:
            self._session.finish()
            state.write_position(self._txn, environment.state_tree, self._position)
            if self._placed is not environment.placed:
                state.write_placed(self._txn, environment.state_tree, self._placed)
            head = environment.machine.head(self._trees)
            self._txn.commit()
        except BaseException as error:
            self.abort()
            if out_of_space(error):
                raise OutOfSpace(str(error)) from error
            raise
        self._state = "committed"
        environment.moved(self, self._position, self._placed, head)
        return self._results

    def abort(self) -> None:
        """Drops everything since `begin`."""
        if self._state in ("running", "done"):
            self._state = "aborted"
            self._work.close()
            self._txn.abort()
            self._environment.dropped(self)

    def _steps(self) -> Generator[None, None, None]:
        """Yields after each command and each entry: there, and only there, a slice may end."""
        for entry in self._entries:
            version, placed = self._position.cluster_version, self._placed
            time_ms = max(entry.time_ms, self._position.time_ms)
            results: list[Result] = []
            try:
                if entry.kind == EntryKind.COMMANDS:
                    batch = decode_batch(entry.data)
                    context = ApplyContext(entry.index, entry.term, time_ms, batch.wall_ms, version)
                    for command in batch.commands:
                        results.append(self._apply(command, context))
                        yield
                elif entry.kind == EntryKind.CONFIGURATION:
                    placed = PlacedConfiguration(entry.index, entry.term, _configuration_decoder.decode(entry.data))
                elif entry.kind == EntryKind.VERSION:
                    version = _version_decoder.decode(entry.data)
                    if version > self._environment.machine.version:
                        self._unknown = UnknownEntry(entry, f"it raises the cluster's version to {version}")
                        return
                elif entry.kind != EntryKind.NOOP:
                    self._unknown = UnknownEntry(entry, f"its kind is {entry.kind}")
                    return
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self._unknown = UnknownEntry(entry, f"its data is not what its kind says: {error}")
                return
            records = self._records
            records.sweep(time_ms, SWEEP_AFTER_ENTRY)
            self._results.append(results)
            self._placed = placed
            self._position = state.Position(
                entry.index, entry.term, time_ms, version, records.count, records.digest_bytes
            )
            yield

    def _apply(self, command: Command, context: ApplyContext) -> Result:
        if not command.key:
            return self._session.apply(command.payload, context)
        records = self._records
        result = records.answer(command, context.time_ms, context.wall_ms)
        if result is None:
            result = self._session.apply(command.payload, context)
            records.keep(command, result, context.time_ms)
            records.sweep(context.time_ms, SWEEP_AFTER_COMMAND)
        return result
