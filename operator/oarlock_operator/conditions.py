"""The conditions Available, Progressing and Degraded: one pure function each, a reason and a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from .actions import Action, Decision, Wait
from .diagnose import Diagnosis, Verdict
from .ensure import blocked_claims, taken
from .resources.claims import shrinks
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
    if names := taken(world):
        return say(
            False,
            "NameTaken",
            f"{', '.join(names)} exists already and belongs to something else; remove it or rename the cluster.",
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
    if not isinstance(decision, Wait):
        return say(True, type(decision).__name__, _doing(decision))
    if decision.blocked:
        return say(False, decision.reason, decision.message)
    if decision.reason != "Idle":
        return say(True, decision.reason, decision.message)
    live = world.live_replicas
    if live != diagnosis.replicas or len(world.pods) != diagnosis.replicas:
        return say(True, "ScalingPods", f"There are {len(world.pods)} pods; there shall be {diagnosis.replicas}.")
    update = (world.statefulset or {}).get("status", {}).get("updateRevision", "")
    if outdated := [pod.name for pod in world.pods if update and pod.revision and pod.revision != update]:
        return say(
            False,
            "AwaitingRestart",
            f"{', '.join(outdated)} run an older template; each takes the new one when its pod is deleted.",
        )
    return say(False, "Idle", decision.message)


def degraded(world: World, diagnosis: Diagnosis) -> Judgement:
    """True: less fault tolerance, or less of the spec, than was asked for."""
    say = partial(Judgement, "Degraded")
    if blocked := blocked_claims(world, diagnosis):
        return say(
            True,
            "PodCreationBlocked",
            f"{', '.join(blocked)} is being deleted; until it is gone no pod of that or a later ordinal is made.",
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
        return say(True, "MembersUnhealthy", f"{', '.join(away)} {verb} not take part; {rest}.")
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
    return say(False, "AllHealthy", f"All {len(voters)} voters take part.")


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
