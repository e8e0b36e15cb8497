"""Status: what a user reads, as a pure function of what was seen. And the difference of two, as Events to post.

Written by server-side apply under its own field manager, whole each time, and only when it changed. Latches are never
in it: each has a manager of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from oarlock.wire.admin import ConfigurationModel

from . import conditions, names, rollout, snapshots
from .actions import Decision
from .api.status import CatchUp, Condition, MemberStatus, Status
from .conditions import Judgement
from .diagnose import Diagnosis
from .world import Seen, World

LATCHES = ("bootstrap", "operation", "rollout")
BEHIND_ENTRIES = 10_000  # as in the member's own state Lagging


def status(world: World, diagnosis: Diagnosis, decision: Decision, error: str, now: datetime) -> Status:
    """`error` is what went wrong in this pass, as a sentence, or empty."""
    cluster = world.cluster
    configuration, leader = diagnosis.configuration, diagnosis.leader
    members = tuple(_members(world, diagnosis)) if configuration is not None else ()
    versions = [member.version for member in members if member.suffrage == "Voter" and member.version]
    judgements = (
        conditions.available(world, diagnosis, decision),
        conditions.progressing(world, diagnosis, decision, error),
        conditions.degraded(world, diagnosis),
    )
    before = {condition.type: condition for condition in cluster.status.conditions}
    leading = leader.status if leader is not None else None
    return Status(
        observed_generation=cluster.generation,
        selector=",".join(f"{key}={value}" for key, value in names.selector(cluster.name).items()),
        replicas=len(configuration.voters) if configuration is not None else 0,
        ready_replicas=sum(pod.ready for pod in world.pods),
        version=min(versions, key=_version_key, default=cluster.status.version),
        cluster_id=diagnosis.cluster_id,
        leader=leader.pod.name if leader is not None else "",
        term=leading.term if leading is not None else cluster.status.term,
        snapshot_now=snapshots.carried_out(world, diagnosis),
        members=members,
        conditions=tuple(_condition(one, before.get(one.type), cluster.generation, now) for one in judgements),
    )


def manifest(world: World, wanted: Status) -> dict[str, object]:
    """What to apply to the status subresource."""
    body = wanted.model_dump(mode="json", by_alias=True, exclude=set(LATCHES), exclude_none=True)
    meta = {"name": world.cluster.name, "namespace": world.cluster.namespace, "uid": world.cluster.uid}
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": meta, "status": body}


def seen_part(whole: Status) -> Status:
    """Without the latches: what `status` makes."""
    return whole.model_copy(update=dict.fromkeys(LATCHES))


def with_latches(wanted: Status, live: Status) -> Status:
    """What stands in the object after `wanted` was written."""
    return wanted.model_copy(update={latch: getattr(live, latch) for latch in LATCHES})


def _members(world: World, diagnosis: Diagnosis) -> Iterator[MemberStatus]:
    configuration = diagnosis.configuration
    assert configuration is not None
    last_snapshots = snapshots.records(world)
    before = {member.node_id: member.updated for member in world.cluster.status.members}
    for node_id, suffrage in _suffrages(configuration):
        ordinal = world.ordinal(node_id)
        seen = world.at(ordinal) if ordinal is not None else None
        answer = (
            seen.status if seen is not None and seen.status is not None and seen.status.node_id == node_id else None
        )
        yield MemberStatus(
            node_id=node_id,
            pod=names.member_name(node_id),
            suffrage=suffrage,
            role=str(answer.role) if answer is not None else "",
            state=_state(node_id, seen, diagnosis),
            catch_up=_catch_up(node_id, diagnosis),
            version=answer.version if answer is not None else "",
            updated=_updated(world, seen, before.get(node_id, False)),
            last_snapshot=last_snapshots.get(node_id),
        )


def _updated(world: World, seen: Seen | None, before: bool) -> bool:
    """As before while the StatefulSet controller has not caught up: nobody can tell then."""
    known = rollout.updated(world, seen.pod) if seen is not None else False
    return before if known is None else known


def _suffrages(configuration: ConfigurationModel) -> list[tuple[str, str]]:
    """Each id once, sorted by name: a voter of the new half, a learner, or one that is leaving."""
    suffrages: dict[str, str] = {member.id: "Outgoing" for member in configuration.outgoing}
    suffrages |= {member.id: "Learner" for member in configuration.learners}
    suffrages |= {member.id: "Voter" for member in configuration.voters}
    return sorted(suffrages.items())


def _state(node_id: str, seen: Seen | None, diagnosis: Diagnosis) -> str:
    if node_id in diagnosis.losses and not diagnosis.losses[node_id].given_up:
        return "Lost"
    if seen is None or seen.status is None or seen.status.node_id != node_id:
        return "Unreachable"
    return str(seen.status.state)


def _catch_up(node_id: str, diagnosis: Diagnosis) -> CatchUp:
    """As the leader sees it: a member cannot know how far behind it is."""
    leading = diagnosis.leader.status if diagnosis.leader is not None else None
    if leading is None:
        return CatchUp.UNKNOWN
    if leading.node_id == node_id:
        return CatchUp.CAUGHT_UP
    peer = leading.peers.get(node_id)
    if peer is None or peer.contact_age_seconds is None:
        return CatchUp.UNKNOWN
    if peer.progress == "snapshot":
        return CatchUp.SNAPSHOTTING
    return CatchUp.BEHIND if leading.commit_index - peer.match_index > BEHIND_ENTRIES else CatchUp.CAUGHT_UP


def _condition(judgement: Judgement, before: Condition | None, generation: int, now: datetime) -> Condition:
    """The transition time moves only when the status does."""
    value = {True: "True", False: "False", None: "Unknown"}[judgement.status]
    kept = before.last_transition_time if before is not None and before.status == value else None
    return Condition.model_validate(
        {
            "type": judgement.type,
            "status": value,
            "reason": judgement.reason,
            "message": judgement.message[:32768],
            "observed_generation": generation,
            "last_transition_time": kept or now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    )


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that changed between two statuses. `kind` is for the counter, None when it is no membership change."""

    reason: str
    message: str
    kind: str | None = None
    type: str = "Normal"


def happenings(before: Status, after: Status) -> list[Happening]:
    """Each membership change and each change of leader, whoever caused it."""
    old = {member.node_id: member for member in before.members}
    new = {member.node_id: member for member in after.members}
    found = []
    if new:  # nobody seen is no news about the membership
        for node_id in sorted(new.keys() - old.keys()):
            suffrage = new[node_id].suffrage.lower()
            found.append(Happening("MemberAdded", f"{node_id} was added as a {suffrage}.", "added"))
        for node_id in sorted(old.keys() & new.keys()):
            if (old[node_id].suffrage, new[node_id].suffrage) == ("Learner", "Voter"):
                found.append(Happening("MemberPromoted", f"{node_id} became a voter.", "promoted"))
            if (old[node_id].suffrage, new[node_id].suffrage) == ("Voter", "Learner"):
                found.append(Happening("MemberDemoted", f"{node_id} became a learner.", "demoted"))
        for node_id in sorted(old.keys() - new.keys()):
            found.append(Happening("MemberRemoved", f"{node_id} was removed.", "removed"))
    for node_id in sorted(new):
        then = old[node_id].last_snapshot if node_id in old else None
        if (last := new[node_id].last_snapshot) is not None and last.failure and (then is None or not then.failure):
            found.append(
                Happening("SnapshotFailed", f"{node_id} could not take a snapshot: {last.failure}.", type="Warning")
            )
    if after.snapshot_now != before.snapshot_now:
        message = f"Every participating member has taken the snapshot that was asked for ({after.snapshot_now})."
        found.append(Happening("SnapshotsTaken", message))
    if after.leader and after.leader != before.leader:
        found.append(Happening("LeaderChanged", f"{after.leader} leads in term {after.term}."))
    if after.cluster_id and before.cluster_id and after.cluster_id != before.cluster_id:
        found.append(Happening("ClusterChanged", f"The cluster id is now {after.cluster_id}.", type="Warning"))
    return found
