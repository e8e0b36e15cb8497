"""Real members as processes on loopback, each with a directory, three ports and a log file.

Rules of this module: what a test starts here ends with it, by process id; ports are taken while nobody listens, and
kept for a member's whole life, as its addresses are in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from oarlock.raft.types import EntryKind
from oarlock.storage.inspect import scan

PROGRAM = ["-c", "from oarlock.cli import main; main()"]
OARLOCK = [sys.executable, *PROGRAM]


_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Each is given once only. They are below those of outgoing connections, one of which could otherwise take the port
    of a member that is not up."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(range(12000, 32000))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                found.append(port)
    return found


@dataclass
class MemberProcess:
    name: str
    root: pathlib.Path
    token_file: pathlib.Path
    options: list[str] = field(default_factory=list)
    python: Sequence[str] = (sys.executable,)  # the command that runs Python
    host: str = "127.0.0.1"  # its address, where it runs
    ports: list[int] = field(default_factory=lambda: free_ports(3))
    process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> pathlib.Path:
        return self.root / self.name

    @property
    def log(self) -> pathlib.Path:
        return self.root / f"{self.name}.log"

    @property
    def client_url(self) -> str:
        return f"http://{self.host}:{self.ports[0]}"

    @property
    def peer_url(self) -> str:
        return f"http://{self.host}:{self.ports[1]}"

    @property
    def ops_url(self) -> str:
        return f"http://{self.host}:{self.ports[2]}"

    def start(self, *wrapper: str) -> None:
        """`wrapper` goes before the command: `nsenter ...`, `strace ...`."""
        client, peer, ops = self.ports
        command = [*wrapper, *self.python, *PROGRAM, "serve", "--name", self.name, "--data-dir", str(self.directory)]
        command += ["--listen-client", f"{self.host}:{client}", "--listen-peer", f"{self.host}:{peer}"]
        command += ["--listen-ops", f"{self.host}:{ops}", "--cluster-token-file", str(self.token_file)]
        command += ["--log-format", "json", *self.options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def signal(self, number: int) -> None:
        assert self.process is not None, "not started"
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """kill -9, and the body is gone when this returns."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self, seconds: float = 20) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None, "not started"
        self.process.terminate()
        return self.process.wait(seconds)

    def wipe(self) -> None:
        shutil.rmtree(self.directory)

    def most_resident_bytes(self) -> int:
        """Of its memory since it was started, less what it maps of the store's file now."""
        assert self.process is not None, "not started"
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines())
        most, mapped = (int(lines[name].split()[0]) * 1024 for name in ("VmHWM", "RssFile"))
        return most - mapped

    def log_lines(self) -> Iterator[dict[str, Any]]:
        for line in self.log.read_text().splitlines():
            if line.startswith("{"):
                yield json.loads(line)


class Cluster:
    """Members by name. Everything an operator would do is done through the admin contract."""

    def __init__(
        self, root: pathlib.Path, options: Iterable[str] = (), python: Sequence[str] = (sys.executable,)
    ) -> None:
        self.root = root
        self.options = list(options)
        self.python = python
        self.members: dict[str, MemberProcess] = {}
        self.token = secrets.token_hex(16)
        self.token_file = root / "token"
        self.token_file.write_text(self.token)
        self.http = httpx.AsyncClient(timeout=10, trust_env=False, headers={"Authorization": f"Bearer {self.token}"})

    async def close(self) -> None:
        for member in self.members.values():
            member.kill()
        await self.http.aclose()

    def add(self, name: str) -> MemberProcess:
        member = MemberProcess(name, self.root, self.token_file, self.options, self.python)
        self.members[name] = member
        member.start()
        return member

    async def begin(self, *names: str) -> None:
        """A new cluster of these members, the first one bootstrapped."""
        for name in names:
            self.add(name)
        await asyncio.gather(*(self.answering(name) for name in names))
        first = self.members[names[0]]
        request = {"request_id": "begin", "cluster_id": "test", "min_voters": len(names)}
        answer = await self.http.post(f"{first.peer_url}/admin/bootstrap", json=request)
        assert answer.status_code == 200, answer.text
        await self.leader()
        if len(names) > 1:
            await self.reconfigure(*names)
        await self.ready(*names)

    async def status(self, name: str) -> dict[str, Any]:
        answer = await self.http.get(f"{self.members[name].peer_url}/admin/status")
        answer.raise_for_status()
        status: dict[str, Any] = answer.json()
        return status

    async def answering(self, name: str, seconds: float = 20) -> dict[str, Any]:
        """Its status, as soon as it gives one and has read its log."""
        async with asyncio.timeout(seconds):
            while True:
                process = self.members[name].process
                assert process is None or process.poll() is None, self.members[name].log.read_text()[-4000:]
                with contextlib.suppress(httpx.TransportError):
                    status = await self.status(name)
                    if status["state"] != "Replaying":
                        return status
                await asyncio.sleep(0.05)

    async def statuses(self) -> dict[str, dict[str, Any]]:
        """Of those that answer."""
        found: dict[str, dict[str, Any]] = {}
        for name in list(self.members):
            with contextlib.suppress(httpx.HTTPError):
                found[name] = await self.status(name)
        return found

    async def leader(self, seconds: float = 20, *, other_than: str = "") -> str:
        """The name of a leader whose no-op is committed: the one of the highest term."""
        async with asyncio.timeout(seconds):
            while True:
                leaders = {
                    status["term"]: name
                    for name, status in (await self.statuses()).items()
                    if status["role"] == "leader" and name != other_than
                }
                if leaders:
                    return leaders[max(leaders)]
                await asyncio.sleep(0.05)

    async def ready(self, *names: str, seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            for name in names:
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        answer = await self.http.get(f"{self.members[name].ops_url}/healthz/ready")
                        if answer.status_code == 200:
                            break
                    await asyncio.sleep(0.05)

    async def participating(self, *names: str, seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            for name in names:
                while (await self.answering(name))["state"] != "Participating":  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    async def reconfigure(self, *names: str, seconds: float = 40) -> None:
        """Makes exactly these the voters: newcomers catch up as learners first, then one joint change (rule 13)."""
        deadline = time.monotonic() + seconds
        while True:
            answer = await self._step_towards(names)
            if answer is None:
                return
            assert time.monotonic() < deadline, f"{names}: {answer.status_code} {answer.text}"
            # 412: a change under way; 421/503: the leader moved; 425: not caught up; 504: unknown, so look again
            assert answer.status_code in (200, 412, 421, 425, 503, 504), answer.text
            await asyncio.sleep(0.1)

    async def _step_towards(self, names: Iterable[str]) -> httpx.Response | None:
        leader = await self.leader()
        configuration = (await self.status(leader))["configuration"]
        wanted = {}
        for name in names:
            status = await self.answering(name)
            member = self.members[name]
            wanted[status["node_id"]] = {
                "id": status["node_id"],
                "peer_url": member.peer_url,
                "client_url": member.client_url,
            }
        voters = {m["id"]: m for m in configuration["voters"]}
        settled = configuration["committed"] and not configuration["outgoing"] and not configuration["learners"]
        if settled and set(voters) == set(wanted):
            return None
        known = set(voters) | {m["id"] for m in configuration["learners"]}
        body: dict[str, Any] = {"if_config": configuration["id"], "voters": list(wanted.values()), "learners": []}
        if not set(wanted) <= known:
            body["voters"] = configuration["voters"]
            body["learners"] = [m for i, m in wanted.items() if i not in voters]
        return await self.http.put(f"{self.members[leader].peer_url}/admin/configuration", json=body)

    def elected(self) -> set[tuple[int, str]]:
        """(term, node id) of every election won: from the no-op entries of every log, and from the members' words."""
        found: set[tuple[int, str]] = set()
        for member in self.members.values():
            if (member.directory / "wal").is_dir():
                for _, _, frame in scan(member.directory / "wal"):
                    found |= {(e.term, e.data.decode()) for e in frame.entries if e.kind == EntryKind.NOOP}
            for line in member.log_lines():
                if line.get("event") == "leader" and line.get("leads"):
                    found.add((line["term"], line["leader"]))
        return found

    def complaints(self) -> list[str]:
        """Tracebacks and fatal words in any member's log: a correct member has none, whatever is done to it."""
        bad = ("Traceback", "InvariantViolated", '"level": "critical"', "out of order")
        return [
            f"{m.name}: {line[:400]}"
            for m in self.members.values()
            for line in m.log.read_text().splitlines()
            if any(word in line for word in bad)
        ]


@contextlib.asynccontextmanager
async def cluster(
    root: pathlib.Path, *names: str, options: Iterable[str] = (), python: Sequence[str] = (sys.executable,)
) -> AsyncIterator[Cluster]:
    """A running cluster, ended whatever happens."""
    made = Cluster(root, options, python)
    try:
        await made.begin(*names)
        yield made
    finally:
        await made.close()


def pause(member: MemberProcess) -> None:
    member.signal(signal.SIGSTOP)


def resume(member: MemberProcess) -> None:
    member.signal(signal.SIGCONT)
