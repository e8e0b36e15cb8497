"""A promise without a test that ran is found; so is one whose mark was forgotten."""

from __future__ import annotations

import pytest
from tests.tools import guarantees
from tests.tools.promises import exists, is_long, judge

HERE = "tests/unit/test_promises.py::test_a_promise_is_kept_or_told"
LONG = "tests/e2e/scenarios/scaling.py::test_volumes_that_stay[plain]"
MARKED = "tests/chaos/test_partitions.py::test_ring_of_majorities"


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


def test_a_guarantee_without_a_test_that_exists_is_a_fault() -> None:
    page = "\n".join(
        [
            "| promise | kept by |",
            "|---|---|",
            "| kept | `tests/unit/test_promises.py::test_a_guarantee_without_a_test_that_exists_is_a_fault` |",
            "| unkept | |",
            "| gone | `tests/unit/test_promises.py::test_no_such_thing` |",
            "| elsewhere | `tests/e2e/scenarios/helm.py::test_a_cluster_is_installed_and_tested` |",
            f"| seldom | `{MARKED}` |",
            f"| also seldom | `{MARKED}`, `{HERE}` |",
        ]
    )
    faults, promises = guarantees.judge(page, ["tests/unit", "tests/chaos"])
    assert promises == 6
    begin = ("no test: | unkept", "there is no tests/unit", "tests/e2e/scenarios", "long tests only: | seldom")
    assert len(faults) == len(begin), faults
    assert all(fault.startswith(words) for fault, words in zip(faults, begin, strict=True)), faults


def test_a_mark_on_one_parameter_leaves_the_others() -> None:
    assert is_long(MARKED)
    assert not is_long("tests/chaos/test_disks.py::test_failed_sync_ends_the_member")
    assert not is_long(HERE)
