"""Everything one member says to another: the core's messages, and forwarded commands with their results.

Rules of this module:
* One union, one codec: msgpack arrays that start with the message's tag. Tags and places never change; a field may be
  added at the end, with a default.
* Nothing here knows of a stream or of a socket.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from oarlock.raft.messages import DATA_MESSAGES, RaftMessage
from oarlock.raft.types import NodeId

StateHash: TypeAlias = Annotated[str, Meta(max_length=64)]  # what a broken peer makes others remember is bounded


class StreamKind(StrEnum):
    """The two streams of a direction (rule 11): what keeps leadership never waits behind what carries data."""

    CONTROL = "control"
    DATA = "data"


class ForwardedCommand(Struct, frozen=True, array_like=True, gc=False):
    """A client's command as its first member received it; opaque here."""

    payload: bytes
    key: str = ""
    fingerprint: bytes = b""
    grows: bool = True  # it may need disk space, so a cluster that is low on it refuses it (rule 5)


class Forward(Struct, frozen=True, array_like=True, tag=14):
    """Propose these for me. `request` is the sender's own number; a Forward is never sent twice (rule 8)."""

    sender: NodeId
    to: NodeId
    request: int
    commands: tuple[ForwardedCommand, ...]


RESULT, ERROR = 0, 1


class ForwardResult(Struct, frozen=True, array_like=True, gc=False):
    """One command's fate. `kind` RESULT: `status`, `revision`, `body` count; ERROR: `status` is HTTP's, and `code`,
    `outcome`, `why`, `retryable` say the rest."""

    kind: int
    status: int = 0
    revision: int = 0
    body: bytes = b""
    code: str = ""
    outcome: str = ""
    why: str = ""
    retryable: bool = False


class ForwardReply(Struct, frozen=True, array_like=True, tag=15):
    """The results of Forward `request`, in the order of its commands."""

    sender: NodeId
    to: NodeId
    request: int
    results: tuple[ForwardResult, ...]


class Report(Struct, frozen=True, array_like=True, tag=16):
    """A follower tells its leader about its disk (rule 5), and the hashes of its state at some indices (rule 26): those
    that it came to by itself, having begun with the state of index `since`; None: it has none to tell yet."""

    sender: NodeId
    to: NodeId
    low_on_space: bool
    states: tuple[tuple[int, StateHash], ...] = ()
    since: int | None = None


class Diverged(Struct, frozen=True, array_like=True, tag=17):
    """The leader of `term` tells a member what a majority of the voters has at `index`, where it has another state."""

    sender: NodeId
    to: NodeId
    term: int
    index: int
    state_hash: StateHash


PeerMessage: TypeAlias = RaftMessage | Forward | ForwardReply | Report | Diverged

_ON_DATA = frozenset({*DATA_MESSAGES, Forward, ForwardReply})
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[PeerMessage] = msgspec.msgpack.Decoder(PeerMessage)


class Undecodable(Exception):
    """A whole, undamaged frame holds no message that this member knows."""


def kind_of(message: PeerMessage) -> StreamKind:
    """Commands travel on the data stream, whichever way they go; everything else is control."""
    return StreamKind.DATA if type(message) in _ON_DATA else StreamKind.CONTROL


def encode_message(message: PeerMessage) -> bytes:
    return _encoder.encode(message)


def decode_message(payload: bytes) -> PeerMessage:
    """Raises Undecodable, and nothing else, whatever the bytes are."""
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Undecodable(str(error)) from error
