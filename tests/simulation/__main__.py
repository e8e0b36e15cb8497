"""Tells stories (`make sim SEEDS=N FROM=K`). A seed that fails is told again with fewer faults and events, as long as
the same oracle stops it; the command that repeats it is printed, and its trace: time, who, what happened.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections import Counter

from tests.simulation.runs import Told, run_all, shrink

LINES = 60  # of a failed run's trace, without --trace


def tell_failure(told: Told, events: int, without: list[str], golden: pathlib.Path | None) -> None:
    print(f"seed {told.seed}: {told.failure}", flush=True)
    shrunk = shrink(told, events, without)
    print(*shrunk.told.lines[-LINES:], sep="\n")
    print(f"again: {shrunk.command}\n", flush=True)
    if golden is not None:
        path = golden / f"seed-{told.seed}.txt"
        path.write_text("\n".join([f"# {shrunk.command}", *shrunk.told.lines]) + "\n")
        print(f"written: {path}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many stories")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first one's seed")
    parser.add_argument("--events", type=int, default=20_000, help="of each, before everything heals")
    parser.add_argument("--without", default="", help="faults that the runs shall not know, separated by commas")
    parser.add_argument("--trace", action="store_true", help="print the whole trace of each run")
    parser.add_argument("--golden", type=pathlib.Path, help="a directory for the scripts of runs that fail")
    arguments = parser.parse_args()
    without = [name for name in arguments.without.split(",") if name]
    began = time.monotonic()
    together: Counter[str] = Counter()
    failed = acknowledged = events = 0
    for told in run_all(range(arguments.first, arguments.first + arguments.seeds), arguments.events, without):
        together.update(told.reached)
        acknowledged += told.acknowledged
        events += told.events
        if arguments.trace:
            print(*told.lines, sep="\n")
        if told.failure:
            failed += 1
            tell_failure(told, arguments.events, without, arguments.golden)
    for point, count in sorted(together.items()):
        print(f"{count:>9}  {point}")
    took = f"{events} events, {acknowledged} acknowledged writes in {time.monotonic() - began:.0f} s"
    print(f"{arguments.seeds} seeds, {took}; failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
