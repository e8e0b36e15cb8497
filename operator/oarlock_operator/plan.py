"""Plan: at most one action, from a fixed list of rules. Pure.

The order, and why:

1. a cluster that is being deleted is left alone: garbage collection does the rest;
2. two identities under one name: a person must choose;
3. a cluster that does not exist yet is founded, or adopted;
4. nothing is changed without a leader that passed the barrier;
5. nothing is changed while another change is not committed: the log serialises, and `if_config` would refuse anyway;
6. heal (take lost identities out, empty leftover disks) before growing, because it may be what a quorum hangs on;
7. grow before shrinking, so that a replaced member is back before others leave;
8. volumes of members that left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from .actions import Decision, Wait
from .diagnose import Diagnosis, Verdict
from .rules.found import found
from .rules.grow import catching_up, grow
from .rules.replace import remove_lost, reset_leftover
from .rules.shrink import drop_volumes, shrink
from .world import World

Rule: TypeAlias = Callable[[World, Diagnosis], Decision | None]

IDLE = Wait("Idle", "The cluster is as it shall be.")


def plan(world: World, diagnosis: Diagnosis) -> Decision:
    """The first rule that has something to say decides."""
    for rule in RULES:
        decision = rule(world, diagnosis)
        if decision is not None:
            return decision
    return IDLE


def _deleting(world: World, diagnosis: Diagnosis) -> Decision | None:
    return Wait("Deleting", "The RaftCluster is being deleted.") if world.cluster.deleting else None


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
    _split,
    found,
    _leaderless,
    _uncommitted,
    remove_lost,
    reset_leftover,
    grow,
    shrink,
    catching_up,
    drop_volumes,
)
