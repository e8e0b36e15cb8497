"""Each member's last snapshot, and what was asked for. Pure; the rule that takes them is in `rules/snapshots.py`.

A record moves only when a snapshot was taken or failed, whoever began it: what a member reports is compared with what
stood in status, and the time is that of the pass that saw the difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from oarlock.wire.admin import StatusAnswer

from . import names
from .api.status import LastSnapshot
from .diagnose import Diagnosis, answers
from .world import Cluster, SnapshotTry, World

REQUEST_LENGTH = 128


def requested(cluster: Cluster) -> str:
    """The value of the annotation; it stands in status for each member, so an overlong one is cut."""
    return cluster.annotations.get(names.SNAPSHOT_ANNOTATION, "")[:REQUEST_LENGTH]


def records(world: World) -> dict[str, LastSnapshot]:
    """By node id: what stood in status, brought up to what was seen and done in this pass."""
    found = {m.node_id: m.last_snapshot for m in world.cluster.status.members if m.last_snapshot is not None}
    for _, answer in answers(world):
        if (record := _seen(found.get(answer.node_id), answer, world.now)) is not None:
            found[answer.node_id] = record
    if world.tried is not None:
        found[world.tried.node_id] = _tried(found.get(world.tried.node_id), world.tried, world.now)
    return found


def carried_out(world: World, diagnosis: Diagnosis) -> str:
    """For `status.snapshotNow`: the last request that every participating member has answered with a snapshot."""
    request, last = requested(world.cluster), world.cluster.status.snapshot_now
    found = records(world)
    everybody = bool(diagnosis.participating) and all(
        (record := found.get(id_)) is not None and record.request == request and not record.failure
        for id_ in diagnosis.participating
    )
    return request if request and everybody else last


def failures(world: World) -> Iterator[str]:
    """A sentence for each member whose last try failed."""
    for node_id, record in sorted(records(world).items()):
        if record.failure:
            yield f"{node_id} could not take a snapshot: {record.failure}."


def age(record: LastSnapshot, now: float) -> float:
    """Seconds since it was taken or tried. A clock that was set back must not stop snapshots: then it is old."""
    seconds = now - datetime.fromisoformat(record.time).timestamp()
    return seconds if seconds >= 0 else float("inf")


def _seen(before: LastSnapshot | None, answer: StatusAnswer, now: float) -> LastSnapshot | None:
    snapshot = answer.snapshot
    if snapshot is None:
        return before
    failure = _clause(snapshot.failure or "")
    if before is None or before.index != snapshot.index:
        request = before.request if before is not None else ""
        return LastSnapshot(index=snapshot.index, time=_stamp(now), failure=failure, request=request)
    if failure and not before.failure:
        return before.model_copy(update={"failure": failure, "time": _stamp(now)})
    return before  # a failure stands, in its first words, until a snapshot is taken


def _tried(before: LastSnapshot | None, tried: SnapshotTry, now: float) -> LastSnapshot:
    request = tried.request or (before.request if before is not None else "")
    if tried.failure:
        index = before.index if before is not None else 0
        return LastSnapshot(index=index, time=_stamp(now), failure=_clause(tried.failure), request=request)
    if before is not None and before.index == tried.index:  # nothing new: the one it had says it all
        return before.model_copy(update={"failure": "", "request": request})
    return LastSnapshot(index=tried.index, time=_stamp(now), request=request)


def _clause(why: str) -> str:
    return why[:1024].rstrip(". ")


def _stamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
