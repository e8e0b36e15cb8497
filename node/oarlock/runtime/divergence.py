"""Do members that have applied the same entries hold the same state? (rule 26)

Rules of this module:
* Pure functions and small tables. Followers report what they have to the leader, and only the leader compares.
* A state that was copied is no second opinion: a snapshot of a wrong state makes its receiver wrong as well. So a voter
  is a witness against another member only if it has applied the log itself since both told the same hash, or from the
  log's first entry on.
* Nobody is judged without a majority of the voters, two of them at least, who are all witnesses, say the same and were
  heard lately; where there is none, there is an alarm, and nothing else.
* Members apply in jobs of their own making, so that few indices are ends of jobs on all of them. The multiples of
  CHECKPOINT_ENTRIES are (the applier ends a job there), and so is the last index of a cluster at rest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from oarlock.raft.quorum import majority
from oarlock.raft.types import Configuration, NodeId

CHECKPOINT_ENTRIES = 256
CHECKPOINTS_KEPT = 64  # a follower that is further behind than these cannot be compared yet
CHECKPOINTS_TOLD = 32  # in a report; one a second tells of up to 8192 entries a second without a gap
RECENT_KEPT = 64  # ends of jobs: where a few entries a second are written, checkpoints are minutes apart
RECENT_TOLD = 16
STATES_TAKEN = 64  # of a report, whatever it says (rule 33)
WITNESS_SECONDS = 10.0  # who has told nothing for so long may be gone: a quorum must remain without the odd one


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
    """A member's state hashes, since it began to apply the log by itself: at its start, or at a snapshot it installed.

    Those at the last checkpoints are kept, and those at the last ends of jobs. A leader has such a table of each peer,
    too, from its reports.
    """

    def __init__(self, since: int | None = None) -> None:
        """`since`: the index of the state that this member began with; None: of the first that is noted."""
        self.since = since
        self._checkpoints: dict[int, str] = {}
        self._recent: dict[int, str] = {}

    def note(self, index: int, state_hash: str) -> None:
        """The state at `index`. Indices rise; one that is known stays."""
        if self.since is None:
            self.since = index
        table, kept = (
            (self._recent, RECENT_KEPT) if index % CHECKPOINT_ENTRIES else (self._checkpoints, CHECKPOINTS_KEPT)
        )
        table.setdefault(index, state_hash)
        if len(table) > kept:
            del table[next(iter(table))]

    def at(self, index: int) -> str | None:
        """None where it is not known (any more)."""
        return self._checkpoints.get(index) or self._recent.get(index)

    @property
    def known(self) -> dict[int, str]:
        """Recent ones first, checkpoints after them."""
        return self._recent | self._checkpoints

    def told(self) -> tuple[tuple[int, str], ...]:
        """For a report: of each kind the last, oldest first."""
        checkpoints, recent = [*self._checkpoints.items()], [*self._recent.items()]
        return (*checkpoints[-CHECKPOINTS_TOLD:], *recent[-RECENT_TOLD:])


def heard(before: States | None, since: int | None, told: Sequence[tuple[int, str]]) -> States:
    """What is known of a peer after its report. What it told before it began anew says nothing of the state it has."""
    same = before is not None and before.since == since
    if before is None or not same or any(before.at(index) not in (None, state_hash) for index, state_hash in told):
        before = States(since)  # another life, also where that began at the same place
    for index, state_hash in told[-STATES_TAKEN:]:
        before.note(index, state_hash)
    return before


class Odd(NamedTuple):
    """What a member that is not of the majority's mind should have had."""

    at: int  # an index
    state_hash: str


class Finding(NamedTuple):
    differing: Mapping[NodeId, int] = {}  # whose state is not the leader's, and the last index where that was seen
    odd: Mapping[NodeId, Odd] = {}  # who is wrong, as far as a majority of the voters shows; the leader may be


def compare(
    leader: NodeId,
    own: States,
    reports: Mapping[NodeId, States],
    present: Container[NodeId],
    configuration: Configuration,
    before: Mapping[NodeId, int],
) -> Finding:
    """What the tables of the members of `configuration` show. Only those who are `present`, heard lately, are
    witnesses. In a joint configuration nobody is judged: it ends soon. `before` is who differed at the last look, and
    where: that stays while no later index shows more, and the member has not begun anew."""
    mine = own.known
    members = (m.id for m in (*configuration.voters, *configuration.learners) if m.id in reports and m.id != leader)
    known = {peer: reports[peer].known for peer in members}
    differing = {}
    for peer, table in known.items():
        last = max(table.keys() & mine.keys(), default=None)
        if last is None:
            if (seen := before.get(peer)) is not None and seen >= max(reports[peer].since or 0, own.since or 0):
                differing[peer] = seen
        elif table[last] != mine[last]:
            differing[peer] = last
    if not any(mine.get(index, hash_) != hash_ for table in known.values() for index, hash_ in table.items()):
        return Finding(differing)
    if configuration.outgoing:
        return Finding(differing)
    voters = [m.id for m in configuration.voters]
    witnesses = {v: reports[v] for v in voters if v in known and v in present} | {leader: own}
    if leader not in voters:
        del witnesses[leader]
    odd = {}
    for member, table in (*known.items(), (leader, mine)):
        others = {v: states for v, states in witnesses.items() if v != member}
        if (found := _contradicted(table, others.values(), max(2, majority(len(voters))))) is not None:
            odd[member] = found
    return Finding(differing, odd)


def _contradicted(table: Mapping[int, str], witnesses: Iterable[States], needed: int) -> Odd | None:
    """By `needed` witnesses who say the same, at the last checkpoint where that is so, or else at the last index."""
    seen = [(states.known, _alike_at(states, table)) for states in witnesses]
    for index in sorted(table, key=lambda i: (i % CHECKPOINT_ENTRIES == 0, i), reverse=True):
        said = Counter(t[index] for t, alike in seen if alike < index and t.get(index, table[index]) != table[index])
        for state_hash, times in said.most_common(1):
            if times >= needed:
                return Odd(index, state_hash)
    return None


def _alike_at(witness: States, table: Mapping[int, str]) -> float:
    """The first index from which on this witness can have seen a state like `table`'s go astray; infinite for none."""
    if witness.since == 0:
        return -1
    return min((i for i, state_hash in witness.known.items() if table.get(i) == state_hash), default=math.inf)
