"""Each planted bug is caught again, from the seed that caught it first (table.json, by `make mutants`)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.mutants.__main__ import TABLE, caught
from tests.mutants.hunt import Catch, judged
from tests.mutants.planted import ROOMS, Bug, DoesNotApply, bugs, planted

BUGS = bugs()
LEAST, LEAST_OF_A_ROOM = 40, 6


@pytest.fixture(scope="module")
def hunts() -> Mapping[str, Future[Catch]]:
    table = json.loads(TABLE.read_text())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {bug.name: pool.submit(caught, bug, table[bug.name]["seed"], 1) for bug in BUGS if bug.name in table}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught_again(bug: Bug, hunts: Mapping[str, Future[Catch]]) -> None:
    assert bug.name in hunts, "hunt it first: make mutants"
    catch = hunts[bug.name].result()
    recorded = json.loads(TABLE.read_text())[bug.name]
    assert (catch.how, catch.oracle) == (recorded["how"], recorded["oracle"]), catch


def test_there_are_enough_of_every_kind() -> None:
    assert len(BUGS) >= LEAST
    for room in ROOMS:
        assert sum(bug.room == room for bug in BUGS) >= LEAST_OF_A_ROOM, room


def test_a_patch_that_does_not_apply_is_a_failure(tmp_path: Path) -> None:
    stale = BUGS[0].patch.read_text().replace("\n-", "\n-no such line ", 5)
    path = tmp_path / "raft-stale.patch"
    path.write_text(stale)
    bug = Bug("raft-stale", "raft", "it is out of date", "us", "", path)
    with pytest.raises(DoesNotApply), planted(bug):
        pass


@pytest.mark.parametrize(
    ("failure", "how"),
    [
        ("Violated: [state hash] m0 and m1 differ", "oracle"),
        ("Violated: [uncaught] m0: AssertionError('x')", "own assertion"),
        ("Violated: [uncaught] m0: TypeError('x')", "crash"),
        ("KeyError: 3", "crash"),
    ],
)
def test_a_crash_is_no_catch(failure: str, how: str) -> None:
    assert judged(failure)[0] == how
