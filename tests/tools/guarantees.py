#!/usr/bin/env python3
"""Does every row of docs/guarantees.md name tests that are in a tier of `make test`, and does that run one of them?

Standard library only.
"""

from __future__ import annotations

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

PAGE = ROOT / "docs/guarantees.md"
_TEST = re.compile(r"`(tests/[^`]+::[^`]+)`")


def judge(page: str, tiers: list[str]) -> tuple[list[str], int]:
    """(faults, promises), from the page's text."""
    from tests.tools.promises import exists, in_a_tier, is_long

    faults, promises = [], 0
    for line in page.splitlines():
        if not line.startswith("| ") or line.startswith("| promise"):
            continue
        promises += 1
        tests = _TEST.findall(line)
        there = [test for test in tests if exists(test)]
        if not tests:
            faults.append(f"no test: {line[:80]}")
        elif there and all(map(is_long, there)):
            faults.append(f"long tests only: {line[:80]}")
        faults += [f"there is no {test}" for test in tests if test not in there]
        faults += [f"{test} is in no tier" for test in there if not in_a_tier(test, tiers)]
    return faults, promises


def main() -> int:
    from tests.run import TIERS

    faults, promises = judge(PAGE.read_text(), [path for tier in TIERS for path in tier.paths])
    print(*faults, f"guarantees: {promises}, each with the tests that keep it", sep="\n")
    return 1 if faults or not promises else 0


if __name__ == "__main__":
    sys.exit(main())
