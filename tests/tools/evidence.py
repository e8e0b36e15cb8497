#!/usr/bin/env python3
"""What `make test-long` has proved, and of which sources: docs/evidence/PART.json.

    evidence.py        says of each part whether its evidence still belongs to the sources that are checked out

A part's evidence is stale once one of the trees that it names differs from the one committed now.
"""

from __future__ import annotations

import datetime
import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / "docs/evidence"
TREES = ("node", "operator", "charts", "tests")


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def trees() -> dict[str, str]:
    """Git's hash of each source tree at HEAD; raises SystemExit if one has changes that are not committed."""
    if changed := git("status", "--porcelain", "--", *TREES):
        raise SystemExit(f"evidence is of committed sources, and these are not:\n{changed}")
    return committed()


def committed() -> dict[str, str]:
    return {tree: git("rev-parse", f"HEAD:{tree}") for tree in TREES}


def write(part: str, of: dict[str, str], results: list[dict[str, object]]) -> pathlib.Path:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    path = DIRECTORY / f"{part}.json"
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    path.write_text(json.dumps({"part": part, "date": date, "trees": of, "results": results}, indent=2) + "\n")
    return path


def stale(told: dict[str, str], now: dict[str, str]) -> list[str]:
    """The trees that differ."""
    return [tree for tree in TREES if told.get(tree) != now.get(tree)]


def main() -> None:
    files = sorted(DIRECTORY.glob("*.json"))
    now = committed() if files else {}
    for file in files:
        told = json.loads(file.read_text())
        passed = sum(r["outcome"] == "passed" for r in told["results"])
        old = stale(told["trees"], now)
        word = f"STALE ({', '.join(old)} changed since)" if old else "current"
        print(f"evidence {told['part']}: {passed} of {len(told['results'])} passed on {told['date']}, {word}")
    if not files:
        print("evidence: none yet (make test-long PART=...)")


if __name__ == "__main__":
    main()
