"""The judge of a load: from what clients saw, was anything lost, doubled, promised away, or read too old?

Rules of this module:
* Pure functions of a history. Every kind of violation has a test in which it is found (unit/test_load_judge.py).
* A key has one writer. It numbers its values 1, 2, 3 ... and writes each with `If-Match` (the first with
  `If-None-Match: *`), so that of two writes on the same state at most one can ever take effect.
* `not_applied` is a promise; a lost answer is `unknown` until a read or a later write tells.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"  # the answer said not_applied, or the request never left
    PRECONDITION = "precondition"  # 412: not applied, because the key is in another state
    UNKNOWN = "unknown"


class Seen(NamedTuple):
    """A key's state: the number in its value, its version and its modification revision; all 0 if it is absent."""

    number: int
    version: int
    revision: int


ABSENT = Seen(0, 0, 0)


class Write(NamedTuple):
    client: int
    key: str
    number: int
    base: Seen  # the state that If-Match named
    begin: float  # seconds of a monotonic clock
    end: float
    outcome: Outcome
    version: int = 0  # of an acknowledged write
    revision: int = 0
    why: str = ""  # of one that was not acknowledged: the answer's status and code, or the client's error


class Read(NamedTuple):
    """A linearizable read that was answered; `own`: by the key's writer, to learn what became of a write."""

    member: str
    key: str
    begin: float
    end: float
    seen: Seen
    own: bool = False


class Violation(NamedTuple):
    kind: str
    key: str
    detail: str


class Disturbance(NamedTuple):
    name: str
    rate_before: float  # acknowledgements a second
    gap_seconds: float  # the longest without an acknowledgement
    seconds: float


@dataclass
class _Key:
    """What a key's only writer can know of it, one operation after the other."""

    key: str
    found: list[Violation]
    known: Seen = ABSENT
    pending: set[int] = field(default_factory=set)  # numbers of writes on `known` that may still take effect
    refused: set[int] = field(default_factory=set)
    moved: bool = False  # a 412 has shown that the state is no longer `known`
    acknowledged: int = 0
    unknown: int = 0

    def report(self, kind: str, detail: str) -> None:
        self.found.append(Violation(kind, self.key, detail))

    def write(self, op: Write) -> None:
        match op.outcome:
            case Outcome.ACKNOWLEDGED:
                self.acknowledged += 1
                if op.version != op.base.version + 1:
                    kind = "doubled" if op.version > op.base.version + 1 else "lost"
                    self.report(kind, f"write {op.number} answered version {op.version} on {op.base}")
                self.settle(Seen(op.number, op.version, op.revision))
            case Outcome.UNKNOWN:
                self.unknown += 1
                self.pending.add(op.number)
            case Outcome.REFUSED:
                self.refused.add(op.number)
            case Outcome.PRECONDITION:
                self.refused.add(op.number)
                self.moved = True
                if not self.pending:
                    self.report("foreign", f"write {op.number} got 412 on {op.base}, and no write's outcome is unknown")

    def settle(self, seen: Seen) -> None:
        """The state is `seen`: the pending writes named an older one, and can never apply now."""
        self.known, self.pending, self.moved = seen, set(), False

    def read(self, seen: Seen, who: str) -> None:
        """A linearizable read that began after every operation so far had ended."""
        if seen == self.known:
            if self.moved:
                self.report("stale read", f"{who} sees {seen}, but a write on it had got 412")
            return
        next_version = self.known.version + 1
        if seen.number in self.pending and seen.version == next_version and seen.revision > self.known.revision:
            self.settle(seen)
            return
        if seen.number in self.pending or seen.number == self.known.number:
            kind = "doubled" if seen.version > self.known.version + (seen.number in self.pending) else "lost"
        elif seen.number in self.refused:
            kind = "refused but applied"
        else:
            kind = "lost" if seen.number < self.known.number else "foreign"
        self.report(kind, f"{who} sees {seen}, expected {self.known} or one of {sorted(self.pending)}")
        self.settle(seen)  # it is told: go on from what is there, or one fault would be told a thousand times

    def end(self, states: Mapping[str, Seen]) -> None:
        """`states`: what each member answers in the end, when nothing is in flight any more."""
        first, *others = states
        for other in others:
            if states[other] != states[first]:
                self.report("members differ", f"{first} sees {states[first]}, {other} sees {states[other]}")
        if states[first].version > self.acknowledged + self.unknown:
            detail = f"version {states[first].version}, {self.acknowledged} acknowledged, {self.unknown} unknown"
            self.report("doubled", detail)
        self.read(states[first], first)


def judge_keys(history: Sequence[Write | Read], final: Mapping[str, Mapping[str, Seen]]) -> list[Violation]:
    """Lost, doubled, promised away or foreign: each key's writes in order, ended by what every member says of it.

    `history` has each writer's operations in the order in which it did them; `final` maps members to keys to states.
    """
    keys: dict[str, _Key] = {}
    found: list[Violation] = []
    for op in history:
        key = keys.setdefault(op.key, _Key(op.key, found))
        if isinstance(op, Write):
            key.write(op)
        elif op.own:
            key.read(op.seen, op.member)
    for name, key in keys.items():
        key.end({member: states.get(name, ABSENT) for member, states in final.items()})
    return found


def judge_reads(history: Sequence[Write | Read]) -> list[Violation]:
    """A linearizable read is never older than an acknowledgement, or another such read, that ended before it began."""
    found: list[Violation] = []
    known: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for op in history:
        if isinstance(op, Read):
            known[op.key].append((op.end, op.seen.number))
        elif op.outcome is Outcome.ACKNOWLEDGED:
            known[op.key].append((op.end, op.number))
    floors: dict[str, tuple[list[float], list[int]]] = {}
    for key, facts in known.items():
        facts.sort()
        floors[key] = [t for t, _ in facts], list(itertools.accumulate((n for _, n in facts), max))
    for op in history:
        if isinstance(op, Read):
            ends, highest = floors[op.key]
            before = bisect.bisect_left(ends, op.begin)
            if before and op.seen.number < highest[before - 1]:
                detail = f"{op.member} answered {op.seen.number}, {highest[before - 1]} was known before the read began"
                found.append(Violation("stale read", op.key, detail))
    return found


def judge_revisions(history: Sequence[Write | Read]) -> list[Violation]:
    """Every acknowledged write has a revision of its own, above those acknowledged before it began."""
    found: list[Violation] = []
    acks = [op for op in history if isinstance(op, Write) and op.outcome is Outcome.ACKNOWLEDGED]
    for revision, times in Counter(op.revision for op in acks).items():
        if times > 1:
            found.append(Violation("revision twice", "", f"revision {revision} was given to {times} writes"))
    by_end = sorted(acks, key=lambda op: op.end)
    ends = [op.end for op in by_end]
    highest = list(itertools.accumulate((op.revision for op in by_end), max))
    for op in acks:
        before = bisect.bisect_left(ends, op.begin)
        if before and op.revision <= highest[before - 1]:
            detail = f"write {op.number} got {op.revision} after {highest[before - 1]} had been acknowledged"
            found.append(Violation("revision went back", op.key, detail))
    return found


def judge_leaders(elected: Iterable[tuple[int, str]]) -> list[Violation]:
    """One leader a term (paper, figure 3). `elected` are (term, node id): of no-op entries, and of logs."""
    leaders: dict[int, set[str]] = defaultdict(set)
    for term, member in elected:
        leaders[term].add(member)
    return [
        Violation("two leaders", "", f"term {term}: {', '.join(sorted(members))}")
        for term, members in sorted(leaders.items())
        if len(members) > 1
    ]


def longest_gap(acknowledged: Sequence[float], begin: float, end: float) -> float:
    """Seconds of the longest stretch without an acknowledgement that overlaps [begin, end]; the times are sorted.

    It reaches from the last acknowledgement before `begin` to the first after `end`; without one, to `begin` or `end`.
    """
    lo = max(bisect.bisect_left(acknowledged, begin) - 1, 0)
    hi = bisect.bisect_right(acknowledged, end) + 1
    times = list(acknowledged[lo:hi])
    if not times or times[0] > begin:
        times.insert(0, begin)
    if times[-1] < end:
        times.append(end)
    return max((b - a for a, b in itertools.pairwise(times)), default=0.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    violations: tuple[Violation, ...]
    disturbances: tuple[Disturbance, ...]
    counts: Mapping[str, int]

    def table(self) -> str:
        lines = [f"{'disturbance':<44} {'acks/s before':>13} {'longest gap':>12} {'lasted':>8}"]
        for d in self.disturbances:
            lines.append(f"{d.name:<44} {d.rate_before:>13.0f} {d.gap_seconds:>10.2f} s {d.seconds:>6.1f} s")
        lines.append(", ".join(f"{name} {count}" for name, count in self.counts.items()))
        return "\n".join(lines)

    def check(self) -> None:
        """Raises AssertionError with the first violations, or if there was nothing to judge."""
        assert self.counts.get("acknowledged", 0) > 0, "no write was acknowledged: nothing was judged"
        assert self.counts.get("reads", 0) > 0, "no read was answered: nothing was judged"
        told = "\n".join(f"{v.kind}: {v.key} {v.detail}" for v in self.violations[:20])
        assert not self.violations, f"{len(self.violations)} violations\n{told}"


def judge(
    history: Sequence[Write | Read],
    final: Mapping[str, Mapping[str, Seen]],
    disturbances: Sequence[Disturbance] = (),
    elected: Iterable[tuple[int, str]] = (),
    counts: Mapping[str, int] | None = None,
) -> Verdict:
    assert final, "without final reads nothing can be judged lost"
    outcomes = Counter(op.outcome.value for op in history if isinstance(op, Write))
    reads = {"reads": sum(isinstance(op, Read) for op in history)}
    violations = (
        *judge_keys(history, final),
        *judge_reads(history),
        *judge_revisions(history),
        *judge_leaders(elected),
    )
    return Verdict(violations, tuple(disturbances), {**outcomes, **reads, **(counts or {})})
