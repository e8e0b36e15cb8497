"""What the core wants done. The driver takes a `Ready` and may only persist, send and apply, in the order it permits.

* `messages` may leave at once, `messages_after_persist` only when `token` is durable.
* Persisting is FIFO: frames are written in the order of their tokens; `Core.persisted(token)` reports up to and
  including that token (rule 7). A Ready that persists nothing has `token` None and no `messages_after_persist`.
* `committed` entries are applied in order, each once, across all Readys; `install` stands before them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from oarlock.raft.messages import RaftMessage
from oarlock.raft.types import Entry, HardState, NodeId, SnapshotMeta


@dataclass(frozen=True, slots=True)
class PersistToken:
    term: int
    sequence: int


@dataclass(frozen=True, slots=True)
class ReadReady:
    """Reads under `context` may be answered once the machine has applied `index`; -1: they failed, ask again."""

    context: int
    index: int


@dataclass(slots=True)
class Ready:
    token: PersistToken | None = None
    hard_state: HardState = field(default_factory=HardState)  # whole; valid whenever token is given
    entries: tuple[Entry, ...] = ()  # to append; replaces what the log holds from entries[0].index on
    install: SnapshotMeta | None = None  # log restarts after it: marker first, then swap the machine, then applied()
    messages: list[RaftMessage] = field(default_factory=list)
    messages_after_persist: list[RaftMessage] = field(default_factory=list)
    committed: list[Entry] = field(default_factory=list)
    reads: list[ReadReady] = field(default_factory=list)
    fetch: tuple[NodeId, SnapshotMeta] | None = None  # a leader's offer worth fetching; answer with install or refuse
    doubted: SnapshotMeta | None = None  # own snapshot that a peer refused: is the file sound? If not, take another
