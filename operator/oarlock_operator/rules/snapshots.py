"""Rule that has snapshots taken: one member at a time, the leader last, and only when nothing else is to be done.

Members take snapshots by themselves when their logs have grown; these come on top, by the clock, by the number of
entries, or because a person asked.
"""

from __future__ import annotations

from oarlock.wire.admin import Role, StatusAnswer

from ..actions import TakeSnapshot, Wait
from ..api.status import LastSnapshot
from ..diagnose import Diagnosis, answers
from ..snapshots import age, records, requested
from ..world import Cluster, World

RETRY_SECONDS = 60.0  # after a failure
SPACING_SECONDS = 30.0  # at least, between two for `entries`: each copies the whole state


def snapshot(world: World, diagnosis: Diagnosis, calm: Wait) -> TakeSnapshot | None:
    """The next member whose snapshot is due; None while an operation is under way. `calm`: what the plan says else."""
    if world.cluster.status.operation is not None or not diagnosis.confirmed:
        return None
    taking_part = [(seen, status) for seen, status in answers(world) if status.node_id in diagnosis.participating]
    found = records(world)
    for seen, status in sorted(taking_part, key=lambda one: (one[1].role is Role.LEADER, one[0].pod.ordinal)):
        record = found.get(status.node_id)
        since = float("inf") if record is None else age(record, world.now)
        if record is not None and record.failure and since < RETRY_SECONDS:
            continue
        request = requested(world.cluster)
        if _asked(request, record, world.cluster):
            return TakeSnapshot(seen.pod, status.node_id, request, f"a snapshot was asked for ({request})", calm)
        if why := _due(world.cluster, status, since):
            return TakeSnapshot(seen.pod, status.node_id, "", why, calm)
    return None


def _asked(request: str, record: LastSnapshot | None, cluster: Cluster) -> bool:
    if request in ("", cluster.status.snapshot_now):
        return False
    return record is None or record.request != request or bool(record.failure)


def _due(cluster: Cluster, status: StatusAnswer, since: float) -> str:
    """Why a snapshot is due by `spec.snapshots`; empty when none is. `since`: seconds since the last."""
    wanted = cluster.spec.snapshots
    new = status.applied_index - (status.snapshot.index if status.snapshot is not None else 0)
    if wanted is None or new <= 0:
        return ""
    if wanted.entries is not None and new >= wanted.entries and since >= SPACING_SECONDS:
        return f"{new} entries since the last one"
    if wanted.interval_seconds is not None and since >= wanted.interval_seconds:
        return f"the last one is older than {wanted.interval_seconds} s"
    return ""
