"""A small published snapshot, damaged in every way that can be counted: each byte turned, each end cut off. Whatever a
start then takes for its base has exactly the bytes that were published, or the start says Corrupt; and what else is in
the directory stays as it was (rule 18, pitfalls D8 and S12).

Rules of this module: the snapshots are real states of the store we ship; the choice is recovery's own (`_base`), not a
copy of it; a damage is undone before the next, and one that changes nothing is no damage.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.simdisk import SimulatedFiles
from tests.state_driver import Driver
from tests.wal_model import entries

from oarlock.kv import KvMachine, encode_put
from oarlock.raft.types import SnapshotMeta
from oarlock.runtime.recovery import _base
from oarlock.storage import snapshots
from oarlock.storage.errors import Corrupt, NewerFormat
from oarlock.storage.files import FileSystem, read_file, write_file
from oarlock.storage.snapshots import SnapshotStore

DIRECTORY = Path("/snapshots")
PAGE = 4096
Damage: TypeAlias = Callable[[], Callable[[], None]]  # does it, and gives what undoes it


def states() -> list[tuple[SnapshotMeta, bytes]]:
    """Two snapshots of a small store, with what their files hold."""
    made = []
    with tempfile.TemporaryDirectory() as directory:
        driver = Driver(Path(directory) / "work.mdb", KvMachine())
        for number in (1, 2):
            driver.commands(*(encode_put(b"key %d" % n, b"value %d" % (n * number), None, False) for n in range(20)))
            copy = Path(directory) / f"copy-{number}"
            content = driver.environment.copy_to(copy)
            data = copy.read_bytes()
            applied, digest = content.applied, hashlib.sha256(data).hexdigest()
            place = applied.index, applied.term, applied.time_ms
            made.append((SnapshotMeta(*place, content.placed, content.cluster_version, len(data), digest), data))
        driver.close()
    return made


class Published:
    """The newer one on a disk, or both. `start` with a log that goes on from either, or from the newer one alone."""

    def __init__(self, *, both: bool) -> None:
        made = states()
        self.metas = [meta for meta, _ in made]
        self.newer = self.metas[-1]
        self.disk = SimulatedFiles(random.Random(1))
        self.store = SnapshotStore(DIRECTORY, self.disk)
        for meta, data in made if both else made[1:]:
            path = self.store.staging(meta)
            write_file(self.disk, path, data)
            self.store.publish(path, meta)
        self.log = entries(2 if both else 3, 5, 1)
        self.state = self.store.path(self.newer)
        self.meta = self.state.with_name("meta")
        self.whole = {path: self.disk.contents(path) for path in self.files()}

    def files(self) -> list[Path]:
        return [
            DIRECTORY / home / name
            for home in self.disk.listdir(DIRECTORY)
            for name in self.disk.listdir(DIRECTORY / home)
        ]

    def start(self) -> str:
        """What a start makes of the directory; the directory is then as it was before."""
        self.disk.operations.clear()
        try:
            base = _base(self.store, None, self.log)
            assert base in self.metas, f"{base} was never published"
            place = self.store.path(base)
            assert self.disk.contents(place) == self.whole[place], f"{place} is not what was published"
            found = "newer" if base == self.newer else "older"
        except Corrupt:
            found = "corrupt"
        for name in self.store.damaged():  # set aside, with all it holds
            self.disk.rename(DIRECTORY / name, DIRECTORY / name.removeprefix("damaged-"))
            self.disk.sync_directory(DIRECTORY)
        assert self.files() == list(self.whole), "something was lost"
        return found

    def outcomes(self, damages: Iterable[Damage]) -> Counter[str]:
        seen: Counter[str] = Counter()
        for damage in damages:
            undo = damage()
            seen[self.start()] += 1
            undo()
        assert {path: self.disk.contents(path) for path in self.files()} == self.whole, "something was changed"
        return seen


def flips(published: Published, path: Path, bits: Callable[[int], Iterable[int]], step: int = 1) -> Iterator[Damage]:
    for offset in range(0, len(published.whole[path]), step):
        for bit in bits(offset):

            def flip(offset: int = offset, bit: int = bit) -> Callable[[], None]:
                published.disk.flip(path, offset, bit)
                return lambda: published.disk.flip(path, offset, bit)

            yield flip


def cuts(published: Published, path: Path, lengths: Iterable[int]) -> Iterator[Damage]:
    """The file has another length: it ends early, or goes on with zeros."""
    whole = published.whole[path]

    def put(data: bytes) -> None:
        file = published.disk._file(path)
        file.live[:] = file.durable[:] = data

    for length in lengths:

        def cut(length: int = length) -> Callable[[], None]:
            put(whole[:length].ljust(length, b"\0"))
            return lambda: put(whole)

        yield cut


def all_bits(offset: int) -> Iterable[int]:
    return range(8)


def one_bit(offset: int) -> Iterable[int]:
    return (offset * 5 % 8,)


def other_lengths(whole: bytes, step: int) -> list[int]:
    """Every one of the first page, of `step` beyond it, and around the borders of pages."""
    size = len(whole)
    borders = {near for page in range(0, size + PAGE, PAGE) for near in (page - 1, page, page + 1)}
    return sorted({*range(0, min(PAGE, size), step), *range(0, size, 64), *borders} - {-1, size})


def test_every_byte_of_the_only_snapshot() -> None:
    """Pitfall D8: it is the snapshot that was published, or the start is Corrupt; never an empty member, never another
    state. All bits of the meta file, one of each byte of the state."""
    published = Published(both=False)
    whole = published.whole[published.state]
    assert published.start() == "newer"
    assert published.outcomes(flips(published, published.meta, all_bits)) == {
        "corrupt": 8 * len(published.whole[published.meta])
    }
    assert published.outcomes(flips(published, published.state, one_bit)) == {"corrupt": len(whole)}


def test_every_length_of_the_only_snapshot() -> None:
    published = Published(both=False)
    for path, step in ((published.meta, 1), (published.state, 4)):
        lengths = other_lengths(published.whole[path], step)
        assert published.outcomes(cuts(published, path, lengths)) == {"corrupt": len(lengths)}


def test_a_damaged_snapshot_is_replaced_by_the_one_before_it() -> None:
    """Rule 19, why two are kept: the log goes on from the older one, and nothing is lost."""
    published = Published(both=True)
    assert published.start() == "newer"
    for path in (published.meta, published.state):
        seen = published.outcomes([*flips(published, path, all_bits, 97), *cuts(published, path, range(0, 90, 7))])
        assert set(seen) == {"older"}
    for path in (DIRECTORY / "1-1" / "meta", DIRECTORY / "1-1" / "state.mdb"):  # set aside, or not even looked at
        assert set(published.outcomes(flips(published, path, one_bit, 97))) == {"newer"}


@pytest.mark.parametrize("broken", ["verify", "digest of a page", "meta"])
def test_a_start_that_looks_less_closely_is_found(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle fires: without the digest, with one of the first page alone, and without the meta file's CRC."""
    published = Published(both=False)
    if broken == "verify":
        monkeypatch.setattr(SnapshotStore, "verify", lambda self, meta: True)
    elif broken == "meta":
        monkeypatch.setattr(snapshots, "_crc", lambda body: published.whole[published.meta][-4:])
    else:
        monkeypatch.setattr(snapshots, "digest_file", digest_of_the_first_page(published))
    path = published.meta if broken == "meta" else published.state
    with pytest.raises((AssertionError, NewerFormat)):
        published.outcomes(flips(published, path, one_bit, 1 if broken == "meta" else 64))


def digest_of_the_first_page(published: Published) -> Callable[[Path, FileSystem], tuple[str, int]]:
    def digest(path: Path, files: FileSystem) -> tuple[str, int]:
        data = read_file(files, path)
        first = hashlib.sha256(data[:PAGE] + published.whole[published.state][PAGE:])
        return first.hexdigest(), len(data)

    return digest
