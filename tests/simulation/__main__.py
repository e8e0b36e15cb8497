"""Tells stories: python -m tests.simulation [--seeds N] [--from K] [--events N] [--trace]  (`make sim SEEDS=N FROM=K`).

A seed that fails is printed with the command that repeats it and the end of its trace.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.runs import run_all

LINES = 60  # of a failed run's trace, without --trace


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--trace", action="store_true", help="print the whole trace of each run")
    arguments = parser.parse_args()
    began = time.monotonic()
    together: Counter[str] = Counter()
    failed = acknowledged = events = 0
    for told in run_all(range(arguments.first, arguments.first + arguments.seeds), arguments.events):
        together.update(told.reached)
        acknowledged += told.acknowledged
        events += told.events
        if arguments.trace:
            print("\n".join(told.lines))
        if told.failure:
            failed += 1
            print(f"seed {told.seed}: {told.failure}")
            print("\n".join(told.lines[-LINES:]))
            print(f"again: make sim SEEDS=1 FROM={told.seed}\n", flush=True)
    for point, count in sorted(together.items()):
        print(f"{count:>9}  {point}")
    seconds = time.monotonic() - began
    print(
        f"{arguments.seeds} seeds, {events} events, {acknowledged} acknowledged writes in {seconds:.0f} s; failed: {failed}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
