"""The conditions Available, Progressing and Degraded: one pure function each, a reason and a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from . import names, snapshots
from .actions import Action, Decision, TakeSnapshot, Wait
from .diagnose import Diagnosis, Verdict, differing
from .ensure import blocked_claims, taken
from .resources.claims import shrinks
from .rules import states
from .rules.volumes import obstacle
from .world import World, quorum, voters_of


@dataclass(frozen=True, slots=True)
class Judgement:
    """A condition before it has a time: `status` is True, False or None for Unknown."""

    type: str
    status: bool | None
    reason: str
    message: str


def available(world: World, diagnosis: Diagnosis, decision: Decision) -> Judgement:
    """True: a leader answered a barrier in this pass, accepts writes, and a ready pod stands behind the Service."""
    say = partial(Judgement, "Available")
    if others := taken(world):
        return say(
            False,
            "NameTaken",
            f"{', '.join(others)} exists already and belongs to something else; remove it or rename the cluster.",
        )
    configuration = diagnosis.configuration
    if diagnosis.leader is not None and configuration is not None:
        if configuration.min_voters:
            return say(
                False,
                "WaitingForVoters",
                f"Writes are refused until the cluster has had {configuration.min_voters} voters; "
                f"it has {len(configuration.voters)}.",
            )
        if not any(pod.ready for pod in world.pods):
            return say(False, "NoReadyPods", f"{diagnosis.leader.pod.name} leads, but no pod is ready for clients yet.")
        return say(True, "QuorumHealthy", f"{diagnosis.leader.pod.name} leads with a quorum.")
    if isinstance(decision, Wait) and decision.reason in ("ForeignVolumes", "SplitIdentity", "WaitingForPods"):
        reason = "AwaitingBootstrap" if decision.reason == "WaitingForPods" else decision.reason
        return say(False, reason, decision.message)
    match diagnosis.verdict:
        case Verdict.UNINITIALISED:
            return say(False, "AwaitingBootstrap", "The cluster is being founded.")
        case Verdict.DATA_LOST:
            return say(
                False,
                "DataLost",
                "Every member's disk is empty, although the cluster was founded. Restore a backup into a new cluster.",
            )
        case Verdict.QUORUM_LOST:
            lost = ", ".join(sorted(diagnosis.lost))
            return say(False, "QuorumLost", f"The disks of {lost} are lost; those that remain are no quorum.")
        case _:
            return say(False, "QuorumUncertain", f"No leader answers with a quorum. {_silent(world)}".strip())


def progressing(world: World, diagnosis: Diagnosis, decision: Decision, error: str) -> Judgement:
    """True: the operator is changing something, or waits for a change to take effect."""
    say = partial(Judgement, "Progressing")
    if error:
        return say(False, "ReconcileError", error)
    if isinstance(decision, TakeSnapshot):
        decision = decision.calm  # nobody waits for it, and it must not flicker with each
    if not isinstance(decision, Wait):
        latch = world.cluster.status.operation
        return say(True, latch.type if latch is not None else type(decision).__name__, _doing(decision))
    if decision.blocked:
        return say(False, decision.reason, decision.message)
    if decision.reason != "Idle":
        return say(True, decision.reason, decision.message)
    live = world.live_replicas
    if live != diagnosis.replicas or len(world.pods) != diagnosis.replicas:
        return say(True, "ScalingPods", f"There are {len(world.pods)} pods; there shall be {diagnosis.replicas}.")
    return say(False, "Idle", decision.message)


def degraded(world: World, diagnosis: Diagnosis) -> Judgement:
    """True: less fault tolerance, or less of the spec, than was asked for."""
    say = partial(Judgement, "Degraded")
    if blocked := blocked_claims(world, diagnosis):
        return say(
            True,
            "PodCreationBlocked",
            " ".join(_ending(world, diagnosis, name) for name in blocked)
            + " Until then no pod of that or a later ordinal can be made, and no other is disturbed.",
        )
    configuration = diagnosis.configuration
    if configuration is None:
        return say(None, "NotFounded", "The cluster is not founded yet.")
    voters = voters_of(configuration)
    if away := sorted(voters - diagnosis.participating):
        spare = len(diagnosis.participating) - quorum(len(voters))
        rest = f"{spare} more may fail" if spare > 0 else "no more may fail"
        if diagnosis.leader is None:
            return say(True, "NoLeader", f"No leader answers with a quorum. {_silent(world)}".strip())
        verb = "does" if len(away) == 1 else "do"
        hidden = world.around.hidden if world.around is not None else ""
        text = f"{', '.join(away)} {verb} not take part; {rest}. {hidden}".strip()
        return say(True, "MembersUnhealthy", text)
    if differing(diagnosis):
        return say(True, "StatesDiffer", states.sentence(diagnosis))
    if shared := _shared_node(world, voters):
        return say(True, "SharedNode", shared)
    smaller = [
        volume.name
        for volume in world.volumes
        if volume.cluster_uid == world.cluster.uid and shrinks(world.cluster, volume)
    ]
    if smaller:
        return say(
            True, "CannotShrinkVolumes", f"{', '.join(smaller)} are larger than storage.size; volumes cannot shrink."
        )
    if storage := _class_differs(world):
        return say(True, "StorageClassIgnored", storage)
    if failed := " ".join(snapshots.failures(world)):
        return say(True, "SnapshotFailed", f"{failed} It is tried again every minute while one is due.")
    if len(voters) % 2 == 0:
        return say(False, "EvenSize", f"All {len(voters)} voters take part. {_even(len(voters))}")
    return say(False, "AllHealthy", f"All {len(voters)} voters take part.")


def _even(voters: int) -> str:
    """An even size is allowed, and never the better choice: the quorum grows, the tolerance does not."""
    tolerated = voters - quorum(voters)
    more = {0: "no failure", 1: "one failure"}.get(tolerated, f"{tolerated} failures")
    return f"{voters} tolerate {more}, as {voters - 1} would; {voters + 1} would tolerate one more."


def _ending(world: World, diagnosis: Diagnosis, name: str) -> str:
    """What a claim that is being deleted waits for."""
    volume = next(one for one in world.volumes if one.name == name)
    member = names.pod(world.cluster.name, volume.ordinal)
    why = obstacle(world, diagnosis, volume, next((id_ for id_ in diagnosis.lost if id_.startswith(f"{member}-")), ""))
    return f"{name} is being deleted. {why or f'{member} gets a new volume once it is gone.'}"


def _shared_node(world: World, voters: frozenset[str]) -> str:
    """A Node on which several voters run, so many that without it there is no quorum."""
    at: dict[str, list[str]] = {}
    places = {world.ordinal(id_) for id_ in voters}
    for pod in world.pods:
        if pod.node and pod.ordinal in places:
            at.setdefault(pod.node, []).append(pod.name)
    for node, pods in sorted(at.items()):
        if len(pods) > 1 and len(voters) - len(pods) < quorum(len(voters)):
            return (
                f"{', '.join(pods)} run on Node {node}: without it there is no quorum. Where another Node is free, "
                "evict one of them, or delete its volume claim if that is bound to the Node: it is made anew elsewhere."
            )
    return ""


def _silent(world: World) -> str:
    return " ".join(f"{seen.pod.name} does not answer: {seen.why}." for seen in world.seen if seen.status is None)


def _class_differs(world: World) -> str:
    """A class that was changed after the volumes were made; a class that is absent means whatever they got."""
    wanted = world.cluster.spec.storage.storage_class_name
    templates = (world.statefulset or {}).get("spec", {}).get("volumeClaimTemplates", [])
    have = templates[0]["spec"].get("storageClassName") if templates else None
    if wanted is None or not templates or have == wanted:
        return ""
    return f"The volumes have storage class {have or '(default)'}; storageClassName {wanted} is ignored."


def _doing(action: Action) -> str:
    why = getattr(action, "why", "")
    return f"{type(action).__name__}: {why}." if why else f"{type(action).__name__}."
