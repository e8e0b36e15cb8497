"""A member's state against a model, through the start that the product does: whatever was applied, killed, stopped,
lost or rebuilt from snapshot and log, the state is what the log says (rules 17, 21, 24, 26 and 27).

Rules of this module: files are real, for LMDB; a kill leaves them as they are at that moment, a power loss turns the
working state into garbage (nobody syncs it) and loses of the log what was not written; the model is a dictionary, and
the state hash that of a second store to which the same entries were applied one at a time.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from tests.state_driver import TickingClock, apply, publish

from oarlock.kv import KvMachine, encode_compact, encode_delete, encode_put, list_page
from oarlock.machine import Batch, Command, Environment, encode_batch
from oarlock.machine.command import Status
from oarlock.machine.records import LIFETIME_MS
from oarlock.raft.types import Configuration, Entry, EntryKind, HardState, Member
from oarlock.runtime import recovery
from oarlock.runtime.recovery import recover
from oarlock.storage.directory import DataDirectory
from oarlock.storage.files import RealFiles
from oarlock.storage.frame import Frame

SEGMENT = 1 << 16
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # syncs of LMDB's own cost nothing there
ENTRY_MS = 100_000  # of cluster time between two entries
KEYS = (b"a", b"a\0", b"b", b"\xff")
keys = st.sampled_from(KEYS)
commands = st.one_of(
    st.tuples(st.just("put"), keys, st.binary(max_size=12), st.booleans()),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("keyed"), keys, st.integers(0, 3), st.integers(0, 1)),
    st.tuples(st.just("compact"), st.integers(0, 12)),
)


class QuickFiles(RealFiles):
    """Real files whose syncs take no time: nothing here cuts the power of a real disk."""

    def sync(self, handle: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass

    def write_durably(self, handle, buffers, offset: int) -> None:
        self.write(handle, buffers, offset)


def encode(command: tuple) -> Command:  # type: ignore[type-arg]
    match command:
        case ("put", key, value, if_none_match):
            return Command(encode_put(key, value, None, if_none_match))
        case ("keyed", key, number, asks):  # the second time it is answered from its record
            return Command(encode_put(key, b"keyed %d" % number, None, False), f"id-{number}", bytes([asks]) * 16)
        case ("delete", key):
            return Command(encode_delete(key, None))
    return Command(encode_compact(command[1]))


class Model(NamedTuple):
    """After some batches."""

    values: dict[bytes, bytes]  # what is readable
    reused: list[list[bool]]  # of each command: has its key another request's record? (rule 30)


def model_after(log: list[list[tuple]]) -> Model:  # type: ignore[type-arg]
    model = Model({}, [])
    values = model.values
    kept: dict[int, tuple[int, int]] = {}  # record -> (the entry from which on it is forgotten, what it asked)
    for index, batch in enumerate(log, 1):
        model.reused.append([])
        for command in batch:
            reused = False
            match command:
                case ("put", key, value, if_none_match):
                    if not (if_none_match and key in values):
                        values[key] = value
                case ("keyed", key, number, asks):
                    until, asked = kept.get(number, (0, asks))
                    if index >= until:
                        kept[number] = index + LIFETIME_MS // ENTRY_MS, asks
                        values[key] = b"keyed %d" % number
                    else:
                        reused = asks != asked
                case ("delete", key):
                    values.pop(key, None)
            model.reused[-1].append(reused)
    return model


class MemberState(RuleBasedStateMachine):
    seen: ClassVar[Counter[str]] = Counter()

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.root = Path(tempfile.mkdtemp(dir=MEMORY))
        self.number, self.term = 0, 1
        self.home = self.root / "0" / "m"
        self.batches: list[list[tuple]] = [[]]  # type: ignore[type-arg]  # of entry 1, 2, ...
        member = Member("m-0000000000000001", "http://m:2380", "http://m:2379")
        data = msgspec.msgpack.encode(Configuration((member,)))
        self.entries = [Entry(1, 1, EntryKind.CONFIGURATION, 0, data)]
        self.logged = 0  # how many entries the log holds; a leader may apply more (rule 21)
        self.snapshot = 0
        self.start()

    # --- the member

    def start(self) -> None:
        self.directory = DataDirectory.open(self.home, "m", QuickFiles())
        self.found = recover(self.directory, KvMachine(), SEGMENT)
        self.environment = self.found.environment
        base = self.found.snapshot.index if self.found.snapshot else 0
        assert base == self.snapshot
        assert base <= self.environment.applied.index <= self.logged, "the state is of entries that are not in the log"
        assert list(self.found.entries) == self.entries[base : self.logged]
        del self.entries[self.logged :], self.batches[self.logged :]

    def stop(self) -> None:
        self.environment.close()
        self.found.wal.close()
        self.directory.close()

    @property
    def applied(self) -> int:
        return self.environment.applied.index

    @rule(batch=st.lists(commands, min_size=1, max_size=4), term=st.booleans(), write=st.booleans())
    def append(self, batch: list[tuple], term: bool, write: bool) -> None:  # type: ignore[type-arg]
        self.term += term
        data = encode_batch(Batch(0, tuple(map(encode, batch))))
        index = len(self.entries) + 1
        self.entries.append(Entry(index, self.term, EntryKind.COMMANDS, index * ENTRY_MS, data))
        self.batches.append(batch)
        if write:
            self.write()

    @rule()
    def write(self) -> None:
        """The log catches up with what the leader has."""
        if new := tuple(self.entries[self.logged :]):
            self.found.wal.append([Frame(HardState(self.term, "", self.logged), new)])
            self.logged = len(self.entries)

    @rule(most=st.integers(1, 5), slices=st.booleans())
    def apply(self, most: int, slices: bool) -> None:
        if new := self.entries[self.applied : self.applied + most]:
            job = self.environment.begin(new)
            clock = TickingClock()
            while not job.run(0.5 if slices else 1e9, clock):
                self.seen["slices"] += 1
            told = [[result.status == Status.KEY_REUSED for result in results] for results in job.commit()]
            reused = model_after(self.batches[: self.applied]).reused
            assert told == reused[-len(new) :], "whose record is it?"

    @rule(budget=st.integers(1, 4))
    def maintain(self, budget: int) -> None:
        self.environment.maintain(budget + 0.5, TickingClock())

    @rule(most=st.integers(1, 3))
    def take_snapshot(self, most: int) -> None:
        """Only of what is applied and in the log (rule 6)."""
        self.write()
        self.apply(most, slices=True)
        if self.applied == self.snapshot:
            return
        store = self.found.store
        self.snapshot = publish(self.environment, store, self.directory.files).index
        self.found.wal.release(min(one.index for one in store.metas()))

    # --- what happens to it

    def move(self, *, job: bool) -> None:
        """The files, as they are at this moment, are another process's; this one is gone."""
        if job and (new := self.entries[self.applied :]):
            half = self.environment.begin(new)
            half.run(0.5, TickingClock())
            self.seen["killed while it applied"] += 1
        self.number += 1
        target = self.root / str(self.number) / "m"
        shutil.copytree(self.home, target)
        self.stop()
        shutil.rmtree(self.home.parent)
        self.home = target

    @rule(job=st.booleans())
    def kill(self, job: bool) -> None:
        self.move(job=job)
        self.begins_anew("the process")

    def begins_anew(self, what: str) -> None:
        self.start()
        assert not self.found.reused_state, f"the working state was trusted after a crash of {what}"
        assert self.applied == self.snapshot
        self.seen["rebuilt from a snapshot"] += self.snapshot > 0

    @rule(batch=st.lists(commands, min_size=1, max_size=2))
    def stop_a_leader_that_is_ahead(self, batch: list[tuple]) -> None:  # type: ignore[type-arg]
        """It applied on its followers' quorum what its own full disk never got; another entry may take that place."""
        self.append(batch, term=False, write=False)
        self.apply(len(self.entries), slices=False)
        self.stop()
        self.directory.mark_clean_stop()
        self.start()
        assert not self.found.reused_state
        self.seen["ahead of the log"] += 1

    @rule(job=st.booleans(), garbage=st.sampled_from(("old", "torn", "random", "gone")))
    def power_loss(self, job: bool, garbage: str) -> None:
        self.move(job=job)
        for path in (self.home / "state").glob("state-*.mdb"):
            data = path.read_bytes()
            at = self.rng.randrange(len(data))
            if garbage == "gone":
                path.unlink()
            elif garbage != "old":
                path.write_bytes(data[:at] if garbage == "torn" else data[:at] + self.rng.randbytes(len(data) - at))
        self.begins_anew("the machine")

    @rule()
    def clean_stop(self) -> None:
        self.write()
        before = self.environment.applied
        self.stop()
        self.directory.mark_clean_stop()
        self.start()
        self.seen["reused"] += self.found.reused_state
        if before.index >= max(1, self.snapshot):
            assert self.found.reused_state, "a sound state was not trusted after a clean stop"
            assert self.environment.applied == before

    # --- the oracle

    @invariant()
    def is_what_the_log_says(self) -> None:
        if not hasattr(self, "environment"):
            return
        with self.environment.reader() as trees:
            found = {item.key: item.value for item in list_page(trees, b"").items}
        assert found == model_after(self.batches[: self.applied]).values

    def teardown(self) -> None:
        if not hasattr(self, "environment"):
            return
        try:
            other = Environment.open(self.root / "other.mdb", KvMachine())
            for entry in self.entries[: self.applied]:
                apply(other, [entry])
            assert other.state_hash == self.environment.state_hash, "two states of one log"
            other.close()
        finally:
            self.stop()
            shutil.rmtree(self.root)


LIMITS = settings(
    max_examples=200, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
WANTED = {"slices", "killed while it applied", "reused", "ahead of the log", "rebuilt from a snapshot"}


def test_the_state_is_what_the_log_says() -> None:
    MemberState.seen.clear()
    run_state_machine_as_test(MemberState, settings=LIMITS)
    missed = WANTED - {what for what, times in MemberState.seen.items() if times}
    assert not missed, f"never happened: {missed}"


@pytest.mark.parametrize("wrong", ["trusts any state", "trusts after a crash"])
def test_the_model_notices(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle fires: rule 21 left out."""
    if wrong == "trusts any state":
        monkeypatch.setattr(recovery, "_vouched_for", lambda path, *rest: Environment.peek(path) is not None)
    else:
        monkeypatch.setattr(DataDirectory, "stopped_cleanly", property(lambda self: True))
    with pytest.raises(BaseException, match=r"entries that are not in the log|was trusted"):
        run_state_machine_as_test(MemberState, settings=settings(LIMITS, phases=[Phase.generate]))
