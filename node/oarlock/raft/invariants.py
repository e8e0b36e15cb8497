"""What must hold after every step, checked in tests and in simulation (after LogCabin's RaftConsensusInvariants.cc).

Two rules of this module: it changes nothing, and it looks at everything, so it costs as much as the log is long and has
no place on the hot path. Each check raises InvariantViolated with what it found.

    check_basic     one core, now
    check_delta     one core, before and after an input
    Witness         the cluster, over its whole history (paper, figure 3)
"""

from __future__ import annotations

from dataclasses import dataclass

from oarlock.raft import quorum
from oarlock.raft.configurations import placed_of
from oarlock.raft.core import Core
from oarlock.raft.errors import InvariantViolated
from oarlock.raft.log import size_of
from oarlock.raft.progress import ProgressState
from oarlock.raft.state import Role, State
from oarlock.raft.types import NOBODY, Entry, EntryKind, NodeId


def _require(holds: bool, what: str, core: Core) -> None:
    if not holds:
        raise InvariantViolated(f"{core.node_id}: {what}")


def check_basic(core: Core) -> None:
    state: State = core._state
    log = state.log
    start = log.start_index
    _require(start <= state.handed_out <= state.commit <= log.last_index, "start <= handed out <= commit <= last", core)
    _require(state.applied <= state.handed_out, "applied <= handed out", core)
    _require(start == 0 or (state.snapshot is not None and start <= state.snapshot.index), "start <= snapshot", core)
    _require(state.durability.durable_index <= log.last_index, "durable <= last", core)
    _require(start < log.next_to_persist <= log.last_index + 1, "next to persist in the log", core)
    _check_log(core, core.entries(log.first_index, log.last_index))
    _require(state.halves == quorum.halves(core.placed.configuration), "the halves are those in force", core)
    _require(
        state.removed == (core.node_id in core.committed_placed.configuration.tombstones),
        "removed by a committed tombstone, only",
        core,
    )
    _check_role(core, state)


def _check_log(core: Core, entries: list[Entry]) -> None:
    state: State = core._state
    term, time_ms, index = state.log.start_term, state.log.start_time_ms, state.log.start_index
    placed = None
    for entry in entries:
        _require(entry.index == index + 1, "indices are contiguous", core)
        _require(term <= entry.term <= core.term, "terms never decrease, nor pass the current one", core)
        _require(time_ms <= entry.time_ms, "cluster time never goes back", core)
        term, time_ms, index = entry.term, entry.time_ms, entry.index
        if entry.kind == EntryKind.CONFIGURATION:
            placed = placed_of(entry)
    _require(placed is None or placed == core.placed, "the last configuration of the log is in force", core)
    _require(placed is not None or core.placed.index <= state.log.start_index, "else one from before it", core)


def _check_role(core: Core, state: State) -> None:
    match core.role:
        case Role.FOLLOWER:
            _require(core.leader != core.node_id, "a follower does not follow itself", core)
        case Role.PRE_CANDIDATE:
            _require(core.leader == NOBODY, "a pre-candidate knows no leader", core)
        case Role.CANDIDATE:
            _require(core.leader == NOBODY and core.vote == core.node_id, "a candidate votes for itself", core)
        case Role.LEADER:
            _require(core.leader == core.node_id == core.vote, "a leader voted for itself", core)
            uncommitted = core.entries(core.commit_index + 1, core.last_index)
            _require(core.uncommitted_bytes == sum(map(size_of, uncommitted)), "uncommitted bytes add up", core)
            for node in state.members():
                _require(node == core.node_id or node in core.peers, "a leader has a progress for each member", core)
            for peer in core.peers.values():
                _require(0 <= peer.match < peer.next <= core.last_index + 1, "match < next <= last + 1", core)
                _require(peer.inflight_bytes == sum(size for _, size in peer.inflight), "the window adds up", core)
                _require(
                    peer.state is ProgressState.REPLICATE or not peer.inflight, "only a pipeline has a window", core
                )
                _require((peer.offer is not None) == (peer.state is ProgressState.SNAPSHOT), "an offer is out", core)
    if core.role is not Role.LEADER:
        _require(not core.peers and not state.forming and state.flight is None, "only a leader has followers", core)
    _require(not state.asked or core.leader not in (NOBODY, core.node_id), "only a follower asks its leader", core)


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What `check_delta` remembers of a core."""

    term: int
    vote: NodeId
    role: Role
    commit: int
    applied: int
    entries: tuple[tuple[int, int], ...]


def glimpse(core: Core) -> Glimpse:
    held = core.entries(core.first_index, core.last_index)
    places = tuple((entry.index, entry.term) for entry in held)
    return Glimpse(core.term, core.vote, core.role, core.commit_index, core.applied_index, places)


def check_delta(before: Glimpse, core: Core) -> None:
    _require(core.term >= before.term, "the term never goes back", core)
    if core.term == before.term:
        _require(before.vote in (NOBODY, core.vote), "one vote a term", core)
    _require(core.commit_index >= before.commit, "the commit index never goes back", core)
    _require(core.applied_index >= before.applied, "applied never goes back", core)
    stays_leader = before.role is Role.LEADER is core.role and core.term == before.term
    if stays_leader and core.commit_index > before.commit:
        _require(core.term_at(core.commit_index) == core.term, "only the own term is committed by counting", core)
    for index, term in before.entries:
        if core.first_index <= index and (index <= before.commit or stays_leader):
            _require(core.term_at(index) == term, f"entry {term}.{index} must stay", core)


class Witness:
    """The cluster-wide properties of the paper's figure 3, over everything ever seen.

    Log Matching is checked by induction: the same (index, term) always has the same data and the same predecessor.
    """

    def __init__(self) -> None:
        self.leaders: dict[int, NodeId] = {}
        self.entries: dict[tuple[int, int], tuple[Entry, int]] = {}
        self.committed: dict[int, int] = {}  # index -> its entry's term
        self._committed_in: dict[int, int] = {}  # index -> the term in which that was first seen
        self._seen: dict[NodeId, Glimpse] = {}

    def observe(self, core: Core) -> None:
        """To be called after each input of each core. Raises InvariantViolated."""
        seen = glimpse(core)
        before = self._seen.get(core.node_id)
        if before is not None and before == seen:
            return
        known = set(before.entries) if before is not None else set()
        for index, _ in seen.entries:
            if (index, core.term_at(index)) not in known:
                self._match(core, index)
        for index in range(max(core.first_index, before.commit + 1 if before else 0), seen.commit + 1):
            term = core.term_at(index)
            if term is not None:
                agreed = self.committed.setdefault(index, term)
                self._committed_in.setdefault(index, core.term)
                _require(agreed == term, f"{term}.{index} committed, {agreed}.{index} elsewhere", core)
        if core.role is Role.LEADER and (before is None or before.role is not Role.LEADER or before.term != core.term):
            self._check_leader(core)
        self._seen[core.node_id] = seen

    def forget(self, node: NodeId) -> None:
        """`node` restarts: what was not durable may be gone."""
        self._seen.pop(node, None)

    def _match(self, core: Core, index: int) -> None:
        (entry,) = core.entries(index, index)
        previous_term = core.term_at(index - 1)
        if previous_term is None:
            return
        known, known_previous = self.entries.setdefault((index, entry.term), (entry, previous_term))
        _require(known == entry and known_previous == previous_term, f"log matching at {entry.term}.{index}", core)

    def _check_leader(self, core: Core) -> None:
        elected = self.leaders.setdefault(core.term, core.node_id)
        _require(elected == core.node_id, f"two leaders in term {core.term}: {elected} too", core)
        for index, term in self.committed.items():
            if core.first_index <= index and self._committed_in[index] < core.term:
                _require(core.term_at(index) == term, f"leader completeness: {term}.{index} is missing", core)
