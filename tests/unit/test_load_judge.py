"""Every oracle of tests/judge.py fires on a history with its fault, and only then."""

from __future__ import annotations

import httpx
import pytest
from tests.judge import (
    ABSENT,
    Outcome,
    Read,
    Seen,
    Write,
    judge,
    judge_keys,
    judge_leaders,
    judge_reads,
    judge_revisions,
    longest_gap,
)
from tests.load import read_answer

K = "k"


def ack(number: int, base: Seen, seen: Seen, begin: float = 0.0, end: float = 0.0, key: str = K) -> Write:
    return Write(0, key, number, base, begin, end, Outcome.ACKNOWLEDGED, seen.version, seen.revision)


def not_ack(number: int, base: Seen, outcome: Outcome) -> Write:
    return Write(0, K, number, base, 0.0, 0.0, outcome)


def own(seen: Seen) -> Read:
    return Read("m", K, 0.0, 0.0, seen, own=True)


def kinds(history: list[Write | Read], *final: Seen) -> list[str]:
    return [v.kind for v in judge_keys(history, {f"m{n}": {K: seen} for n, seen in enumerate(final)})]


ONE, TWO = Seen(1, 1, 10), Seen(2, 2, 20)
FIRST, SECOND = ack(1, ABSENT, ONE), ack(2, ONE, TWO)


def test_a_faultless_history_is_clean() -> None:
    assert kinds([FIRST, SECOND], TWO, TWO) == []


def test_a_lost_acknowledged_write_is_found() -> None:
    assert kinds([FIRST, SECOND], ONE) == ["lost"]
    assert kinds([FIRST], ABSENT) == ["lost"]


def test_a_lost_write_is_found_while_the_load_runs() -> None:
    third = ack(3, TWO, Seen(3, 2, 30))  # version 2 again: the write before it is gone
    assert kinds([FIRST, SECOND, third], Seen(3, 2, 30)) == ["lost"]


def test_a_doubled_write_is_found() -> None:
    doubled = Seen(2, 3, 21)
    assert kinds([FIRST, SECOND], doubled) == ["doubled", "doubled"]  # by count, and by what was acknowledged
    assert kinds([FIRST, ack(2, ONE, doubled)], doubled)[0] == "doubled"


def test_an_unknown_write_may_have_happened_once_or_never() -> None:
    lost_answer = not_ack(2, ONE, Outcome.UNKNOWN)
    assert kinds([FIRST, lost_answer], ONE) == []
    assert kinds([FIRST, lost_answer], TWO) == []
    assert kinds([FIRST, lost_answer], Seen(2, 3, 21)) == ["doubled", "doubled"]


def test_an_unknown_write_is_decided_by_the_next_one() -> None:
    """Write 3 named the same state as write 2 and was acknowledged, so write 2 can never be seen again."""
    three = Seen(3, 2, 20)
    history = [FIRST, not_ack(2, ONE, Outcome.UNKNOWN), ack(3, ONE, three)]
    assert kinds(history, three) == []
    assert kinds(history, Seen(2, 3, 21)) == ["lost"]


def test_a_late_unknown_write_explains_one_412() -> None:
    late = [FIRST, not_ack(2, ONE, Outcome.UNKNOWN), own(ONE), not_ack(3, ONE, Outcome.PRECONDITION), own(TWO)]
    assert kinds(late, TWO) == []


def test_a_412_that_nothing_explains_is_found() -> None:
    assert kinds([FIRST, not_ack(2, ONE, Outcome.PRECONDITION)], ONE)[0] == "foreign"


def test_a_read_behind_a_412_is_stale() -> None:
    history = [FIRST, not_ack(2, ONE, Outcome.UNKNOWN), not_ack(3, ONE, Outcome.PRECONDITION), own(ONE)]
    assert kinds(history, ONE)[0] == "stale read"


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.PRECONDITION])
def test_a_refused_write_that_took_effect_is_found(outcome: Outcome) -> None:
    """Rule 8: `not_applied` is a promise."""
    assert "refused but applied" in kinds([FIRST, not_ack(2, ONE, outcome)], TWO)


def test_a_value_that_nobody_wrote_is_found() -> None:
    assert "foreign" in kinds([FIRST], Seen(7, 2, 20))


def test_members_that_differ_in_the_end_are_found() -> None:
    assert kinds([FIRST, SECOND], TWO, ONE) == ["members differ"]


def test_a_stale_read_is_found() -> None:
    early, late = ack(1, ABSENT, ONE, 0.0, 1.0), ack(2, ONE, TWO, 2.0, 3.0)
    fresh = [Read("m", K, 2.5, 2.6, ONE), Read("m", K, 3.5, 3.6, TWO)]
    assert judge_reads([early, late, *fresh]) == []
    assert [v.kind for v in judge_reads([early, late, Read("m", K, 3.5, 3.6, ONE)])] == ["stale read"]


def test_reads_that_go_back_are_found() -> None:
    """The write's answer is lost, but one read has seen it: a later one may not see the state before."""
    reads = [Read("a", K, 1.0, 2.0, TWO), Read("b", K, 2.5, 3.0, ONE)]
    assert [v.kind for v in judge_reads([FIRST, *reads])] == ["stale read"]


def test_a_revision_given_twice_or_out_of_order_is_found() -> None:
    a = ack(1, ABSENT, Seen(1, 1, 10), 0.0, 1.0)
    assert judge_revisions([a, ack(1, ABSENT, Seen(1, 1, 11), 2.0, 3.0, "l")]) == []
    same = judge_revisions([a, ack(1, ABSENT, Seen(1, 1, 10), 0.5, 1.5, "l")])
    assert [v.kind for v in same] == ["revision twice"]
    back = judge_revisions([a, ack(1, ABSENT, Seen(1, 1, 9), 2.0, 3.0, "l")])
    assert [v.kind for v in back] == ["revision went back"]


def test_two_leaders_of_one_term_are_found() -> None:
    assert judge_leaders([(1, "a"), (2, "b"), (2, "b")]) == []
    assert [v.kind for v in judge_leaders([(1, "a"), (2, "b"), (2, "c")])] == ["two leaders"]


@pytest.mark.parametrize(
    ("times", "gap"),
    [
        ([1.0, 2.0, 3.0], 1.0),
        ([1.0, 1.9, 2.1, 4.0], 1.9),  # reaches past the end of the disturbance
        ([0.5, 2.9, 3.0], 2.4),  # began before it
        ([], 1.0),
        ([0.0], 3.0),
        ([9.0], 7.0),
    ],
)
def test_longest_gap_overlaps_the_disturbance(times: list[float], gap: float) -> None:
    assert longest_gap(times, 2.0, 3.0) == pytest.approx(gap)


def test_an_empty_run_does_not_pass() -> None:
    final = {"m": {K: ONE}}
    with pytest.raises(AssertionError, match="no write was acknowledged"):
        judge([], final).check()
    with pytest.raises(AssertionError, match="no read was answered"):
        judge([FIRST], final).check()
    judge([FIRST, Read("m", K, 1.0, 2.0, ONE)], final).check()
    with pytest.raises(AssertionError, match="1 violations"):
        judge([FIRST, Read("m", K, 1.0, 2.0, ONE)], final, elected=[(1, "a"), (1, "b")]).check()


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (201, {"version": 1, "revision": 5}, Outcome.ACKNOWLEDGED),
        (200, {"version": 2, "revision": 6}, Outcome.ACKNOWLEDGED),
        (200, {}, Outcome.UNKNOWN),
        (412, {"outcome": "not_applied"}, Outcome.PRECONDITION),
        (503, {"outcome": "not_applied"}, Outcome.REFUSED),
        (504, {"outcome": "unknown"}, Outcome.UNKNOWN),
        (500, {}, Outcome.UNKNOWN),
        (502, None, Outcome.UNKNOWN),
    ],
)
def test_an_answer_without_a_valid_word_is_unknown(status: int, body: object, outcome: Outcome) -> None:
    answer = httpx.Response(status, text="<html>") if body is None else httpx.Response(status, json=body)
    assert read_answer(answer)[0] is outcome
