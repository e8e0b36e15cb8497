"""What can be seen of a core: properties that cost nothing, and change nothing.

The `Core` is these views and the inputs that move them (core.py).
"""

from __future__ import annotations

from collections import Counter

from oarlock.raft import membership
from oarlock.raft.options import Options
from oarlock.raft.progress import PeerProgress
from oarlock.raft.state import Role, State
from oarlock.raft.types import NOBODY, Entry, Member, NodeId, PlacedConfiguration, SnapshotMeta


class Views:
    __slots__ = ("_state",)

    def __init__(self, state: State) -> None:
        self._state = state

    @property
    def deadline(self) -> float:
        """When `tick` wants to be called next."""
        state = self._state
        if state.role is not Role.LEADER:
            oldest = next(iter(state.asked.values()), None)
            if oldest is None:
                return state.election_deadline
            return min(state.election_deadline, oldest + state.options.election_timeout_seconds)
        deadline = state.next_heartbeat
        if state.notice_at is not None:
            deadline = min(deadline, state.notice_at)
        if state.transferring != NOBODY:
            deadline = min(deadline, state.transfer_deadline)
        return deadline

    @property
    def node_id(self) -> NodeId:
        return self._state.id

    @property
    def options(self) -> Options:
        return self._state.options

    @property
    def term(self) -> int:
        return self._state.term

    @property
    def vote(self) -> NodeId:
        return self._state.vote

    @property
    def role(self) -> Role:
        return self._state.role

    @property
    def leader(self) -> NodeId:
        return self._state.leader

    @property
    def known_commit(self) -> int | None:
        """How far the cluster had committed when a leader last said so; None until one has, in this process."""
        return self._state.known_commit

    @property
    def awaited_snapshot(self) -> SnapshotMeta | None:
        """What a leader offered and the machine does not hold yet."""
        fetching = self._state.fetching
        return self._state.installing or (fetching[1] if fetching is not None else None)

    @property
    def leader_contact_at(self) -> float | None:
        """When a leader was last heard of; None on the leader itself, and before the first."""
        return self._state.leader_contact_at

    @property
    def commit_index(self) -> int:
        return self._state.commit

    @property
    def applied_index(self) -> int:
        return self._state.applied

    @property
    def durable_index(self) -> int:
        return self._state.durability.durable_index

    @property
    def first_index(self) -> int:
        return self._state.log.first_index

    @property
    def last_index(self) -> int:
        return self._state.log.last_index

    @property
    def last_term(self) -> int:
        return self._state.log.last_term

    @property
    def snapshot(self) -> SnapshotMeta | None:
        """The newest snapshot known to be durable here."""
        return self._state.snapshot

    @property
    def placed(self) -> PlacedConfiguration:
        """The configuration in force: the latest appended."""
        return self._state.configurations.latest

    @property
    def committed_placed(self) -> PlacedConfiguration:
        return self._state.configurations.at(self._state.commit)

    @property
    def removed(self) -> bool:
        """A committed configuration has dropped this member for ever."""
        return self._state.removed

    @property
    def cluster_time_ms(self) -> int:
        """Of the last entry."""
        return self._state.log.last_time_ms

    @property
    def uncommitted_bytes(self) -> int:
        """On the leader; 0 elsewhere."""
        return self._state.uncommitted_bytes

    @property
    def unwritten_bytes(self) -> int:
        """Of entries that are on their way to this member's own disk."""
        return self._state.durability.owed_bytes

    @property
    def noop_committed(self) -> bool:
        """This member leads, and has committed an entry of its term: it may answer reads and change members."""
        return self._state.noop_committed

    @property
    def transferring(self) -> NodeId:
        return self._state.transferring

    @property
    def peers(self) -> dict[NodeId, PeerProgress]:
        """The leader's view of the others, to be read only; empty elsewhere."""
        return self._state.peers

    @property
    def remote_errors(self) -> Counter[str]:
        return self._state.remote_errors

    @property
    def elections_started(self) -> int:
        return self._state.elections_started

    @property
    def elections_won(self) -> int:
        return self._state.elections_won

    @property
    def leader_changes(self) -> int:
        return self._state.leader_changes

    def participants(self) -> dict[NodeId, Member]:
        """All to whom a connection is wanted, this member included: those of the latest configuration, of any since the
        committed one, and those dropped whom the leader has not told yet. It changes only when `placed` or
        `committed_placed` does, or when a peer leaves `peers`."""
        return self._state.participants()

    def is_caught_up(self, node: NodeId) -> bool:
        """On the leader: whether a learner could be made a voter now (rule 13)."""
        return membership.is_caught_up(self._state, node)

    def term_at(self, index: int) -> int | None:
        """None for an index that is compacted or beyond the end."""
        return self._state.log.term_at(index)

    def entries(self, low: int, high: int) -> list[Entry]:
        """The entries from `low` to `high`, both included. Raises LocalError when some of them are not held."""
        return self._state.log.entries(low, high)
