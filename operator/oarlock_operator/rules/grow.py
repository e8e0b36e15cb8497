"""Rule that adds members: pod first, learner second, voter last.

All that are missing are added in one change, as learners that the leader promotes together once they have caught up,
so that a cluster never stands at an even size on its way (an even size tolerates no more failures than one less).
While some pods are not there yet, only so many are added as make the number of voters odd.
"""

from __future__ import annotations

from oarlock.wire.admin import MemberModel, State

from .. import names
from ..actions import Configure, Decision, Wait
from ..diagnose import Diagnosis, everybody
from ..evidence import condemned
from ..world import Seen, World
from .found import note_needed
from .volumes import obstacle


def grow(world: World, diagnosis: Diagnosis) -> Decision | None:
    configuration, leader = diagnosis.configuration, diagnosis.leader
    if configuration is None or leader is None:
        return None
    missing, ready = joining(world, diagnosis)
    if not missing:
        return None
    if not ready:
        return Wait("WaitingForPods", f"Waiting for {_words(world, diagnosis, missing)} before adding them.")
    for seen in ready:
        if world.volume(seen.pod.ordinal) is None:
            return Wait("WaitingForPods", f"{seen.pod.name} has no volume claim yet.")
        note = note_needed(world, seen)
        if note is not None:
            return note
    added = tuple(_member(world, seen) for seen in ready)
    return Configure(
        leader=leader.pod,
        voters=tuple(configuration.voters),
        learners=(*configuration.learners, *added),
        if_config=configuration.id,
        why=f"adding {', '.join(member.id for member in added)}",
    )


def joining(world: World, diagnosis: Diagnosis) -> tuple[list[int], list[Seen]]:
    """Ordinals without a member, and those of them that the next change adds."""
    configuration = diagnosis.configuration
    if configuration is None:
        return [], []
    taken = {world.ordinal(member.id) for member in everybody(configuration)}
    missing = [ordinal for ordinal in range(diagnosis.target) if ordinal not in taken]
    ready = [seen for seen in (world.at(ordinal) for ordinal in missing) if seen is not None and _idle(world, seen)]
    coming = len(configuration.voters) + sum(member.promote for member in configuration.learners)
    if len(ready) < len(missing) and (coming + len(ready)) % 2 == 0:
        ready = ready[:-1]
    return missing, ready


def catching_up(world: World, diagnosis: Diagnosis) -> Decision | None:
    """Learners that the leader promotes by itself: nothing else is changed meanwhile."""
    configuration = diagnosis.configuration
    learners = [member.id for member in configuration.learners if member.promote] if configuration else []
    if not learners:
        return None
    return Wait("CatchingUp", f"{', '.join(learners)} copy the data before they become voters.")


def _idle(world: World, seen: Seen) -> bool:
    """Empty, and there to stay."""
    volume = world.volume(seen.pod.ordinal)
    ending = seen.pod.terminating or (volume is not None and volume.terminating)
    return seen.status is not None and seen.status.state is State.IDLE and not ending


def _member(world: World, seen: Seen) -> MemberModel:
    assert seen.status is not None
    name, namespace = world.cluster.name, world.cluster.namespace
    return MemberModel(
        id=seen.status.node_id,
        peer_url=names.peer_url(name, namespace, seen.pod.name),
        client_url=names.client_url(name, namespace, seen.pod.name),
        promote=True,
    )


def _words(world: World, diagnosis: Diagnosis, ordinals: list[int]) -> str:
    words = []
    for ordinal in ordinals:
        seen, volume, why_new = world.at(ordinal), world.volume(ordinal), condemned(world, ordinal)
        if volume is not None and why_new:
            why = f"its volume claim {volume.name} {why_new}. {obstacle(world, diagnosis, volume)}".strip(" .")
        elif seen is None:
            why = "not there yet"
        elif seen.status is None:
            why = seen.why
        else:
            why = f"{seen.status.state}"
        words.append(f"{names.pod(world.cluster.name, ordinal)} ({why})")
    return ", ".join(words)
