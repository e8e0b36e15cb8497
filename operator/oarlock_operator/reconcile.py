"""One pass over one cluster:  observe -> diagnose -> ensure children -> plan -> act -> write status.

Kubernetes is read when an event woke us, before anything is written, and at least every 30 s; members are asked in
every pass. So a pass on remembered objects may find that something is to be done, but only a pass on objects read in
the same pass does it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from . import act, ensure, events, names, observe, operation, plan, status
from .actions import Decision, TakeSnapshot, Wait, WriteOperation
from .api.status import OperationStatus
from .diagnose import Diagnosis, diagnose
from .kube import Kube, KubeError
from .lease import Lease
from .members import MemberError, Members
from .metrics import Metrics
from .turns import Turns
from .world import World

log = structlog.get_logger(__name__)

REREAD_SECONDS = 30.0
QUIET_SECONDS = 5.0  # between questions to the members of a quiet cluster
BUSY_SECONDS = 1.0  # while something is under way
QUIET_REASONS = ("Idle", "Deleting", "EvictionRefused", "WaitingForOtherClusters")
AT_ONCE_SECONDS = 0.0  # after an act: there may be a next


def _rolls(latch: OperationStatus | None) -> bool:
    return latch is not None and latch.type == "RollingUpdate"


@dataclass(slots=True)
class _Read:
    """Objects as read from the API server, and when (monotonic seconds)."""

    world: World
    at: float


class Reconciler:
    """The passes over one RaftCluster. `monotonic` and `wall` are injected; a restart loses nothing that matters."""

    def __init__(
        self,
        namespace: str,
        name: str,
        uid: str,
        *,
        kube: Kube,
        members: Members,
        lease: Lease,
        metrics: Metrics,
        default_image: str,
        monotonic: Callable[[], float],
        wall: Callable[[], datetime],
        operator_namespace: str = "",
        turns: Turns | None = None,
    ):
        self._namespace, self._name, self._uid = namespace, name, uid
        self._kube, self._members, self._lease, self._metrics = kube, members, lease, metrics
        self._default_image, self._operator_namespace = default_image, operator_namespace
        self._monotonic, self._wall = monotonic, wall
        self._turns = turns if turns is not None else Turns(1)
        self._read: _Read | None = None
        metrics.introduce(namespace, name)

    async def one_pass(self, *, woken: bool) -> float | None:
        """Returns the seconds until the next pass, or None when the cluster is gone. Raises KubeError."""
        began = self._monotonic()
        try:
            return await self._pass(woken)
        finally:
            self._metrics.duration.labels(self._namespace, self._name).observe(self._monotonic() - began)

    async def _pass(self, woken: bool) -> float | None:
        if not await self._lease.ensure():
            self._metrics.reconciles.labels(self._namespace, self._name, "standby").inc()
            return QUIET_SECONDS
        fresh = woken or self._read is None or self._monotonic() - self._read.at > REREAD_SECONDS
        while True:
            if fresh:
                objects = await observe.objects(self._kube, self._namespace, self._name, self._uid)
                if objects is None:
                    self._turns.give(self._uid)
                    return None
                self._read = _Read(objects, self._monotonic())
            assert self._read is not None
            world = await observe.members(self._members, self._read.world)
            if fresh:
                around = await observe.around(self._kube, world)
                self._read.world = replace(self._read.world, around=around)
                world = replace(world, around=around)
            world = self._placed(world)
            diagnosis = diagnose(world)
            steps = ensure.ensure(world, diagnosis)
            decision = operation.latched(world, diagnosis, plan.plan(world, diagnosis))
            if fresh or (
                not steps and isinstance(decision, Wait) and not self._status_differs(world, diagnosis, decision)
            ):
                break
            fresh = True  # something is to be written: look again, at what is there now
        if isinstance(decision, WriteOperation) and _rolls(decision.operation):
            self._turns.hold(self._uid)
        return await self._write(world, diagnosis, steps, decision)

    async def close(self) -> None:
        """Let a successor start at once."""
        self._turns.give(self._uid)
        await self._lease.release()

    def _placed(self, world: World) -> World:
        """With what this operator knows besides: the time, its own settings, and whose turn it is."""
        if _rolls(world.cluster.status.operation):
            self._turns.hold(self._uid)
        else:
            self._turns.give(self._uid)
        return replace(
            world,
            now=self._wall().timestamp(),
            default_image=self._default_image,
            operator_namespace=self._operator_namespace,
            may_roll=self._turns.free(self._uid),
        )

    async def _write(self, world: World, diagnosis: Diagnosis, steps: list[ensure.Step], decision: Decision) -> float:
        """Children, then at most one action, then the status: each only while the lease is held."""
        error, doing, acted = "", "Making the child objects", False
        required = [step for step in steps if not (isinstance(step, ensure.Apply) and step.optional)]
        try:
            for step in steps:
                self._guard()
                try:
                    log.info("ensured", cluster=self._name, what=await act.make(step, world, self._kube))
                except KubeError as refused:
                    if step in required:
                        raise
                    error = f"{doing} failed: {refused}."
            if (
                not isinstance(decision, Wait) and not required
            ):  # an action is planned on children that are as they shall be
                self._guard()
                doing = type(decision).__name__
                if isinstance(decision, TakeSnapshot):
                    world = replace(world, tried=await act.try_snapshot(decision, world, self._members))
                    done = f"{decision.node_id}: {decision.why}"
                else:
                    done = await act.act(decision, world, self._kube, self._members)
                acted = True
                self._metrics.actions.labels(self._namespace, self._name, doing).inc()
                log.info("acted", cluster=self._name, what=done)
                await events.post(self._kube, world.cluster, events.of(decision), self._wall())
        except act.NotNow as later:
            decision = later.wait
        except (KubeError, MemberError) as failed:
            error = f"{doing} failed: {failed}."
        if error:
            self._metrics.failures.labels(self._namespace, self._name).inc()
            log.warning("failed", cluster=self._name, why=error)
        self._metrics.reconciles.labels(self._namespace, self._name, "error" if error else "ok").inc()
        if not world.cluster.deleting:
            await self._write_status(world, diagnosis, decision, error)
        if steps or acted or error:
            self._read = None  # what we know is older than what we did
        if acted or (required and not error):
            return AT_ONCE_SECONDS
        if error:
            return QUIET_SECONDS if not required and isinstance(decision, Wait) else BUSY_SECONDS
        quiet = isinstance(decision, Wait) and (decision.blocked or decision.reason in QUIET_REASONS)
        return QUIET_SECONDS if quiet else BUSY_SECONDS

    def _guard(self) -> None:
        if not self._lease.held:
            raise KubeError(0, "the Lease was lost in the middle of a pass")

    def _status_differs(self, world: World, diagnosis: Diagnosis, decision: Decision) -> bool:
        wanted = status.status(world, diagnosis, decision, "", self._wall())
        return wanted != status.seen_part(world.cluster.status)

    async def _write_status(self, world: World, diagnosis: Diagnosis, decision: Decision, error: str) -> None:
        now = self._wall()
        before = world.cluster.status
        wanted = status.status(world, diagnosis, decision, error, now)
        if wanted == status.seen_part(before):
            return
        found = status.happenings(before, wanted)
        for happening in found:
            if happening.kind is not None:
                self._metrics.membership.labels(self._namespace, self._name, happening.kind).inc()
        await events.post(self._kube, world.cluster, found, now)
        await self._kube.apply(status.manifest(world, wanted), manager=names.STATUS_MANAGER, subresource="status")
        if self._read is not None:
            cluster = replace(self._read.world.cluster, status=status.with_latches(wanted, before))
            self._read.world = replace(self._read.world, cluster=cluster)
