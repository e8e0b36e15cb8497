"""Do members that have applied the same entries hold the same state? (rule 26)

Rules of this module:
* Pure functions and small tables. Followers report what they have to the leader, and only the leader compares.
* Nobody is judged without a majority of the voters who agree at one index, the one who judges among them: where no
  majority can be seen there is an alarm, and nothing else.
* Members apply in jobs of their own making, so that few indices are ends of jobs on all of them. The multiples of
  CHECKPOINT_ENTRIES are (the applier ends a job there), and so is the last index of a cluster at rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from oarlock.raft.quorum import majority
from oarlock.raft.types import Configuration, NodeId

CHECKPOINT_ENTRIES = 256
CHECKPOINTS_KEPT = 64  # a follower that is further behind than these cannot be compared yet
CHECKPOINTS_TOLD = 16  # in a report; one a second tells of up to 4096 entries a second without a gap
STATES_TAKEN = 32  # of a report, whatever it says (rule 33)


class StateDiverged(Exception):
    """This member applied the same log to another state than the majority of the voters."""

    def __init__(self, index: int, found: str, right: str) -> None:
        super().__init__(
            f"the state at index {index} differs from that of a majority of the voters "
            f"(state hash {found}, theirs {right})"
        )


def job_length(first: int) -> int:
    """How many entries a job that begins at index `first` may have, to end at a checkpoint at the latest."""
    return CHECKPOINT_ENTRIES - (first - 1) % CHECKPOINT_ENTRIES


class States:
    """This member's own state hashes: at the last checkpoints, and at its applied index."""

    def __init__(self) -> None:
        self._checkpoints: dict[int, str] = {}
        self._newest = (0, "")

    def note(self, index: int, state_hash: str) -> None:
        """The state at `index`, the applied index now. One at a time and rising, but for a snapshot's."""
        self._newest = (index, state_hash)
        if index % CHECKPOINT_ENTRIES == 0:
            self._checkpoints[index] = state_hash
            if len(self._checkpoints) > CHECKPOINTS_KEPT:
                del self._checkpoints[next(iter(self._checkpoints))]

    def at(self, index: int) -> str | None:
        """None where it is not known (any more)."""
        return self._newest[1] if index == self._newest[0] else self._checkpoints.get(index)

    def told(self) -> tuple[tuple[int, str], ...]:
        """For a report, oldest first."""
        checkpoints = [*self._checkpoints.items()][-CHECKPOINTS_TOLD:]
        return (*checkpoints, self._newest) if self._newest[0] else tuple(checkpoints)


def states_of(told: Iterable[tuple[int, str]]) -> Mapping[int, str]:
    """A report's states, as many as are taken."""
    return dict([*told][-STATES_TAKEN:])


class Odd(NamedTuple):
    """What a member that is not of the majority's mind should have had."""

    at: int  # an index
    state_hash: str


class Finding(NamedTuple):
    differing: frozenset[NodeId] = frozenset()  # whose state is not the leader's, at some index
    odd: Mapping[NodeId, Odd] = {}  # who is wrong, as far as a majority of the voters shows; the leader may be


def compare(
    leader: NodeId, own: States, heard: Mapping[NodeId, Mapping[int, str]], configuration: Configuration
) -> Finding:
    """What the reports of `configuration`'s members show. In a joint configuration nobody is judged: it ends soon."""
    voters = [m.id for m in configuration.voters]
    reports = {m.id: heard[m.id] for m in (*configuration.voters, *configuration.learners) if m.id in heard}
    reports.pop(leader, None)
    differing: set[NodeId] = set()
    odd: dict[NodeId, Odd] = {}
    for index in sorted({i for report in reports.values() for i in report}):
        mine = own.at(index)
        if mine is None:
            continue
        opinions = {leader: mine} | {peer: report[index] for peer, report in reports.items() if index in report}
        disagreeing = {peer for peer, state_hash in opinions.items() if state_hash != mine}
        if not disagreeing:
            continue
        differing |= disagreeing
        right = None if configuration.outgoing else _majority_of(opinions, voters)
        if right is not None:
            odd |= {member: Odd(index, right) for member, state_hash in opinions.items() if state_hash != right}
    return Finding(frozenset(differing), odd)


def _majority_of(opinions: Mapping[NodeId, str], voters: list[NodeId]) -> str | None:
    said = [opinions[v] for v in voters if v in opinions]
    for state_hash in said:
        if said.count(state_hash) >= majority(len(voters)):
            return state_hash
    return None
