"""What a member counts while it works: plain integers and fixed buckets, read when somebody scrapes.

* Nothing here allocates, locks or knows a metrics library: `x.count += 1` and `h.observe(seconds)` is all there is.
* Counters are written by the event loop. `wal_fsync` and the snapshot figures come from other threads' results, but
  are written by the loop as well, when it hears of them.
* The number of buckets and of counters is fixed: nothing a client sends can make this grow (rule 33).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

FAST_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Bucket bounds for what takes a disk write or a round trip."""

SLOW_SECONDS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Bucket bounds for elections and snapshots."""


class Histogram:
    """Counts of observations by upper bound. `counts[i]` holds those in (bounds[i-1], bounds[i]], the last the rest."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = FAST_SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def observe_many(self, seconds: float, times: int) -> None:
        """The same duration for `times` observations: a batch commits as one."""
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.total += seconds * times

    @property
    def count(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, int]]:
        """(upper bound, observations up to it), ending with "+Inf": the shape the exposition format wants."""
        pairs, seen = [], 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            seen += count
            pairs.append((repr(bound), seen))
        pairs.append(("+Inf", seen + self.counts[-1]))
        return pairs


class Counters:
    """One member's figures since its process started."""

    __slots__ = (
        "apply_seconds",
        "commands_forwarded",
        "commands_proposed",
        "commands_refused",
        "commit_latency",
        "election_duration",
        "reads",
        "snapshot_bytes",
        "snapshot_failures",
        "snapshot_seconds",
        "snapshots_installed",
        "snapshots_taken",
        "wal_bytes_written",
        "wal_fsync",
    )

    def __init__(self) -> None:
        self.election_duration = Histogram(SLOW_SECONDS)  # from the loss of a leader, or start, until one is known
        self.commit_latency = Histogram()  # propose to commit, on the leader, one observation a command
        self.wal_fsync = Histogram()  # one write with its fdatasync
        self.apply_seconds = Histogram()  # one batch applied
        self.snapshot_seconds = Histogram(SLOW_SECONDS)  # copy, digest and publish
        self.snapshots_taken = 0
        self.snapshots_installed = 0
        self.snapshot_failures = 0
        self.snapshot_bytes = 0  # written by snapshots taken, in all
        self.wal_bytes_written = 0
        self.commands_proposed = 0  # on this member as leader
        self.commands_forwarded = 0  # handed to the leader by this member
        self.commands_refused = 0  # answered with an error that says not_applied
        self.reads = 0  # linearizable reads asked of this member
