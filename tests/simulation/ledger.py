"""What the cluster has committed, replayed on a model that a person can read at a glance.

Rule of this module: it knows the log and nothing of the members: keys in a dict, one revision for each change. What a
client was told is compared with it, and so is every member's state.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from oarlock.kv.commands import Compact, Delete, Put, decode_operation, pack_number
from oarlock.machine.command import Command, Status, decode_batch
from oarlock.raft.types import Entry, EntryKind


@dataclass(frozen=True)
class Item:
    value: bytes
    create_revision: int
    mod_revision: int
    version: int


@dataclass(frozen=True)
class Fate:
    """What one occurrence of a command in the log does."""

    index: int
    status: int
    revision: int
    body: bytes


@dataclass
class Ledger:
    index: int = 0
    revision: int = 0
    floor: int = 0
    acknowledged: int = 0  # the highest index of a command whose result a client has
    store: dict[bytes, Item] = field(default_factory=dict)
    history: dict[bytes, list[tuple[int, Item | None]]] = field(default_factory=dict)
    fates: dict[bytes, list[Fate]] = field(default_factory=dict)  # by the operation's own mark
    keyed: dict[str, tuple[bytes, Fate]] = field(default_factory=dict)

    def apply(self, entry: Entry) -> None:
        assert entry.index == self.index + 1
        self.index = entry.index
        if entry.kind == EntryKind.COMMANDS:
            for command in decode_batch(entry.data).commands:
                fate = self._command(entry.index, command)
                if command.fingerprint:
                    self.fates.setdefault(command.fingerprint, []).append(fate)

    def at(self, key: bytes, revision: int) -> Item | None:
        """The key as it was then."""
        found = None
        for changed, item in self.history.get(key, ()):
            if changed > revision:
                break
            found = item
        return found

    def _command(self, index: int, command: Command) -> Fate:
        if command.key and command.key in self.keyed:
            fingerprint, first = self.keyed[command.key]
            if fingerprint != command.fingerprint:
                return Fate(index, Status.KEY_REUSED, 0, b"")
            return Fate(index, first.status, first.revision, first.body)
        fate = Fate(index, *self._operation(command.payload))
        if command.key:
            self.keyed[command.key] = (command.fingerprint, fate)
        return fate

    def _operation(self, payload: bytes) -> tuple[int, int, bytes]:
        match decode_operation(payload):
            case Put(key, value, if_match, if_none_match):
                old = self.store.get(key)
                if (if_none_match and old) or (if_match is not None and (old is None or old.mod_revision != if_match)):
                    return Status.PRECONDITION, self.revision, pack_number(old.mod_revision if old else 0)
                self.revision += 1
                created = old.create_revision if old else self.revision
                new = Item(value, created, self.revision, old.version + 1 if old else 1)
                self._change(key, new)
                return Status.OK if old else Status.CREATED, self.revision, pack_number(new.version)
            case Delete(key, if_match):
                old = self.store.get(key)
                if if_match is not None and (old is None or old.mod_revision != if_match):
                    return Status.PRECONDITION, self.revision, pack_number(old.mod_revision if old else 0)
                if old is None:
                    return Status.NOT_FOUND, self.revision, b""
                self.revision += 1
                self._change(key, None)
                return Status.OK, self.revision, b""
            case Compact(revision):
                if revision > self.revision:
                    return Status.FUTURE, self.revision, b""
                if revision <= self.floor:
                    return Status.COMPACTED, self.revision, b""
                self.floor = revision
                return Status.OK, self.revision, b""
        raise AssertionError(payload)

    def _change(self, key: bytes, item: Item | None) -> None:
        if item is None:
            del self.store[key]
        else:
            self.store[key] = item
        self.history.setdefault(key, []).append((self.revision, item))
