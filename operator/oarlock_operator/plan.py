"""Plan: at most one action, from a fixed list of rules. Pure.

The order, and why:

1. a cluster that is being deleted is left alone: garbage collection does the rest;
   one that is paused too, until a person lets go;
2. two identities under one name: a person must choose;
   pods whose members take no part are renewed when their template is outdated: that needs no quorum, and may be what
   lets one come about;
3. a cluster that does not exist yet is founded, or adopted;
4. nothing is changed without a leader that passed the barrier;
5. nothing is changed while another change is not committed: the log serialises, and `if_config` would refuse anyway;
6. heal (take lost identities out, empty leftover disks) before growing, because it may be what a quorum hangs on;
7. while two members hold different states and nobody knows which is right, nothing that copies one or removes another;
8. grow before shrinking, so that a replaced member is back before others leave;
9. volumes of members that left;
10. the rolling update of members that take part, when nothing else is to be done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from . import names
from .actions import IDLE, Decision, Wait
from .diagnose import Diagnosis, Verdict
from .rules.found import found
from .rules.grow import catching_up, grow
from .rules.replace import remove_lost, reset_leftover
from .rules.roll import mend, roll, rolled_back
from .rules.shrink import shrink
from .rules.snapshots import snapshot
from .rules.states import hold
from .rules.volumes import drop_volumes, renew_disks
from .world import World

CALM = ("Idle", "RolledBack")  # nothing moves, and snapshots may be taken

Rule: TypeAlias = Callable[[World, Diagnosis], Decision | None]


def plan(world: World, diagnosis: Diagnosis) -> Decision:
    """The first rule that has something to say decides."""
    for rule in RULES:
        decision = rule(world, diagnosis)
        if decision is not None:
            break
    else:
        decision = IDLE
    if isinstance(decision, Wait) and decision.reason in CALM:
        return snapshot(world, diagnosis, decision) or decision
    return decision


def _deleting(world: World, diagnosis: Diagnosis) -> Decision | None:
    return Wait("Deleting", "The RaftCluster is being deleted.") if world.cluster.deleting else None


def _paused(world: World, diagnosis: Diagnosis) -> Decision | None:
    if not world.cluster.paused:
        return None
    return Wait(
        "Paused",
        f"Only this status is written while the annotation {names.PAUSED_ANNOTATION} is true; remove it to go on.",
        blocked=True,
    )


def _split(world: World, diagnosis: Diagnosis) -> Decision | None:
    if diagnosis.verdict is not Verdict.SPLIT_IDENTITY:
        return None
    return Wait("SplitIdentity", "Members claim different cluster ids; the operator does not choose.", blocked=True)


def _leaderless(world: World, diagnosis: Diagnosis) -> Decision | None:
    if diagnosis.leader is not None:
        return None
    return Wait("WaitingForLeader", "No leader with a quorum answers; membership is not changed without one.")


def _uncommitted(world: World, diagnosis: Diagnosis) -> Decision | None:
    if diagnosis.confirmed:
        return None
    return Wait("ChangeInProgress", "A change of the membership is not committed yet.")


RULES: tuple[Rule, ...] = (
    _deleting,
    _paused,
    _split,
    mend,
    found,
    _leaderless,
    _uncommitted,
    remove_lost,
    reset_leftover,
    hold,
    renew_disks,
    grow,
    shrink,
    catching_up,
    drop_volumes,
    roll,
    rolled_back,
)
