"""Tells new stories for hours (`make test-long PART=soak HOURS=N`).

Rule of this module: no seed is told twice, by any soak; what fails is shrunk and kept in kept.json, which every later
`make test` tells again.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

from tests.simulation.runs import Shrunk, run_all, shrink

KEPT = Path(__file__).parent / "kept.json"
EVENTS = 20_000
BATCH = 40  # stories between two looks at the clock


def soak(hours: float, began: float) -> dict[str, Any]:
    """What was told until `hours` after `began` (seconds of Unix time, which also says which seeds are new)."""
    first = int(began) * 1000
    told = {"seeds": 0, "from": first, "events": 0, "acknowledged": 0, "failed": 0}
    for start in itertools.count(first, BATCH):
        if told["seeds"] and time.time() - began > hours * 3600:
            return told
        for one in run_all(range(start, start + BATCH), EVENTS):
            told["seeds"] += 1
            told["events"] += one.events
            told["acknowledged"] += one.acknowledged
            if one.failure:
                told["failed"] += 1
                shrunk = shrink(one, EVENTS)
                keep(shrunk)
                print(f"seed {one.seed}: {one.failure}\nagain: {shrunk.command}", flush=True)
        print(f"{told['seeds']} stories told, {told['failed']} failed", flush=True)
    raise AssertionError("time does not end")


def keep(shrunk: Shrunk) -> None:
    kept = json.loads(KEPT.read_text())
    told = shrunk.told
    kept.append(
        {"seed": told.seed, "events": shrunk.events, "without": list(shrunk.without), "what": told.failure[:200]}
    )
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
