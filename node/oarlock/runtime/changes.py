"""What changed since the last turn, of leader, configuration and peers, and who is told.

Two rules: it looks at the core after each turn and changes nothing in it; a turn in which nothing changed costs a few
comparisons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from oarlock.peers.transport import Transport
from oarlock.raft.core import Core
from oarlock.raft.state import Role
from oarlock.raft.types import NOBODY, NodeId, PlacedConfiguration
from oarlock.runtime.errors import OutOfOrder
from oarlock.runtime.metrics import Counters

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Events:
    """What the engine tells its owner; all of it on the loop."""

    changed: Callable[[], None]  # leader, configuration or a non-command entry moved
    out_of_order: Callable[[OutOfOrder], None]  # this member must not take part any more
    fatal: Callable[[str], None]  # the process must end (rule 5)
    removed: Callable[[], None]  # the log says that this id is tombstoned


class Changes:
    def __init__(self, transport: Transport, metrics: Counters, events: Events, monotonic: Callable[[], float]) -> None:
        self._transport, self._metrics, self._events, self._monotonic = transport, metrics, events, monotonic
        self._leader: tuple[NodeId, int] = (NOBODY, 0)
        self._without_leader_since: float | None = self._monotonic()
        self._placed: PlacedConfiguration | None = None
        self._peers: tuple[PlacedConfiguration, PlacedConfiguration, int] | None = None

    def notice(self, core: Core) -> None:
        if (core.leader, core.term) != self._leader:
            self._leader = (core.leader, core.term)
            self._leader_changed(core)
        if core.placed is not self._placed:
            self._placed = core.placed
            self._configuration_changed(core.placed)
        known = (core.placed, core.committed_placed, len(core.peers))
        if known != self._peers:
            self._peers = known
            participants = core.participants()  # those just dropped too, until they have been told (pitfall M11)
            if participants:  # an Idle member hears its first leader as a guest until it knows a configuration
                self._transport.set_peers(participants.values())
        if core.removed:
            self._events.removed()

    def _leader_changed(self, core: Core) -> None:
        if core.leader:
            if self._without_leader_since is not None:
                self._metrics.election_duration.observe(self._monotonic() - self._without_leader_since)
                self._without_leader_since = None
            log.info("leader", leader=core.leader, term=core.term, leads=core.role is Role.LEADER)
        elif self._without_leader_since is None:
            self._without_leader_since = self._monotonic()
            log.info("no leader", term=core.term)
        self._events.changed()

    def _configuration_changed(self, placed: PlacedConfiguration) -> None:
        log.info(
            "configuration",
            id=placed.id,
            voters=[m.id for m in placed.configuration.voters],
            learners=[m.id for m in placed.configuration.learners],
            joint=bool(placed.configuration.outgoing),
        )
        self._events.changed()
