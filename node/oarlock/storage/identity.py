"""Who a data directory is: a small file that a person can read, replaced atomically and checked by a CRC.

Rules of this module: a node id is minted once per directory and never returns (rule 15); an identity of a newer format
is not read (rule 34).
"""

from __future__ import annotations

import re

import msgspec
from google_crc32c import value as crc32c
from msgspec import Struct

from oarlock.raft.types import NodeId
from oarlock.storage.errors import Corrupt, NewerFormat

FORMAT_VERSION = 1
INCARNATION_DIGITS = 16
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,109}[a-z0-9])?")


class ResetRecord(Struct, frozen=True):
    """A reset that was done, so that its repetition gets the same answer."""

    request_id: str
    old_node_id: NodeId
    node_id: NodeId
    quarantine: str


class BootstrapRecord(Struct, frozen=True):
    """The request that minted the cluster id here; `done` once the log begins, so that it is never begun twice."""

    request_id: str
    cluster_id: str  # as it was asked for, without the nonce
    min_voters: int
    done: bool = False


class Identity(Struct, frozen=True, kw_only=True):
    """`format` versions the whole directory. Fields that a later version adds have defaults."""

    format: int = FORMAT_VERSION
    name: str
    node_id: NodeId
    cluster_id: str | None = None  # effective (rule 16); None: Idle
    bootstrap: BootstrapRecord | None = None
    pod_uid: str | None = None
    volume_uid: str | None = None
    reset_requests: tuple[ResetRecord, ...] = ()
    pending_quarantine: str | None = None  # data of an older node id is still to be moved there
    diverged: str | None = None  # why this member may never take part again under its id (rule 26)

    @property
    def incarnation(self) -> str:
        return self.node_id[-INCARNATION_DIGITS:]


class _Version(Struct):
    format: int


def check_name(name: str) -> None:
    """Raises ValueError unless `name` can be the first part of a node id."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no member name: up to 111 of a-z, 0-9, dash and dot, a letter or digit first and last"
        )


def encode_identity(identity: Identity) -> bytes:
    """One line of JSON, and its CRC32C in hexadecimal on a second one."""
    line = msgspec.json.encode(identity)
    return line + f"\n{crc32c(line):08x}\n".encode()


def decode_identity(data: bytes) -> Identity:
    """Raises Corrupt, NewerFormat."""
    line, _, crc = data.partition(b"\n")
    if crc != f"{crc32c(line):08x}\n".encode():
        raise Corrupt("the identity file is damaged")
    try:
        version = msgspec.json.decode(line, type=_Version).format
        if version > FORMAT_VERSION:
            raise NewerFormat(
                f"the data directory has format version {version}; this version reads up to {FORMAT_VERSION}"
            )
        return msgspec.json.decode(line, type=Identity)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"the identity file is damaged: {error}") from error
