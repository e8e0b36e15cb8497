#!/usr/bin/env python3
"""What `make test-long` has proved, and of which sources: docs/evidence/PART.json.

    evidence.py        says of each part whether its evidence still belongs to the sources that are checked out

A part's evidence is stale once one of the sources that it names (trees and files, by git's hash) differs from what is
committed now, or once the part has come to depend on others.
"""

from __future__ import annotations

import datetime
import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / "docs/evidence"
PRODUCT = ("node", "operator", "charts", "manifests", "Dockerfile", "requirements")
SOURCES = {  # of each part: the product, and what judges it
    "e2e": (*PRODUCT, "tests/e2e", "tests/kube", "tests/images", "tests/judge.py", "tests/load.py", "tests/long.py"),
}


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def sources(part: str) -> dict[str, str]:
    """Git's hash of each of a part's sources at HEAD; raises SystemExit if one has changes that are not committed."""
    if changed := git("status", "--porcelain", "--", *SOURCES[part]):
        raise SystemExit(f"evidence is of committed sources, and these are not:\n{changed}")
    return committed(part)


def committed(part: str) -> dict[str, str]:
    return {source: git("rev-parse", f"HEAD:{source}") for source in SOURCES[part]}


def write(part: str, of: dict[str, str], results: list[dict[str, object]]) -> pathlib.Path:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    path = DIRECTORY / f"{part}.json"
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    path.write_text(json.dumps({"part": part, "date": date, "sources": of, "results": results}, indent=2) + "\n")
    return path


def stale(told: dict[str, str], now: dict[str, str]) -> list[str]:
    """Those that differ."""
    return sorted(source for source in told.keys() | now.keys() if told.get(source) != now.get(source))


def main() -> None:
    files = sorted(DIRECTORY.glob("*.json"))
    for file in files:
        told = json.loads(file.read_text())
        passed = sum(r["outcome"] == "passed" for r in told["results"])
        old = stale(told.get("sources", {}), committed(told["part"]))
        word = f"STALE ({', '.join(old)} changed since)" if old else "current"
        print(f"evidence {told['part']}: {passed} of {len(told['results'])} passed on {told['date']}, {word}")
    if not files:
        print("evidence: none yet (make test-long PART=...)")


if __name__ == "__main__":
    main()
