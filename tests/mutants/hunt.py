"""Hunts one bug, in a Python that has it: python -m tests.mutants.hunt FIRST COUNT. Prints a Catch as JSON.

Rule of this module: what counts is what an oracle found. A crash is none, nor is a search that gave up; what only the
product's own assertions noticed is said apart. The same holds of a bug that an ordinary test is to catch.
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
CAUGHT = ("oracle", "own assertion")
OWN = ("AssertionError", "InvariantViolated", "LocalError")  # of the product itself
CRASHES = (
    *("NameError", "UnboundLocalError", "AttributeError", "ImportError", "ModuleNotFoundError", "TypeError"),
    *("SyntaxError", "IndentationError", "RecursionError"),
)
LOOKUPS = ("KeyError", "IndexError")  # crashes in the product; in a test it is the answer that is missing
CHECKER = "node/oarlock/raft/invariants.py"  # only tests call it: what it finds, they found

_ORACLE = re.compile(r"Violated: \[([a-z ]+)\]")
_UNDECIDED = re.compile(r"Violated: \[search\] .* linearizable\? unknown")
_RAISED = re.compile(r"^(\S+\.py):\d+: (\w+)$", re.MULTILINE)  # how pytest ends a traceback
_MARGIN = re.compile(r"^ +\| ", re.MULTILINE)
_RAISED_IN_GROUP = re.compile(r'^  File "(.+)", line \d+, in .+\n(?:    .*\n)*(?:\w+\.)*(\w+)(?::|$)', re.MULTILINE)


@dataclass(frozen=True)
class Catch:
    how: str  # oracle | own assertion | crash | undecided | survived
    oracle: str = ""
    seed: int = -1
    seeds: int = 0  # that were told until then
    said: str = ""


def judged(failure: str) -> tuple[str, str]:
    """(how, oracle) of one failed story."""
    found = _ORACLE.match(failure)
    if found is None:
        return "crash", ""
    if _UNDECIDED.match(failure):
        return "undecided", found[1]
    if found[1] != "uncaught":
        return "oracle", found[1]
    return ("own assertion" if any(own in failure for own in OWN) else "crash"), "uncaught"


def judged_test(output: str) -> str:
    """`how` of a test that failed, from what pytest printed (`--tb=auto`). Of several exceptions the best counts:
    hypothesis raises all that it found as a group, and pytest leaves a group's tracebacks as Python prints them."""
    raised = _RAISED.findall(output)[-1:] or _RAISED_IN_GROUP.findall(_MARGIN.sub("", output))
    hows = [_how(file, kind) for file, kind in raised if not kind.endswith("ExceptionGroup")]
    return next((how for how in CAUGHT if how in hows), "crash")


def _how(file: str, kind: str) -> str:
    own = "node/oarlock/" in file and not file.endswith(CHECKER)
    if kind in CRASHES or (own and kind in LOOKUPS):
        return "crash"
    return "own assertion" if own and kind in OWN else "oracle"


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
            if otherwise.how != "own assertion":
                otherwise = catch
    return otherwise


def main() -> int:
    where = os.environ["OARLOCK_PLANTED"]
    assert oarlock.__file__.startswith(where), f"{oarlock.__file__} is not the planted one, in {where}"
    print(json.dumps(asdict(hunt(int(sys.argv[1]), int(sys.argv[2])))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
