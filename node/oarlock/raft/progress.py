"""What a leader knows of one peer's log, and how it talks to it (etcd's tracker, thesis 10.2.1).

    PROBE      one append at a time, until the place where the logs agree is found
    REPLICATE  a pipeline: `next` runs ahead of the acknowledgements, bounded by a window
    SNAPSHOT   the log does not reach back; a snapshot is offered, and appends wait for it

Invariant: 0 <= match < next, and everything up to `match` is durable at the peer.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from oarlock.raft.types import NodeId, SnapshotMeta


class ProgressState(StrEnum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass(slots=True)
class PeerProgress:
    id: NodeId
    next: int
    created_at: float
    match: int = 0
    state: ProgressState = ProgressState.PROBE
    paused: bool = False  # PROBE: one append is out, wait for its answer or for a heartbeat's
    contact_at: float | None = None  # when it last answered anything in this term
    acked_round: int = 0  # the highest heartbeat round it echoed
    sent_commit: int = 0  # the highest commit index it was sent
    offer: SnapshotMeta | None = None  # SNAPSHOT: what it is fetching
    offered_at: float = 0.0
    declined: SnapshotMeta | None = None  # what it could not fetch or verify last
    declined_at: float = 0.0
    leaving: int = 0  # index of the configuration that dropped it; 0: it takes part
    farewell_round: int = 0  # the heartbeat round that told it so
    leave_at: float | None = None  # when to stop trying to tell it
    stalled: bool = False  # no acknowledgement between the last two regular heartbeats
    match_at_heartbeat: int = 0
    inflight: deque[tuple[int, int]] = field(default_factory=deque)  # (last index, bytes) of each unanswered append
    inflight_bytes: int = 0

    @property
    def snapshot(self) -> int:
        """The index of the offered snapshot; 0 when none is."""
        return self.offer.index if self.offer else 0

    def become_probe(self) -> None:
        """Doubt: forget what is in flight, and ask again from the last certain place."""
        self.state = ProgressState.PROBE
        self.next = self.match + 1
        self.paused = False
        self._clear()

    def become_replicate(self) -> None:
        self.state = ProgressState.REPLICATE
        self.next = self.match + 1
        self.paused = False
        self._clear()

    def become_snapshot(self, meta: SnapshotMeta, now: float) -> None:
        self.state = ProgressState.SNAPSHOT
        self.paused = False
        self._clear()
        self.offer = meta
        self.offered_at = now

    def _clear(self) -> None:
        self.offer = None
        self.stalled = False
        self.inflight.clear()
        self.inflight_bytes = 0

    def sent(self, last_index: int, size_bytes: int) -> None:
        """REPLICATE: an append up to `last_index` is on its way, and believed to arrive."""
        self.inflight.append((last_index, size_bytes))
        self.inflight_bytes += size_bytes
        self.next = last_index + 1

    def window_is_full(self, max_appends: int, max_bytes: int) -> bool:
        return len(self.inflight) >= max_appends or self.inflight_bytes >= max_bytes

    def accepted(self, index: int) -> bool:
        """An acknowledgement up to `index`; returns whether it is news. A late one changes nothing."""
        while self.inflight and self.inflight[0][0] <= index:
            self.inflight_bytes -= self.inflight.popleft()[1]
        news = index > self.match
        if news:
            self.match = index
            self.stalled = False
        self.next = max(self.next, index + 1)
        return news

    def refused(self, index: int, try_at: int) -> bool:
        """A refusal of an append whose `prev_index` was `index`; probe at `try_at` next. False: it is stale.

        Refusals may be reordered or repeated, so `next` moves only for the one that was asked, never to or below
        `match` (etcd's MaybeDecrTo).
        """
        if self.state is ProgressState.REPLICATE:
            if index <= self.match:
                return False
            self.become_probe()
            return True
        if self.state is ProgressState.SNAPSHOT or self.next - 1 != index:
            return False
        self.next = max(min(index, try_at + 1), self.match + 1)
        self.paused = False
        return True
