"""One scenario: real members, a load, faults that were seen to strike, and in the end everything that must hold.

    async with trial(tmp_path, "a", "b", "c") as t:
        async with t.fault("kill -9 of the leader") as seen:
            ...
            seen.saw("ended by the signal", member.process.returncode == -9)
            ...                                      # and made whole again, or after the block
    # here every oracle was asked

Rules of this module: a fault strikes only under a steady load and after enough operations; when the body of a trial
ends, whatever it broke must be whole, so that every member has to answer; what is started here is ended here, also on a
failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from tests.chaos import oracles
from tests.chaos.disks import Disk
from tests.chaos.namespaces import Network
from tests.integration.members import Cluster, MemberProcess
from tests.judge import ABSENT, Read, Seen
from tests.load import Load

ELECTION_SECONDS = 1.0  # each wait is random in [T, 2T)
REQUEST_SECONDS = 2.0  # the members' patience; the clients' is a little longer
OPTIONS = ("--request-timeout-ms", str(int(REQUEST_SECONDS * 1000)))
STATUS_SECONDS = 1.0  # a member that is paused or hangs does not answer: do not wait for it


@dataclass
class ChaosMember(MemberProcess):
    """It may live in a network namespace (`host`, `wrapper`) and on a disk of its own (`place`)."""

    wrapper: tuple[str, ...] = ()
    place: pathlib.Path | None = None

    @property
    def directory(self) -> pathlib.Path:
        return (self.place or self.root) / self.name

    def start(self, *wrapper: str) -> None:
        super().start(*self.wrapper, *wrapper)

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    def kernel_state(self) -> str:
        """One letter, as in /proc/PID/stat: T is stopped, D waits for a disk."""
        return _state_letter(pathlib.Path(f"/proc/{self.pid}/stat"))

    def thread_states(self) -> str:
        """The letters of all of its threads."""
        return "".join(_state_letter(task / "stat") for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir())

    def said(self, word: str, since: int = 0) -> list[str]:
        """Lines of its log that hold `word`, from the byte `since` on."""
        return [line for line in self.log.read_bytes()[since:].decode().splitlines() if word in line]


class ChaosCluster(Cluster):
    """Asks all members at once, and waits for none that does not answer."""

    members: dict[str, ChaosMember]  # type: ignore[assignment]

    def __init__(
        self, root: pathlib.Path, options: Iterable[str], network: Network | None, disks: Mapping[str, Disk]
    ) -> None:
        super().__init__(root, options)
        self.network, self.disks = network, disks
        self.wrappers: dict[str, tuple[str, ...]] = {}  # of one member each, to be set before it is added

    def add(self, name: str) -> ChaosMember:
        member = ChaosMember(name, self.root, self.token_file, self.options, self.python)
        member.wrapper = self.wrappers.get(name, ())
        if self.network is not None:
            host = self.network.hosts.get(name) or self.network.add(name)
            member.host, member.wrapper = host.address, (*host.wrapper, *member.wrapper)
        if name in self.disks:
            member.place = self.disks[name].place
        self.members[name] = member
        member.start()
        return member

    async def statuses(self, *names: str) -> dict[str, dict[str, Any]]:
        """Of those that answer soon."""

        async def one(name: str) -> tuple[str, dict[str, Any]] | None:
            with contextlib.suppress(httpx.HTTPError):
                url = f"{self.members[name].peer_url}/admin/status"
                answer = await self.http.get(url, timeout=STATUS_SECONDS)
                answer.raise_for_status()
                return name, answer.json()
            return None

        found = await asyncio.gather(*(one(name) for name in names or list(self.members)))
        return dict(each for each in found if each is not None)

    async def until(self, what: str, true: Callable[[dict[str, dict[str, Any]]], object], seconds: float = 20) -> float:
        """Wait until the statuses are so; the seconds that it took. Raises AssertionError."""
        began = time.monotonic()
        while True:
            found = await self.statuses()
            if true(found):
                return time.monotonic() - began
            told = {n: (s["state"], s["role"], s["term"], s["applied_index"]) for n, s in found.items()}
            assert time.monotonic() < began + seconds, f"not within {seconds} s: {what}; {told}"
            await asyncio.sleep(0.05)

    async def metric(self, name: str, metric: str) -> float:
        """The sum of a metric's samples; a histogram's are its `_sum` and `_count`."""
        text = (await self.http.get(f"{self.members[name].ops_url}/metrics")).text
        found = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith((f"{metric} ", f"{metric}{{"))]
        assert found, f"{name} has no metric {metric}"
        return sum(map(float, found))


@dataclass
class Trial:
    cluster: ChaosCluster
    load: Load
    names: tuple[str, ...]
    observations: list[oracles.Observation] = field(default_factory=list)
    caused: list[str] = field(default_factory=list)  # words of complaints that a fault itself must cause

    def member(self, name: str) -> ChaosMember:
        return self.cluster.members[name]

    def others(self, *but: str) -> list[str]:
        return [name for name in self.names if name not in but]

    async def leader(self, *, other_than: str = "") -> str:
        return await self.cluster.leader(other_than=other_than)

    @contextlib.asynccontextmanager
    async def fault(self, name: str) -> AsyncIterator[oracles.Observation]:
        """Strike inside, under a steady load; say what was seen. Ends with the first acknowledgement after it."""
        seen = oracles.Observation(name)
        await self.load.steady()
        oracles.enough(self.load.history)
        async with self.load.disturb(name):
            yield seen
        seen.check()
        self.observations.append(seen)

    async def acknowledged(self, count: int = 50, seconds: float = 20) -> None:
        """Wait until so many writes more have been acknowledged: the cluster works while the fault lasts."""
        target, end = len(self.load.acknowledged) + count, time.monotonic() + seconds
        while len(self.load.acknowledged) < target:
            assert time.monotonic() < end, f"{target - len(self.load.acknowledged)} acknowledgements are missing"
            await asyncio.sleep(0.02)

    async def nothing_acknowledged(self) -> None:
        """Without a majority, once what was under way has ended."""
        await asyncio.sleep(3 * ELECTION_SECONDS)  # what is awaited is that nothing happens
        count = len(self.load.acknowledged)
        await asyncio.sleep(ELECTION_SECONDS)
        assert len(self.load.acknowledged) == count, "acknowledged without a majority"

    async def whole(self, *names: str) -> None:
        """Wait until every member participates."""
        await self.cluster.participating(*(names or self.names))

    async def judged(self) -> None:
        """Every oracle. Call it when the load has ended."""
        await self.cluster.participating(*self.names)
        elected = self.cluster.elected()
        assert elected, "no log names a leader: nobody looked for two in a term"
        judged = self.load.judge(await self.load.final_reads(), elected)
        print(judged.table())
        for observation in self.observations:
            print(observation)
        judged.check()
        assert self.observations, "no fault struck"
        wrong = oracles.not_linearizable(self.load.history)
        assert not wrong, wrong
        unequal = oracles.unequal_states(await self.all_at_one_index(), self.names)
        assert not unequal, unequal
        complaints = oracles.unexpected(self.cluster.complaints(), self.caused)
        assert not complaints, complaints
        self._keep()

    def _keep(self) -> None:
        """For the evidence of a long run: what each fault did to the clients, and how it was seen."""
        if path := os.environ.get("OARLOCK_DISTURBANCES"):
            with open(path, "a") as kept:
                for disturbance, seen in zip(self.load.disturbances, self.observations, strict=True):
                    observed = {what: str(evidence)[:200] for what, evidence in seen.seen.items()}
                    told = {**disturbance._asdict(), "outcome": "passed", "observed": observed}
                    print(json.dumps(told), file=kept)

    async def all_at_one_index(self) -> dict[str, dict[str, Any]]:
        """The statuses that were found to be so: who asks again may get others, or none."""
        accepted: dict[str, dict[str, Any]] = {}

        def equal(found: dict[str, dict[str, Any]]) -> bool:
            nonlocal accepted
            accepted = found
            return not oracles.incomparable(found, self.names)

        await self.cluster.until("equal applied indices", equal)
        return accepted


@contextlib.asynccontextmanager
async def trial(
    root: pathlib.Path,
    *names: str,
    network: Network | None = None,
    disks: Collection[Disk] = (),
    wrappers: Mapping[str, tuple[str, ...]] | None = None,
    options: Iterable[str] = (),
) -> AsyncIterator[Trial]:
    """A cluster under load, judged in the end and ended whatever happens."""
    cluster = ChaosCluster(root, [*OPTIONS, *options], network, {disk.name: disk for disk in disks})
    cluster.wrappers.update(wrappers or {})
    try:
        await cluster.begin(*names)
        members = {name: cluster.members[name].client_url for name in names}
        load = Load(list(members.values()), members=members, timeout_seconds=REQUEST_SECONDS + 1)
        running = Trial(cluster, load, names)
        async with load.running():
            yield running
        await running.judged()
    except BaseException:
        _tell(cluster)
        raise
    finally:
        for disk in disks:  # or nobody can end who waits for it
            disk.thaw()
        await cluster.close()


def _tell(cluster: ChaosCluster) -> None:
    """The ends of the members' logs, for whoever looks at the failure."""
    for member in cluster.members.values():
        if member.log.exists():
            print(f"--- {member.name}", *member.log.read_text(errors="replace").splitlines()[-25:], sep="\n")


def _state_letter(stat: pathlib.Path) -> str:
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


async def read_late(load: Load, member: str, url: str, keys: Iterable[str], begun: asyncio.Event) -> int:
    """A linearizable read of each key through one member, all in flight at once; they go into the load's history.

    For a member that is paused: its kernel takes the requests, and it finds them when it wakes. The answers' count.
    """

    async def one(http: httpx.AsyncClient, key: str) -> int:
        begin = time.monotonic()
        try:
            answer = await http.get(f"{url}/v1/kv/{key}")
        except httpx.TransportError:
            return 0
        seen = _seen(answer)
        if seen is None:
            return 0
        load.history.append(Read(member, key, begin, time.monotonic(), seen))
        return 1

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=20, trust_env=False, limits=limits) as http:
        tasks = [asyncio.ensure_future(one(http, key)) for key in keys]
        await asyncio.sleep(0.3)  # the requests are on their way: nothing tells when a paused member's kernel has them
        begun.set()
        return sum(await asyncio.gather(*tasks))


def _seen(answer: httpx.Response) -> Seen | None:
    if answer.status_code == 404 and answer.json().get("code") == "key_not_found":
        return ABSENT
    if answer.status_code != 200:
        return None
    number = int(answer.content.split(b" ", 1)[0])
    return Seen(number, int(answer.headers["oarlock-version"]), int(answer.headers["etag"].strip('"')))
