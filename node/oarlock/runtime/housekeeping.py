"""Once a second: disk space, snapshots due, the machine's own proposals, what compaction left behind.

Two rules: nothing here is needed in time, a round that is late or fails to do something leaves it to the next one; what
takes long is done in slices or in a thread.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from oarlock.machine.command import Command
from oarlock.raft.state import Role
from oarlock.runtime import admin
from oarlock.runtime.divergence import Finding
from oarlock.runtime.errors import Refused

if TYPE_CHECKING:
    from oarlock.runtime.engine import Engine
    from oarlock.runtime.node import Node

log = structlog.get_logger()


async def housekeep(node: Node) -> None:
    """One round."""
    engine = node.engine
    node.free_bytes = await asyncio.to_thread(node.directory.free_bytes)
    node.remember()
    if engine is None or engine.halted:
        return
    await finish_bootstrap(node)
    _judge_space(engine, node.free_bytes)
    if engine.applying_blocked:  # the log has room, and what is committed has none: deletes must be applied, too
        await asyncio.to_thread(node.directory.ballast.release)
    elif not engine.member.low_on_space:
        await asyncio.to_thread(node.directory.ballast.reserve, node.settings.ballast_bytes)
    newest = engine.snapshots.newest
    since = newest.index if newest is not None else 0
    node.wal_bytes, wal_since = await engine.in_log_thread(lambda wal: (wal.bytes(), wal.bytes_since(since)))
    engine.snapshots.expire_pins(node.wal_bytes)
    engine.snapshots.take_if_due(wal_since)
    _tell_divergence(node, engine)
    _propose_housekeeping(engine)
    while not node.stopping and engine.maintain():  # noqa: ASYNC110
        await asyncio.sleep(0)  # work, not waiting: the loop turns between slices


async def finish_bootstrap(node: Node) -> None:
    """A bootstrap that was broken off is tried again until it is done."""
    try:
        await admin.finish_bootstrap(node)
    except Refused as e:
        log.error("the bootstrap waits", why=e.why)


def _judge_space(engine: Engine, free_bytes: int) -> None:
    """Low below the bound, well again only at one and a half times it, so that it does not flap (rule 5)."""
    bound, member = engine.settings.low_space_bytes, engine.member
    if engine.disk_full or engine.applying_blocked or free_bytes < bound:
        if not member.low_on_space:
            log.warning("low on disk space: puts are refused once a majority is", free_bytes=free_bytes)
        member.low_on_space = True
    elif free_bytes > bound * 3 // 2:
        member.low_on_space = False


def _tell_divergence(node: Node, engine: Engine) -> None:
    """Once for each change of who it is and who is judged (rule 26). A member that is judged says so itself, too."""
    found = engine.member.finding if engine.core.role is Role.LEADER else Finding()
    alarm = frozenset((peer, peer in found.odd) for peer in (*found.differing, *found.odd))
    if alarm == node.alarmed:
        return
    node.alarmed = alarm
    if alarm:
        log.error(
            "the same log was applied to another state",
            differing_at=dict(found.differing),
            odd_ones_out={member: odd.at for member, odd in found.odd.items()},
        )
    else:
        log.warning("no other state is seen any more: all are alike, or another leads")


def _propose_housekeeping(engine: Engine) -> None:
    """The machine's own command, such as a compaction floor; nobody waits for it. Leaders only."""
    if engine.core.role is not Role.LEADER or engine.member.draining:
        return
    with engine.environment.reader() as trees:
        payload = engine.machine.housekeeping(trees, engine.core.cluster_time_ms)
    if payload is not None:
        try:
            engine.submit(Command(payload), None, grows=False)
        except Refused as e:
            log.debug("housekeeping waits", why=e.why)
