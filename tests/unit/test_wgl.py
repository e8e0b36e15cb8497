"""The black-box checker: what is linearizable passes, what is not is found, and it agrees with brute force.

Rules of this module: randomness comes from seeds; the brute force below shares nothing with the search but the types.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import wgl
from tests.judge import ABSENT, Outcome, Read, Seen, Write
from tests.wgl import ILLEGAL, Answer, Known, Operation, check_load, linearizable

K = "k"
ONE, TWO, THREE = Seen(1, 1, 10), Seen(2, 2, 20), Seen(3, 3, 30)


def ack(base: Seen, seen: Seen, begin: float, end: float, client: int = 0) -> Write:
    return Write(client, K, seen.number, base, begin, end, Outcome.ACKNOWLEDGED, seen.version, seen.revision)


def no_ack(number: int, base: Seen, begin: float, end: float, outcome: Outcome) -> Write:
    return Write(0, K, number, base, begin, end, outcome)


def sees(seen: Seen, begin: float, end: float) -> Read:
    return Read("m", K, begin, end, seen)


def answer(*history: Write | Read) -> Answer:
    writes = [op for op in history if isinstance(op, Write)]
    return check_load(writes, [op for op in history if isinstance(op, Read)])[K]


FIRST, SECOND = ack(ABSENT, ONE, 0, 1), ack(ONE, TWO, 2, 3)
LOST_ANSWER = no_ack(2, ONE, 2, 3, Outcome.UNKNOWN)
VALID = {
    "in order": [sees(ABSENT, -2, -1), FIRST, sees(ONE, 1.5, 1.6), SECOND, sees(TWO, 4, 5)],
    "reads while it is written": [FIRST, SECOND, sees(ONE, 2.1, 2.9), sees(TWO, 2.1, 2.9)],
    "a moment is shared": [FIRST, ack(ONE, TWO, 1, 2), sees(ONE, 2, 3)],
    "a lost answer, applied": [FIRST, LOST_ANSWER, sees(TWO, 4, 5)],
    "a lost answer, applied late": [FIRST, LOST_ANSWER, sees(ONE, 4, 5), sees(TWO, 6, 7)],
    "a lost answer, never applied": [FIRST, LOST_ANSWER, ack(ONE, Seen(3, 2, 30), 4, 5), sees(Seen(3, 2, 30), 6, 7)],
    "two lost answers": [FIRST, LOST_ANSWER, no_ack(3, ONE, 4, 5, Outcome.UNKNOWN), sees(Seen(3, 2, 30), 6, 7)],
    "a lost answer makes another's 412": [FIRST, LOST_ANSWER, no_ack(3, ONE, 4, 5, Outcome.PRECONDITION)],
    "of two writers one wins": [FIRST, SECOND, no_ack(5, ONE, 2, 3, Outcome.PRECONDITION)],
    "refused": [FIRST, no_ack(2, ONE, 2, 3, Outcome.REFUSED), sees(ONE, 4, 5)],
}
INVALID = {
    "a stale read": [FIRST, SECOND, sees(ONE, 4, 5)],
    "a read that goes back": [FIRST, SECOND, sees(TWO, 2.1, 2.2), sees(ONE, 2.3, 2.9)],
    "a lost write": [FIRST, sees(ABSENT, 4, 5)],
    "a lost write under a later one": [FIRST, SECOND, ack(ONE, Seen(3, 2, 30), 4, 5)],
    "a doubled write": [FIRST, SECOND, sees(Seen(2, 3, 21), 4, 5)],
    "a write doubled under a later one": [FIRST, ack(ONE, Seen(2, 3, 20), 2, 3)],
    "a lost answer, applied twice": [FIRST, LOST_ANSWER, sees(TWO, 4, 5), sees(Seen(2, 3, 21), 6, 7)],
    "a lost answer with two revisions": [FIRST, LOST_ANSWER, sees(TWO, 4, 5), sees(Seen(2, 2, 21), 6, 7)],
    "a lost answer that was read and is gone": [FIRST, LOST_ANSWER, sees(TWO, 4, 5), sees(ONE, 6, 7)],
    "a lost answer that went back": [FIRST, LOST_ANSWER, sees(Seen(2, 2, 9), 4, 5)],
    "a read from the future": [FIRST, sees(TWO, 1.2, 1.5), SECOND],
    "swapped values": [FIRST, SECOND, sees(Seen(1, 2, 20), 4, 5)],
    "a compare-and-set that succeeded twice": [FIRST, SECOND, ack(ONE, Seen(3, 2, 30), 2, 3, 1)],
    "refused, and seen": [FIRST, no_ack(2, ONE, 2, 3, Outcome.REFUSED), sees(TWO, 4, 5)],
    "412, and seen": [FIRST, SECOND, no_ack(3, ONE, 2, 3, Outcome.PRECONDITION), sees(Seen(3, 2, 30), 4, 5)],
    "412 though its base held": [FIRST, no_ack(2, ONE, 2, 3, Outcome.PRECONDITION)],
    "412 on what is then read": [
        FIRST,
        LOST_ANSWER,
        no_ack(3, ONE, 4, 4.4, Outcome.PRECONDITION),  # so the lost answer's write had been applied by then
        no_ack(4, TWO, 4.5, 5, Outcome.PRECONDITION),
        sees(TWO, 6, 7),
    ],
    "a revision that went back": [FIRST, ack(ONE, Seen(2, 2, 9), 2, 3)],
    "from nowhere": [sees(ONE, 0, 1)],
}


@pytest.mark.parametrize("history", VALID.values(), ids=VALID)
def test_a_valid_history_passes(history: list[Write | Read]) -> None:
    for order in (history, history[::-1]):
        assert answer(*order) is Answer.YES


@pytest.mark.parametrize("history", INVALID.values(), ids=INVALID)
def test_a_fault_is_found(history: list[Write | Read]) -> None:
    for order in (history, history[::-1]):
        assert answer(*order) is Answer.NO


def test_a_fault_of_one_key_is_told_of_that_key() -> None:
    other = [op._replace(key="other") for op in (FIRST, SECOND)]
    assert check_load([FIRST, SECOND, *other], [sees(ONE, 4, 5)]) == {K: Answer.NO, "other": Answer.YES}


# --- every order, tried out


def orders(operations: list[Operation]) -> Iterator[tuple[Operation, ...]]:
    """Every order that is true to the times, of all that ended with any of those that did not."""
    ended = [one for one in operations if one.end < math.inf]
    others = [one for one in operations if one.end == math.inf]
    for size in range(len(others) + 1):
        for some in itertools.combinations(others, size):
            for order in itertools.permutations([*ended, *some]):
                if all(later.end >= one.begin for one, later in itertools.combinations(order, 2)):
                    yield order


def by_brute_force(operations: list[Operation], every_step: Callable, initial: object) -> Answer:
    """`every_step` gives all states that an operation may lead to."""
    for order in orders(operations):
        states = {initial}
        for one in order:
            states = {after for state in states for after in every_step(state, one.what)}
        if states:
            return Answer.YES
    return Answer.NO


def register(state: int, what: tuple[str, int, int]):
    """A register with read, write and compare-and-set."""
    kind, value, other = what
    match kind:
        case "read":
            return state if state == value else ILLEGAL
        case "write":
            return value
        case "set" if state == value:
            return other
    return ILLEGAL


whats = st.tuples(st.sampled_from(("read", "read", "write", "set")), st.integers(0, 2), st.integers(0, 2))
lengths = st.sampled_from((0, 1, 1, 2, 3, 4, math.inf))


def operations_of(whats: st.SearchStrategy, lengths: st.SearchStrategy) -> st.SearchStrategy:
    return st.builds(
        lambda begin, length, what: Operation(begin, begin + length, what), st.integers(0, 6), lengths, whats
    )


lost = operations_of(st.sampled_from((("write", 1, 0), ("set", 1, 2), ("set", 2, 1))), st.just(math.inf))
answered = operations_of(whats, lengths)
registers = {
    "any": st.lists(answered, max_size=5),
    "many that ask the same and are not answered": st.tuples(
        st.lists(lost, min_size=3, max_size=4), st.lists(answered, min_size=2, max_size=2)
    ).map(lambda both: both[0] + both[1]),
}


@pytest.mark.parametrize("shape", registers)
def test_it_agrees_with_brute_force_about_registers(shape: str) -> None:
    answers: Counter[Answer] = Counter()

    @settings(max_examples=800, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(registers[shape])
    def compare(operations: list[Operation]) -> None:
        def every(state: int, what: tuple[str, int, int]) -> list[int]:
            return [after] if (after := register(state, what)) is not ILLEGAL else []

        expected = by_brute_force(operations, every, 0)
        assert linearizable(operations, register, 0, 10_000) is expected
        answers[expected] += 1

    compare()
    assert min(answers[Answer.YES], answers[Answer.NO]) > 100, answers


def a_load(rng: random.Random) -> list[Write | Read]:
    """What clients of a correct store may have seen, at most once falsified."""
    state, revision, history = ABSENT, 0, []
    known = [ABSENT]
    for number in range(1, rng.randint(2, 5) + 1):
        begin, end = number - rng.choice((0, 0.4, 1.5)), number + rng.choice((0, 0.4, 1.5, 2.5))
        if rng.random() < 0.4:
            history.append(sees(state, begin, end))
            known.append(state)
            continue
        base = rng.choice((state, state, known[-1], rng.choice(known)))
        applied, outcome = base.revision == state.revision, Outcome.PRECONDITION
        if applied:
            revision += rng.randint(1, 2)
            state = Seen(number, state.version + 1, revision)
            outcome = Outcome.ACKNOWLEDGED
        if rng.random() < 0.4:
            history.append(no_ack(number, base, begin, end, Outcome.UNKNOWN))
        elif applied:
            history.append(ack(base, state, begin, end))
            known.append(state)
        else:
            history.append(no_ack(number, base, begin, end, outcome))
    if rng.random() < 0.6:
        at = rng.randrange(len(history))
        history[at] = falsified(rng, history[at], known)
    return history


def falsified(rng: random.Random, op: Write | Read, known: list[Seen]) -> Write | Read:
    if rng.random() < 0.3:
        moved = rng.choice((-2.0, -1.0, 1.0, 2.0))
        return op._replace(begin=op.begin + moved, end=op.end + moved)
    if isinstance(op, Read):
        changed = Seen(
            op.seen.number + rng.randint(-1, 1), op.seen.version, max(0, op.seen.revision + rng.randint(-1, 1))
        )
        return op._replace(seen=rng.choice((changed, rng.choice(known))))
    if op.outcome is Outcome.ACKNOWLEDGED and rng.random() < 0.5:
        return op._replace(version=op.version + rng.choice((-1, 1)))
    return op._replace(outcome=rng.choice((Outcome.PRECONDITION, Outcome.UNKNOWN)), base=rng.choice(known))


def concrete_steps(revisions: list[float]) -> Callable:
    """The store itself: it gives every revision a lost answer may have stood for, instead of leaving it open."""

    def steps(state: Seen, op: Write | Read) -> list[Seen]:
        if isinstance(op, Read):
            return [state] if op.seen == state else []
        if op.outcome is Outcome.PRECONDITION:
            return [state] if op.base.revision != state.revision else []
        if op.base != state:
            return []
        if op.outcome is Outcome.UNKNOWN:
            return [Seen(op.number, state.version + 1, r) for r in revisions if r > state.revision]
        sound = op.version == state.version + 1 and op.revision > state.revision
        return [Seen(op.number, op.version, op.revision)] if sound else []

    return steps


def compare_loads(seeds: int) -> Counter[Answer]:
    answers: Counter[Answer] = Counter()
    for seed in range(seeds):
        history = a_load(random.Random(seed))
        seen = [op.seen if isinstance(op, Read) else op.base for op in history]
        named = {0, *(one.revision for one in seen), *(op.revision for op in history if isinstance(op, Write))}
        revisions = sorted({*named, *(r + 0.5 for r in named)})  # of a lost answer: a known one, or one between two
        operations = [
            Operation(op.begin, math.inf if isinstance(op, Write) and op.outcome is Outcome.UNKNOWN else op.end, op)
            for op in history
        ]
        expected = by_brute_force(operations, concrete_steps(revisions), ABSENT)
        assert answer(*history) is expected, f"seed {seed}: {history}"
        answers[expected] += 1
    return answers


def test_it_agrees_with_brute_force_about_loads() -> None:
    """The model that leaves revisions open allows exactly what some choice of revisions would."""
    answers = compare_loads(4000)
    assert min(answers[Answer.YES], answers[Answer.NO]) > 800, answers


@pytest.mark.parametrize("broken", ["412", "version", "lost answers"])
def test_the_comparison_notices_a_wrong_model(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison fires: of a model that takes any 412, or any version, or applies every write without an answer."""
    real = wgl.load_step

    def wrong(state: Known, op: Write | Read):
        if isinstance(op, Read):
            return real(state, op)
        if broken == "412" and op.outcome is Outcome.PRECONDITION:
            return state
        if broken == "version" and op.outcome is Outcome.ACKNOWLEDGED:
            return real(state, op._replace(version=op.base.version + 1))
        if broken == "lost answers" and op.outcome is Outcome.UNKNOWN:
            return Known(op.number, state.version + 1, None, op.base.revision)
        return real(state, op)

    monkeypatch.setattr(wgl, "load_step", wrong)
    with pytest.raises(AssertionError, match="seed"):
        compare_loads(4000)


# --- what it costs


def a_long_load(length: int) -> list[Write | Read]:
    """One writer, three readers, one answer of fifty lost."""
    history, state = [], ABSENT
    for number in range(1, length + 1):
        after = Seen(number, state.version + 1, number * 3)
        if number % 50 == 0:
            history += [
                no_ack(number, state, number, number + 0.8, Outcome.UNKNOWN),
                sees(after, number + 0.9, number + 0.95),
            ]
        else:
            history.append(ack(state, after, number, number + 0.8))
        history += [sees(rng_state, number + 0.1, number + 0.7) for rng_state in (state, after, after)]
        state = after
    return history


def test_a_long_load_is_decided() -> None:
    history = a_long_load(1000)
    assert answer(*history) is Answer.YES
    assert answer(*history, sees(Seen(999, 999, 2997), 2000, 2001)) is Answer.NO


def test_a_spent_budget_is_no_answer() -> None:
    """Ten writes at once and a read that saw none of them: every order must be tried."""
    hard = [Operation(0, 1, ("write", value, 0)) for value in range(1, 11)] + [Operation(2, 3, ("read", 0, 0))]
    assert linearizable(hard, register, 0, 1_000) is Answer.UNKNOWN
    assert linearizable(hard, register, 0) is Answer.NO
    assert linearizable(hard, register, 0, enough=lambda: True) is Answer.UNKNOWN
    assert check_load([FIRST, SECOND], [], seconds=-1) == {K: Answer.UNKNOWN}


def test_many_lost_writes_that_ask_the_same_cost_little() -> None:
    """Which of thirty happened does not matter: only how many."""
    lost = [Operation(number, math.inf, ("write", 1, 0)) for number in range(30)]
    assert linearizable([*lost, Operation(40, 41, ("read", 2, 0))], register, 0, 1_000) is Answer.NO
    assert linearizable([*lost, Operation(40, 41, ("read", 1, 0))], register, 0, 1_000) is Answer.YES


def test_what_it_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wgl, "MOST_REMEMBERED", 100)
    hard = [Operation(0, 1, ("write", value, 0)) for value in range(1, 11)] + [Operation(2, 3, ("read", 0, 0))]
    assert linearizable(hard, register, 0) is Answer.UNKNOWN
