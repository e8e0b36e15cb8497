"""A working state through clean stops: the machine goes down before every file operation of a life of two stops, with a
snapshot installed between them; whatever state the next start believes is what the log says (rules 18 and 21).

Rules of this module: states are real files of LMDB on the simulation's disk, which tears what was not synced, and may
take names that were not synced back; the model is a second store to which the same entries were applied.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from tests.counter_machine import CounterMachine
from tests.simdisk import Crash, crash_at, healthy
from tests.simulation.disk import Disk
from tests.state_driver import apply, publish, replay

from oarlock.machine import Batch, Command, Environment, encode_batch
from oarlock.raft.types import NOBODY, Configuration, Entry, EntryKind, HardState, Member
from oarlock.runtime import recovery
from oarlock.runtime.recovery import Recovered, recover, sync_state
from oarlock.storage.directory import DataDirectory
from oarlock.storage.frame import Frame

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
ME = Member("m-00000000000000aa", "http://m:2380", "http://m:2379")
FIRST_STOP, SNAPSHOT, LAST = 5, 7, 9
PROCESSES = itertools.count()
TRIES = 3  # of each stop, with other pages torn

ENTRIES = (
    Entry(1, 1, EntryKind.CONFIGURATION, 0, msgspec.msgpack.encode(Configuration((ME,)))),
    *(
        Entry(index, 1, EntryKind.COMMANDS, index, encode_batch(Batch(0, (Command(b"c%d" % (index % 3)),))))
        for index in range(2, LAST + 1)
    ),
)


Process = tuple[DataDirectory, Recovered]


@contextmanager
def started(disk: Disk) -> Iterator[Process]:
    """A member's process, as far as its storage goes, up to a clean stop or to a crash."""
    nonces = random.Random(next(PROCESSES))
    with contextlib.ExitStack() as ends:
        directory = DataDirectory.open(disk.root, "m", disk)
        found = recover(directory, CounterMachine(), 1 << 14, lambda: nonces.randbytes(16))
        ends.callback(lambda: found.environment.close())
        yield directory, found
        sync_state(directory)
        found.wal.close()
        found.environment.close()
        directory.mark_clean_stop()
        directory.close()


def life(disk: Disk) -> None:
    with started(disk) as (_, found):
        found.wal.begin()
        found.wal.append([Frame(HardState(1, NOBODY, LAST), ENTRIES)])
        found.wal.settle()
        replay(found.environment, ENTRIES[:FIRST_STOP])
    with started(disk) as (directory, found):
        assert found.reused_state
        assert found.environment.applied.index == FIRST_STOP
        replay(found.environment, ENTRIES[:SNAPSHOT])
        path = recovery.next_state(directory)  # as a leader's snapshot is installed
        recovery.copy_state(found.store.path(publish(found.environment, found.store, disk)), path)
        found.environment.close()
        found.environment = Environment.open(path, CounterMachine())
        recovery.drop_states(directory, but=path)
        replay(found.environment, ENTRIES)


def hashes(directory: Path) -> list[str]:
    """By applied index, from 0 on."""
    environment = Environment.open(directory / "model.mdb", CounterMachine())
    found = [environment.state_hash]
    for entry in ENTRIES:
        apply(environment, [entry])
        found.append(environment.state_hash)
    environment.close()
    return found


def test_a_power_loss_around_a_clean_stop_brings_no_other_state_back() -> None:
    reused, stops = set(), 0
    with tempfile.TemporaryDirectory(dir=MEMORY) as home:
        model = hashes(Path(home))
        finished = False
        while not finished:
            for attempt in range(TRIES):
                disk = Disk(random.Random(1000 * stops + attempt), Path(home) / f"{stops}-{attempt}")
                disk.fail = crash_at(stops)
                with contextlib.suppress(Crash):
                    life(disk)
                    finished = True
                disk.fail = healthy
                disk.power_loss()
                with started(disk) as (_, found):
                    at = found.environment.applied.index
                    where = f"a stop before operation {stops}, attempt {attempt}"
                    assert found.environment.state_hash == model[at], f"{where}: another state at index {at}"
                    if finished:
                        assert found.reused_state, "synced, and marked so"
                    if found.reused_state:
                        reused.add(at)
            stops += 1
    assert reused == {FIRST_STOP, LAST}, "a stop was never clean, or one was that was not"
    assert stops > 60, "the life is shorter than it was"
