"""Many stories, on all cores; and the smallest form of one that fails.

Rule of this module: a run is its seed's alone, so it does not matter which process tells it, nor after which other.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import NamedTuple

from tests.simulation.story import Story, tell

SHORTEST = 500  # events
_ORACLE = re.compile(r"Violated: \[([a-z ]+)\]")


class Told(NamedTuple):
    seed: int
    failure: str  # "" for none
    lines: tuple[str, ...]
    reached: Counter[str]
    faults: tuple[str, ...]  # that the run knew
    events: int
    acknowledged: int
    fingerprint: int

    @property
    def oracle(self) -> str:
        """Which one stopped it; "" if none did."""
        found = _ORACLE.match(self.failure)
        return found[1] if found else ""


def run(seed: int, events: int, without: Collection[str] = ()) -> Told:
    """One story. What an oracle found is told, what nobody expected is raised."""
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # of processes that were killed at birth
    sys.unraisablehook = lambda _: None  # of coroutines that are thrown away between two stories, where no loop runs
    try:
        story, failure = tell(seed, events, without), ""
    except Exception as error:
        story, failure = error.__dict__["story"], f"{type(error).__name__}: {error}"
    assert isinstance(story, Story)
    world = story.world
    return Told(
        seed,
        failure,
        tuple(world.lines),
        world.reached,
        tuple(story.faults.names),
        world.events,
        story.clients.acknowledged,
        world.fingerprint,
    )


def run_all(seeds: Iterable[int], events: int, without: Collection[str] = ()) -> Iterator[Told]:
    """What each told, in the order of the seeds."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        yield from pool.map(run, seeds, itertools.repeat(events), itertools.repeat(without))


@dataclass(frozen=True)
class Shrunk:
    told: Told
    events: int
    without: tuple[str, ...]

    @property
    def command(self) -> str:
        """That repeats it."""
        less = f" --without {','.join(self.without)}" if self.without else ""
        return f".venv/bin/python -m tests.simulation --seeds 1 --from {self.told.seed} --events {self.events}{less}"


def shrink(told: Told, events: int, without: Collection[str] = ()) -> Shrunk:
    """Fewer kinds of fault and fewer events, as long as the same oracle stops the run."""
    best = Shrunk(told, events, tuple(without))
    for fault in told.faults:
        less = (*best.without, fault)
        again = run(told.seed, best.events, less)
        if again.failure and again.oracle == told.oracle:
            best = Shrunk(again, best.events, less)
    while best.events > SHORTEST:
        again = run(told.seed, best.events // 2, best.without)
        if not again.failure or again.oracle != told.oracle:
            break
        best = Shrunk(again, best.events // 2, best.without)
    return best
