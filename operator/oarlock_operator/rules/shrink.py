"""Rules that remove members: the leader moves first, then one change takes all of them out, then their pods go.

The pods go because the number of replicas follows the confirmed configuration (`diagnose`), never before it.
Names that are not ours (`<cluster>-<ordinal>`) are never removed.
"""

from __future__ import annotations

from oarlock.wire.admin import StatusAnswer

from ..actions import Configure, Decision, Transfer, Wait
from ..diagnose import Diagnosis, everybody
from ..world import World, voters_of


def shrink(world: World, diagnosis: Diagnosis) -> Decision | None:
    configuration, leader = diagnosis.configuration, diagnosis.leader
    if configuration is None or leader is None or leader.status is None:
        return None
    victims = {
        member.id
        for member in everybody(configuration)
        if (ordinal := world.ordinal(member.id)) is not None and ordinal >= diagnosis.target
    }
    if not victims:
        return None
    staying = voters_of(configuration) - victims
    coming = [member.id for member in configuration.learners if member.promote and member.id not in victims]
    if coming and voters_of(configuration) & victims:
        return Wait("CatchingUp", f"{', '.join(coming)} become voters before others are removed.")
    if not staying:
        return Wait("CannotShrink", "None of the members that would stay is a voter.", blocked=True)
    if away := sorted(staying - diagnosis.participating):
        return Wait("WaitingForMembers", f"{', '.join(away)} must take part before others are removed.")
    if leader.status.node_id in victims:
        target = _most_caught_up(leader.status, staying)
        return Transfer(leader.pod, target, f"{leader.status.node_id} leads and is to be removed")
    return Configure(
        leader=leader.pod,
        voters=tuple(member for member in configuration.voters if member.id in staying),
        learners=tuple(member for member in configuration.learners if member.id not in victims),
        if_config=configuration.id,
        why=f"removing {', '.join(sorted(victims))}",
    )


def _most_caught_up(leader: StatusAnswer, staying: frozenset[str]) -> str:
    """Whoever has most of the leader's log; the name decides between equals, so that a plan is a function."""
    return max(sorted(staying), key=lambda id_: leader.peers[id_].match_index if id_ in leader.peers else -1)
