"""Each planted bug is caught again, from the seed that caught it first (table.json, by `make mutants`).

A change of the sources changes what a seed tells: a few seeds after the recorded one count as well, and any oracle.
What they do not catch any more is to be hunted anew.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.mutants.__main__ import TABLE, caught
from tests.mutants.hunt import Catch, judged
from tests.mutants.planted import ROOMS, Bug, DoesNotApply, bugs, planted

BUGS = bugs()
REPLAYED = 3
RECORDED = json.loads(TABLE.read_text())


@pytest.fixture(scope="module")
def hunts() -> Mapping[str, Future[Catch]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {b.name: pool.submit(caught, b, RECORDED[b.name]["seed"], REPLAYED) for b in BUGS if b.name in RECORDED}


@pytest.mark.parametrize("name", RECORDED)
def test_a_planted_bug_is_caught_again(name: str, hunts: Mapping[str, Future[Catch]]) -> None:
    catch = hunts[name].result()
    assert catch.how == RECORDED[name]["how"], catch


def test_every_planted_bug_has_been_caught() -> None:
    assert sorted(RECORDED) == sorted(bug.name for bug in BUGS)
    assert len(BUGS) >= 40
    rooms = Counter(bug.room for bug in BUGS)
    assert all(rooms[room] >= 6 for room in ROOMS), rooms


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_patch_applies(bug: Bug) -> None:
    with planted(bug) as environment:
        assert environment["OARLOCK_PLANTED"]


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
