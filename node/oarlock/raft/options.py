"""The knobs of the consensus core. Seconds and bytes; no other unit occurs here."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Options:
    election_timeout_seconds: float = 1.0
    """The minimum: each wait is drawn from [T, 2T). Also the lease, the check-quorum window, a transfer's patience."""

    heartbeat_seconds: float = 0.1

    commit_notice_seconds: float = 0.01
    """A commit that no append carried to a follower by then brings the next heartbeat forward. Under load appends carry
    it, so nothing is sent for it; when idle, followers hear of it now and not at the next heartbeat."""

    max_append_bytes: int = 256 * KIB
    """Of one Append. A single larger entry goes alone."""

    max_inflight_appends: int = 256
    max_inflight_bytes: int = 8 * MIB
    """The window per peer: what may be sent and not yet acknowledged (thesis 10.2.1)."""

    max_uncommitted_bytes: int = 64 * MIB
    """Of entries a leader holds and has not committed, and of those its own disk does not have yet; beyond either
    proposals are refused."""

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_seconds < self.election_timeout_seconds:
            raise ValueError("a heartbeat must be shorter than the election timeout, and both positive")
