"""Rules of the rolling update: every pod comes to run the wanted template, and a quorum takes part all the while.

    spec changes --> latch what is good now --> latch the operation --> write the template --> pods, one by one --> done
                                                        ^                       |
                                     the last good one  |                       |  the first member fails its bound
                                                        +----- latch failed <---+

* `mend` asks for no quorum: it removes pods whose member takes no part anyway, so that a corrected template reaches a
  cluster that a bad one broke. `roll` removes pods that take part: followers, then the leader after a hand-over.
* One pod at a time, whoever it is: what looks silent from here may be half of a quorum elsewhere.
* Nothing is removed while a pod is missing or ending, or could not be made again.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

from oarlock.wire.admin import State

from .. import rollout
from ..actions import Decision, RemovePod, Transfer, Wait, WriteOperation, WriteRollout
from ..api.spec import Resources
from ..api.status import OperationStatus, RolloutStatus
from ..diagnose import Diagnosis
from ..ensure import blocked_claims
from ..world import Pod, Seen, World, quorum, voters_of

ROLLING: Literal["RollingUpdate"] = "RollingUpdate"

NAMED_SECONDS = 120.0
"""A new pod fails when after this long Kubernetes names an error (ImagePullBackOff, CrashLoopBackOff): its back-off has
doubled several times by then, and one more try would not tell more."""
SILENT_SECONDS = 600.0
"""A new pod fails when after this long its member has not answered, and Kubernetes names no error: it may be a slow
pull, or a node on its way. Kubernetes' own deadline for a Deployment. A member that answers does not fail, should it
replay for an hour."""


def mend(world: World, diagnosis: Diagnosis) -> Decision | None:
    """Give up a template that its first member did not come up with; renew pods whose members take no part."""
    if world.statefulset is None:
        return None
    if (given_up := _give_up(world, diagnosis)) is not None:
        return given_up
    ends = _cannot_be_made(world, diagnosis)
    dying = {one.ordinal for one in world.volumes if one.terminating}  # such a pod holds what is left of its disk
    outdated = [pod for pod in rollout.outdated(world) if pod.ordinal not in dying]
    outdated = [pod for pod in outdated if ends is None or pod.ordinal < ends]
    broken = [pod for pod in outdated if _idle_pod(world, diagnosis, pod)]
    unwritten = rollout.live_hash(world) != rollout.wanted(world).hash
    if not broken and not (unwritten and _missing(world, diagnosis)):
        return None
    if not unwritten and _moving(world, diagnosis, ends) is not None:
        return None  # nothing could be removed now: another rule's operation keeps its slot
    # It never waits: what is mended by other rules must not wait for this one, nor this one for other clusters.
    if (first := _begin(world, diagnosis, urgent=True)) is not None:
        return None if isinstance(first, Wait) else first
    if not broken or _moving(world, diagnosis, ends) is not None:
        return None
    # Those that are not Ready first: the disruption budget may not let the others go before one of them is back.
    pod = max(broken, key=lambda one: (not one.ready, one.ordinal))
    return RemovePod(pod, f"{pod.name} takes no part ({_state(world, pod)}) and is made anew from the wanted template")


def roll(world: World, diagnosis: Diagnosis) -> Decision | None:
    """Renew the pods whose members take part. Comes last: whatever else is to be done is done first."""
    if world.statefulset is None or diagnosis.configuration is None or diagnosis.leader is None:
        return None
    pods = rollout.outdated(world)
    if not pods and not rollout.latched(world):
        return _forget(world)
    if not pods:
        return _begin(world, diagnosis) or _finish(world, diagnosis)
    step = _step(world, diagnosis, pods)
    if isinstance(step, Wait) and not rollout.latched(world):
        return step  # the template stays as it is until a first pod may be renewed
    return _begin(world, diagnosis) or step


def rolled_back(world: World, diagnosis: Diagnosis) -> Decision | None:
    """All is as it was before a template that failed: say so until the spec asks for another."""
    latch = world.cluster.status.rollout
    if latch is None or not rollout.failed(world):
        return None
    return Wait(
        "RolledBack",
        f"The new pod template was taken back: {latch.failed_reason}. The members run the last good one "
        f"(image {latch.good_image}); change image or resources in spec to go on.",
        blocked=True,
    )


# ---- beginning and ending


def _begin(world: World, diagnosis: Diagnosis, *, urgent: bool = False) -> Decision | None:
    """Latch what is good, then the operation; then wait until the template was written and seen. None: go on."""
    want, version = rollout.wanted(world).hash, world.cluster.resource_version
    unwritten = rollout.live_hash(world) != want
    if not rollout.latched(world):
        if not (world.may_roll or urgent):
            return Wait("WaitingForOtherClusters", "As many clusters as may be updated at once are being updated.")
        if not rollout.revision(world):
            return _wait(world, "the StatefulSet controller has not seen the StatefulSet as it is now yet")
        latch = _good_now(world, diagnosis)
        if latch != (world.cluster.status.rollout or RolloutStatus()):
            return WriteRollout(latch, version, "noted the template to go back to")
        operation = OperationStatus(
            type=ROLLING, target=want, step="write the pod template", started_time=stamp(world.now)
        )
        before = world.cluster.status.operation
        return WriteOperation(operation, before, version, f"{len(world.pods)} pods are to run another template")
    if unwritten:
        return _wait(world, "the new template is being written to the StatefulSet")
    if not rollout.revision(world):
        return _wait(world, "the StatefulSet controller has not seen the new template yet")
    return None


def _good_now(world: World, diagnosis: Diagnosis) -> RolloutStatus:
    """The live template, when its own update was finished and somebody takes part on it; else what was latched."""
    latch = world.cluster.status.rollout or RolloutStatus()
    live, revision, operation = rollout.live_hash(world), rollout.revision(world), world.cluster.status.operation
    if not rollout.failed(world):
        latch = latch.model_copy(update={"failed_hash": "", "failed_reason": ""})
    unfinished = operation is not None and (operation.type, operation.target) == (ROLLING, live)
    runs = any(_takes_part(world, diagnosis, pod) for pod in world.pods if pod.revision == revision)
    if rollout.wanted(world).hash in (live, latch.good_hash) or unfinished or not runs or world.statefulset is None:
        return latch
    (container,) = world.statefulset["spec"]["template"]["spec"]["containers"]
    return RolloutStatus(
        revision=revision,
        good_image=container["image"],
        good_resources=Resources.model_validate(container["resources"]) if container.get("resources") else None,
        good_hash=live,
    )


def _give_up(world: World, diagnosis: Diagnosis) -> Decision | None:
    """Latch a template as failed while nobody takes part on it and a pod made from it is past its bound."""
    latch, want = world.cluster.status.rollout, rollout.wanted(world).hash
    new = [pod for pod in world.pods if rollout.updated(world, pod)]
    if latch is None or latch.good_hash in ("", want) or not rollout.latched(world):
        return None
    if any(_takes_part(world, diagnosis, pod) for pod in new):
        return None
    for pod in new:
        if (why := _overdue(world, pod)) is not None:
            failed = latch.model_copy(update={"failed_hash": want, "failed_reason": why})
            return WriteRollout(failed, world.cluster.resource_version, f"{why}: going back to {latch.good_image}")
    return None


def _overdue(world: World, pod: Pod) -> str | None:
    """Why a new pod is given up, as half a sentence; None while it may still come up."""
    seen, age = world.at(pod.ordinal), world.now - pod.created
    said = seen.status.state if seen is not None and seen.status is not None else None
    if pod.ready or pod.terminating or not pod.created or said not in (None, State.OUTDATED):
        return None
    named = said is State.OUTDATED or pod.waiting
    if age <= (NAMED_SECONDS if named else SILENT_SECONDS):
        return None
    return f"{pod.name} did not come up within {age:.0f} s ({_state(world, pod)})"


def _finish(world: World, diagnosis: Diagnosis) -> Decision | None:
    """All pods are new: wait until their members take part. None: done."""
    why = _unsettled(world, diagnosis) or next(_not_back(world, diagnosis), None)
    return _wait(world, why) if why else None


def _forget(world: World) -> Decision | None:
    """The spec asks for something else than what failed, and it stands: that one may be tried again."""
    latch = world.cluster.status.rollout
    if latch is None or not latch.failed_hash or rollout.failed(world):
        return None
    cleared = latch.model_copy(update={"failed_hash": "", "failed_reason": ""})
    return WriteRollout(cleared, world.cluster.resource_version, "the spec no longer asks for the template that failed")


# ---- the next pod


def _step(world: World, diagnosis: Diagnosis, pods: list[Pod]) -> Decision:
    """Which pod is next, or why none is."""
    leader, configuration = diagnosis.leader, diagnosis.configuration
    assert leader is not None
    assert leader.status is not None
    assert configuration is not None
    if (why := _unsettled(world, diagnosis) or next(_not_back(world, diagnosis), None)) is not None:
        return _wait(world, why)
    ours = [pod for pod in pods if _takes_part(world, diagnosis, pod)]
    followers = [pod for pod in ours if pod.uid != leader.pod.uid]
    if not ours:
        silent = ", ".join(f"{pod.name} ({_state(world, pod)})" for pod in pods)
        return _wait(world, f"{silent}: made anew once it takes part again, or once Kubernetes names an error")
    pod = max(followers, key=lambda one: one.ordinal, default=leader.pod)
    voters, left = len(voters_of(configuration)), len(diagnosis.participating) - 1
    if voters > 2 and left < quorum(voters):
        return _wait(
            world, f"{pod.name} must stay: without it {left} of {voters} voters take part, and {quorum(voters)} must"
        )
    if voters == 2 and left < 1:
        return _wait(world, f"{pod.name} must stay until the other voter takes part")
    if pod.uid != leader.pod.uid or voters == 1:
        return RemovePod(pod, f"{pod.name} is restarted; {_count(world)}", _warning(voters, pod))
    heirs = diagnosis.participating - {leader.status.node_id}
    target = max(sorted(heirs), key=lambda id_: _match(leader, id_))
    return Transfer(leader.pod, target, f"{pod.name} leads and is the last to be restarted; {_count(world)}")


def _unsettled(world: World, diagnosis: Diagnosis) -> str | None:
    """Why no pod may be removed just now, whatever it is."""
    if claims := blocked_claims(world, diagnosis):
        return f"{', '.join(claims)} is being deleted, and a pod removed now might not come back"
    return _moving(world, diagnosis)


def _moving(world: World, diagnosis: Diagnosis, ends: int | None = None) -> str | None:
    """Which pod is on its way out or in; `ends`: the first ordinal that cannot be made now, for which nobody waits."""
    if ending := [pod.name for pod in world.pods if pod.terminating and (ends is None or pod.ordinal < ends)]:
        return f"{', '.join(ending)} is ending"
    if missing := _missing(world, diagnosis, ends):
        return f"{', '.join(missing)} is not there yet"
    return None


def _cannot_be_made(world: World, diagnosis: Diagnosis) -> int | None:
    """The first ordinal whose claim is ending and whose pod is not there: it and all later ones are not made."""
    there = {pod.ordinal for pod in world.pods if not pod.terminating}
    blocked = [one.ordinal for one in world.volumes if one.name in blocked_claims(world, diagnosis)]
    return min((ordinal for ordinal in blocked if ordinal not in there), default=None)


def _missing(world: World, diagnosis: Diagnosis, ends: int | None = None) -> list[str]:
    there = {pod.ordinal for pod in world.pods}
    replicas = diagnosis.replicas if ends is None else ends
    return [f"{world.cluster.name}-{ordinal}" for ordinal in range(replicas) if ordinal not in there]


def _not_back(world: World, diagnosis: Diagnosis) -> Iterator[str]:
    """New pods that are not back: nobody else is disturbed until they are. Ready, so that clients find them too."""
    for pod in world.pods:
        if rollout.updated(world, pod) is not True:
            continue
        if not _takes_part(world, diagnosis, pod):
            yield f"{pod.name} runs the new template and must take part first ({_state(world, pod)})"
        elif not pod.ready:
            yield f"{pod.name} runs the new template and must be Ready first"


def _idle_pod(world: World, diagnosis: Diagnosis, pod: Pod) -> bool:
    """Is nothing lost by removing this pod? Kubernetes says that it does not run, or its member that it does nothing.

    A member that only does not answer, and one that reads its log or copies data, is left alone.
    """
    seen = world.at(pod.ordinal)
    if seen is None or pod.terminating:
        return False
    if seen.status is None:
        return not pod.ready and (bool(pod.why) or rollout.given_up(world, pod))
    if seen.status.state is State.ISOLATED:
        return diagnosis.leader is None
    return seen.status.state in (State.IDLE, State.OUTDATED)


# ---- words


def _takes_part(world: World, diagnosis: Diagnosis, pod: Pod) -> bool:
    seen = world.at(pod.ordinal)
    return seen is not None and seen.status is not None and seen.status.node_id in diagnosis.participating


def _match(leader: Seen, node_id: str) -> int:
    peer = leader.status.peers.get(node_id) if leader.status is not None else None
    return peer.match_index if peer is not None else -1


def _state(world: World, pod: Pod) -> str:
    seen = world.at(pod.ordinal)
    if seen is None:
        return pod.why or "not asked yet"
    return seen.why if seen.status is None else str(seen.status.state)


def _warning(voters: int, pod: Pod) -> str:
    if voters == 1:
        return f"{pod.name} is the only member: until it is back nothing is served."
    return f"{pod.name} is one of two members: until it is back no write is accepted." if voters == 2 else ""


def _count(world: World) -> str:
    new = sum(rollout.updated(world, pod) is True for pod in world.pods)
    return f"{new} of {len(world.pods)} pods run the wanted template"


def _wait(world: World, why: str) -> Wait:
    return Wait(ROLLING, f"{_count(world)}: {why}.")


def stamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
