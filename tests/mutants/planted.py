"""The planted bugs: what each is, and how one is put into a copy of the sources.

    patches/raft-commit_of_an_older_term.patch
        What: ...                    what the bug is, in a sentence
        Source: ...                  who had it
        Test: tests/property/...     the test that it belongs to; without it: the simulation
        --- a/node/oarlock/...       a small patch

Rule of this module: a patch that does not apply as it is, without fuzz, is a failure: it plants nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).parent / "patches"
ROOMS = ("raft", "storage", "runtime", "peers", "machine")


class DoesNotApply(Exception):
    """The sources have moved on: make the patch anew."""


@dataclass(frozen=True)
class Bug:
    name: str
    room: str
    what: str
    source: str
    test: str  # "" for the simulation
    patch: Path


def bugs() -> list[Bug]:
    return [_read(path) for path in sorted(PATCHES.glob("*.patch"))]


def _read(path: Path) -> Bug:
    head = path.read_text().partition("\n--- ")[0]
    told = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
    room = path.stem.partition("-")[0]
    if room not in ROOMS or not told.get("What") or not told.get("Source"):
        raise DoesNotApply(f"{path.name}: the name begins with one of {ROOMS}, and the head says What and Source")
    return Bug(path.stem, room, told["What"], told["Source"], told.get("Test", ""), path)


@contextmanager
def planted(bug: Bug | None) -> Iterator[dict[str, str]]:
    """The environment of a Python that imports the sources with this bug (None: as they are)."""
    with TemporaryDirectory(prefix="oarlock-mutant-") as directory:
        shutil.copytree(ROOT / "node", Path(directory) / "node", ignore=shutil.ignore_patterns("__pycache__"))
        if bug is not None:
            command = ["patch", "-p1", "--fuzz=0", "--silent", "--no-backup-if-mismatch", "-i", str(bug.patch)]
            done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
            if done.returncode:
                raise DoesNotApply(f"{bug.name}: {done.stdout}{done.stderr}")
        yield {**os.environ, "PYTHONPATH": f"{directory}/node:{ROOT}", "OARLOCK_PLANTED": directory}
