"""Rules that heal: take a lost identity out of the configuration, and empty a disk that may not come back as it is.

Removing before adding costs no tolerance (of three with one dead: 2 of 3 alive, none to spare; after: 2 of 2, none to
spare) and there are never two identities at one address. One at a time, and only while the others are a quorum.
"""

from __future__ import annotations

from oarlock.wire.admin import State

from ..actions import Configure, Decision, Reset, Wait
from ..diagnose import Diagnosis, answers, everybody
from ..world import World, quorum, voters_of


def remove_lost(world: World, diagnosis: Diagnosis) -> Decision | None:
    """Take the first lost member out. Its place is filled by the rule that adds members."""
    configuration, leader = diagnosis.configuration, diagnosis.leader
    if configuration is None or leader is None:
        return None
    for victim in sorted(diagnosis.lost):
        remaining = voters_of(configuration) - {victim}
        if not remaining or len(diagnosis.participating & remaining) < quorum(len(remaining)):
            return Wait(
                "CannotReplace",
                f"{victim} lost its disk, but without it too few members would take part to go on safely.",
            )
        return Configure(
            leader=leader.pod,
            voters=tuple(member for member in configuration.voters if member.id != victim),
            learners=tuple(member for member in configuration.learners if member.id != victim),
            if_config=configuration.id,
            why=f"{victim} lost its disk",
        )
    return None


def reset_leftover(world: World, diagnosis: Diagnosis) -> Decision | None:
    """A member below the target whose old identity may not return: quarantine its data, so that it comes back empty.

    Permitted only for an id that the confirmed configuration lacks. Members at or above the target leave anyway.
    """
    configuration = diagnosis.configuration
    if configuration is None or not diagnosis.confirmed:
        return None
    known = {member.id for member in everybody(configuration)}
    for seen, status in answers(world):
        if seen.pod.ordinal >= diagnosis.target or seen.pod.terminating or status.node_id in known:
            continue
        if status.state not in (State.IDLE, State.REPLAYING, State.DRAINING):
            return Reset(seen.pod, status.node_id, f"{status.node_id} was removed and its id may not return")
    return None
