"""Many stories, on all cores.

Rule of this module: a run is its seed's alone, so it does not matter which process tells it, nor after which other.
"""

from __future__ import annotations

import itertools
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

from tests.simulation.story import Story, tell


class Told(NamedTuple):
    seed: int
    failure: str  # "" for none
    lines: tuple[str, ...]
    reached: Counter[str]
    events: int
    acknowledged: int
    fingerprint: int


def run(seed: int, events: int) -> Told:
    """One story. What an oracle found is told, what nobody expected is raised."""
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # of processes that were killed at birth
    sys.unraisablehook = lambda _: None  # of coroutines that are thrown away between two stories, where no loop runs
    try:
        story, failure = tell(seed, events), ""
    except Exception as error:
        story, failure = error.__dict__["story"], f"{type(error).__name__}: {error}"
    assert isinstance(story, Story)
    world = story.world
    return Told(
        seed, failure, tuple(world.lines), world.reached, world.events, story.clients.acknowledged, world.fingerprint
    )


def run_all(seeds: Iterable[int], events: int) -> Iterator[Told]:
    """What each told, in the order of the seeds."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        yield from pool.map(run, seeds, itertools.repeat(events))
