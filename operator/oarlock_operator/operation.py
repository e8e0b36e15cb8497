"""`status.operation`: the one slot in which stands what is under way. Pure.

It is written ahead: before the first act of anything that takes several steps or destroys, and read back before that
act is done. It decides nothing: each pass plans anew on what is there, and an operation that no plan continues is
cleared once the cluster is as it shall be. What is more urgent takes the slot; what it displaced is planned again.
"""

from __future__ import annotations

from . import names
from .actions import (
    Bootstrap,
    Configure,
    Decision,
    DeleteVolume,
    RemovePod,
    Reset,
    Transfer,
    Wait,
    WriteLatch,
    WriteOperation,
)
from .api.status import OperationStatus, OperationType
from .diagnose import Diagnosis, everybody
from .rules.roll import stamp
from .world import Pod, World

Goal = tuple[OperationType, str]

DONE = ("Idle", "RolledBack")


def latched(world: World, diagnosis: Diagnosis, decision: Decision) -> Decision:
    """The decision itself, or the write of the slot that must come before it, or the one that comes at its end."""
    current, version = world.cluster.status.operation, world.cluster.resource_version
    if isinstance(decision, Wait) and decision.reason in DONE:
        if current is None or not _settled(world, diagnosis):
            return decision
        return WriteOperation(None, current, version, f"{current.type} is done")
    goal = _goal(world, diagnosis, decision)
    if goal is None or (current is not None and (isinstance(decision, Wait) or _part_of(current, goal))):
        return decision
    why = decision.message if isinstance(decision, Wait) else getattr(decision, "why", "")
    step = why.removesuffix(".") or type(decision).__name__  # a phrase, as those of acts are
    type_, target = goal
    begun = OperationStatus(type=type_, target=target, step=step, started_time=stamp(world.now))
    return WriteOperation(begun, current, version, step)


def _goal(world: World, diagnosis: Diagnosis, decision: Decision) -> Goal | None:
    """What operation this is the first or next act of; None for what needs no latch, or is latched by its own rule."""
    voters = str(diagnosis.target)
    match decision:
        case Wait(reason="WaitingForPods"):
            latch = world.cluster.status.bootstrap
            return ("ScaleOut", voters) if latch is not None and latch.cluster_id else ("Bootstrap", voters)
        case Bootstrap():
            return "Bootstrap", voters
        case WriteLatch(latch=latch) if not latch.adopted:
            return "Bootstrap", voters
        case Configure():
            return _of_change(diagnosis, decision)
        case Transfer(leader=leader):
            return _of_transfer(diagnosis, leader)
        case Reset(node_id=node_id):
            return "ResetMember", node_id
        case DeleteVolume(volume=volume):
            return "DeleteVolume", volume.name
        case RemovePod(pod=pod) if (volume_ := world.volume(pod.ordinal)) is not None and volume_.terminating:
            return "DeleteVolume", volume_.name
        case _:
            return None


def _of_transfer(diagnosis: Diagnosis, leader: Pod) -> Goal | None:
    """The leader leaves, or is replaced; one that is only restarted was latched by the rule of rolling updates."""
    if leader.ordinal >= diagnosis.target:
        return "ScaleIn", str(diagnosis.target)
    lost = [id_ for id_ in diagnosis.lost if names.member_name(id_) == leader.name]
    return ("Replace", lost[0]) if lost else None


def _of_change(diagnosis: Diagnosis, change: Configure) -> Goal:
    before = {member.id for member in everybody(diagnosis.configuration)} if diagnosis.configuration else set()
    gone = before - {member.id for member in (*change.voters, *change.learners)}
    if lost := sorted(gone & diagnosis.lost):
        return "Replace", lost[0]
    return ("ScaleIn" if gone else "ScaleOut"), str(diagnosis.target)


def _part_of(current: OperationStatus, goal: Goal) -> bool:
    """May this be done under the operation that stands there?"""
    type_, target = goal
    if (current.type, current.target) == goal:
        return True
    match current.type:
        case "Bootstrap":
            return type_ in ("Bootstrap", "ScaleOut")
        case "ScaleOut":
            return type_ == "ResetMember"  # of a leftover disk
        case "ScaleIn":
            return type_ == "DeleteVolume"
        case "Replace":
            member = names.member_name(current.target)
            same = target == f"data-{member}" if type_ == "DeleteVolume" else names.member_name(target) == member
            return type_ == "ScaleOut" or (type_ in ("ResetMember", "DeleteVolume") and same)
        case _:
            return False


def _settled(world: World, diagnosis: Diagnosis) -> bool:
    """The pods are as many as there shall be, and none is ending."""
    ending = any(pod.terminating for pod in world.pods)
    return not ending and world.live_replicas == diagnosis.replicas == len(world.pods)
