"""Leadership is handed over before a member stops.

Two rules: it goes to the follower that is furthest, so that clients wait for a round trip and not for an election; it
is a courtesy with an end, a stop never waits longer than its patience.
"""

from __future__ import annotations

import asyncio

import structlog

from oarlock.raft.state import Role
from oarlock.raft.types import NOBODY
from oarlock.runtime.engine import Engine

POLL_SECONDS = 0.01  # once in a member's life

log = structlog.get_logger()


async def hand_over(engine: Engine, patience_seconds: float) -> None:
    """Then what is under way here is seen to its end, as far as patience reaches."""
    end = engine.host.monotonic() + patience_seconds
    await _transfer(engine, end)
    while engine.member.in_flight_bytes and engine.host.monotonic() < end and not engine.halted:  # noqa: ASYNC110
        await asyncio.sleep(POLL_SECONDS)


async def _transfer(engine: Engine, end: float) -> None:
    core = engine.core
    if core.role is not Role.LEADER or engine.halted:
        return
    peers = core.peers
    others = [m.id for m in core.placed.configuration.voters if m.id in peers and m.id != core.node_id]
    heard = [v for v in others if peers[v].contact_at is not None]
    if not heard:
        return
    try:
        core.transfer(max(heard, key=lambda v: peers[v].match), engine.host.monotonic())
    except Exception as e:
        log.warning("leadership could not be handed over", why=str(e))
        return
    engine.wake()
    while (core.role is Role.LEADER or core.leader == NOBODY) and engine.host.monotonic() < end and not engine.halted:  # noqa: ASYNC110
        await asyncio.sleep(POLL_SECONDS)
