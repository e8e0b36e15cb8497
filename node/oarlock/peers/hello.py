"""Who speaks to whom: the hello that every opening request carries, and what the opened member makes of it (rule 31).

Rules of this module:
* Pure: no clock, no network; the bytes of a header in, a verdict out.
* `format_version` is read before anything else, so that a hello of an unknown format is refused for that reason.
* Unknown fields are ignored: a newer member may say more.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from oarlock.raft.types import NodeId

FORMAT_VERSION = 1
"""Of frames, messages and this hello together (rule 34)."""

HEADER_NAME = "oarlock-hello"
MAX_HELLO_BYTES = 4096
_MAX_ID = 256


class HelloKind(StrEnum):
    """What the request opens. The first two are StreamKind's."""

    CONTROL = "control"
    DATA = "data"
    HELLO = "hello"  # nothing: only the answer's hello is wanted
    SNAPSHOT = "snapshot"


class Hello(Struct, frozen=True):
    """`cluster_id` is the effective one (rule 16), "" when Idle. `version`: the highest cluster version this member can
    speak (rule 34). `ip` is tried before the name in `peer_url`; "" when unknown. `known`: the IPs of those that hear
    the sender now. Two members that have both moved find each other by a third, while DNS still names where they were.
    """

    format_version: int
    cluster_id: str
    node_id: NodeId
    peer_url: str
    ip: str
    target_node_id: NodeId
    version: int
    kind: HelloKind
    known: Mapping[NodeId, str] = {}


@dataclass(frozen=True, slots=True)
class LocalIdentity:
    """What this member says of itself; asked anew for each hello, because an Idle member's changes."""

    node_id: NodeId
    cluster_id: str
    peer_url: str
    ip: str
    version: int


class Verdict(StrEnum):
    """The opened member's answer; the values are the `code` of the problem that a refused opener reads."""

    OK = "ok"
    BAD_HELLO = "bad_hello"
    WRONG_CLUSTER = "wrong_cluster"
    WRONG_TARGET = "wrong_target"
    WRONG_SENDER = "wrong_sender"
    REMOVED = "removed"
    UNKNOWN_FORMAT = "unknown_format"
    TOO_MANY = "too_many"
    NOT_READY = "not_ready"


STATUS = {
    Verdict.OK: 200,
    Verdict.BAD_HELLO: 400,
    Verdict.WRONG_CLUSTER: 409,
    Verdict.WRONG_TARGET: 409,
    Verdict.WRONG_SENDER: 409,
    Verdict.REMOVED: 410,
    Verdict.UNKNOWN_FORMAT: 426,
    Verdict.TOO_MANY: 503,
    Verdict.NOT_READY: 503,
}


class BadHello(Exception):
    """`verdict` is BAD_HELLO or UNKNOWN_FORMAT."""

    def __init__(self, verdict: Verdict, why: str) -> None:
        super().__init__(why)
        self.verdict = verdict


class _Format(Struct):
    format_version: int


_encoder = msgspec.json.Encoder()
_format = msgspec.json.Decoder(_Format)
_hello = msgspec.json.Decoder(Hello)


def make_hello(
    local: LocalIdentity, target: NodeId, kind: HelloKind, known: Mapping[NodeId, str] | None = None
) -> Hello:
    return Hello(
        FORMAT_VERSION,
        local.cluster_id,
        local.node_id,
        local.peer_url,
        local.ip,
        target,
        local.version,
        kind,
        known or {},
    )


def encode_hello(hello: Hello) -> bytes:
    """A header's value: one line of JSON, so that a person can read it in a dump. `known` is left out if it is long."""
    value = _encoder.encode(hello)
    return value if len(value) <= MAX_HELLO_BYTES else _encoder.encode(msgspec.structs.replace(hello, known={}))


def decode_hello(value: bytes) -> Hello:
    """Raises BadHello, and nothing else, whatever the bytes are."""
    if len(value) > MAX_HELLO_BYTES:
        raise BadHello(Verdict.BAD_HELLO, f"a hello has at most {MAX_HELLO_BYTES} bytes, not {len(value)}")
    try:
        version = _format.decode(value).format_version
        if version != FORMAT_VERSION:
            raise BadHello(Verdict.UNKNOWN_FORMAT, f"format version {version}; this member speaks {FORMAT_VERSION}")
        hello = _hello.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadHello(Verdict.BAD_HELLO, f"not a hello: {error}") from error
    named = [("node_id", hello.node_id), ("target_node_id", hello.target_node_id)]
    for name, node_id in [*named, *(("known", node_id) for node_id in hello.known)]:
        if not 0 < len(node_id) <= _MAX_ID or not node_id.isascii() or not node_id.isprintable() or " " in node_id:
            raise BadHello(Verdict.BAD_HELLO, f"{name} must be 1 to {_MAX_ID} printable ASCII characters, no spaces")
    split_url(hello.peer_url)
    for ip in [*([hello.ip] if hello.ip else []), *hello.known.values()]:
        try:
            ipaddress.ip_address(ip)
        except ValueError as error:
            raise BadHello(Verdict.BAD_HELLO, str(error)) from error
    return hello


def split_url(url: str) -> tuple[str, str, int]:
    """Scheme, host, port of a peer URL. Raises BadHello for anything else than `http[s]://host:port`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadHello(Verdict.BAD_HELLO, f"peer_url {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not host or port is None or not url.isascii() or not url.isprintable():
        raise BadHello(Verdict.BAD_HELLO, f"peer_url {url!r} must be http://host:port or https://host:port")
    return parts.scheme, host, port


def judge_identity(local: LocalIdentity, hello: Hello) -> Verdict:
    """What follows from the two identities alone; the runtime's own judgement (tombstones, readiness) comes after OK.

    The target is compared first: an Idle member, whose cluster id is "", takes any cluster's word, but only when it is
    the very member that was meant (rule 16). An opener without a cluster has nothing to say to anybody.
    """
    if hello.target_node_id != local.node_id:
        return Verdict.WRONG_TARGET
    if hello.node_id == local.node_id:
        return Verdict.WRONG_SENDER
    if not hello.cluster_id or (local.cluster_id and hello.cluster_id != local.cluster_id):
        return Verdict.WRONG_CLUSTER
    return Verdict.OK
