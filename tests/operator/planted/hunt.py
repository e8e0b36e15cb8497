"""Hunts a planted bug with random stories, in a process of its own that runs an operator with the bug in it.

python -m tests.operator.planted.hunt BUG [SEED]     what noticed it, in which story, after how many steps
python -m tests.operator.planted.hunt --record       writes README.md, the table of all
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.operator.planted.bugs import BUGS, Bug

ROOT = pathlib.Path(__file__).resolve().parents[3]
TABLE = pathlib.Path(__file__).with_name("README.md")
STORIES = 150  # at most, until a bug must have been noticed: some 60,000 steps


def plant(bug: Bug, into: pathlib.Path) -> None:
    """A copy of the operator with the bug. Raises ValueError where an edit does not apply."""
    package = into / "oarlock_operator"
    shutil.copytree(ROOT / "operator/oarlock_operator", package, ignore=shutil.ignore_patterns("__pycache__"))
    for file, before, after in bug.edits:
        path = package / file
        text = path.read_text()
        if text.count(before) != 1:
            raise ValueError(f"{bug.name}: {text.count(before)} places in {file} read {before!r}")
        path.write_text(text.replace(before, after))


def recorded() -> dict[str, int]:
    """The story from which the hunt for each bug begins, as the table has it."""
    rows = [line.strip("| ").split(" | ") for line in TABLE.read_text().splitlines() if line.startswith("| ")][1:]
    return {row[0]: int(row[3]) for row in rows}


def hunt(bug: Bug, seed: int, *, only: bool = False) -> dict[str, object]:
    """`invariant`, `says`, `seed` and `steps` of the first story that does not end well.

    `only`: the first that ends by one of the bug's own invariants.
    """
    with tempfile.TemporaryDirectory() as directory:
        plant(bug, pathlib.Path(directory))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((directory, str(ROOT), str(ROOT / "node")))}
        command = [sys.executable, "-m", "tests.operator.planted.hunt", "--tell", directory, str(seed)]
        command += bug.invariants if only else ()
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{bug.name}: {done.stderr[-2000:]}")
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def tell(seed: int, only: list[str]) -> dict[str, object]:
    """Stories from this seed on, until an oracle (of these) has something to say; the steps of the last one."""
    from tests.operator import storm
    from tests.operator.sim import Oracle

    storm.quiet_logs()
    for number in range(seed, seed + STORIES):
        counts: Counter[str] = Counter()
        try:
            storm.tell(number, counts)
        except Oracle as oracle:
            if only and oracle.name not in only:
                continue
            return {"invariant": oracle.name, "says": str(oracle), "seed": number, "steps": storm.steps(counts)}
    return {"invariant": "", "says": "nothing", "seed": seed + STORIES, "steps": 0}


def table(found: list[tuple[Bug, dict[str, object]]]) -> str:
    lines = [
        "# Planted bugs",
        "",
        "Made by `python -m tests.operator.planted.hunt --record`. Each bug is planted in the operator by itself; the",
        "random stories of `storm.py` must notice it, by the named invariant and no other (`test_proof.py`).",
        "",
        "| bug | source | noticed by | in story | steps |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {b.name} | {b.source} | {f['invariant']} | {f['seed']} | {f['steps']} |" for b, f in found]
    return "\n".join(lines) + "\n"


def main() -> int:
    if sys.argv[1:2] == ["--tell"]:
        import oarlock_operator

        assert str(oarlock_operator.__file__).startswith(sys.argv[2]), "the bug was not planted"
        print(json.dumps(tell(int(sys.argv[3]), sys.argv[4:])))
    elif sys.argv[1:2] == ["--record"]:
        with ThreadPoolExecutor(2) as pool:
            TABLE.write_text(table(list(zip(BUGS, pool.map(lambda bug: hunt(bug, 0, only=True), BUGS), strict=True))))
    else:
        bug = next(bug for bug in BUGS if bug.name == sys.argv[1])
        print(hunt(bug, int(sys.argv[2]) if sys.argv[2:] else recorded()[bug.name]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
