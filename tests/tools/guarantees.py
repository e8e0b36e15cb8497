#!/usr/bin/env python3
"""Does every row of docs/guarantees.md name tests that are in a tier of `make test`, and does that run one of them?

Whatever else the page names in backticks, in a row or not, must be there too: a token with `::` is a test, one that
ends in `.py` is a file. So a slip of the pen is no name that nobody looks up. Standard library only.
"""

from __future__ import annotations

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

PAGE = ROOT / "docs/guarantees.md"
_TOKEN = re.compile(r"`([^`]+)`")


def judge(page: str, tiers: list[str]) -> tuple[list[str], int]:
    """(faults, promises), from the page's text."""
    from tests.tools.promises import exists, in_a_tier, is_long

    faults, promises = [], 0
    for line in page.splitlines():
        tokens = _TOKEN.findall(line)
        tests = [token for token in tokens if "::" in token]
        there = [test for test in tests if exists(test)]
        if line.startswith("|") and not line.startswith(("| promise", "|---")):
            promises += 1
            if not tests:
                faults.append(f"no test: {line[:80]}")
            elif there and all(map(is_long, there)):
                faults.append(f"long tests only: {line[:80]}")
        faults += [f"there is no {test}" for test in tests if test not in there]
        faults += [f"{test} is in no tier" for test in there if not in_a_tier(test, tiers)]
        files = [token for token in tokens if token.endswith(".py") and "::" not in token]
        faults += [f"there is no {file}" for file in files if not (ROOT / file).is_file()]
    return faults, promises


def main() -> int:
    from tests.run import TIERS

    faults, promises = judge(PAGE.read_text(), [path for tier in TIERS for path in tier.paths])
    print(*faults, f"guarantees: {promises}, each with the tests that keep it", sep="\n")
    return 1 if faults or not promises else 0


if __name__ == "__main__":
    sys.exit(main())
