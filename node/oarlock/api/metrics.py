"""`/metrics`: the member's plain counters in Prometheus' text format, made when it is scraped and never before.

Names and meanings are fixed: dashboards and alerts of others hang on them. A metric is only ever added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from oarlock import __version__
from oarlock.api.http_counts import HttpCounts
from oarlock.raft.errors import REMOTE_ERRORS
from oarlock.runtime.metrics import Histogram
from oarlock.runtime.node import Node
from oarlock.runtime.status import MemberStatus
from oarlock.wire.admin import Role, State

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()

NEVER = float("nan")
"""An age where there has been no contact yet: not zero, which would look like health."""


class Exposition:
    def __init__(self, node: Node, counts: HttpCounts) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(MemberCollector(node, counts))
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        return generate_latest(self._registry)


class MemberCollector(Collector):
    def __init__(self, node: Node, counts: HttpCounts) -> None:
        self._node = node
        self._counts = counts

    def describe(self) -> list[Metric]:
        """Nothing to compare names with: this is the registry's only collector of ours."""
        return []

    def collect(self) -> Iterator[Metric]:
        status = self._node.status()
        yield from _raft(self._node, status)
        yield from _storage(self._node, status)
        yield from _http(self._counts)
        yield from _peers(self._node)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, text, buckets=histogram.cumulative(), sum_value=histogram.total)


def _one_hot(name: str, text: str, label: str, values: list[str], current: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value in values:
        family.add_metric([value], 1.0 if value == current else 0.0)
    return family


def _raft(node: Node, status: MemberStatus) -> Iterator[Metric]:
    counters = node.metrics
    info = GaugeMetricFamily("oarlock_build_info", "Always 1", labels=["version", "node_id"])
    info.add_metric([__version__, status.node_id], 1.0)
    yield info
    yield _one_hot("oarlock_member_state", "1 for the member's state", "state", [s.value for s in State], status.state)
    yield _gauge("oarlock_member_ready", "1 if the ready probe succeeds", float(status.ready))
    yield _gauge("oarlock_raft_term", "The member's term", status.term)
    yield _one_hot("oarlock_raft_role", "1 for the member's role", "role", [r.value for r in Role], status.role)
    core = node.engine.core if node.engine is not None else None
    changes, started, won = (core.leader_changes, core.elections_started, core.elections_won) if core else (0, 0, 0)
    yield _counter("oarlock_raft_leader_changes", "Changes of the leader this member knows", changes)
    yield _counter("oarlock_raft_elections_started", "Elections this member stood in", started)
    yield _counter("oarlock_raft_elections_won", "Elections this member won", won)
    text = "From the loss of the leader until another was known"
    yield _histogram("oarlock_raft_election_duration_seconds", text, counters.election_duration)
    yield _gauge("oarlock_raft_commit_index", "The highest index known committed", status.commit_index)
    yield _gauge("oarlock_raft_applied_index", "The highest index applied", status.applied_index)
    yield _gauge("oarlock_raft_last_index", "The last index of the log", status.last_index)
    lag = status.last_index - status.commit_index
    yield _gauge("oarlock_raft_commit_lag_entries", "Entries in the log that are not committed", max(0, lag))
    lag = status.commit_index - status.applied_index
    yield _gauge("oarlock_raft_apply_lag_entries", "Committed entries that are not applied", max(0, lag))
    match = GaugeMetricFamily(
        "oarlock_raft_peer_match_lag_entries", "On the leader: entries that a peer lacks", labels=["peer"]
    )
    age = GaugeMetricFamily(
        "oarlock_raft_peer_contact_age_seconds", "On the leader: since a peer's last message", labels=["peer"]
    )
    for peer, progress in status.peers.items():
        match.add_metric([peer], max(0, status.last_index - progress.match_index))
        contact = progress.contact_age_seconds
        age.add_metric([peer], NEVER if contact is None else contact)
    yield match
    yield age
    diverged = sum(progress.diverged for progress in status.peers.values())
    yield _gauge("oarlock_raft_diverged_peers", "On the leader: peers that applied the log to another state", diverged)
    text = "Since this member heard of a leader, or since its start; 0 on the leader"
    yield _gauge("oarlock_raft_leader_contact_age_seconds", text, _leader_contact_age(node, status))
    yield _histogram("oarlock_raft_commit_latency_seconds", "Propose to commit, on the leader", counters.commit_latency)
    text = "What peers sent and no correct peer sends"
    seen = core.remote_errors if core else {}
    yield _reasons("oarlock_raft_remote_errors", text, "kind", dict.fromkeys(REMOTE_ERRORS, 0) | seen)
    yield _gauge("oarlock_store_revision", "The store's revision", status.revision)
    yield _counter("oarlock_commands_proposed", "Commands proposed here as leader", counters.commands_proposed)
    yield _counter("oarlock_commands_forwarded", "Commands forwarded to the leader", counters.commands_forwarded)
    waiting = node.engine.member.in_flight_bytes if node.engine is not None else 0
    yield _gauge("oarlock_commands_in_flight_bytes", "Of commands that are not decided yet, with overhead", waiting)
    yield _counter("oarlock_commands_refused", "Commands refused, not applied", counters.commands_refused)
    yield _counter("oarlock_reads", "Linearizable reads asked of this member", counters.reads)
    waiting = node.engine.member.waiting_reads if node.engine is not None else 0
    yield _gauge("oarlock_reads_waiting", "Linearizable reads that are not answered yet", waiting)
    records = node.engine.environment.idempotency_records if node.engine is not None else 0
    yield _gauge("oarlock_idempotency_records", "Idempotency keys that are remembered", records)
    yield _histogram("oarlock_apply_seconds", "One batch applied", counters.apply_seconds)


def _leader_contact_age(node: Node, status: MemberStatus) -> float:
    """Never NaN once the member works: an alert on a member that has found no leader at all must fire."""
    if status.leader_contact_age_seconds is not None:
        return status.leader_contact_age_seconds
    return node.loop.time() - node.engine.since if node.engine is not None else NEVER


def _storage(node: Node, status: MemberStatus) -> Iterator[Metric]:
    counters = node.metrics
    storage = status.storage
    yield _histogram("oarlock_wal_fsync_seconds", "One write to the log with its sync", counters.wal_fsync)
    yield _gauge("oarlock_wal_bytes", "Size of the log on disk", storage.wal_bytes)
    yield _counter("oarlock_wal_written_bytes", "Bytes written to the log", counters.wal_bytes_written)
    waiting = node.engine.core.unwritten_bytes if node.engine is not None else 0
    yield _gauge("oarlock_wal_waiting_bytes", "Of entries that are on their way to the disk, with overhead", waiting)
    yield _gauge("oarlock_wal_cut_bytes", "Cut off a torn tail at the last start", storage.cut_bytes)
    yield _gauge("oarlock_storage_free_bytes", "Free on the volume", storage.free_bytes)
    yield _gauge(
        "oarlock_storage_low_on_space", "1 while puts are refused for want of disk", float(storage.low_on_space)
    )
    yield _gauge("oarlock_storage_healthy", "0 after a failure of the disk", float(storage.healthy))
    yield _counter("oarlock_snapshot_count", "Snapshots taken", counters.snapshots_taken)
    yield _counter("oarlock_snapshot_installed", "Snapshots received and installed", counters.snapshots_installed)
    yield _counter("oarlock_snapshot_failures", "Snapshots that failed", counters.snapshot_failures)
    yield _histogram("oarlock_snapshot_seconds", "Copy, digest and publication of one", counters.snapshot_seconds)
    yield _counter("oarlock_snapshot_written_bytes", "Bytes of all snapshots taken", counters.snapshot_bytes)
    damaged = node.engine.snapshots.damaged if node.engine is not None else 0
    yield _gauge("oarlock_snapshots_damaged", "Snapshots set aside as damaged, and kept for a look", damaged)
    readers = node.engine.snapshots.readers if node.engine is not None else 0
    yield _gauge("oarlock_snapshot_readers", "Clients that are copying a snapshot", readers)
    meta = status.snapshot
    yield _gauge("oarlock_snapshot_bytes", "Size of the last snapshot", meta.size_bytes if meta else 0)
    yield _gauge("oarlock_snapshot_last_index", "What the last snapshot covers", meta.index if meta else 0)


def _http(counts: HttpCounts) -> Iterator[Metric]:
    requests = CounterMetricFamily("oarlock_http_requests", "Requests answered", labels=["route", "code"])
    for (route, code), times in sorted(counts.requests.items()):
        requests.add_metric([route, str(code)], times)
    yield requests
    seconds = HistogramMetricFamily("oarlock_http_request_seconds", "Time to the answer's end", labels=["route"])
    for route, histogram in sorted(counts.seconds.items()):
        seconds.add_metric([route], buckets=histogram.cumulative(), sum_value=histogram.total)
    yield seconds
    yield _gauge("oarlock_http_reading_bytes", "Of large request bodies that are not whole yet", counts.reading_bytes)
    rejected = CounterMetricFamily(
        "oarlock_http_connections_rejected",
        "Connections ended by a bound or a malformed request",
        labels=["port", "reason"],
    )
    for port, reasons in sorted(counts.rejected.items()):
        for reason, times in sorted(reasons.items()):
            rejected.add_metric([port, reason], times)
    yield rejected


def _peers(node: Node) -> Iterator[Metric]:
    counters = node.transport.counters
    frames = CounterMetricFamily("oarlock_peer_frames", "Frames on the peer streams", labels=["direction"])
    frames.add_metric(["sent"], counters.frames_sent)
    frames.add_metric(["received"], counters.frames_received)
    yield frames
    sizes = CounterMetricFamily("oarlock_peer_bytes", "Bytes on the peer streams", labels=["direction"])
    sizes.add_metric(["sent"], counters.bytes_sent)
    sizes.add_metric(["received"], counters.bytes_received)
    yield sizes
    transfers = CounterMetricFamily("oarlock_peer_snapshot_bytes", "Bytes of snapshot transfers", labels=["direction"])
    transfers.add_metric(["sent"], counters.snapshot_bytes_sent)
    transfers.add_metric(["received"], counters.snapshot_bytes_received)
    yield transfers
    yield _counter("oarlock_peer_reconnects", "Streams that broke and were opened again", counters.reconnects)
    yield _counter("oarlock_peer_dial_failures", "Peers that did not answer", counters.dial_failures)
    yield _counter("oarlock_peer_streams_silent", "Streams closed because a peer said nothing", counters.streams_silent)
    yield _counter(
        "oarlock_peer_streams_stalled", "Streams closed because a peer took nothing", counters.streams_stalled
    )
    yield _reasons("oarlock_peer_messages_dropped", "Messages to peers that were not sent", "reason", counters.dropped)
    text = "Openings and frames of peers that were turned away"
    yield _reasons("oarlock_peer_rejected", text, "reason", counters.rejected)
    yield _reasons("oarlock_peer_refused", "Openings of ours that a peer refused", "code", counters.refused)


def _reasons(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    """The reasons are fixed words of our own code, never a peer's. Those that should never occur are there at zero from
    the start: of a series that appears with its first event, no rate shows that event."""
    family = CounterMetricFamily(name, text, labels=[label])
    for reason, times in sorted(counts.items()):
        family.add_metric([reason], times)
    return family
