"""A `Sim` in which nothing is as it should be: the observations of the operator, and the moment at which it is cut off.

* Each read of an object may be an older version of it, or of an earlier object of that name, each object by itself; or
  it fails. Each answer of a member may be an older one, or be missing.
* Each write and call may be refused, or take effect while its answer is lost; after each one the operator may die.
* Between any two calls of an operator the world moves, and another operator may act.

Everything follows from the seed: no clock, no threads; tasks change places only where `before` lets them.
"""

from __future__ import annotations

import asyncio
import marshal
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.operator import oracles, simcontrollers, simraft
from tests.operator.sim import NAME, Crash, Key, Sim

from oarlock.wire import admin
from oarlock_operator import names
from oarlock_operator.kube import KubeError, Manifest
from oarlock_operator.members import MemberError

READS = ("get", "list", "status", "barrier")
KEPT = 5  # older versions of each object


@dataclass(frozen=True)
class Weather:
    """How often what goes wrong, each as a probability; `none` is a calm day."""

    stale: float = 0.0
    deaf: float = 0.0  # reads that fail, members that do not answer
    refused: float = 0.0
    lost: float = 0.0  # answers to writes
    crash: float = 0.0  # the operator dies after a write or call
    moves: float = 0.0  # the world moves before a call
    turns: float = 0.0  # another operator goes on before a call


CALM = Weather()


class _Objects(dict[Key, Manifest]):
    """The live objects; tells what is gone."""

    def __init__(self, gone: Callable[[Key], None]):
        super().__init__()
        self._gone = gone

    def __delitem__(self, key: Key) -> None:
        super().__delitem__(key)
        self._gone(key)

    def pop(self, key: Key, *default: Any) -> Any:
        if key in self:
            self._gone(key)
        return super().pop(key, *default)


class Chaos(Sim):
    """A `Sim` under a `Weather`. `dice` decides everything that happens by chance."""

    def __init__(self, replicas: int = 3, *, seed: int = 0, spec: Manifest | None = None, nodes: int = 3):
        self.dice = random.Random(f"chaos {seed}")
        self.weather = CALM
        self.counts: Counter[str] = Counter()
        self._past: dict[Key, deque[bytes | None]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._answers: dict[str, deque[admin.StatusAnswer]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._quiet = False
        super().__init__(replicas, seed=seed, spec=spec, nodes=0)
        made = self.objects
        self.objects = _Objects(lambda key: self._past[key].append(None))
        self.objects.update(made)
        for number in range(nodes):
            self.add_node(f"node-{number}")

    # ---- what is remembered

    def touch(self, manifest: Manifest) -> None:
        super().touch(manifest)
        self._past[(manifest["kind"], manifest["metadata"]["name"])].append(marshal.dumps(manifest))

    # ---- what is seen

    def seen(self, key: Key) -> Manifest | None:
        if self._chance(self.weather.stale) and self._past.get(key):
            self._deceive("stale reads")
            return self._older(key)
        return self.objects.get(key)

    def seen_all(self, kind: str) -> list[Manifest]:
        if not self._chance(2 * self.weather.stale):
            return [item for (of, _), item in sorted(self.objects.items()) if of == kind]
        self._deceive("stale reads")
        keys = sorted(key for key in self._past if key[0] == kind)
        found = [self._older(key) if self._chance(0.4) else self.objects.get(key) for key in keys]
        return [item for item in found if item is not None]

    def _deceive(self, how: str) -> None:
        self.counts[how] += 1
        self.deceived = 4

    def _older(self, key: Key) -> Manifest | None:
        held = self.dice.choice(self._past[key])
        return None if held is None else marshal.loads(held)

    def answer(self, pod: Manifest, now: admin.StatusAnswer) -> admin.StatusAnswer:
        before = self._answers[now.name]
        before.append(now)
        if self._chance(self.weather.stale):
            self._deceive("stale answers")
            return self.dice.choice(before)
        return now

    # ---- what becomes of a call

    async def before(self, verb: str, kind: str, name: str) -> None:
        if self._quiet:
            return
        self.counts["calls"] += 1
        if self._chance(self.weather.turns):
            await asyncio.sleep(0)
        while self._chance(self.weather.moves):
            self.move()
        member = kind == "Member"
        if verb in READS:
            if self._chance(self.weather.deaf):
                self.counts["missing answers"] += 1
                raise MemberError("timed out") if member else KubeError(0, "timed out")
            return
        if kind == "Lease":
            return
        if self._chance(self.weather.refused):
            self.counts["refused calls"] += 1
            status = self.dice.choice((409, 429, 500, 503))
            raise MemberError("not now", "busy", 503) if member else KubeError(status, "refused")
        if self._chance(self.weather.lost):
            self.counts["lost answers"] += 1
            self.lose_answer, self.lose_kube_answer = member, not member
        else:
            self.lose_answer = self.lose_kube_answer = False

    def maybe_crash(self) -> None:
        if self.fail_after is not None:
            super().maybe_crash()
        elif self._chance(self.weather.crash):
            raise Crash

    # ---- how the world moves

    def move(self) -> None:
        """One controller's sync, or one thing that happens between members."""
        self.counts["moves"] += 1
        move = self.dice.choice(MOVES)
        move(self)
        oracles.state(self)

    def settle(self) -> None:
        super().settle()
        oracles.state(self)

    def random_pod(self) -> Manifest | None:
        pods = [pod for (kind, _), pod in self.objects.items() if kind == "Pod"]
        return self.dice.choice(pods) if pods else None

    def some(self, ids: set[str]) -> set[str]:
        return {id_ for id_ in sorted(ids) if self.dice.random() < 0.7}

    def _chance(self, probability: float) -> bool:
        return probability > 0 and self.dice.random() < probability


# ---- moves: each a part of what `settle` does, by itself


def _statefulset(sim: Chaos) -> None:
    simcontrollers.statefulset(sim, NAME)


def _kubelet(sim: Chaos) -> None:
    for _ in range(2):
        if (pod := sim.random_pod()) is not None:
            simcontrollers.kubelet(sim, pod)


def _volumes(sim: Chaos) -> None:
    simcontrollers.volumes(sim)


def _nodes(sim: Chaos) -> None:
    simcontrollers.nodes(sim)


def _elect(sim: Chaos) -> None:
    for group in sim.groups.values():
        simraft.elect(group, sim.logs(group), sim.up(group))


def _usurp(sim: Chaos) -> None:
    """An election for no reason: a long pause, a lost heartbeat."""
    for group in sim.groups.values():
        if group.leader:
            sim.lead(group, sim.dice.choice(sorted(m.id for m in group.voters)))


def _replicate(sim: Chaos) -> None:
    for group in sim.groups.values():
        if group.leader:
            simraft.replicate(group, sim.logs(group), sim.some(sim.up(group)))


def _commit(sim: Chaos) -> None:
    for group in sim.groups.values():
        if group.leader and not sim.hold_commits:
            disks, up = sim.logs(group), sim.up(group)
            if not simraft.commit(group, disks):
                simraft.promote(group, disks, up)


def _write(sim: Chaos) -> None:
    for group in sim.groups.values():
        if group.leader:
            up = sim.up(group)
            simraft.write(group, sim.logs(group), sim.some(up) | ({group.leader} & up))


def _time(sim: Chaos) -> None:
    sim.now += sim.dice.choice((1.0, 5.0, 40.0))


MOVES: tuple[Callable[[Chaos], None], ...] = (
    *(_statefulset, _kubelet, _kubelet, _kubelet, _volumes, _nodes, _time),
    *(_elect, _elect, _replicate, _replicate, _commit, _commit, _write, _write, _usurp),
)


def claims(sim: Sim) -> Iterator[str]:
    for kind, name in sim.objects:
        if kind == "PersistentVolumeClaim" and names.ordinal_of_claim(NAME, name) is not None:
            yield name
