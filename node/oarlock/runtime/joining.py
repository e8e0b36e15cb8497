"""Whom a member talks to, and how it comes to belong to a cluster (rules 10 and 16).

Two rules: an Idle member takes the word of the first cluster that comes, durably, before it answers anything; it
belongs to one only when its log has a frame, so that one of a cluster without such a frame has lost it (pitfall D15).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from oarlock.peers.hello import Hello, HelloKind, Verdict
from oarlock.raft.types import NodeId
from oarlock.runtime.errors import Refused
from oarlock.storage.errors import OutOfSpace

if TYPE_CHECKING:
    from oarlock.runtime.node import Node

log = structlog.get_logger()


async def judge(node: Node, hello: Hello) -> Verdict:
    """Whether to talk to this opener."""
    engine = node.engine
    if engine is None or engine.halted or node.stopping:
        return Verdict.NOT_READY
    if is_removed(node, hello.node_id):
        return Verdict.REMOVED
    if node.cluster_id is None and hello.kind in (HelloKind.CONTROL, HelloKind.DATA):
        try:
            await _join(node, hello.cluster_id)
        except (Refused, OutOfSpace) as e:
            log.error("this member cannot join yet", cluster_id=hello.cluster_id, why=str(e))
            return Verdict.NOT_READY
    return Verdict.OK if node.cluster_id in (None, hello.cluster_id) else Verdict.WRONG_CLUSTER


def is_removed(node: Node, node_id: NodeId) -> bool:
    """By a configuration that is committed (rule 10)."""
    return node.engine is not None and node_id in node.engine.core.committed_placed.configuration.tombstones


async def _join(node: Node, cluster_id: str) -> None:
    """Durable when it returns; the first cluster to come wins. Raises Refused, OutOfSpace: then nothing was joined."""
    while (identity := node.directory.identity).cluster_id is None:
        engine = node.engine
        if engine is None or engine.halted:
            raise Refused("not_ready", "this member is stopping, or being reset", status=503)
        await engine.begin_log()
        if await node.amend_identity(identity, cluster_id=cluster_id):  # False: something came between
            log.info("joined", cluster_id=cluster_id)
            node.announce()
