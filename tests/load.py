"""A steady load of numbered writes and linearizable reads on real members; judge.py says what the history proves.

Rules of this module: a client keeps no belief, what it saw goes into the history; a client has one request in flight;
nothing is retried, a write whose answer is lost is read back.

    load = Load(endpoints)
    async with load.running():
        async with load.disturb("kill the leader"):       # waits for a steady load first, measures the gap
            ...
    verdict = load.judge(await load.final_reads())
    print(verdict.table())
    verdict.check()
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import httpx
from tests.judge import ABSENT, Disturbance, Outcome, Read, Seen, Verdict, Write, judge, longest_gap

STEADY_RATE = 100.0  # acknowledgements a second before a disturbance, or the run does not count
STEADY_WINDOW_SECONDS = 3.0
STEADY_CLIENTS = 4


class NotSteady(AssertionError):
    """The load was below what the run needs to count."""


@dataclass
class _Writer:
    """One client. It owns its keys, one request in flight."""

    client: int
    keys: list[str]
    known: dict[str, Seen] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)  # keys with a write whose outcome is unknown
    numbers: Counter[str] = field(default_factory=Counter)


def _number(value: bytes) -> int:
    return int(value.split(b" ", 1)[0])


class Load:
    """`endpoints`: client URLs that writers use in turn, moving on when one fails; replace the list at will.

    `members`: name -> client URL; each gets a reader of its own, whose linearizable reads go through that member alone.
    Replace its entries at will (a restarted pod has another address). The writers together aim at `rate` a second.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        members: Mapping[str, str] | None = None,
        clients: int = 8,
        keys: int = 32,
        rate: float = 240.0,
        reads_per_member: float = 15.0,
        value_bytes: int = 256,
        timeout_seconds: float = 7.0,
        seed: int = 1,
        prefix: str = "load/",
    ) -> None:
        assert clients >= STEADY_CLIENTS, "a load of fewer clients does not count"
        assert keys >= clients, "a key has one writer"
        self.endpoints = list(endpoints)
        self.members = dict(members or {url: url for url in endpoints})
        self.history: list[Write | Read] = []
        self.acknowledged: list[float] = []
        self.disturbances: list[Disturbance] = []
        self.read_failures: Counter[str] = Counter()
        self._names = [f"{prefix}{n}" for n in range(keys)]
        self._writers = [_Writer(c, self._names[c::clients]) for c in range(clients)]
        self._interval = clients / rate
        self._read_interval = 1.0 / reads_per_member
        self._value_bytes = value_bytes
        self._timeout = httpx.Timeout(timeout_seconds, connect=1.0)
        self._seed = seed
        self._recent_clients: dict[int, float] = {}

    # .. running ..

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Writers and readers run inside; a fault in one of them ends the block."""
        async with asyncio.TaskGroup() as group:
            stop = asyncio.Event()
            for writer in self._writers:
                group.create_task(self._write_on(writer, stop))
            group.create_task(self._readers(stop))
            try:
                yield self
            finally:
                stop.set()

    def rate(self, window_seconds: float = STEADY_WINDOW_SECONDS) -> float:
        """Acknowledgements a second over the last `window_seconds`."""
        since = time.monotonic() - window_seconds
        return (len(self.acknowledged) - bisect.bisect_left(self.acknowledged, since)) / window_seconds

    async def steady(self, timeout_seconds: float = 60.0) -> float:
        """Wait until at least four clients together get `STEADY_RATE`; raises NotSteady, or returns the rate."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            rate, now = self.rate(), time.monotonic()
            clients = sum(t > now - STEADY_WINDOW_SECONDS for t in self._recent_clients.values())
            if rate >= STEADY_RATE and clients >= STEADY_CLIENTS:
                return rate
            if now > deadline:
                raise NotSteady(f"{rate:.0f} acknowledgements/s of {clients} clients after {timeout_seconds} s")
            await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def disturb(
        self, name: str, *, settle_seconds: float = 60.0, steady_seconds: float = 60.0
    ) -> AsyncIterator[None]:
        """Do something to the cluster inside. Begins from a steady load, ends with the next acknowledgement."""
        rate, begin = await self.steady(steady_seconds), time.monotonic()
        yield
        end, count = time.monotonic(), len(self.acknowledged)
        while len(self.acknowledged) == count:
            if time.monotonic() > end + settle_seconds:
                raise NotSteady(f"{name}: no acknowledgement within {settle_seconds} s after it")
            await asyncio.sleep(0.02)
        gap = longest_gap(self.acknowledged, begin, end)
        self.disturbances.append(Disturbance(name, rate, gap, end - begin))

    async def final_reads(self, timeout_seconds: float = 30.0) -> dict[str, dict[str, Seen]]:
        """Every key, linearizably, through every member; call it after `running` has ended."""
        final: dict[str, dict[str, Seen]] = {}
        deadline = time.monotonic() + timeout_seconds
        async with httpx.AsyncClient(timeout=self._timeout, trust_env=False) as http:
            for member in list(self.members):
                final[member] = {}
                for key in self._names:
                    while (seen := await self._read(http, member, self.members[member], key)) is None:
                        if time.monotonic() > deadline:
                            raise AssertionError(f"{member} did not answer a final read of {key}")
                        await asyncio.sleep(0.2)
                    final[member][key] = seen
        return final

    def judge(self, final: Mapping[str, Mapping[str, Seen]], elected: Iterable[tuple[int, str]] = ()) -> Verdict:
        failures = {"failed reads": self.read_failures.total()}
        return judge(self.history, final, self.disturbances, elected, failures)

    # .. clients ..

    async def _write_on(self, writer: _Writer, stop: asyncio.Event) -> None:
        turn = itertools.count(writer.client)
        due = time.monotonic() + self._interval * random.Random(self._seed + writer.client).random()
        async with httpx.AsyncClient(timeout=self._timeout, trust_env=False) as http:
            endpoint = self.endpoints[next(turn) % len(self.endpoints)]
            for key in itertools.cycle(writer.keys):
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if stop.is_set():
                    return
                due = max(due, time.monotonic() - self._interval) + self._interval
                if key in writer.unsure and not await self._resolve(http, endpoint, writer, key):
                    outcome = None
                else:
                    outcome = await self._write(http, endpoint, writer, key)
                if outcome not in (Outcome.ACKNOWLEDGED, Outcome.PRECONDITION) or endpoint not in self.endpoints:
                    endpoint = self.endpoints[next(turn) % len(self.endpoints)]
                    due = max(due, time.monotonic() + 0.05)  # a refusal costs nothing: do not spin on it

    async def _resolve(self, http: httpx.AsyncClient, endpoint: str, writer: _Writer, key: str) -> bool:
        """Read what became of a write; False: nobody could say."""
        if (seen := await self._read(http, endpoint, endpoint, key, own=True)) is None:
            return False
        writer.known[key] = seen
        return True

    async def _write(self, http: httpx.AsyncClient, endpoint: str, writer: _Writer, key: str) -> Outcome:
        writer.numbers[key] += 1
        number, base = writer.numbers[key], writer.known.get(key, ABSENT)
        value = f"{number} {key} ".encode().ljust(self._value_bytes, b".")
        condition = {"If-Match": f'"{base.revision}"'} if base.revision else {"If-None-Match": "*"}
        begin = time.monotonic()
        version, revision, why = 0, 0, ""
        try:
            answer = await http.put(f"{endpoint}/v1/kv/{key}", content=value, headers=condition)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            outcome, why = Outcome.REFUSED, type(error).__name__  # never sent
        except httpx.TransportError as error:
            outcome, why = Outcome.UNKNOWN, type(error).__name__
        else:
            outcome, version, revision = read_answer(answer)
            why = "" if outcome is Outcome.ACKNOWLEDGED else code_of(answer)
        end = time.monotonic()
        self.history.append(Write(writer.client, key, number, base, begin, end, outcome, version, revision, why))
        match outcome:
            case Outcome.ACKNOWLEDGED:
                self.acknowledged.append(end)
                self._recent_clients[writer.client] = end
                writer.known[key] = Seen(number, version, revision)
                writer.unsure.discard(key)
            case Outcome.UNKNOWN | Outcome.PRECONDITION:
                writer.unsure.add(key)
        return outcome

    async def _readers(self, stop: asyncio.Event) -> None:
        """One reader a member; members that appear get one, members that go lose theirs."""
        async with asyncio.TaskGroup() as group:
            running: dict[str, asyncio.Task[None]] = {}
            while not stop.is_set():
                for member in self.members:
                    if member not in running or running[member].done():
                        running[member] = group.create_task(self._read_on(member, stop))
                await asyncio.sleep(0.2)

    async def _read_on(self, member: str, stop: asyncio.Event) -> None:
        choice = random.Random(f"{self._seed} {member}")
        async with httpx.AsyncClient(timeout=self._timeout, trust_env=False) as http:
            while not stop.is_set() and member in self.members:
                await self._read(http, member, self.members[member], choice.choice(self._names))
                await asyncio.sleep(self._read_interval)

    async def _read(self, http: httpx.AsyncClient, member: str, url: str, key: str, own: bool = False) -> Seen | None:
        begin = time.monotonic()
        try:
            answer = await http.get(f"{url}/v1/kv/{key}")
        except httpx.TransportError as error:
            self.read_failures[type(error).__name__] += 1
            return None
        if answer.status_code == 404 and answer.json().get("code") == "key_not_found":
            seen = ABSENT
        elif answer.status_code == 200:
            revision = int(answer.headers["etag"].strip('"'))
            seen = Seen(_number(answer.content), int(answer.headers["oarlock-version"]), revision)
        else:
            self.read_failures[str(answer.status_code)] += 1
            return None
        self.history.append(Read(member, key, begin, time.monotonic(), seen, own))
        return seen


def code_of(answer: httpx.Response) -> str:
    """Status and problem code, for a person who asks why."""
    try:
        return f"{answer.status_code} {answer.json()['code']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.text[:80]!r}"


def read_answer(answer: httpx.Response) -> tuple[Outcome, int, int]:
    """What the answer to a write says: (outcome, version, revision). An answer without a valid word is unknown."""
    try:
        body = answer.json()
        if answer.status_code in (200, 201):
            return Outcome.ACKNOWLEDGED, body["version"], body["revision"]
        if body["outcome"] == "not_applied":
            refused = Outcome.PRECONDITION if answer.status_code == 412 else Outcome.REFUSED
            return refused, 0, 0
    except (ValueError, KeyError, TypeError):
        pass
    return Outcome.UNKNOWN, 0, 0
