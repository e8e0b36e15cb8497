"""The planner, proved as far as tests go: random stories by the hundred thousand steps, and bugs that they must notice.

Out of these stories, because the operator does none of it yet: learners that stay (I8 is kept for those that join),
hibernation in I9 and I24, backups (I23), recovery of a lost quorum, certificates. What a real Raft must keep (I7, I22)
has its own tests below the operator; here it is what the operator might do to it.
"""

from __future__ import annotations

import ast
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.operator import storm
from tests.operator.planted import hunt
from tests.operator.planted.bugs import BUGS, Bug
from tests.operator.sim import Oracle

WORKERS = 2
STEPS = 100_000
FIRST_SEED = 10_000
FLOORS = {
    "crashes": 150,
    "stale reads": 500,
    "stale answers": 50,
    "missing answers": 300,
    "refused calls": 80,
    "lost answers": 80,
    "scale": 100,
    "change image": 80,
    "rolls": 150,
    "replacements": 40,
    "evictions": 100,
    "second operator": 30,
}
INVARIANTS = {f"I{number}" for number in range(1, 25)} - {"I11", "I12", "I13", "I23"}  # three are weathers, one is out


def _tell(seeds: range) -> tuple[Counter[str], list[str]]:
    """In a process of its own: stories one after the other; what went wrong, with its seed."""
    storm.quiet_logs()
    counts: Counter[str] = Counter()
    wrong = []
    for seed in seeds:
        if storm.steps(counts) >= STEPS // WORKERS:
            break
        try:
            storm.tell(seed, counts)
        except Oracle as oracle:
            wrong.append(f"story {seed}: {oracle}")
    return counts, wrong


def test_a_hundred_thousand_steps_keep_every_invariant(capsys: pytest.CaptureFixture[str]) -> None:
    """I1 to I24 and every "never" of `oracles`, under all weathers; a crash may follow each side effect (I11)."""
    seeds = [range(FIRST_SEED * (1 + worker), FIRST_SEED * (1 + worker) + 5000) for worker in range(WORKERS)]
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    with ProcessPoolExecutor(WORKERS) as pool:
        for some, said in pool.map(_tell, seeds):
            counts += some
            wrong += said
    with capsys.disabled():
        print(f"\n{storm.steps(counts)} steps: {dict(sorted(counts.items()))}")
    assert not wrong, "\n".join(wrong)
    assert storm.steps(counts) >= STEPS
    assert {what: counts[what] for what, floor in FLOORS.items() if counts[what] < floor} == {}


def test_stories_follow_from_their_seed() -> None:
    first, again = storm.tell(FIRST_SEED), storm.tell(FIRST_SEED)
    assert (first.tale, first.counts, first.sim.writes) == (again.tale, again.counts, again.sim.writes)


@pytest.fixture(scope="module")
def hunted() -> dict[str, dict[str, object] | Exception]:
    """Each bug in a process of its own, from the story in which it was noticed when the table was made."""
    stories = hunt.recorded()

    def one(bug: Bug) -> dict[str, object] | Exception:
        try:
            return hunt.hunt(bug, stories[bug.name])
        except (ValueError, RuntimeError) as why:
            return why

    with ThreadPoolExecutor(WORKERS) as pool:
        return dict(zip((bug.name for bug in BUGS), pool.map(one, BUGS), strict=True))


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_noticed(bug: Bug, hunted: dict[str, dict[str, object] | Exception]) -> None:
    """By the invariant that is named for it, not by an error of another kind; the edits must still apply."""
    found = hunted[bug.name]
    if isinstance(found, Exception):
        raise found
    assert found["invariant"] in bug.invariants, found["says"]


def test_without_a_bug_the_same_stories_end_well(hunted: dict[str, dict[str, object] | Exception]) -> None:
    last = [found["seed"] for found in hunted.values() if not isinstance(found, Exception)]
    storm.quiet_logs()
    for seed in sorted({int(str(seed)) for seed in last}):
        storm.tell(seed)


def test_every_invariant_has_an_oracle_and_a_bug_where_one_is_possible() -> None:
    """What is named in `oracles`, `storm` and `simraft`; and that most of it was seen to fire."""
    here = Path(__file__).parent
    named = set()
    for file in ("oracles.py", "storm.py", "simraft.py"):
        for node in ast.walk(ast.parse((here / file).read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value[:1] in ("I", "N"):
                name = node.value.partition(":")[0]
                if name[1:].isdigit() and ":" in node.value:
                    named.add(name)
    assert named >= INVARIANTS, INVARIANTS - named
    planted = {name for bug in BUGS for name in bug.invariants}
    assert planted <= named
    assert named - planted <= {"I22", "N3", "N6", "N13", "N16", "N19"}, named - planted


def test_the_table_of_bugs_names_them_all() -> None:
    rows = [line.split(" | ")[:3] for line in hunt.TABLE.read_text().splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in rows] == [bug.name for bug in BUGS]
    assert [row[1] for row in rows] == [bug.source for bug in BUGS]
    assert all(row[2] in bug.invariants for row, bug in zip(rows, BUGS, strict=True))
