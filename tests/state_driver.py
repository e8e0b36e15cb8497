"""Drives an environment by hand: makes the entries a log would hold, and applies them. No clock, no Raft."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from oarlock.machine import Batch, Command, Environment, Machine, Result, encode_batch
from oarlock.raft.types import Configuration, Entry, EntryKind, SnapshotMeta
from oarlock.storage.files import FileSystem
from oarlock.storage.snapshots import SnapshotStore, digest_file

WALL_MS = 1_800_000_000_000


def never() -> float:
    """A clock that stands still: no slice ever ends."""
    return 0.0


class TickingClock:
    """Moves by one second whenever it is looked at: with a budget under a second, every step is a slice."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class Driver:
    """`entries` is the log so far; every `commands`, `noop`, ... appends to it and applies at once."""

    def __init__(self, path: Path, machine: Machine) -> None:
        self.path = path
        self.machine = machine
        self.environment = Environment.open(path, machine)
        self.entries: list[Entry] = []
        self.time_ms = 1000

    def close(self) -> None:
        self.environment.close()

    def reopen(self) -> None:
        self.environment.close()
        self.environment = Environment.open(self.path, self.machine)

    def entry(self, kind: int, data: bytes, term: int = 1) -> Entry:
        return Entry(self.environment.applied.index + 1, term, kind, self.time_ms, data)

    def batch(self, *commands: bytes | Command, wall_ms: int = WALL_MS) -> Entry:
        whole = tuple(c if isinstance(c, Command) else Command(c) for c in commands)
        return self.entry(EntryKind.COMMANDS, encode_batch(Batch(wall_ms, whole)))

    def apply(self, entries: Sequence[Entry]) -> list[list[Result]]:
        self.entries.extend(entries)
        return apply(self.environment, entries)

    def commands(self, *commands: bytes | Command, wall_ms: int = WALL_MS) -> list[Result]:
        return self.apply([self.batch(*commands, wall_ms=wall_ms)])[0]

    def command(self, command: bytes | Command, wall_ms: int = WALL_MS) -> Result:
        return self.commands(command, wall_ms=wall_ms)[0]

    def configuration(self, configuration: Configuration, term: int = 1) -> None:
        self.apply([self.entry(EntryKind.CONFIGURATION, msgspec.msgpack.encode(configuration), term)])

    def version(self, version: int) -> None:
        self.apply([self.entry(EntryKind.VERSION, msgspec.msgpack.encode(version))])

    def noop(self) -> None:
        self.apply([self.entry(EntryKind.NOOP, b"a-0000000000000000")])

    def maintain(self) -> None:
        while self.environment.maintain(1.0, never):
            pass


def apply(environment: Environment, entries: Sequence[Entry]) -> list[list[Result]]:
    job = environment.begin(entries)
    while not job.run(1.0, never):
        pass
    return job.commit()


def publish(environment: Environment, store: SnapshotStore, files: FileSystem) -> SnapshotMeta:
    """A snapshot of the state as it is, as a member takes one."""
    staged = store.staging(SnapshotMeta(0, 0, 0, environment.placed, 0, 0, ""))
    staged.unlink(missing_ok=True)
    content = environment.copy_to(staged)
    digest, size = digest_file(staged, files)
    place = content.applied.index, content.applied.term, content.applied.time_ms
    return store.publish(staged, SnapshotMeta(*place, content.placed, content.cluster_version, size, digest))


def replay(environment: Environment, entries: Iterable[Entry]) -> None:
    """What a restart does: everything after the applied index."""
    rest = [entry for entry in entries if entry.index > environment.applied.index]
    if rest:
        apply(environment, rest)
