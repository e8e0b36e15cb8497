"""Random stories against the operator, as long as one likes: people, disks, nodes and the operator itself misbehave.

A story founds a cluster, does some deeds under a weather, then everything heals, and the cluster must reach what its
spec says in a bounded number of passes (I24) and then be left alone (I10). The oracles watch every act and every move.
A story follows from its seed alone; a step is one deed, one move of the world, one pass of an operator, or one act.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from tests.operator import oracles
from tests.operator.chaos import CALM, Chaos, Weather
from tests.operator.sim import NAME, Crash, Oracle

from oarlock_operator import names
from oarlock_operator.kube import KubeError
from oarlock_operator.reconcile import Reconciler
from oarlock_operator.world import quorum

WEATHERS = (
    CALM,
    Weather(moves=0.15),
    Weather(moves=0.1, crash=0.15),
    Weather(moves=0.1, refused=0.1, lost=0.1, deaf=0.03),
    Weather(stale=0.05, moves=0.05),
    Weather(stale=0.03, deaf=0.03, refused=0.05, lost=0.05, crash=0.05, moves=0.1, turns=0.2),
)
IMAGES = ("oarlock/node:0.1.0", "oarlock/node:0.2.0", "oarlock/node:bad", "oarlock/node:crash", None)
RESOURCES = (
    {"requests": {"cpu": "1"}},
    {"requests": {"cpu": "1000"}},  # fits nowhere
    None,
)
KINDS = {"RollingUpdate": "rolls", "Replace": "replacements", "ScaleOut": "scale-outs", "ScaleIn": "scale-ins"}
PASSES_TO_HEAL = 150
PASSES_TO_REST = 10
SECONDS_A_PASS = 6.0


class _NoLease:
    """An operator that believes it is alone."""

    held = True

    async def ensure(self) -> bool:
        return True

    async def release(self) -> None:
        return


@dataclass
class Story:
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    tale: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = random.Random(f"story {self.seed}")
        policy = self.dice.choice(("Retain", "Delete"))
        retention = {"whenDeleted": self.dice.choice(("Retain", "Delete")), "whenScaled": policy}
        spec = {"storage": {"size": "1Gi", "retention": retention}}
        self.sim = Chaos(self.dice.choice((1, 2, 3, 3, 3, 5)), seed=self.seed, spec=spec)
        self.sim.counts = self.counts
        self.sim.watch.append(self.count)
        self.operators: list[Reconciler] = []
        self.operation: tuple[object, object] = (None, None)
        self.hired = 0

    def count(self, what: str) -> None:
        """Evictions, and operations as they begin: each is written down once."""
        self.counts["evictions"] += what.startswith("evict ")
        latch = self.sim.objects.get((names.KIND, NAME), {}).get("status", {}).get("operation") or {}
        begun = (latch.get("type"), latch.get("target"))
        if begun != self.operation and (kind := KINDS.get(str(latch.get("type")))):
            self.counts[kind] += 1
        self.operation = begun

    # ---- operators

    def hire(self, *, alone: bool = True) -> None:
        """A new operator; `alone`: it holds the Lease before it does anything."""
        self.hired += 1
        image = "oarlock/node:test" if self.hired % 3 else "oarlock/node:0.3.0"
        operator = self.sim.reconciler(f"operator-{self.hired}", image)
        if not alone:
            operator._lease = _NoLease()  # type: ignore[assignment]  # it has the same calls
            operator._kube.eyes.identity = ""  # type: ignore[attr-defined]  # it is a FakeKube
        self.operators.append(operator)

    async def one_pass(self, operator: Reconciler) -> None:
        self.counts["passes"] += 1
        self.sim.deceived = max(0, self.sim.deceived - 1)
        before = len(self.sim.writes) + len(self.sim.calls)
        try:
            await operator.one_pass(woken=self.dice.random() < 0.8)
        except Crash:
            self.counts["crashes"] += 1
            if operator in self.operators:
                self.operators.remove(operator)
            self.sim.now += 20.0
        except KubeError:
            self.counts["failed passes"] += 1
        self.counts["acts"] += len(self.sim.writes) + len(self.sim.calls) - before

    async def passes(self, count: int, *, settle: float = 0.6) -> None:
        for _ in range(count):
            if self.dice.random() < settle:
                self.sim.settle()
            for _ in range(3):
                self.sim.move()
            self.sim.now += self.dice.choice((1.0, SECONDS_A_PASS, 40.0))
            if not self.operators:
                self.hire()
            await asyncio.gather(*(self.one_pass(operator) for operator in list(self.operators)))

    # ---- the story

    async def tell(self, deeds: int = 10) -> None:
        """Raises Oracle. `tale` is what was done until then."""
        sim = self.sim
        await self.passes(12)
        for _ in range(deeds):
            if self.dice.random() < 0.4:
                sim.weather = self.dice.choice(WEATHERS)
            deed = self.dice.choice(DEEDS)
            self.counts["deeds"] += 1
            self.counts[deed.__name__.strip("_").replace("_", " ")] += 1
            self.tale.append(deed.__name__)
            deed(self)
            oracles.state(sim)
            await self.passes(self.dice.randint(1, 6))
        await self.heal()

    async def heal(self) -> None:
        """Everything that went wrong is put right; then progress (I24) and rest (I10)."""
        sim = self.sim
        sim.weather = CALM
        sim.down.clear()
        sim.cut_off.clear()
        sim.stuck.clear()
        sim.hold_commits = sim.lose_answer = sim.lose_kube_answer = False
        for node in sim.node_names():
            sim.power_on(node)
            sim.uncordon(node)
        for ordinal in range(9):
            sim.hold_claim(ordinal, None)
        sim.annotate(names.PAUSED_ANNOTATION, None)
        if sim.objects.get(("Service", NAME), {}).get("metadata", {}).get("labels", {}).get("app") == "theirs":
            del sim.objects[("Service", NAME)]
        # An image that did not come up, for whatever reason, is not tried again: a corrected one is another one.
        sim.edit(image="oarlock/node:0.9.0", resources=None)
        self.operators = self.operators[:1]
        for operator in self.operators:
            if isinstance(operator._lease, _NoLease):
                self.operators = []
        self.tale.append("heal")
        for _ in range(PASSES_TO_HEAL):
            await self.passes(1, settle=1.0)
            if not self.unfinished():
                break
        else:
            raise Oracle(f"I24: not done after {PASSES_TO_HEAL} passes: {self.unfinished()}")
        for _ in range(PASSES_TO_REST):  # what is asked for last: snapshots, the last status
            if not await self.rests():
                break
        if written := await self.rests():
            raise Oracle(f"I10: a cluster that is as it shall be was written to: {written}")

    async def rests(self) -> list[str]:
        """What is written in a few passes in which nothing happens but time."""
        before = len(self.sim.writes)
        for _ in range(3):
            self.sim.settle()
            self.sim.now += SECONDS_A_PASS
            await self.one_pass(self.operators[0])
        return self.sim.writes[before:]

    def unfinished(self) -> str:
        """What is not as the spec says; empty when all is."""
        sim, group = self.sim, self.sim.group()
        cluster = sim.objects[(names.KIND, NAME)]
        wanted = cluster["spec"]["replicas"]
        conditions = {c["type"]: c for c in cluster["status"].get("conditions", [])}
        members = sorted(names.ordinal_of_member(NAME, m.id) or 0 for m in group.voters) if group else []
        pods = [pod for (kind, _), pod in sim.objects.items() if kind == "Pod"]
        if group is None or members != list(range(wanted)) or group.learners or not group.committed:
            return f"voters {members} of {wanted}: {conditions}"
        if len(pods) != wanted or any(p["spec"]["containers"][0]["image"] != cluster["spec"]["image"] for p in pods):
            return f"{len(pods)} pods of {wanted} on {cluster['spec']['image']}: {conditions}"
        if cluster["status"].get("operation"):
            return f"operation {cluster['status']['operation']}: {conditions}"
        if conditions["Available"]["status"] != "True" or conditions["Progressing"]["status"] != "False":
            return str(conditions)
        return ""

    # ---- what may be lost

    def may_lose(self, *ordinals: int) -> bool:
        """Only as many disks as Raft forgives: a majority of each half keeps its own, or nothing is promised."""
        group = self.sim.group()
        if group is None:
            return not any(disk.cluster_id for disk in self.sim.disks.values())
        for half in group.halves():
            sound = {m.id for m in half if not oracles.lost(self.sim, m.id)}
            left = {id_ for id_ in sound if names.ordinal_of_member(NAME, id_) not in ordinals}
            if len(left) < quorum(len(half)):
                return False
        return True

    def ordinal(self) -> int:
        return self.dice.randrange(max(1, self.sim.objects[(names.KIND, NAME)]["spec"]["replicas"]))

    def pod(self) -> str:
        return names.pod(NAME, self.ordinal())


def _scale(story: Story) -> None:
    story.sim.scale(story.dice.choice((1, 2, 3, 3, 4, 5, 5, 7, 9)))


def _change_image(story: Story) -> None:
    story.sim.edit(image=story.dice.choice(IMAGES))


def _change_resources(story: Story) -> None:
    story.sim.edit(resources=story.dice.choice(RESOURCES))


def _grow_volumes(story: Story) -> None:
    storage = dict(story.sim.objects[(names.KIND, NAME)]["spec"]["storage"])
    story.sim.edit(storage={**storage, "size": story.dice.choice(("1Gi", "2Gi", "5Gi"))})


def _pause(story: Story) -> None:
    story.sim.annotate(names.PAUSED_ANNOTATION, story.dice.choice(("true", None)))


def _ask_for_a_snapshot(story: Story) -> None:
    story.sim.annotate("oarlock.dev/snapshot-now", str(story.dice.randrange(1000)))


def _delete_pod(story: Story) -> None:
    story.sim.delete_pod(story.ordinal())


def _empty_disk(story: Story) -> None:
    if story.may_lose(ordinal := story.ordinal()):
        story.sim.empty_disk(ordinal)


def _corrupt_disk(story: Story) -> None:
    if story.may_lose(ordinal := story.ordinal()):
        disk = story.sim.disk_of(names.pod(NAME, ordinal))
        if disk is not None and disk.cluster_id:
            disk.corrupt = True


def _delete_claim(story: Story) -> None:
    if story.may_lose(ordinal := story.ordinal()):
        if story.dice.random() < 0.3:
            story.sim.hold_claim(ordinal)
        story.sim.delete_claim(ordinal)
        if story.dice.random() < 0.5:
            story.sim.delete_pod(ordinal)


def _release_claims(story: Story) -> None:
    for ordinal in range(9):
        story.sim.hold_claim(ordinal, None)


def _give_a_member_up(story: Story) -> None:
    group = story.sim.group()
    if group and story.may_lose(ordinal := story.ordinal()):
        for member in group.voters:
            if names.ordinal_of_member(NAME, member.id) == ordinal:
                story.sim.annotate("oarlock.dev/replace", member.id)


def _silence(story: Story) -> None:
    story.sim.down.add(story.pod())


def _cut_off(story: Story) -> None:
    story.sim.cut_off.add(story.pod())


def _wake(story: Story) -> None:
    story.sim.down.clear()
    story.sim.cut_off.clear()


def _lead(story: Story) -> None:
    group = story.sim.group()
    if group and group.leader:
        story.sim.lead(group, story.dice.choice(sorted(m.id for m in group.voters)))


def _hold_commits(story: Story) -> None:
    story.sim.hold_commits = story.dice.random() < 0.4


def _power_off(story: Story) -> None:
    story.sim.power_off(story.dice.choice(story.sim.node_names()))


def _power_on(story: Story) -> None:
    for node in story.sim.node_names():
        story.sim.power_on(node)
    story.sim.now += 400.0 * story.dice.randrange(2)


def _lose_node(story: Story) -> None:
    """For good; another one comes in its place."""
    sim, node = story.sim, story.dice.choice(story.sim.node_names())
    bound = {
        names.ordinal_of_claim(NAME, claim["metadata"]["name"]) or 0
        for (kind, _), claim in sim.objects.items()
        if kind == "PersistentVolumeClaim"
        and (volume := sim.objects.get(("PersistentVolume", claim["spec"].get("volumeName", ""))))
        and oracles.host_of(volume) == node
    }
    if story.may_lose(*bound):
        sim.delete_node(node)
        sim.add_node(f"node-{sim.version}")


def _drain(story: Story) -> None:
    story.sim.drain(story.dice.choice(story.sim.node_names()))


def _uncordon(story: Story) -> None:
    for node in story.sim.node_names():
        story.sim.uncordon(node)


def _make_again(story: Story) -> None:
    sim = story.sim
    spec = dict(sim.objects[(names.KIND, NAME)]["spec"])
    owned = any(
        key[0] == "PersistentVolumeClaim" and child["metadata"].get("ownerReferences")
        for key, child in sim.objects.items()
    )
    if owned or (sim.group() is not None and not story.may_lose()):
        return
    sim.delete_cluster(orphan=story.dice.random() < 0.3)
    sim.make_cluster(spec.pop("replicas"), spec)
    story.operators.clear()


def _make_again_without_the_first(story: Story) -> None:
    """Deleted, the volume of pod 0 too, and made again: the others hold the data."""
    sim = story.sim
    if sim.group() is None or not story.may_lose(0):
        return
    spec = dict(sim.objects[(names.KIND, NAME)]["spec"])
    if spec["storage"]["retention"]["whenDeleted"] != "Retain":
        return
    sim.delete_cluster()
    sim.hold_claim(0, None)
    sim.delete_claim(0)
    sim.make_cluster(spec.pop("replicas"), spec)
    story.operators.clear()


def _take_a_name(story: Story) -> None:
    """Somebody else's Service stands where ours stood."""
    meta = {"name": NAME, "namespace": "default", "labels": {"app": "theirs"}}
    if ("Service", NAME) in story.sim.objects:
        del story.sim.objects[("Service", NAME)]
        story.sim.managed.pop(("Service", NAME, names.MANAGER), None)
    story.sim.put({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": []}})


def _dismiss(story: Story) -> None:
    """The operator dies between two passes, and another one comes."""
    story.operators.clear()
    story.sim.now += 60.0


def _second_operator(story: Story) -> None:
    """One more, of another version; it has the Lease to think of, or believes that it is alone."""
    if len(story.operators) < 2:
        story.hire(alone=story.dice.random() < 0.6)


DEEDS: tuple[Callable[[Story], None], ...] = (
    *(_scale, _scale, _scale, _change_image, _change_image, _change_resources, _grow_volumes, _pause),
    *(_ask_for_a_snapshot, _delete_pod, _delete_pod, _empty_disk, _corrupt_disk, _delete_claim, _release_claims),
    *(_give_a_member_up, _silence, _cut_off, _wake, _wake, _lead, _hold_commits, _power_off, _power_on, _lose_node),
    *(_drain, _uncordon, _make_again, _make_again_without_the_first, _take_a_name, _dismiss, _second_operator),
)


def quiet_logs() -> None:
    """What the operator logs would be most of the time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def steps(counts: Counter[str]) -> int:
    return counts["moves"] + counts["passes"] + counts["acts"] + counts["deeds"]


def tell(seed: int, counts: Counter[str] | None = None) -> Story:
    """One story, to its end; raises what an oracle says, with the seed."""
    story = Story(seed, counts if counts is not None else Counter())
    asyncio.run(story.tell())
    return story
