"""Is a history linearizable? Asked of what clients saw alone, by the search of Wing and Gong as Lowe and Porcupine do
it (Lowe, "Testing for linearizability", 2017). judge.py trusts revisions for the order; this trusts the times alone.

Rules of this module:
* Pure functions of a history, the budget of seconds in `check_load` apart. A budget that is spent is UNKNOWN, which is
  a failure of whoever asked, never a pass.
* An operation takes effect at one moment of its closed interval [begin, end]; one without an end (`math.inf`: its
  answer was lost) at any moment from `begin` on, or never. What certainly did not happen is not handed in.
* Keys are judged one by one, which is sound because no operation of a load touches two. Up to eight clients a key and a
  few answers lost: an invalid history with many lost answers costs more than any budget.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from enum import Enum, StrEnum
from typing import Generic, NamedTuple, TypeVar

from tests.judge import Outcome, Read, Seen, Write

MOST_STEPS = 5_000_000
MOST_REMEMBERED = 1_000_000  # of (operations done, state): some 200 bytes each
_ASK_EVERY = 4096  # steps between two looks at the budget of seconds


class Answer(StrEnum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Verdict(Enum):
    ILLEGAL = "the operation cannot have answered this in that state"


ILLEGAL = Verdict.ILLEGAL
"""What `step` returns for it. Not None: that may be a state."""

What = TypeVar("What", bound=Hashable)
State = TypeVar("State", bound=Hashable)


class Operation(NamedTuple, Generic[What]):
    begin: float
    end: float  # math.inf: the answer was lost
    what: What  # request and answer, for the model


def _never() -> bool:
    return False


def linearizable(
    operations: Sequence[Operation[What]],
    step: Callable[[State, What], State | Verdict],
    initial: State,
    most_steps: int = MOST_STEPS,
    enough: Callable[[], bool] = _never,
) -> Answer:
    """Whether some order of the operations, true to their times, is one that `step` allows from `initial` on.

    `step` is pure; states are hashable and immutable. UNKNOWN after `most_steps` steps, or once `enough` says True.
    """
    line = _Line(operations)
    behind = _behind_equals(operations)
    state, done = initial, 0
    remembered: set[tuple[int, State]] = {(done, state)}
    taken: list[tuple[int, State]] = []  # calls that were given their place, each with the state before it
    steps = 0
    at = line.next[0]
    while at:  # 0 is the head: every operation has its place
        number = line.operation[at]
        if line.is_call[at]:
            if steps >= most_steps or len(remembered) > MOST_REMEMBERED or (steps % _ASK_EVERY == 0 and enough()):
                return Answer.UNKNOWN
            steps += 1
            waits = behind[number] & ~done  # for an equal one
            after = ILLEGAL if waits else step(state, operations[number].what)
            if after is not ILLEGAL and (now := (done | 1 << number, after)) not in remembered:
                remembered.add(now)
                taken.append((at, state))
                done, state = now
                line.lift(at)
                at = line.next[0]
            else:
                at = line.next[at]
            continue
        # A return of an operation that has no place yet: it should have been taken before here.
        if operations[number].end == math.inf:
            return Answer.YES  # only operations without an answer are left, and they may never have happened
        if not taken:
            return Answer.NO
        at, state = taken.pop()
        done ^= 1 << line.operation[at]
        line.put_back(at)
        at = line.next[at]
    return Answer.YES


def _behind_equals(operations: Sequence[Operation[What]]) -> list[int]:
    """For each operation the bit of the equal one that has to be placed before it, or 0.

    Of lost ones that ask the same it never matters which happened: whoever wants a later one may have the earliest,
    which may stand wherever a later one may. So they are placed in the order of their beginnings, and n of them leave
    n + 1 choices instead of 2^n.
    """
    last: dict[Hashable, int] = {}
    bits = [0] * len(operations)
    for number in sorted(range(len(operations)), key=lambda at: operations[at].begin):
        if operations[number].end == math.inf:
            what = operations[number].what
            if what in last:
                bits[number] = 1 << last[what]
            last[what] = number
    return bits


class _Line:
    """Calls and returns in the order of time, as a doubly linked list of positions from 1 on; 0 is the head and the
    end. A call comes before a return of the same moment: intervals are closed."""

    def __init__(self, operations: Sequence[Operation[What]]) -> None:
        events = sorted(
            [(one.begin, False, number) for number, one in enumerate(operations)]
            + [(one.end, True, number) for number, one in enumerate(operations)]
        )
        size = len(events) + 1
        self.next = [*range(1, size), 0]
        self.before = [size - 1, *range(size - 1)]
        self.operation = [-1, *(number for _, _, number in events)]
        self.is_call = [False, *(not is_return for _, is_return, _ in events)]
        self._return = {number: at for at, (_, is_return, number) in enumerate(events, 1) if is_return}

    def lift(self, call: int) -> None:
        for at in (call, self._return[self.operation[call]]):
            self.next[self.before[at]] = self.next[at]
            self.before[self.next[at]] = self.before[at]

    def put_back(self, call: int) -> None:
        """Undo the last `lift`."""
        for at in (self._return[self.operation[call]], call):
            self.next[self.before[at]] = at
            self.before[self.next[at]] = at


class Known(NamedTuple):
    """A key's state as far as answers tell it. The revision of a write whose answer was lost is any one above `above`
    that is not in `never`, until a read or a write that names it says which: that makes the model deterministic, and
    allows exactly what some choice of revisions would."""

    number: int = 0
    version: int = 0
    revision: int | None = 0  # None: not known yet
    above: int = 0
    never: frozenset[int] = frozenset()

    def is_at(self, seen: Seen) -> bool:
        if (self.number, self.version) != (seen.number, seen.version):
            return False
        if self.revision is None:
            return seen.revision > self.above and seen.revision not in self.never
        return self.revision == seen.revision


def load_step(state: Known, op: Write | Read) -> Known | Verdict:
    """The register that judge.py's histories are about: versioned, written by compare-and-set of the revision."""
    if isinstance(op, Read):
        return Known(*op.seen) if state.is_at(op.seen) else ILLEGAL
    base = op.base
    match op.outcome:
        case Outcome.PRECONDITION:
            if state.revision is not None:  # the store compares revisions, nothing else
                return ILLEGAL if state.revision == base.revision else state
            if base.revision <= state.above:
                return state
            return state._replace(never=state.never | {base.revision})
        case Outcome.ACKNOWLEDGED:
            sound = state.is_at(base) and op.version == base.version + 1 and op.revision > base.revision
            return Known(op.number, op.version, op.revision) if sound else ILLEGAL
        case Outcome.UNKNOWN:  # where its base does not hold it changes nothing, like one that never happened
            return Known(op.number, base.version + 1, None, base.revision) if state.is_at(base) else ILLEGAL
    raise ValueError(f"{op.outcome} does not belong into a history")


def check_load(writes: Sequence[Write], reads: Sequence[Read], seconds: float = 10) -> dict[str, Answer]:
    """Each key's history, judged within `seconds` a key. A refused write did not happen, and must not be seen.

    In a long run let keys take turns: a key's history should have some thousands of operations at most.
    """
    histories: dict[str, list[Operation[Write | Read]]] = defaultdict(list)
    for write in writes:
        if write.outcome is not Outcome.REFUSED:
            end = math.inf if write.outcome is Outcome.UNKNOWN else write.end
            histories[write.key].append(Operation(write.begin, end, write))
    for read in reads:
        histories[read.key].append(Operation(read.begin, read.end, read))
    return {
        key: linearizable(operations, load_step, Known(), enough=_after(seconds))
        for key, operations in histories.items()
    }


def _after(seconds: float) -> Callable[[], bool]:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() > deadline
