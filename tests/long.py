#!/usr/bin/env python3
"""Runs one part of the long tests and writes its evidence: long.py PART (`make test-long PART=...`).

A part is a list of scenarios, each a pytest run of its own. A part that was interrupted goes on where it stopped,
as long as the sources are the same. Its evidence (docs/evidence/PART.json) is written only when every scenario has run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import run
from tools import evidence

SLOW_DNS = {"OARLOCK_DNS_SECONDS": "30"}  # as real clusters have it: a name that was not there stays away for 30 s

PARTS: dict[str, dict[str, tuple[dict[str, str], list[str]]]] = {
    "e2e": {
        "the first road, with a DNS that forgets slowly": (SLOW_DNS, ["tests/e2e/test_first_road.py"]),
    },
}
TIER = {"e2e": "e2e"}  # whose packages and preparations a part needs


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in PARTS:
        print(f"there is no part {' '.join(sys.argv[1:]) or '(none named)'}; there are: {', '.join(PARTS)}")
        return 2
    part = sys.argv[1]
    of = evidence.trees()
    run.LOGS.mkdir(parents=True, exist_ok=True)
    progress = run.ROOT / f"build/long-{part}.json"
    results: list[dict[str, Any]] = []
    if progress.exists() and (before := json.loads(progress.read_text()))["trees"] == of:
        results = [r for r in before["results"] if r["outcome"] == "passed"]
    run.prepare_tier(next(t for t in run.TIERS if t.name == TIER[part]))
    for name, (environment, arguments) in PARTS[part].items():
        if any(r["scenario"] == name for r in results):
            print(f"{name}: passed before", flush=True)
            continue
        began = time.monotonic()
        report = ["-q", "-s", f"--junitxml={run.LOGS}/long-{part}.xml"]
        code = subprocess.run([sys.executable, "-m", "pytest", *report, *arguments], env={**os.environ, **environment},
                              cwd=run.ROOT).returncode  # fmt: skip
        outcome = "passed" if code == 0 else "failed"
        results.append({"scenario": name, "outcome": outcome, "seconds": round(time.monotonic() - began)})
        print(f"{name}: {outcome}", flush=True)
        progress.write_text(json.dumps({"trees": of, "results": results}))
    print(f"evidence: {evidence.write(part, of, results)}")
    return 0 if all(r["outcome"] == "passed" for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
