"""What an operator asks of a member: bootstrap, membership, transfer, barrier. (resetting has the reset.)

Two rules: a call that changes something answers only when the change is committed, or says that it is unknown; nothing
here decides what is safe, the core and the directory do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import structlog

from oarlock.peers.client import OpeningRefused, PeerUnreachable
from oarlock.raft.core import Core
from oarlock.raft.errors import Busy, ConfigurationRefused, NotLeader, TransferRefused
from oarlock.raft.state import Role
from oarlock.raft.types import Configuration, Entry, EntryKind, HardState, Member, NodeId
from oarlock.runtime.errors import Refused, no_leader, not_leader, overloaded, unknown_outcome
from oarlock.storage.errors import OutOfSpace
from oarlock.storage.identity import BootstrapRecord

if TYPE_CHECKING:
    from oarlock.runtime.engine import Engine
    from oarlock.runtime.node import Node

log = structlog.get_logger()

CONFIGURATION_STATUS = {
    "bad_request": 400,
    "precondition_failed": 412,
    "not_caught_up": 425,
    "tombstoned": 409,
    "would_lose_quorum": 409,
}


async def bootstrap(node: Node, request_id: str, cluster_id: str, min_voters: int) -> str:
    """Makes this Idle member the only voter of a new cluster. The same request gets the same answer; the effective
    cluster id has a nonce minted here, so that two accidental bootstraps can never merge (rule 16).

    The request is durable before the log begins, so that a crash between the two is finished at the next start.
    """
    if node.broken is not None:
        raise node.broken.refusal
    identity = node.directory.identity
    if identity.bootstrap is not None:
        same = (identity.bootstrap.request_id, identity.bootstrap.cluster_id) == (request_id, cluster_id)
        if not same or identity.cluster_id is None:
            raise Refused(
                "already_bootstrapped", "this member was bootstrapped by another request", status=409, retryable=False
            )
        await finish_bootstrap(node)
        return identity.cluster_id
    if identity.cluster_id is not None:
        why = f"this member belongs to cluster {identity.cluster_id} already: only an Idle member can be bootstrapped"
        raise Refused("not_idle", why, status=409, retryable=False)
    if node.engine is None or node.engine.halted:
        raise Refused("replaying", "this member is still starting: try again shortly", status=503)
    try:
        await node.engine.begin_log()
    except OutOfSpace:
        raise Refused("out_of_space", "the disk is full: there is no room for a log", status=507) from None
    effective = f"{cluster_id}+{node.host.token()}"
    plan = BootstrapRecord(request_id, cluster_id, min_voters)
    if not await node.amend_identity(identity, cluster_id=effective, bootstrap=plan):
        # Something came between: a cluster that added this member, or the same request again.
        return await bootstrap(node, request_id, cluster_id, min_voters)
    await finish_bootstrap(node)
    return effective


async def finish_bootstrap(node: Node) -> None:
    """Writes the first entry, a configuration of this member alone. Does nothing without an unfinished request.

    Raises Refused; the request stays, and is finished by its repetition or by the housekeeping.
    """
    async with node.bootstrapping:
        try:
            await _finish_bootstrap(node)
        except OutOfSpace:
            why = "the disk is full: the request is kept, and carried out when there is space"
            raise Refused("out_of_space", why, status=507, outcome="unknown") from None


async def _finish_bootstrap(node: Node) -> None:
    identity, engine = node.directory.identity, node.engine
    plan = identity.bootstrap
    if plan is None or plan.done or engine is None or engine.halted:
        return
    if engine.core.last_index == 0:
        settings = node.settings
        me = Member(identity.node_id, settings.peer_url, settings.client_url)
        latch = plan.min_voters if plan.min_voters > 1 else 0
        configuration = Configuration(voters=(me,), min_voters=latch)
        entry = Entry(1, 1, EntryKind.CONFIGURATION, 0, msgspec.msgpack.encode(configuration))
        hard_state = HardState(1, identity.node_id, 1)
        await engine.begin_from(hard_state, (entry,))
        log.info("bootstrapped", cluster_id=identity.cluster_id, min_voters=plan.min_voters)
    await node.amend_identity(bootstrap=msgspec.structs.replace(plan, done=True))


async def change_configuration(
    node: Node, voters: Sequence[Member], learners: Sequence[Member], if_config: str, timeout_seconds: float
) -> str:
    """The id of the final configuration, committed. Raises Refused; `unknown` if the time-out came first (rule 14)."""
    core = _leading(node)
    known = {m.id for group in _groups(core.placed.configuration) for m in group}
    for newcomer in [m for m in [*voters, *learners] if m.id not in known]:
        await _dial(node, newcomer)
    core = _leading(node)
    try:
        index, term = core.change_configuration(voters, learners, if_config, node.host.monotonic())
    except NotLeader as e:
        raise not_leader(e.leader) from None
    except Busy as e:
        raise overloaded(str(e)) from None
    except ConfigurationRefused as e:
        status = CONFIGURATION_STATUS[e.code]
        raise Refused(e.code, str(e), status=status, retryable=status in (412, 425)) from None
    _engine(node).wake()

    def final() -> bool:
        committed = core.committed_placed
        return committed.index >= index and not committed.configuration.outgoing

    if not await _until(node, final, timeout_seconds):
        raise unknown_outcome(
            "timeout", "the change was not committed in time; it may still be: read the configuration"
        )
    known_term = core.term_at(index)
    if known_term is None:
        why = "a snapshot replaced the log before the change's fate was seen here: read the configuration"
        raise unknown_outcome("snapshot_installed", why)
    if known_term != term:
        raise Refused("superseded", "another leader's entry took the change's place: it was not applied", status=409)
    return core.committed_placed.id


async def transfer(node: Node, target: NodeId, timeout_seconds: float) -> tuple[NodeId, int]:
    """(new leader, its term), once this member has heard of it. Raises Refused."""
    core = _leading(node)
    if target == core.node_id:
        return core.node_id, core.term
    try:
        core.transfer(target, node.host.monotonic())
    except NotLeader as e:
        raise not_leader(e.leader) from None
    except TransferRefused as e:
        raise Refused("bad_target", str(e), status=409, retryable=False) from None
    _engine(node).wake()
    term = core.term

    def moved() -> bool:
        return core.term > term and core.leader != ""

    if not await _until(node, moved, timeout_seconds, poll_seconds=0.02):
        why = f"leadership did not move to {target} in time; it may still"
        raise Refused("transfer_timeout", why, status=504, outcome="unknown")
    return core.leader, core.term


async def barrier(node: Node, timeout_seconds: float) -> tuple[int, int]:
    """(index, term) of an applied state that is at least as new as this call. Raises Refused."""
    try:
        async with asyncio.timeout(timeout_seconds):
            index = await node.read()
    except TimeoutError:
        raise no_leader("no quorum confirmed a leader in time") from None
    return index, node.environment.applied.term


def _engine(node: Node) -> Engine:
    if node.engine is None or node.broken is not None:
        why = node.broken.why if node.broken is not None else "this member is still reading its log"
        raise Refused("not_ready", why, status=503)
    return node.engine


def _leading(node: Node) -> Core:
    core = _engine(node).core
    if core.role is not Role.LEADER:
        raise not_leader(core.leader)
    return core


async def _dial(node: Node, newcomer: Member) -> None:
    """A new learner must answer under its id before it is written into the log (rule 13's spirit: no blind members)."""
    try:
        await node.transport.dial(newcomer)
    except OpeningRefused as e:
        why = f"{newcomer.id} at {newcomer.peer_url} refused: {e}"
        raise Refused("member_refused", why, status=409, retryable=False) from None
    except PeerUnreachable as e:
        why = f"{newcomer.id} at {newcomer.peer_url} does not answer: {e}"
        raise Refused("member_unreachable", why, status=409) from None


async def _until(node: Node, true: Callable[[], bool], timeout_seconds: float, poll_seconds: float = 0.25) -> bool:
    """Waits until `true()`, looking at each announced change and every `poll_seconds`."""
    end = node.host.monotonic() + timeout_seconds
    while not true():
        left = end - node.host.monotonic()
        if left <= 0 or node.broken is not None or node.stopping:
            return true()
        try:
            async with asyncio.timeout(min(left, poll_seconds)):
                await node.changed.wait()
        except TimeoutError:
            continue
    return True


def _groups(configuration: Configuration) -> tuple[tuple[Member, ...], ...]:
    return configuration.voters, configuration.learners, configuration.outgoing
