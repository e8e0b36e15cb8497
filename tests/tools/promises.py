#!/usr/bin/env python3
"""Is every promise of tests/e2e/promises.toml kept by a test that exists and that passed?

    promises.py

A test counts if a tier of `make test` runs it, or if the evidence in docs/evidence says that it passed. A promise whose
test has not passed yet is marked `pending`, with what is missing: it is told each time, and the mark must go as soon as
the test has passed. Standard library only.
"""

from __future__ import annotations

import ast
import fnmatch
import json
import pathlib
import sys
import tomllib
from collections.abc import Iterable

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

FILE = ROOT / "tests/e2e/promises.toml"
EVIDENCE = ROOT / "docs/evidence"


def exists(test: str) -> bool:
    """`path::function` or `path::function[id]`; an id is checked only where the test runs."""
    path, _, name = test.partition("::")
    if not path.endswith(".py") or not (ROOT / path).is_file():
        return False
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return name.partition("[")[0] in functions


def in_a_tier(test: str, paths: Iterable[str]) -> bool:
    """Does pytest find it below one of the tiers' paths, without being given its file?"""
    path = pathlib.PurePosixPath(test.partition("::")[0])
    below = any(path.is_relative_to(top) for top in paths)
    return below and fnmatch.fnmatch(path.name, "test_*.py")


def is_long(test: str) -> bool:
    """Is all of it marked `long`, so that `make test` leaves it out? A mark on one parameter is none on the rest."""
    path, _, name = test.partition("::")
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name.partition("[")[0]:
            return any(ast.unparse(mark) == "pytest.mark.long" for mark in node.decorator_list)
    return False


def passed(directory: pathlib.Path) -> set[str]:
    """Every test that some part's evidence says has passed."""
    told: set[str] = set()
    for file in directory.glob("*.json"):
        for result in json.loads(file.read_text())["results"]:
            told |= {test for test, outcome in result.get("tests", {}).items() if outcome == "passed"}
    return told


def judge(promises: list[dict[str, str]], tiers: Iterable[str], shown: set[str]) -> tuple[list[str], list[str]]:
    """(faults, promises still to be kept), each a line."""
    faults, pending = [], []
    for promise in promises:
        clause, test = promise["clause"], promise["test"]
        ran = in_a_tier(test, tiers) or test in shown
        if not exists(test):
            faults.append(f"{clause}: there is no {test}")
        elif "pending" in promise and ran:
            faults.append(f"{clause}: {test} has passed, and is still marked pending")
        elif "pending" in promise:
            pending.append(f"{clause}: {test}: {promise['pending']}")
        elif not ran:
            faults.append(f"{clause}: {test} is in no tier and no evidence says that it passed")
    clauses = [promise["clause"] for promise in promises]
    faults += [f"twice: {clause}" for clause in sorted({c for c in clauses if clauses.count(c) > 1})]
    return faults, pending


def main() -> int:
    from tests.run import TIERS

    promises = tomllib.loads(FILE.read_text())["promise"]
    faults, pending = judge(promises, [path for tier in TIERS for path in tier.paths], passed(EVIDENCE))
    for line in faults:
        print(f"promise: {line}")
    kept = len(promises) - len(pending)
    print(f"promises: {kept} of {len(promises)} kept by a tier or by evidence, {len(pending)} pending")
    for line in pending:
        print(f"  pending: {line}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
