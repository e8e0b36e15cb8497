"""The hello: who is let in, and what a refusal proves (rules 10, 16, 31 and 34)."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oarlock.peers.client import OpeningRefused, addresses, removed_by, stale_by
from oarlock.peers.hello import (
    FORMAT_VERSION,
    MAX_HELLO_BYTES,
    STATUS,
    BadHello,
    Hello,
    HelloKind,
    LocalIdentity,
    Verdict,
    decode_hello,
    encode_hello,
    judge_identity,
    make_hello,
)

ME = LocalIdentity("a-01", "cluster.nonce", "http://a.example:2380", "10.0.0.1", 1)
IDLE = LocalIdentity("b-02", "", "http://b.example:2380", "10.0.0.2", 1)
MEMBER = LocalIdentity("b-02", "cluster.nonce", "http://b.example:2380", "", 1)
HELLO = make_hello(ME, "b-02", HelloKind.CONTROL)


def changed(**fields: object) -> bytes:
    return msgspec.json.encode({**msgspec.to_builtins(HELLO), **fields})


def test_a_hello_survives_the_way() -> None:
    assert decode_hello(encode_hello(HELLO)) == HELLO
    assert encode_hello(HELLO).isascii()
    assert b"\n" not in encode_hello(msgspec.structs.replace(HELLO, peer_url="http://a\r\nx: y"))


def test_what_is_known_of_others_stays_out_of_a_hello_that_would_be_too_long() -> None:
    known = {f"m-{n:016x}": "10.0.0.9" for n in range(9)}
    told = make_hello(ME, "b-02", HelloKind.CONTROL, known)
    assert decode_hello(encode_hello(told)).known == known
    many = {f"m-{n:0250}": "10.0.0.9" for n in range(20)}
    assert decode_hello(encode_hello(make_hello(ME, "b-02", HelloKind.CONTROL, many))) == HELLO


def test_a_newer_hello_may_say_more() -> None:
    assert decode_hello(changed(colour="green")) == HELLO


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, -1, 2**63])
def test_an_unknown_format_is_refused_for_that_reason(version: int) -> None:
    """Rule 34: whatever else has changed in it."""
    for value in (changed(format_version=version), msgspec.json.encode({"format_version": version, "node_id": [1]})):
        with pytest.raises(BadHello) as error:
            decode_hello(value)
        assert error.value.verdict is Verdict.UNKNOWN_FORMAT


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"{}",
        b"\xff\xfe",
        changed(node_id=""),
        changed(known=["10.0.0.1"]),
        changed(known={"": "10.0.0.1"}),
        changed(known={"c-03": "somewhere"}),
        changed(known={"c-03": ""}),
        changed(node_id="a b"),
        changed(node_id="a\n"),
        changed(node_id="ä-01"),
        changed(node_id="a" * 257),
        changed(target_node_id=""),
        changed(peer_url=""),
        changed(peer_url="a.example:2380"),
        changed(peer_url="ftp://a.example:2380"),
        changed(peer_url="http://a.example"),
        changed(peer_url="http://a.example:99999"),
        changed(peer_url="http://[::1:2380"),
        changed(ip="not an ip"),
        changed(kind="gossip"),
        changed(version="1"),
        changed(colour="x" * MAX_HELLO_BYTES),
    ],
)
def test_a_bad_hello_is_refused(value: bytes) -> None:
    with pytest.raises(BadHello) as error:
        decode_hello(value)
    assert error.value.verdict is Verdict.BAD_HELLO


@given(junk=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_bad_peer_message_rejected(junk: bytes) -> None:
    """F7, for the hello."""
    with pytest.raises(BadHello):
        decode_hello(junk)


@pytest.mark.parametrize(
    ("local", "fields", "verdict"),
    [
        (IDLE, {}, Verdict.OK),  # rule 16: an Idle member takes any cluster's word ...
        (IDLE, {"target_node_id": "b-03"}, Verdict.WRONG_TARGET),  # ... when it is the one that was meant
        (IDLE, {"cluster_id": ""}, Verdict.WRONG_CLUSTER),  # two Idle members have nothing to say to each other
        (MEMBER, {}, Verdict.OK),
        (MEMBER, {"cluster_id": "cluster.other"}, Verdict.WRONG_CLUSTER),  # two bootstraps under one name
        (MEMBER, {"cluster_id": ""}, Verdict.WRONG_CLUSTER),
        (MEMBER, {"target_node_id": "b-01"}, Verdict.WRONG_TARGET),  # an older incarnation was meant (rule 15)
        (MEMBER, {"node_id": "b-02"}, Verdict.WRONG_SENDER),  # a copy of our own data directory
    ],
)
def test_identities_are_compared(local: LocalIdentity, fields: dict[str, str], verdict: Verdict) -> None:
    assert judge_identity(local, msgspec.structs.replace(HELLO, **fields)) is verdict


def test_every_verdict_has_a_status() -> None:
    assert set(STATUS) == set(Verdict)
    assert [STATUS[v] for v in (Verdict.WRONG_CLUSTER, Verdict.WRONG_TARGET, Verdict.REMOVED)] == [409, 409, 410]
    assert [STATUS[v] for v in (Verdict.UNKNOWN_FORMAT, Verdict.NOT_READY)] == [426, 503]


def refusal(status: int, code: str, node_id: str = "b-02", cluster_id: str = "cluster.nonce") -> OpeningRefused:
    answer = Hello(1, cluster_id, node_id, "http://b:1", "", "a-01", 1, HelloKind.HELLO)
    return OpeningRefused(status, code, "", answer)


def test_only_a_member_of_our_own_cluster_can_remove_us() -> None:
    """Rule 10: `Removed` is for good, so a 410 counts only from the member asked, in our own cluster."""
    assert removed_by(HELLO, refusal(410, "removed")) == "b-02"
    assert removed_by(HELLO, refusal(410, "removed", node_id="b-03")) == "b-03"  # who took the place of the one we knew
    assert removed_by(HELLO, refusal(410, "removed", cluster_id="cluster.other")) is None
    assert removed_by(HELLO, refusal(410, "gone")) is None
    assert removed_by(HELLO, refusal(409, "removed")) is None
    assert removed_by(HELLO, OpeningRefused(410, "removed", "", None)) is None
    idle = msgspec.structs.replace(HELLO, cluster_id="")
    assert removed_by(idle, refusal(410, "removed", cluster_id="")) is None


def test_only_the_member_that_was_meant_can_call_us_stale() -> None:
    assert stale_by(HELLO, refusal(409, "wrong_cluster", cluster_id="cluster.other"))
    assert not stale_by(HELLO, refusal(409, "wrong_cluster", node_id="b-03", cluster_id="cluster.other"))
    assert not stale_by(HELLO, refusal(409, "wrong_cluster"))  # it says our own cluster's name: it contradicts itself
    assert not stale_by(HELLO, refusal(409, "wrong_target", cluster_id="cluster.other"))


def test_the_ip_of_the_hello_is_tried_before_the_name() -> None:
    first, second = addresses("https://m-0.peers:2380", "10.1.2.3")
    assert (first.base_url, first.connect_to, first.host, first.name) == (
        "https://10.1.2.3:2380",
        "10.1.2.3",
        "m-0.peers:2380",
        "m-0.peers",  # TLS and the Host header still name the member
    )
    assert (second.base_url, second.connect_to) == ("https://m-0.peers:2380", "m-0.peers")
    assert [a.base_url for a in addresses("http://m:1", "fd00::1")] == ["http://[fd00::1]:1", "http://m:1"]
    assert [a.base_url for a in addresses("http://[fd00::1]:1", "fd00::1")] == ["http://[fd00::1]:1"]
    assert [a.base_url for a in addresses("http://m:1", "")] == ["http://m:1"]
