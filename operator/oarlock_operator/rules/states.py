"""Rule for members that hold different states: while nobody knows which is wrong, the right copy must not go.

What is proven lost is replaced all the same (the rules before), and so is what a person gives up.
"""

from __future__ import annotations

from .. import names
from ..actions import Decision, Transfer, Wait
from ..diagnose import Diagnosis, differing, heir
from ..world import World


def hold(world: World, diagnosis: Diagnosis) -> Decision | None:
    """Nothing that copies a state or removes one; but a leader that was given up hands over first."""
    leader = diagnosis.leader
    if leader is None or leader.status is None or not differing(diagnosis):
        return None
    own = leader.status.node_id
    if own in diagnosis.lost and (target := heir(diagnosis, {own})):
        return Transfer(leader.pod, target, f"{own} leads, and was given up")
    return Wait("StatesDiffer", sentence(diagnosis), blocked=True)


def sentence(diagnosis: Diagnosis) -> str:
    assert diagnosis.leader is not None
    assert diagnosis.leader.status is not None
    others = ", ".join(differing(diagnosis))
    return (
        f"{others} applied the same log to another state than the leader {diagnosis.leader.status.node_id}. Where a "
        "majority shows who is wrong, that one is replaced within seconds. If this stays, keep all volumes, compare "
        "what the members hold (GET /v1/kv?consistency=stale from each), and give up the one that is wrong by the "
        f"annotation {names.REPLACE_ANNOTATION}=ID. Until then no member is added, removed or updated."
    )
