"""The store's commands, as they stand in the log, and the bodies of their results.

Two rules of this module: a command is a msgspec Struct encoded as an array with a tag (a field may be added at the end,
under a new cluster version, never moved or removed); nothing is validated here (see validate.py).
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Struct


class Put(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Sets a key. CREATED or OK with the new revision, body: the key's version; PRECONDITION, body: its current
    mod_revision, 0 if there is none.

    `if_match`: only if the key exists with this mod_revision. `if_none_match`: only if it does not exist.
    """

    key: bytes
    value: bytes
    if_match: int | None = None
    if_none_match: bool = False


class Delete(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """Deletes a key. OK with the new revision, NOT_FOUND, or PRECONDITION as above. Deleting nothing takes no
    revision."""

    key: bytes
    if_match: int | None = None


class Compact(Struct, frozen=True, array_like=True, tag=3, gc=False):
    """Moves the floor: what was superseded at or before `revision` can no longer be read, and is swept by and by
    (rule 24). OK, COMPACTED if the floor is there already, FUTURE if the store is not there yet."""

    revision: int


Operation: TypeAlias = Put | Delete | Compact

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Operation] = msgspec.msgpack.Decoder(Operation)


def encode_put(key: bytes, value: bytes, if_match: int | None = None, if_none_match: bool = False) -> bytes:
    return _encoder.encode(Put(key, value, if_match, if_none_match))


def encode_delete(key: bytes, if_match: int | None = None) -> bytes:
    return _encoder.encode(Delete(key, if_match))


def encode_compact(revision: int) -> bytes:
    return _encoder.encode(Compact(revision))


def decode_operation(payload: bytes) -> Operation:
    """Raises msgspec.DecodeError, and RecursionError for what is nested too deeply."""
    return _decoder.decode(payload)


def pack_number(number: int) -> bytes:
    return number.to_bytes(8, "big")


def result_number(body: bytes) -> int:
    """The version or mod_revision in a result's body."""
    return int.from_bytes(body, "big")
