"""What may be set about peers, and what is counted. Plain values: no behaviour."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """Seconds and bytes. Heartbeat and silence follow the core's heartbeat and election time-out (rule 31)."""

    heartbeat_seconds: float = 0.1  # an idle stream carries an empty frame this often
    silence_seconds: float = 1.0  # a stream that says nothing, or takes nothing, for so long is closed
    dial_timeout_seconds: float = 1.0  # connecting and the answer's headers together, for one address
    backoff_min_seconds: float = 0.05
    backoff_max_seconds: float = 1.0
    data_window_bytes: int = 8 * 1024 * 1024  # queued for one peer and not yet taken by the connection
    control_window_bytes: int = 1024 * 1024
    chunk_bytes: int = 256 * 1024  # one write (rule 31)
    range_bytes: int = 16 * 1024 * 1024  # one request of a snapshot's fetch
    fetch_stall_seconds: float = 30.0  # a fetch without a new byte for so long fails
    max_guests: int = 64  # openers that no configuration names yet
    max_snapshot_streams: int = 8


@dataclass(slots=True)
class PeerCounters:
    """Plain integers, read when metrics are scraped; they only grow.

    `dropped` by reason: no_stream, window, oversized. `rejected` by what was wrong with a peer: `unauthorized` and the
    values of Verdict (openings we refused); oversized, damaged, undecodable, misaddressed, wrong_stream (what arrived
    on a stream). `refused`: openings of ours that a peer refused, by its code.
    """

    frames_sent: int = 0
    frames_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    streams_opened: int = 0  # ours, to hear a peer
    streams_accepted: int = 0  # a peer's, to hear us
    streams_silent: int = 0  # closed because a peer said nothing
    streams_stalled: int = 0  # closed because a peer took nothing
    reconnects: int = 0  # ours, after a stream that had worked broke
    dial_failures: int = 0
    snapshot_bytes_sent: int = 0
    snapshot_bytes_received: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
