#!/usr/bin/env python3
"""What `make test-long` has proved, and of which sources: docs/evidence/PART.json.

    evidence.py        says of each part whether its evidence still belongs to the sources that are checked out

Each scenario's result names the sources that it rests on (trees and files, by git's hash): the product, what judges it,
and the scenario's own file. It is stale once one of them differs from what is committed now, or there are others.
"""

from __future__ import annotations

import datetime
import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / "docs/evidence"
PRODUCT = ("node", "operator", "charts", "manifests", "Dockerfile", "requirements")
CHAOS = ("tests/chaos/[!t]*", "tests/integration/members.py")  # what its scenarios have in common
STORIES = ("tests/simulation", "tests/judge.py", "tests/majorities.py", "tests/simdisk.py", "tests/wgl.py")
# Of the ordinary tests that hunt a planted bug only what they share: the tests themselves (tests/property, tests/unit,
# tests/integration, tests/golden) change daily, and `make test` replays every bug against them on each run.
HUNTERS = (
    *("tests/counter_machine.py", "tests/crashes.py", "tests/member.py", "tests/member_cluster.py"),
    *("tests/peer_members.py", "tests/raft_cluster.py", "tests/raft_solo.py", "tests/state_driver.py"),
    "tests/wal_model.py",
)
SOURCES = {  # of each part: the product, and what judges it; a star stands for what is committed there
    "soak": ("node", *STORIES),
    "mutants": ("node", *STORIES, "tests/mutants/[!t]*", *HUNTERS),
    "chaos": ("node", "requirements", *CHAOS, "tests/flood.py", "tests/judge.py", "tests/load.py", "tests/wgl.py"),
    "e2e": (*PRODUCT, "tests/e2e/*.py", "tests/kube", "tests/images", "tests/judge.py", "tests/load.py"),
}


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def refuse_uncommitted() -> None:
    """Raises SystemExit if a source has changes that are not committed."""
    if changed := git("status", "--porcelain", "--", *PRODUCT, "tests"):
        raise SystemExit(f"evidence is of committed sources, and these are not:\n{changed}")


def sources(part: str, *files: str) -> dict[str, str]:
    """Git's hash, at HEAD, of each of a part's sources and of these files besides; one that is not there has none."""
    found = {}
    for source in (*SOURCES[part], *files):
        for line in git("ls-tree", "HEAD", *([source] if "*" not in source else _below(source))).splitlines():
            described, _, name = line.partition("\t")
            found[name] = described.split()[2]
    return found


def _below(pattern: str) -> list[str]:
    """git's ls-tree knows no patterns."""
    names = git("ls-tree", "--name-only", "HEAD", f"{pathlib.PurePosixPath(pattern).parent}/").splitlines()
    return [name for name in names if pathlib.PurePosixPath(name).match(pattern)]


def write(part: str, results: list[dict[str, object]]) -> pathlib.Path:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    path = DIRECTORY / f"{part}.json"
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    path.write_text(json.dumps({"part": part, "date": date, "results": results}, indent=2) + "\n")
    return path


def stale(told: dict[str, str], now: dict[str, str]) -> list[str]:
    """Those that differ."""
    return sorted(source for source in told.keys() | now.keys() if told.get(source) != now.get(source))


def main() -> None:
    files = sorted(DIRECTORY.glob("*.json"))
    for file in files:
        told = json.loads(file.read_text())
        passed = sum(r["outcome"] == "passed" for r in told["results"])
        old = sorted(
            {
                source
                for r in told["results"]
                for source in stale(r.get("sources", {}), sources(told["part"], *r.get("files", ())))
            }
        )
        word = f"STALE ({', '.join(old)} changed since)" if old else "current"
        print(f"evidence {told['part']}: {passed} of {len(told['results'])} passed on {told['date']}, {word}")
    if not files:
        print("evidence: none yet (make test-long PART=...)")


if __name__ == "__main__":
    main()
