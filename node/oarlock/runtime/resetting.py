"""A member whose data nobody needs any more sets it aside and begins anew (design of the API).

Rules of this module: it renames, and never deletes; a member that its cluster still counts is refused; where the disk
refuses in the middle, the process ends rather than go on with neither data nor a beginning.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from oarlock.raft.types import NodeId
from oarlock.runtime.errors import OutOfOrder, Refused, disk_refused, stopping

if TYPE_CHECKING:
    from oarlock.runtime.node import Node

log = structlog.get_logger()


async def reset(node: Node, request_id: str, node_id: NodeId) -> tuple[NodeId, str]:
    """(new node id, quarantine). Sets this member's data aside, and starts as another incarnation, Idle.

    Refused for another id, and for one in the latest configuration this member knows, unless it is out of order,
    another cluster's or removed. The same request gets the same answer.
    """
    async with node.life:
        for done in node.directory.identity.reset_requests:
            if done.request_id == request_id:
                return done.node_id, done.quarantine
        if node_id != node.node_id:
            raise Refused("wrong_node", f"this member is {node.node_id}, not {node_id}", status=409, retryable=False)
        if node.stopping:
            raise stopping()
        _check_unneeded(node)
        return await _begin_anew(node, request_id)


def _check_unneeded(node: Node) -> None:
    corrupt = node.broken is not None and node.broken.state == "Corrupt"
    if corrupt or node.stale is not None or node.removed:
        return
    if node.engine is None:  # and so nobody knows yet what configuration it is in
        if node.broken is not None:  # its data is sound: only a newer version may say that it is not needed
            raise node.broken.refusal
        raise Refused("replaying", "this member is still reading its log: try again shortly", status=503)
    if node.engine.participant(node.node_id) is not None:
        why = (
            "this member is in the latest configuration it knows: remove it from the cluster first. If the cluster has"
            " removed it, and nobody whom it knows is left to tell it, delete its data instead"
        )
        raise Refused("still_a_member", why, status=409, retryable=False)


async def _begin_anew(node: Node, request_id: str) -> tuple[NodeId, str]:
    await node.end_work()
    node.transport.drop_all()
    node.engine = None
    before = node.directory.identity
    async with node.amending:  # or a note that is being saved would bring the old id back
        try:
            quarantine = await asyncio.to_thread(node.directory.quarantine, request_id)
        except OSError as e:
            refused = disk_refused("the data could not be set aside", e)
            if refused.code != "out_of_space" or node.directory.identity is not before:
                node.fatal(f"{refused.why}; the next start goes on with it")
                raise refused from e
            verdict = node.broken if node.broken is not None and node.broken.lasting else None
            _begin_again(node, verdict)  # as what it was
            raise refused from e
    log.warning("reset: the data was set aside", quarantine=quarantine.name, node_id=node.node_id)
    _begin_again(node)
    return node.node_id, quarantine.name


def _begin_again(node: Node, broken: OutOfOrder | None = None) -> None:
    node.broken, node.stale = broken, None
    node.removed = False
    node.alarmed = frozenset()
    node.begin()
    node.announce()
