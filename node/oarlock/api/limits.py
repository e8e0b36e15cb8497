"""The bounds of a member's HTTP side (rule 33). Frozen: `oarlock serve` makes one, everything else reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes and seconds. What goes beyond one of these is answered, counted, and costs no one else anything."""

    max_key_bytes: int = 1536  # rule 23
    max_body_bytes: int = 1536 * 1024  # a client's request: 413 beyond
    max_bodies_bytes: int = 64 << 20  # of bodies above 16 KiB that are being read, in all: 429 beyond
    max_admin_body_bytes: int = 64 * 1024
    max_head_bytes: int = 32 * 1024  # request line and headers: 431 beyond (a key of 1,536 bytes, escaped, is 4.5 KiB)
    max_connections: int = 4096  # a port: 503 beyond
    head_seconds: float = 10.0  # from the first byte of a request (or the connection) to the end of its headers
    body_seconds: float = 30.0  # from there to the end of its body
    stalled_write_seconds: float = 30.0  # a client that takes none of its answer for so long is cut off
    snapshot_bytes_per_second: int = 1 << 20  # a client that copies a snapshot more slowly is cut off, ...
    snapshot_seconds: float = 60.0  # ... after this much more time
    idle_seconds: float = 65.0  # a kept-alive connection without a request; longer than the 60 s of usual proxies
    request_seconds: float = 5.0  # a read or write in the cluster: 504 beyond
    admin_seconds: float = 30.0  # a membership change or a transfer: 504 beyond
