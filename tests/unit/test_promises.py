"""A promise without a test that ran is found; so is one whose mark was forgotten."""

from __future__ import annotations

import pytest
from tests.tools.promises import exists, judge

HERE = "tests/unit/test_promises.py::test_a_promise_is_kept_or_told"
LONG = "tests/e2e/scenarios/scaling.py::test_volumes_that_stay[plain]"


@pytest.mark.parametrize(
    ("promise", "shown", "faults", "pending"),
    [
        ({"test": HERE}, set(), 0, 0),
        ({"test": LONG}, {LONG}, 0, 0),
        ({"test": LONG}, set(), 1, 0),
        ({"test": LONG, "pending": "it was not run yet"}, set(), 0, 1),
        ({"test": LONG, "pending": "it was not run yet"}, {LONG}, 1, 0),
        ({"test": "tests/unit/test_promises.py::test_of_dreams"}, set(), 1, 0),
        ({"test": "tests/unit/no_such_file.py::test"}, set(), 1, 0),
    ],
)
def test_a_promise_is_kept_or_told(promise: dict[str, str], shown: set[str], faults: int, pending: int) -> None:
    found = judge([{"clause": "c", **promise}], ["tests/unit", "tests/e2e"], shown)
    assert tuple(map(len, found)) == (faults, pending)


def test_a_clause_stands_once() -> None:
    assert judge([{"clause": "c", "test": HERE}] * 2, ["tests/unit"], set())[0] == ["twice: c"]


def test_a_parameter_is_no_part_of_the_name() -> None:
    assert exists(LONG)
