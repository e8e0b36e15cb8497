"""Rules that heal: take a lost identity out of the configuration, and empty a disk that may not come back as it is.

Removing before adding costs no tolerance (of three with one dead: 2 of 3 alive, none to spare; after: 2 of 2, none to
spare) and there are never two identities at one address. One at a time, and only while the others are a quorum.
"""

from __future__ import annotations

from oarlock.wire.admin import State

from ..actions import Configure, Decision, Reset, Transfer, Wait
from ..diagnose import Diagnosis, answers, everybody, heir
from ..world import World, quorum, voters_of
from .volumes import obstacle


def remove_lost(world: World, diagnosis: Diagnosis) -> Decision | None:
    """Take the first lost member out that may go. Its place is filled by the rule that adds members.

    Those whose disk is gone already come before those that are given up and take part still.
    """
    configuration, leader = diagnosis.configuration, diagnosis.leader
    if configuration is None or leader is None or leader.status is None:
        return None
    whole = len(configuration.voters) >= diagnosis.target and not configuration.learners
    refusal: Wait | None = None
    for victim, loss in sorted(diagnosis.losses.items(), key=lambda item: (item[1].given_up, item[0])):
        if loss.given_up and not whole and victim in diagnosis.participating:
            continue  # one at a time: what it holds is needed until the last one that left is back
        wait = _may_not_go(world, diagnosis, victim)
        if wait is not None:
            refusal = refusal or wait
            continue
        if victim == leader.status.node_id:
            return Transfer(leader.pod, heir(diagnosis, {victim}), f"{victim} leads, and its disk is lost: {loss.why}")
        return Configure(
            leader=leader.pod,
            voters=tuple(member for member in configuration.voters if member.id != victim),
            learners=tuple(member for member in configuration.learners if member.id != victim),
            if_config=configuration.id,
            why=f"the disk of {victim} is lost: {loss.why}",
        )
    return refusal


def _may_not_go(world: World, diagnosis: Diagnosis, victim: str) -> Wait | None:
    assert diagnosis.configuration is not None
    loss = diagnosis.losses[victim]
    remaining = voters_of(diagnosis.configuration) - {victim}
    staying = diagnosis.participating & remaining
    if not remaining or len(staying) < quorum(len(remaining)):
        away = ", ".join(sorted(remaining - staying))
        return Wait(
            "CannotReplace",
            f"The disk of {victim} is lost ({loss.why}), but without it too few members would take part to go on "
            f"safely{f': {away} must take part again' if away else ''}.",
        )
    if not loss.given_up:
        return None
    volume = world.volume(world.ordinal(victim) or 0)
    if volume is not None and volume.terminating:
        ordinal_stays = volume.ordinal < diagnosis.target
        if ordinal_stays and (why := obstacle(world, diagnosis, volume, victim)):
            return Wait("PodCreationBlocked", f"{volume.name} is being deleted under {victim}. {why}")
    elif away := ", ".join(sorted(remaining - staying)):
        return Wait("CannotReplace", f"{victim} is given up; {away} must take part before it is removed.")
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
