"""What must hold after a scenario, besides what the load's judge (tests/judge.py) and `Cluster.elected` look for.

Rules of this module: pure functions of what was seen; each says what is wrong (nothing: all is well), or raises
AssertionError. Each fires in test_oracles.py. A scenario in which the fault was not seen to strike proves nothing, and
fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.judge import Outcome, Read, Write
from tests.wgl import Answer, check_load

LEAST_OPERATIONS = 200  # answered for certain before the fault strikes
WGL_SECONDS = 10.0  # for each key; what it cannot decide by then is a failure


class NotObserved(AssertionError):
    """The fault of a scenario was not seen to strike."""


class Observation:
    """What a scenario saw of its fault."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.seen: dict[str, object] = {}

    def saw(self, what: str, evidence: object) -> None:
        """`evidence` is a count, a text or a truth; empty means that it was not seen. Raises NotObserved."""
        self.seen[what] = evidence
        if not evidence:
            raise NotObserved(f"{self.fault}: {what}: {evidence!r}")

    def measured(self, what: str, value: float, least: float) -> None:
        """Raises NotObserved if it is less."""
        self.seen[what] = f"{value:.3g}"
        if value < least:
            raise NotObserved(f"{self.fault}: {what}: {value:.3g}, it should be {least:.3g} at least")

    def check(self) -> None:
        """Raises NotObserved if nobody looked."""
        if not self.seen:
            raise NotObserved(f"{self.fault}: nothing was observed")

    def __str__(self) -> str:
        return f"{self.fault}: " + ", ".join(f"{what} ({evidence})" for what, evidence in self.seen.items())


def enough(history: Sequence[Write | Read], least: int = LEAST_OPERATIONS) -> None:
    """Raises AssertionError where too little happened before a fault for it to disturb anything.

    A refused or unknown write does not count: a cluster that takes nothing makes thousands of them.
    """
    certain = (Outcome.ACKNOWLEDGED, Outcome.PRECONDITION)
    count = sum(isinstance(op, Read) or op.outcome in certain for op in history)
    assert count >= least, f"{count} operations before the fault, {least} are needed"


def incomparable(statuses: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> list[str]:
    """Why the states of these members cannot be compared: somebody has not answered, or they are at several indices."""
    expected = sorted(names)
    if missing := [name for name in expected if name not in statuses]:
        return [f"no status of {', '.join(missing)}"]
    indices = {name: statuses[name]["applied_index"] for name in expected}
    if len(expected) > 1 and len(set(indices.values())) == 1:
        return []
    return [f"nothing to compare: {indices}"]


def unequal_states(statuses: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> list[str]:
    """Equal applied index means equal state (rule 26). To have compared nothing is a complaint too."""
    expected = sorted(names)
    if why := incomparable(statuses, expected):
        return why
    hashes = {name: statuses[name]["state_hash"] for name in expected}
    if all(hashes.values()) and len(set(hashes.values())) == 1:
        return []
    return [f"at {statuses[expected[0]]['applied_index']}: {hashes}"]


def not_linearizable(history: Sequence[Write | Read], seconds: float = WGL_SECONDS) -> list[str]:
    """Keys whose history no order of their operations explains, and those of which nobody can tell."""
    writes = [op for op in history if isinstance(op, Write)]
    reads = [op for op in history if isinstance(op, Read)]
    answers = check_load(writes, reads, seconds)
    return [f"{key}: {answer}" for key, answer in sorted(answers.items()) if answer is not Answer.YES]


def unexpected(complaints: Iterable[str], caused: Iterable[str] = ()) -> list[str]:
    """Complaints in the members' logs, but for those with words that the fault itself must cause."""
    words = tuple(caused)
    return [line for line in complaints if not any(word in line for word in words)]
