"""What a member takes from the machine that it runs on: clocks, chance, files, the log's thread, the way to its peers.

Rule of this module: nothing in the runtime asks for one of these anywhere else. So a simulation, which brings its own,
repeats a whole cluster's run from one seed.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from oarlock.peers.client import PeerClient
from oarlock.runtime.wal_thread import WalThread
from oarlock.storage.files import FileSystem, RealFiles
from oarlock.storage.frame import NONCE_BYTES


def read_wall_ms() -> int:
    return time.time_ns() // 1_000_000


def quiet_gc() -> None:
    """A full collection over a large log takes a tenth of a second, in which no heartbeat leaves (rule 11)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@dataclass(frozen=True, slots=True)
class Host:
    monotonic: Callable[[], float] = time.monotonic  # seconds; the member's clock
    work_clock: Callable[[], float] = time.perf_counter  # seconds; how long a piece of work has taken
    wall_ms: Callable[[], int] = read_wall_ms
    rng: random.Random = field(default_factory=random.SystemRandom)
    files: FileSystem = field(default_factory=RealFiles)
    log_thread: type[WalThread] = WalThread
    peer_client: Callable[[str], PeerClient] = PeerClient  # with the bearer token
    settled: Callable[[], None] = quiet_gc  # after a start has made its garbage

    def nonce(self) -> bytes:
        """Of a log's segment."""
        return self.rng.randbytes(NONCE_BYTES)

    def token(self) -> str:
        """16 hex digits: an incarnation, or what keeps two clusters of one name apart (rule 16)."""
        return self.rng.randbytes(8).hex()
