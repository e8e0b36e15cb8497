#!/usr/bin/env python3
"""Runs one part of the long tests and writes its evidence: long.py PART, or long.py soak HOURS (`make test-long`).

A part is a list of scenarios, each a pytest run of its own. A part that was interrupted goes on where it stopped: what
passed is not run again as long as its sources are the same. Its evidence (docs/evidence/PART.json) is written only when
every scenario has run.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from typing import Any

import run
from tools import evidence

SLOW_DNS = {"OARLOCK_DNS_SECONDS": "30"}  # as real clusters have it: a name that was not there stays away for 30 s

SCENARIOS = "tests/e2e/scenarios"


def scenario(file: str, *chosen: str) -> tuple[dict[str, str], list[str]]:
    """A file of scenarios, or some of its tests, on a Kubernetes of its own."""
    return SLOW_DNS, [f"{SCENARIOS}/{file}.py", *(["-k", " ".join(chosen)] if chosen else [])]


PARTS: dict[str, dict[str, tuple[dict[str, str], list[str]]]] = {
    "e2e": {
        "the first road, with a DNS that forgets slowly": (SLOW_DNS, ["tests/e2e/test_first_road.py"]),
        "founding": scenario("founding"),
        "scaling": scenario("scaling", "plain"),
        "scaling, operator killed": scenario("scaling", "killed"),
        "rolling": scenario("rolling", "plain"),
        "rolling, operator killed": scenario("rolling", "killed"),
        "volumes": scenario("volumes", "not killed"),
        "volumes, operator killed": scenario("volumes", "killed"),
        "nodes": scenario("nodes", "not killed"),
        "nodes, operator killed": scenario("nodes", "killed"),
        "rebirth": scenario("rebirth"),
        "operators": scenario("operators_at_work"),
        "helm": scenario("helm"),
    },
    "chaos": {
        what: ({}, [f"tests/chaos/test_{what}.py"])
        for what in ("oracles", "processes", "partitions", "disks", "clocks", "bytes", "snapshots", "membership")
    },
}
TIER = {"e2e": "e2e", "chaos": "chaos"}  # whose packages and preparations a part needs


def main() -> int:
    if len(sys.argv) == 3 and sys.argv[1] == "soak":
        return soak(float(sys.argv[2]))
    if sys.argv[1:] == ["mutants"]:
        return mutants()
    if len(sys.argv) != 2 or sys.argv[1] not in PARTS:
        named = " ".join(sys.argv[1:]) or "(none named)"
        print(f"there is no part {named}; there are: {', '.join(PARTS)}, mutants, and soak with HOURS=N")
        return 2
    part = sys.argv[1]
    evidence.refuse_uncommitted()
    run.LOGS.mkdir(parents=True, exist_ok=True)
    progress = run.ROOT / f"build/long-{part}.json"
    results: list[dict[str, Any]] = []
    if progress.exists():
        results = [r for r in json.loads(progress.read_text()) if holds(part, r)]
    run.prepare_tier(next(t for t in run.TIERS if t.name == TIER[part]))
    for name, (environment, arguments) in PARTS[part].items():
        if any(r["scenario"] == name for r in results):
            print(f"{name}: passed before", flush=True)
            continue
        results.append(one(part, name, environment, arguments))
        print(f"{name}: {results[-1]['outcome']}", flush=True)
        progress.write_text(json.dumps(results))
    if part == "e2e":
        results.append(rights(part, list(PARTS[part])))
        print(f"{results[-1]['scenario']}: {results[-1]['outcome']}\n{results[-1]['said']}")
    print(f"evidence: {evidence.write(part, results)}")
    return 0 if all(r["outcome"] == "passed" for r in results) else 1


def soak(hours: float) -> int:
    """Stories of seeds that were never told."""
    sys.path.insert(0, str(run.ROOT))
    from tests.simulation.soak import soak as tell

    evidence.refuse_uncommitted()
    told = tell(hours, time.time())
    outcome = "failed" if told["failed"] else "passed"
    result = {"scenario": f"{hours:g} h", "outcome": outcome, "files": [], "sources": evidence.sources("soak"), **told}
    print(f"evidence: {evidence.write('soak', [result])}")
    return 1 if told["failed"] else 0


def mutants() -> int:
    """Every planted bug, hunted anew."""
    evidence.refuse_uncommitted()
    told = []
    hunt = subprocess.Popen(
        [sys.executable, "-m", "tests.mutants", "--record"], cwd=run.ROOT, stdout=subprocess.PIPE, text=True
    )
    assert hunt.stdout is not None
    for line in hunt.stdout:
        print(line, end="", flush=True)
        told = [*told[-2:], line.strip()]
    outcome = "failed" if hunt.wait() else "passed"
    result = {"scenario": "every planted bug", "outcome": outcome, "files": [], "said": "\n".join(told)}
    print(f"evidence: {evidence.write('mutants', [{**result, 'sources': evidence.sources('mutants')}])}")
    return hunt.returncode


def holds(part: str, result: dict[str, Any]) -> bool:
    """Has it passed, of the sources as they are?"""
    return result["outcome"] == "passed" and result["sources"] == evidence.sources(part, *result["files"])


def one(part: str, name: str, environment: dict[str, str], arguments: list[str]) -> dict[str, Any]:
    """Run a scenario: its outcome, that of each of its tests, and what each disturbance did to the clients."""
    report, told = run.LOGS / f"long-{part}.xml", run.ROOT / "build/disturbances.jsonl"
    report.unlink(missing_ok=True)
    told.unlink(missing_ok=True)
    kept = {"OARLOCK_DISTURBANCES": str(told), "OARLOCK_AUDIT": str(audit_log(part, name))}
    command = [sys.executable, "-m", "pytest", "-q", "-s", f"--junitxml={report}", *arguments]
    began = time.monotonic()
    code = subprocess.run(command, env={**os.environ, **environment, **kept}, cwd=run.ROOT).returncode
    if code and (dumped := run.LOGS / part).exists():  # the next scenario writes to the same place
        shutil.copytree(dumped, audit_log(part, name).with_suffix(".failed"), dirs_exist_ok=True)
    files = [argument for argument in arguments if argument.endswith(".py")]
    return {
        "scenario": name,
        "files": files,
        "sources": evidence.sources(part, *files),
        "outcome": "passed" if code == 0 else "failed",
        "seconds": round(time.monotonic() - began),
        "tests": outcomes(report),
        "disturbances": [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else [],
    }


def outcomes(report: pathlib.Path) -> dict[str, str]:
    """`path::name` of each test of a JUnit report."""
    told = {}
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        bad = any(child.tag in ("failure", "error", "skipped") for child in case)
        told[name] = "failed" if bad or told.get(name) == "failed" else "passed"
    return told


def audit_log(part: str, name: str) -> pathlib.Path:
    return run.ROOT / f"build/audit-{part}/{name.replace(' ', '-')}.log"


def rights(part: str, names: list[str]) -> dict[str, Any]:
    """Over all scenarios together: was the operator refused anything, and does it have a right that it never used?"""
    import yaml

    from e2e import audit

    logs = [log for name in names if (log := audit_log(part, name)).exists()]
    whole = run.ROOT / f"build/audit-{part}.log"
    whole.write_text("".join(log.read_text() for log in logs))
    manifests = list(yaml.safe_load_all((run.ROOT / "manifests/install.yaml").read_text()))
    found = audit.report(whole, audit.rules_of(manifests))
    said = [f"{found.requests} requests", *found.refusals, *(f"never used: {right}" for right in found.unused)]
    outcome = "passed" if found.sound and len(logs) == len(names) else "failed"
    told = {
        "files": [],
        "sources": evidence.sources(part),
        "tests": {"tests/long.py::rights": outcome},
        "said": "\n".join(said),
    }
    return {"scenario": "the operator's rights, all used and none missing", "outcome": outcome, **told}


if __name__ == "__main__":
    sys.exit(main())
