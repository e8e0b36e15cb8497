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


@pytest.mark.parametrize("place", ["| kept | `{here}`, {token} |", "| kept | {token}, `{here}` |", "So {token} shows."])
@pytest.mark.parametrize(
    ("named", "fault"),
    [
        (HERE, ""),
        ("tests/unit/test_promises.py", ""),
        ("consistency=stale", ""),
        ("test/unit/test_promises.py::test_a_promise_is_kept_or_told", "there is no test/unit"),
        ("unit/test_promises.py::test_a_promise_is_kept_or_told", "there is no unit"),
        ("tests/unit/test_promises.py::test_of_dreams", "there is no tests/unit"),
        ("tests/unit/test_promises.py::", "there is no tests/unit"),
        ("tests/unit/test_promises::test_a_promise_is_kept_or_told", "there is no tests/unit"),
        ("tests/unit/gone.py", "there is no tests/unit/gone.py"),
        ("gone.py", "there is no gone.py"),
        ("docs/guarantees.md::test_a_promise_is_kept_or_told", "there is no docs"),
        ("tests/e2e/scenarios/helm.py::test_a_cluster_is_installed_and_tested", "tests/e2e/scenarios/helm.py::"),
    ],
)
def test_every_name_on_the_page_is_looked_up(place: str, named: str, fault: str) -> None:
    """Also beside a good one, and where no promise is made."""
    line = place.format(here=HERE, token=f"`{named}`")
    faults, _ = guarantees.judge(line, ["tests/unit"])
    assert len(faults) == bool(fault), faults
    assert not fault or faults[0].startswith(fault), faults


@pytest.mark.parametrize("row", ["|unkept| |", "| unkept | |"])
def test_a_row_is_one_however_it_is_spaced(row: str) -> None:
    assert guarantees.judge(f"| promise | kept by |\n|---|---|\n{row}", [])[0] == [f"no test: {row}"]


def test_a_mark_on_one_parameter_leaves_the_others() -> None:
    assert is_long(MARKED)
    assert not is_long("tests/chaos/test_disks.py::test_failed_sync_ends_the_member")
    assert not is_long(HERE)
