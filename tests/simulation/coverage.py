"""What a run has been through: named points, seen from the product's own log, its messages and its counters.

Rule of this module: a point that no run reaches is a failure of the simulation (POINTS), for what is never reached is
never tested; the sources of points only look.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog
from tests.simulation.scheduler import Loop, Violated, World

from oarlock.machine.errors import OutOfSpace
from oarlock.peers.messages import Forward, ForwardReply, PeerMessage
from oarlock.raft.core import Core
from oarlock.raft.messages import (
    AppendReply,
    PreVoteReply,
    ReadIndexReply,
    SnapshotOffer,
    SnapshotRefusal,
    TimeoutNow,
    VoteReply,
)
from oarlock.raft.types import PlacedConfiguration
from oarlock.runtime.node import Node
from oarlock.storage.errors import StorageError

POINTS = (
    *("raft: became pre_candidate", "raft: became candidate", "raft: became leader", "raft: became follower"),
    *("raft: a pre-vote was refused", "raft: a vote was refused", "raft: an append was refused"),
    *("raft: the log was truncated", "raft: a leader stepped down in its own term"),
    *("raft: a leader stepped down for its disk", "raft: a leader handed over"),
    *("raft: a joint configuration began", "raft: a joint configuration ended", "raft: a learner was promoted"),
    *("raft: a configuration was rolled back", "raft: a joint configuration was rolled back"),
    *("raft: a leader leaves itself out", "raft: shrunk to one voter", "raft: a newcomer heard its first leader"),
    *("raft: a snapshot was offered", "raft: a follower's read was confirmed"),
    *("storage: a torn tail was cut", "storage: a failed write ended the process"),
    *("log: recovered, reused", "log: recovered, rebuilt", "log: this member is out of order, Corrupt"),
    *("log: the disk is full: nothing is acknowledged until there is space", "log: snapshot installed"),
    *("log: low on disk space: puts are refused once a majority is", "log: snapshot taken", "log: stopped"),
    *("log: the disk is full: the start waits for space", "log: snapshot failed", "log: joined"),
    *("log: this member has been removed from the cluster", "log: reset: the data was set aside"),
    *("runtime: a forward", "runtime: many commands were forwarded at once", "runtime: refused, forward_broken"),
    *("runtime: refused, no_leader", "runtime: refused, out_of_space", "runtime: refused, stopping"),
    *("runtime: refused, awaiting_members", "runtime: refused, superseded", "runtime: snapshots_installed"),
    *("peers: reconnects", "peers: streams_silent", "peers: dial_failures", "peers: dropped, no_stream"),
    *("peers: rejected, removed", "peers: rejected, wrong_target", "peers: rejected, not_ready"),
    *("peers: a snapshot came in parts", "network: a message lost", "network: a message doubled"),
    *("network: messages swapped", "client: retried under its key", "client: no answer in time"),
    *("client: refused, leadership_lost", "admin: refused, precondition_failed", "admin: refused, bad_target"),
    *("admin: refused, would_lose_quorum", "admin: a change of members was committed", "admin: a member was reset"),
    *("admin: a person told who went astray", "admin: a learner was given a vote", "admin: a voter was demoted"),
    *("admin: a member was moved", "raft: a configuration was committed", "raft: a persist token of an old term"),
    *("crash: in a write of the log", "peers: an interrupted snapshot was resumed"),
    *("fault: killed as a write begins", "fault: killed as a write is done", "fault: killed in a thread"),
    *("fault: killed as a thread is done", "fault: a snapshot broken off", "fault: killed as a message is sent"),
    *("fault: killed as a message has come", "fault: killed as the machine works"),
    *("fault: kill -9", "fault: the leader killed", "fault: several killed at once", "fault: power loss"),
    *("fault: power loss of all at once", "fault: clean stop", "fault: SIGSTOP", "fault: partition"),
    *("fault: one-way cut", "fault: the leader isolated", "fault: a leader deposed", "fault: connections broken"),
    "fault: connections swallowed",
    *("fault: the leader frozen and cut off", "fault: messages lost, doubled, swapped", "fault: slow network"),
    *("fault: slow disk", "fault: hung disk", "fault: failing disk", "fault: full disk", "fault: disk wiped"),
    *("fault: an old disk comes back", "fault: a bit of the log flipped", "fault: a bit of a snapshot flipped"),
    *("fault: clock jump", "fault: wall clock jump", "fault: upgrade", "fault: an outdated member upgraded"),
    *("fault: a state gone astray", "log: the same log was applied to another state"),
    *("fault: a ring", "fault: a bridge", "fault: a snapshot rots", "log: a snapshot is damaged: it is set aside"),
    *("raft: an offered snapshot was refused", "raft: a leader has left itself out"),
    *("admin: a snapshot was taken", "machine: no room to apply"),
    *("machine: the history was compacted", "end: a short history was searched", "end: judged"),
)
FLOORS = {  # of the 300 stories of `make test`, a fraction of what they do
    "raft: became leader": 1000,
    "crashes": 1500,
    "log: snapshot installed": 150,
    "raft: a configuration was committed": 1000,
    "acknowledged writes": 40_000,
}
CRASHES = ("fault: kill -9", "fault: power loss", "fault: the leader killed", "log: fatal")

UNTOLD = ("configuration", "ts", "level", "event", "why", "bytes")  # of a log line: not for the trace


class LogTap:
    """The members' own log: a line of the trace each, and a point for each kind of event."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __enter__(self) -> None:
        structlog.configure(processors=[self], logger_factory=structlog.ReturnLoggerFactory())

    def __exit__(self, *_: object) -> None:
        structlog.reset_defaults()

    def __call__(self, _: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        loop = asyncio._get_running_loop()
        name = loop.name if isinstance(loop, Loop) else "?"
        what = str(event["event"])
        told = " ".join(f"{k}={v}" for k, v in event.items() if k not in UNTOLD and not isinstance(v, (list, tuple)))
        why = f": {event['why']}" if "why" in event else ""
        self.world.note(name, f"{what} {told}{why}")
        state = f", {event['state']}" if isinstance(event.get("state"), str) else ""
        self.world.reach(f"log: {what}{state}")
        failure = sys.exc_info()[1] if event.get("exc_info") is True else event.get("exc_info")
        if what == "the member failed" and not isinstance(failure, (OSError, StorageError, OutOfSpace)):
            self.world.found = Violated(f"[uncaught] {name}: the member failed: {failure!r}")
        if event.get("cut_bytes"):
            self.world.reach("storage: a torn tail was cut")
        raise structlog.DropEvent


def tap_messages(world: World, node: Node) -> None:
    """Look at what a member hears, before it does."""
    deliver: Callable[[PeerMessage], None] = node.transport._on_message

    def look(message: PeerMessage) -> None:
        point = _point_of(message)
        if point:
            world.reach(point)
        deliver(message)

    node.transport._on_message = look


def _point_of(message: PeerMessage) -> str:
    match message:
        case PreVoteReply(granted=False):
            return "raft: a pre-vote was refused"
        case VoteReply(granted=False):
            return "raft: a vote was refused"
        case AppendReply(accepted=False):
            return "raft: an append was refused"
        case SnapshotOffer():
            return "raft: a snapshot was offered"
        case SnapshotRefusal():
            return "raft: an offered snapshot was refused"
        case TimeoutNow():
            return "raft: a leader handed over"
        case ReadIndexReply():
            return "raft: a follower's read was confirmed"
        case Forward(commands=commands):
            return "runtime: many commands were forwarded at once" if len(commands) > 1 else "runtime: a forward"
        case ForwardReply():
            return "runtime: a forward was answered"
    return ""


def see_configuration(world: World, name: str, core: Core, before: PlacedConfiguration | None) -> None:
    """The latest configuration of a member has moved."""
    now, new = core.placed, core.placed.configuration
    if before is None or before == now:
        return
    old = before.configuration
    world.note(name, f"configuration {now.id}: {[m.id for m in new.voters]}{' joint' if new.outgoing else ''}")
    if (now.term, now.index) < (before.term, before.index):
        world.reach("raft: a configuration was rolled back")
        if old.outgoing:
            world.reach("raft: a joint configuration was rolled back")
    elif new.outgoing:
        world.reach("raft: a joint configuration began")
        if core.node_id not in [m.id for m in new.voters] and core.leader == core.node_id:
            world.reach("raft: a leader leaves itself out")
    elif old.outgoing:
        world.reach("raft: a joint configuration ended")
        if core.node_id not in [m.id for m in new.voters] and core.leader == core.node_id:
            world.reach("raft: a leader has left itself out")
    if any(m.id in [one.id for one in old.learners if one.promote] for m in new.voters):
        world.reach("raft: a learner was promoted")
    if len(new.voters) == 1 and len(old.voters or old.outgoing) > 1:
        world.reach("raft: shrunk to one voter")


def count_up(world: World, node: Node) -> None:
    """At the end of a process: what it has counted."""
    peers, counted = node.transport.counters, node.metrics
    for kind in ("dropped", "rejected", "refused"):
        for why in getattr(peers, kind):
            world.reach(f"peers: {kind}, {why}")
    for name in ("streams_silent", "streams_stalled", "reconnects", "dial_failures", "snapshot_bytes_received"):
        if getattr(peers, name):
            world.reach(f"peers: {name}")
    for name in ("snapshots_taken", "snapshots_installed", "snapshot_failures"):
        if getattr(counted, name):
            world.reach(f"runtime: {name}")
    if node.engine is not None:
        for error in node.engine.core.remote_errors:
            world.reach(f"raft: remote error, {error}")
        for why in node.engine.member.refused:
            world.reach(f"runtime: refused, {why}")
