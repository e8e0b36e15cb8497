"""Three hundred clusters, whatever happens to them: rules 1 to 27 under everything at once (pitfalls F6, L12, M3)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.simulation import __main__, soak
from tests.simulation.coverage import CRASHES, FLOORS, POINTS
from tests.simulation.runs import Shrunk, Told, run, run_all, shrink
from tests.simulation.soak import KEPT

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 300
EVENTS = 20_000


@pytest.fixture(scope="module")
def stories() -> list[Told]:
    return list(run_all(range(SEEDS), EVENTS))


@pytest.mark.timeout(1200)
def test_no_oracle_stops_a_story(stories: list[Told]) -> None:
    failed = [told for told in stories if told.failure]
    for told in failed[:3]:
        shrunk = shrink(told, EVENTS)
        print(f"seed {told.seed}: {told.failure}", *shrunk.told.lines[-60:], f"again: {shrunk.command}", sep="\n")
    assert not failed, [(told.seed, told.failure) for told in failed]
    assert all(told.events >= EVENTS for told in stories)


def test_every_point_is_reached(stories: list[Told]) -> None:
    """What no story goes through, none tests."""
    reached: Counter[str] = sum((told.reached for told in stories), Counter())
    assert len(POINTS) >= 45
    assert not [point for point in POINTS if not reached[point]]


def test_much_happens(stories: list[Told]) -> None:
    done: Counter[str] = sum((told.reached for told in stories), Counter())
    done["crashes"] = sum(done[point] for point in CRASHES)
    done["acknowledged writes"] = sum(told.acknowledged for told in stories)
    for what, floor in FLOORS.items():
        print(f"{done[what]:>9} {what} (at least {floor})")
        assert done[what] >= floor, what


def test_what_failed_once_fails_no_more() -> None:
    """What `make test-long PART=soak` has kept."""
    for one in json.loads(KEPT.read_text()):
        told = run(one["seed"], one["events"], one["without"])
        assert not told.failure, one


def test_a_soak_keeps_what_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bad = run(3, 600)._replace(failure="Violated: [read] planted")
    monkeypatch.setattr(soak, "KEPT", tmp_path / "kept.json")
    soak.KEPT.write_text("[]")
    monkeypatch.setattr(soak, "run_all", lambda seeds, events: iter([bad]))
    monkeypatch.setattr(soak, "shrink", lambda told, events: Shrunk(told, 600, ("kill",)))
    told = soak.soak(0.0, 5.0)
    assert (told["seeds"], told["failed"], told["from"]) == (1, 1, 5000)
    assert json.loads(soak.KEPT.read_text()) == [
        {"seed": 3, "events": 600, "without": ["kill"], "what": "Violated: [read] planted"}
    ]


def test_a_script_is_played_again_by_its_first_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bad = run(3, 600)._replace(failure="Violated: [read] planted")
    monkeypatch.setattr(__main__, "shrink", lambda told, events, without: Shrunk(told, 600, ()))
    __main__.tell_failure(bad, 20_000, [], tmp_path)
    command, *lines = (tmp_path / "seed-3.txt").read_text().splitlines()
    assert command.startswith("# .venv/bin/python -m tests.simulation ")
    program = [sys.executable, *command.removeprefix("# .venv/bin/python ").split(), "--trace"]
    told = subprocess.run(program, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) > 50
    assert told[: len(lines)] == lines


def test_a_seed_is_a_run() -> None:
    """Whatever the order of sets and dictionaries, and whatever was told before in the same process."""
    program = "from tests.simulation.runs import run; print([run(s, 6000).fingerprint for s in (3, 17, 24)])"
    told = [run(seed, 6000).fingerprint for seed in (24, 3, 17)]
    for order in ("0", "12345"):
        environment = {**os.environ, "PYTHONHASHSEED": order, "PYTHONPATH": str(ROOT)}
        again = subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True
        )
        assert again.stdout.strip() == str([told[1], told[2], told[0]]), again.stderr
