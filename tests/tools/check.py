#!/usr/bin/env python3
"""Everything that can be said of the sources without running them (`make check`).

    check.py [REPORT.xml]

Rules: every check runs, whatever the others say; none writes anything.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.executable).parent

CHECKS: dict[str, list[object]] = {
    "lint": [BIN / "ruff", "check", "."],
    "format": [BIN / "ruff", "format", "--check", "--quiet", "."],
    "types": [BIN / "mypy", "--no-error-summary"],
    "walls": [BIN / "lint-imports"],
    "rendered manifests": [sys.executable, "tests/tools/render.py", "--check"],
    "locked packages": [sys.executable, "tests/tools/locked.py"],
    "promises": [sys.executable, "tests/tools/promises.py"],
    "guarantees": [sys.executable, "tests/tools/guarantees.py"],
}


def main() -> int:
    suite, failed = ElementTree.Element("testsuite"), 0
    for name, command in CHECKS.items():
        began = time.monotonic()
        done = subprocess.run([str(c) for c in command], cwd=ROOT, capture_output=True, text=True)
        case = ElementTree.SubElement(suite, "testcase", name=name)
        print(f"{name:<20} {'ok' if done.returncode == 0 else 'FAILED'} ({time.monotonic() - began:.1f} s)", flush=True)
        if done.returncode:
            failed += 1
            print(done.stdout + done.stderr, flush=True)
            ElementTree.SubElement(case, "failure", message=f"exit status {done.returncode}")
    subprocess.run([sys.executable, "tests/tools/evidence.py"], cwd=ROOT, check=True)
    if sys.argv[1:]:
        ElementTree.ElementTree(suite).write(sys.argv[1])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
