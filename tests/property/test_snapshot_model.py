"""The snapshot store against a model of a dozen lines, on a disk that forgets: copies, transfers in parts and broken
off, pins, damage, lack of space, kills and power losses at any operation, in any order (rules 4, 5, 18 and 19).

Rules of this module: the model is a set of places with their bytes; after a crash the store may be what it was before
the call that was cut off, or any step towards what it would have become, and nothing else.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.simdisk import Crash, SimulatedFiles, crash_at, healthy
from tests.wal_model import meta

from oarlock.raft.types import SnapshotMeta
from oarlock.storage.errors import OutOfSpace
from oarlock.storage.snapshots import KEPT, SnapshotStore, digest_file

DIRECTORY = Path("/snapshots")
Place = tuple[int, int]  # (term, index)


def place_of(one: SnapshotMeta) -> Place:
    return one.term, one.index


class StoreOnBadDisk(RuleBasedStateMachine):
    seen: ClassVar[Counter[str]] = Counter()

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.disk = SimulatedFiles(random.Random(seed))
        self.store = SnapshotStore(DIRECTORY, self.disk)
        self.known: dict[Place, tuple[SnapshotMeta, bytes]] = {}  # what is published
        self.damaged: set[Place] = set()  # of it, what the medium has changed
        self.pins: Counter[Place] = Counter()
        self.transfer: tuple[SnapshotMeta, bytes] | None = None
        self.held = 0

    # --- the model

    def after_publication(self, one: SnapshotMeta, data: bytes) -> None:
        """`one` is there, unless a sound one of its place was; then all but the newest two and the pinned go."""
        place = place_of(one)
        if place in self.known and place not in self.damaged:
            self.seen["a sound one stays"] += 1
            return
        self.known[place] = one, data
        self.damaged.discard(place)
        self.after_prune()

    def after_prune(self) -> None:
        for place in sorted(self.known)[:-KEPT]:
            if not self.pins[place]:
                del self.known[place]
                self.damaged.discard(place)
                self.seen["pruned"] += 1
            else:
                self.seen["pinned"] += 1

    @invariant()
    def is_its_model(self) -> None:
        if not hasattr(self, "store") or self.disk.fail is not healthy:
            return
        there = [place_of(one) for one in self.store.metas()]
        assert there == sorted(self.known), f"{there} are there, and not {sorted(self.known)}"
        for place, (one, data) in self.known.items():
            sound = place not in self.damaged
            assert self.store.verify(one) == sound, f"{place} does not verify" if sound else f"{place}: damage unseen"
            assert not sound or self.disk.contents(self.store.path(one)) == data

    # --- what a member does

    def made(self, ahead: int, size: int) -> tuple[SnapshotMeta, bytes]:
        term, index = max(self.known, default=(1, 0))
        data = self.rng.randbytes(size)
        return meta(max(1, index + ahead), term + (ahead > 2), hashlib.sha256(data).hexdigest(), size), data

    def write(self, path: Path, data: bytes, at: int) -> None:
        handle = self.disk.open(path) if self.disk.exists(path) else self.disk.create(path)
        self.disk.write(handle, (data,), at)
        self.disk.close(handle)

    def take_one(self, one: SnapshotMeta, data: bytes) -> None:
        path = self.store.staging(meta(0, 0, "", 0))
        if self.disk.exists(path):
            self.disk.unlink(path)
        self.write(path, data, 0)
        published = self.store.publish(path, one)
        assert place_of(published) == place_of(one)

    @rule(ahead=st.integers(-2, 4), size=st.sampled_from((1, 300, 1500)))
    def take(self, ahead: int, size: int) -> None:
        one, data = self.made(ahead, size)
        self.take_one(one, data)
        self.after_publication(one, data)

    @rule(ahead=st.integers(1, 4), size=st.sampled_from((300, 1500)))
    def offer(self, ahead: int, size: int) -> None:
        """The newest offer wins."""
        self.transfer, self.held = self.made(ahead, size), 0

    @precondition(lambda self: self.transfer)
    @rule(share=st.sampled_from((0.3, 0.6, 1.0)), wrong=st.booleans())
    def fetch(self, share: float, wrong: bool) -> None:
        """A part comes, after what an earlier one left; perhaps not the bytes that were promised."""
        one, data = self.transfer
        path = self.store.staging(one)
        handle = self.disk.open(path) if self.disk.exists(path) else self.disk.create(path)
        assert self.disk.size(handle) == self.held, "a transfer is not gone on from where it broke"
        self.disk.close(handle)
        end = min(len(data), self.held + max(1, int(share * len(data))))
        part = data[self.held : end]
        self.write(path, bytes(len(part)) if wrong else part, self.held)
        self.seen["wrong bytes"] += wrong
        self.held = end
        if end < len(data):
            self.seen["broken off"] += 1
            return
        self.transfer, self.held = None, 0
        if digest_file(path, self.disk) != (one.digest, one.size_bytes):
            self.disk.unlink(path)
            return
        self.store.publish(path, one)
        self.after_publication(one, data)
        self.seen["fetched"] += 1

    @precondition(lambda self: self.known)
    @rule(which=st.integers(0, 9), pin=st.booleans())
    def pin_or_unpin(self, which: int, pin: bool) -> None:
        place = sorted(self.known)[which % len(self.known)]
        if pin:
            self.store.pin(self.known[place][0])
            self.pins[place] += 1
        elif self.pins[place]:
            self.store.unpin(self.known[place][0])
            self.pins[place] -= 1

    @rule()
    def prune(self) -> None:
        before = set(self.known)
        self.after_prune()
        assert {place_of(one) for one in self.store.prune()} == before - set(self.known)

    @rule()
    def no_room(self) -> None:
        one, data = self.made(5, 1500)
        self.disk.capacity_bytes = self.disk.used_bytes() + 1500
        with pytest.raises(OutOfSpace):
            self.take_one(one, data)
        self.disk.capacity_bytes = None
        self.take_one(one, data)
        self.after_publication(one, data)

    # --- what happens to it

    @precondition(lambda self: self.known)
    @rule(which=st.integers(0, 9), at=st.integers(0, 1499), bit=st.integers(0, 7))
    def flip(self, which: int, at: int, bit: int) -> None:
        place = sorted(self.known)[which % len(self.known)]
        if place not in self.damaged:
            one, data = self.known[place]
            self.disk.flip(self.store.path(one), at % len(data), bit)
            self.damaged.add(place)
            self.seen["damaged"] += 1

    @rule()
    def kill(self) -> None:
        self.disk.kill()
        self.reopen()

    @rule(at=st.integers(0, 24), ahead=st.integers(-2, 4), survives=st.sampled_from((None, 0.0, 0.5, 1.0)))
    def power_loss(self, at: int, ahead: int, survives: float | None) -> None:
        """The machine stops at some operation of a publication."""
        one, data = self.made(ahead, 1500)
        before, damaged = dict(self.known), set(self.damaged)
        self.disk.fail = crash_at(at)
        try:
            self.take_one(one, data)
            finished = True
        except Crash:
            finished = False
        self.disk.fail = healthy
        self.disk.power_loss(survives)
        self.after_publication(one, data)
        going, coming = set(before) - set(self.known), {place_of(one)}
        self.store = SnapshotStore(DIRECTORY, self.disk)
        found = {place_of(one): one for one in self.store.metas()}
        if not finished:
            assert set(found) <= set(before) | coming, f"{set(found)} of {set(before)} and {coming}"
            gone = set(before) - set(found) - (damaged & coming)  # a damaged one of the same place makes room
            assert gone <= going, f"{gone} went, {going} was to go"
            assert not gone or coming <= set(found), "something went before what takes its place had come"
            self.seen["cut off before its name"] += not coming & set(found)
            self.seen["cut off after its name"] += bool(coming & set(found))
            old = {place: before[place] for place in found if place in before and found[place] == before[place][0]}
            self.known = {place: old.get(place, (one, data)) for place in found}
            self.damaged = damaged & set(old)
        self.reopen()

    def reopen(self) -> None:
        """As a start does: what was not finished goes, what does not verify is set aside."""
        self.store = SnapshotStore(DIRECTORY, self.disk)
        self.store.discard_partial()
        self.pins.clear()
        self.transfer, self.held = None, 0
        for one in self.store.metas():
            if not self.store.verify(one):
                assert place_of(one) in self.damaged, f"{place_of(one)} was published, and is not whole"
                self.store.set_aside(one)
                del self.known[place_of(one)]
                self.damaged.remove(place_of(one))
                self.seen["set aside"] += 1
        assert all(name[0].isdigit() or name.startswith("damaged-") for name in self.disk.listdir(DIRECTORY))


LIMITS = settings(
    max_examples=250, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
WANTED = {
    "a sound one stays",
    "pruned",
    "pinned",
    "wrong bytes",
    "broken off",
    "fetched",
    "damaged",
    "set aside",
    "cut off before its name",
    "cut off after its name",
}


def test_the_store_is_its_model() -> None:
    StoreOnBadDisk.seen.clear()
    run_state_machine_as_test(StoreOnBadDisk, settings=LIMITS)
    missed = WANTED - {what for what, times in StoreOnBadDisk.seen.items() if times}
    assert not missed, f"never happened: {missed}"


@pytest.mark.parametrize("without", ["sync", "sync_directory", "verify", "pins"])
def test_the_model_notices(without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle fires: syncs left out, damage not looked for, pins not heeded."""
    if without == "verify":
        monkeypatch.setattr(SnapshotStore, "verify", lambda self, one: True)
    elif without == "pins":
        monkeypatch.setattr(SnapshotStore, "pin", lambda self, one: None)
    else:
        monkeypatch.setattr(SimulatedFiles, without, lambda self, place: None)
    with pytest.raises(BaseException, match=r"are there, and not|went, .* to go|damage unseen|and is not whole"):
        run_state_machine_as_test(StoreOnBadDisk, settings=settings(LIMITS, phases=[Phase.generate]))
