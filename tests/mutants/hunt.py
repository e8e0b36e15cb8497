"""Hunts one bug, in a Python that has it: python -m tests.mutants.hunt FIRST COUNT. Prints a Catch as JSON.

Rule of this module: what counts is what an oracle found. A crash is none, and what only the product's own assertions
noticed is said apart.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import asdict, dataclass

from tests.simulation.runs import run

import oarlock

EVENTS = 20_000
_ORACLE = re.compile(r"Violated: \[([a-z ]+)\]")
OWN = ("AssertionError", "InvariantViolated", "LocalError")  # of the product itself


@dataclass(frozen=True)
class Catch:
    how: str  # oracle | own assertion | crash | survived
    oracle: str = ""
    seed: int = -1
    seeds: int = 0  # that were told until then
    said: str = ""


def judged(failure: str) -> tuple[str, str]:
    """(how, oracle) of one failed story."""
    found = _ORACLE.match(failure)
    if found is None:
        return "crash", ""
    if found[1] != "uncaught":
        return "oracle", found[1]
    return ("own assertion" if any(own in failure for own in OWN) else "crash"), "uncaught"


def hunt(first: int, count: int) -> Catch:
    """The first story that an oracle stops; else the first that anything stopped."""
    otherwise = Catch("survived", seeds=count)
    for number, seed in enumerate(range(first, first + count), 1):
        failure = run(seed, EVENTS).failure
        if failure:
            how, oracle = judged(failure)
            catch = Catch(how, oracle, seed, number, failure[:300])
            if how == "oracle":
                return catch
            if otherwise.how in ("survived", "crash"):
                otherwise = catch
    return otherwise


def main() -> int:
    where = os.environ["OARLOCK_PLANTED"]
    assert oarlock.__file__.startswith(where), f"{oarlock.__file__} is not the planted one, in {where}"
    print(json.dumps(asdict(hunt(int(sys.argv[1]), int(sys.argv[2])))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
