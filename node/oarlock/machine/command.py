"""What stands in the log for the state machine, and what applying it answers.

Three rules of this module: every value is immutable; what reaches the log is a msgspec Struct encoded as an array (a
field may be added at the end, under a new cluster version, never moved or removed); nothing here knows a clock, the
leader stamps its wall time into a batch as data (rule 28).
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
from msgspec import Struct


class Command(Struct, frozen=True, array_like=True, gc=False):
    """One client's command. `payload` is the machine's own; `key` is the Idempotency-Key, empty for none, and
    `fingerprint` 16 bytes of digest of the request that used it (rule 30)."""

    payload: bytes
    key: str = ""
    fingerprint: bytes = b""


class Batch(Struct, frozen=True, array_like=True):
    """The `data` of a COMMANDS entry: what arrived in one turn of the leader's loop (rule 32)."""

    wall_ms: int  # the leader's wall clock, Unix milliseconds
    commands: tuple[Command, ...]


class Status(IntEnum):
    """How a command ended. The numbers are in the log's answers and in the idempotency records: they never change."""

    OK = 0
    CREATED = 1
    NOT_FOUND = 2
    PRECONDITION = 3  # a condition of the command did not hold; nothing changed
    KEY_REUSED = 4  # the idempotency key belongs to another request; nothing changed
    KEY_EXPIRED = 5  # a key older than its record can be: whether it was applied before is unknown
    KEYS_FULL = 6  # no room for another idempotency record; nothing changed
    INVALID = 7  # the payload is not a command of this machine; nothing changed
    COMPACTED = 8  # the revision asked for is below the floor
    FUTURE = 9  # the revision asked for does not exist yet


class Result(Struct, frozen=True, array_like=True, gc=False):
    """A command's outcome. `status` is a Status as a plain integer (a newer member's may be unknown here);
    `revision` is the machine's after the command, 0 where it was not asked; `body` is the machine's own."""

    status: int
    revision: int
    body: bytes = b""


_encoder = msgspec.msgpack.Encoder()
_batch_decoder = msgspec.msgpack.Decoder(Batch)


def encode_batch(batch: Batch) -> bytes:
    return _encoder.encode(batch)


def decode_batch(data: bytes) -> Batch:
    """Raises msgspec.DecodeError (its subclass ValidationError: a wrong shape), UnicodeDecodeError, RecursionError."""
    return _batch_decoder.decode(data)
