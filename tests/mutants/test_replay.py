"""Each planted bug is caught again, from the seed that caught it first (table.json, by `make mutants`).

A change of the sources changes what a seed tells: a few seeds after the recorded one count as well, and any oracle.
What they do not catch any more is to be hunted anew.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.mutants.__main__ import EXHAUSTIVE, TABLE, caught, hunters
from tests.mutants.hunt import CAUGHT, Catch, judged, judged_test
from tests.mutants.planted import PATCHES, ROOMS, Bug, DoesNotApply, bugs, planted

BUGS = bugs()
REPLAYED = 3
MOST_STORIES = 200  # a bug that takes more is as good as not caught
RECORDED = json.loads(TABLE.read_text())


@pytest.fixture(scope="module")
def hunts() -> Iterator[Mapping[str, Future[Catch]]]:
    """In the order of the tests, so that each waits for its own alone."""
    known = {bug.name: bug for bug in BUGS}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {n: pool.submit(caught, known[n], row["seed"], REPLAYED) for n, row in RECORDED.items() if n in known}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", RECORDED)
def test_a_planted_bug_is_caught_again(name: str, hunts: Mapping[str, Future[Catch]]) -> None:
    catch = hunts[name].result()
    assert catch.how == RECORDED[name]["how"], catch


def test_every_planted_bug_has_been_caught() -> None:
    assert sorted(RECORDED) == sorted(bug.name for bug in BUGS)
    assert len(BUGS) >= 40
    rooms = Counter(bug.room for bug in BUGS)
    assert all(rooms[room] >= 6 for room in ROOMS), rooms
    assert all(row["how"] in CAUGHT for row in RECORDED.values())
    simulated = [bug.name for bug in BUGS if not bug.test]
    late = {name: RECORDED[name] for name in simulated if not 1 <= RECORDED[name]["stories"] <= MOST_STORIES}
    assert not late


def test_who_hunts_which_bug_is_told_apart() -> None:
    """Enough bugs of each room are left to a search of many histories, and not to a test written for one."""
    tests = ("", "tests/property/test_kv_model.py", "tests/unit/test_raft_commit.py::test_x")
    three = [Bug("raft-a", "raft", "", "", test, PATCHES) for test in tests]
    assert hunters(three) == "1 by the simulation, 1 by exhaustive or random tests, 1 by ordinary tests"
    searched = [bug for bug in BUGS if not bug.test or bug.test.startswith(EXHAUSTIVE)]
    assert len(searched) >= 40
    assert all(sum(bug.room == room for bug in searched) >= 6 for room in ROOMS)


def test_the_list_of_sources_names_patches_that_are_there() -> None:
    text = (PATCHES.parent / "README.md").read_text()
    named = re.findall(rf"`((?:{'|'.join(ROOMS)})-\w+)`", text)
    assert len(named) >= 40
    assert set(named) <= {bug.name for bug in BUGS}


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
        ("Violated: [search] is the history of b'key-1' linearizable? no\nOperation(...)", "oracle"),
        ("Violated: [search] is the history of b'key-1' linearizable? unknown\nOperation(...)", "undecided"),
    ],
)
def test_a_crash_is_no_catch(failure: str, how: str) -> None:
    assert judged(failure)[0] == how


def failed(*places: str) -> str:
    """What pytest prints of a test that ended at the last of these places."""
    shown = "\n\n_ _ _ _ _ _\n\n".join(f">       do()\nE       Kind: why\n\n{place}" for place in places)
    return (
        f"F\n=== FAILURES ===\n___ test_it ___\n\n{shown}\n=== short test summary info ===\nFAILED tests/unit/a.py::b\n"
    )


CORE = "../../tmp/oarlock-mutant-x/node/oarlock/raft/core.py:12"
CHECKS = "../../tmp/oarlock-mutant-x/node/oarlock/raft/invariants.py:34"
HERE = "tests/unit/test_it.py:7"
GROUP = """F
=== FAILURES ===
  + Exception Group Traceback (most recent call last):
  |   File "/work/tests/property/test_it.py", line 9, in test_it
  |     def test_it(run: list[tuple]) -> None:
  |                    ^^^
  | ExceptionGroup: Hypothesis found 2 distinct failures. (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/work/tests/property/test_it.py", line 10, in test_it
    |     do()
    |   File "FILE", line 11, in do
    |     raise x
    | KIND: why
    | Falsifying example: test_it(
    |     run=[],
    | )
    +---------------- 2 ----------------
    | Traceback (most recent call last):
    |   File "/work/tests/property/test_it.py", line 12, in test_it
    |     nme
    |     ^^^
    | NameError: name 'nme' is not defined
    +------------------------------------
"""


@pytest.mark.parametrize(
    ("output", "how"),
    [
        (failed(f"{HERE}: AssertionError"), "oracle"),
        (failed(f"{HERE}: Failed"), "oracle"),  # it did not raise
        (failed(f"{HERE}: KeyError"), "oracle"),
        (failed(f"{HERE}: ", f"{CORE}: Corrupt"), "oracle"),  # of a log that is sound
        (failed(f"{HERE}: ", f"{CHECKS}: in check_basic", f"{CHECKS}: InvariantViolated"), "oracle"),
        (failed(f"{HERE}: ", f"{CORE}: InvariantViolated"), "own assertion"),
        (failed(f"{HERE}: ", f"{CORE}: AssertionError"), "own assertion"),
        (failed(f"{HERE}: ", f"{CORE}: LocalError"), "own assertion"),
        (failed(f"{HERE}: ", f"{CORE}: KeyError"), "crash"),
        (failed(f"{HERE}: ", f"{CORE}: NameError"), "crash"),
        (failed(f"{HERE}: AttributeError"), "crash"),
        (failed(f"{HERE}: ", f"{CORE}: KeyError", f"{HERE}: AssertionError"), "oracle"),  # while it was handled
        (GROUP.replace("KIND", "AssertionError").replace("FILE", "/work/tests/property/test_it.py"), "oracle"),
        (GROUP.replace("KIND", "oarlock.raft.errors.LocalError").replace("FILE", CORE), "own assertion"),
        (GROUP.replace("KIND", "TypeError").replace("FILE", CORE), "crash"),
        ("Segmentation fault", "crash"),
    ],
)
def test_a_crash_of_a_test_is_no_catch(output: str, how: str) -> None:
    assert judged_test(output) == how
