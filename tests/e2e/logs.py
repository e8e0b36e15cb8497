"""The logs of every pod, from its first line, those of deleted pods too; and what they and the WALs say of elections.

Rule of this module: a log is kept by a second name (a hard link) as soon as it appears, so that nothing has to be read
in time before the kubelet deletes it.
"""

from __future__ import annotations

import json
import os
import pathlib
import threading
from collections.abc import Iterator

from oarlock.raft.types import EntryKind
from oarlock.storage.inspect import scan


class LogKeeper(threading.Thread):
    """Keeps `STATE/node-*/var/log/pods/NAMESPACE_POD_UID/CONTAINER/*.log` under `STATE/kept-logs`."""

    def __init__(self, state: pathlib.Path) -> None:
        super().__init__(name="log-keeper", daemon=True)
        self.state, self.directory = state, state / "kept-logs"
        self._stopping = threading.Event()

    def run(self) -> None:
        self.directory.mkdir(exist_ok=True)
        while not self._stopping.wait(0.2):
            self.keep()

    def keep(self) -> None:
        for path in self.state.glob("node-*/var/log/pods/*/*/*.log*"):
            node, (pod, container) = path.relative_to(self.state).parts[0], path.parts[-3:-1]
            try:
                name = self.directory / f"{pod}_{container}_{node}_{path.stat().st_ino}.log"
                if not name.exists():
                    os.link(path, name)
            except FileNotFoundError:
                continue  # gone between the two calls, and with a name of ours if it had a line

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        self.keep()

    def lines(self, pod_prefix: str) -> Iterator[str]:
        """What containers of pods named NAMESPACE_PODPREFIX* wrote, without the runtime's own three columns."""
        for path in sorted(self.directory.glob(f"{pod_prefix}*.log")):
            for line in path.read_text(errors="replace").splitlines():
                if len(columns := line.split(" ", 3)) == 4:
                    yield columns[3]


def elected_by_logs(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    """(term, node id) of each leader that a member reported."""
    for line in lines:
        if line.startswith("{") and '"leader"' in line:
            told = json.loads(line)
            if told.get("event") == "leader":
                yield told["term"], told["leader"]


def elected_by_wal(wal: pathlib.Path) -> Iterator[tuple[int, str]]:
    """(term, node id) of each no-op entry that the log in `wal` ever held, overwritten ones too."""
    for _, _, frame in scan(wal):
        for entry in frame.entries:
            if entry.kind == EntryKind.NOOP:
                yield entry.term, entry.data.decode()
