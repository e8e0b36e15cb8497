"""What a member is told at its start. Seconds and bytes; nothing here changes while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class NodeSettings:
    name: str  # stable, e.g. the pod's name; the node id is this plus the incarnation of the directory
    data_dir: Path
    peer_url: str  # how other members reach this one's peer port
    client_url: str  # how clients reach this one's client port
    token: str  # the cluster's bearer token for the peer port
    advertise_ip: str = ""  # tried by peers before the name in `peer_url`
    election_timeout_seconds: float = 1.0  # random in [T, 2T)
    heartbeat_seconds: float = 0.1
    snapshot_entries: int = 100_000  # a snapshot is due after so many entries,
    snapshot_wal_bytes: int = 64 << 20  # or so much log and a quarter of the last snapshot (rule 20)
    segment_bytes: int = 16 << 20
    trailing_bytes: int = 16 << 20  # log kept in memory behind a snapshot, for peers slightly behind
    low_space_bytes: int = 64 << 20  # free space under which puts are refused (rule 5)
    ballast_bytes: int = 8 << 20  # given back when the disk is full, so that deletes can still be written (rule 5)
    pod_uid: str = ""
