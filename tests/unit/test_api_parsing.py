"""What is taken apart before anything is proposed: every refusal is a 400 (or 413) with a sentence."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oarlock import kv
from oarlock.api import parsing
from oarlock.api.limits import Limits
from oarlock.api.problems import ApiError

LIMITS = Limits()
KNOWN = frozenset({"prefix", "limit", "after"})


def test_bounds_are_the_stores_own() -> None:
    """Rule 23: a client's key has the same bound in every interface."""
    assert (LIMITS.max_key_bytes, LIMITS.max_body_bytes) == (kv.MAX_KEY_BYTES, kv.MAX_VALUE_BYTES)


def test_query_is_taken_as_bytes() -> None:
    parsed = parsing.parse_query(b"prefix=a%2Fb+c%FF&limit=5&after=", KNOWN)
    assert parsed == {"prefix": b"a/b c\xff", "limit": b"5", "after": b""}
    assert parsing.parse_query(b"", KNOWN) == {}
    assert parsing.parse_query(b"&&prefix&", KNOWN) == {"prefix": b""}


@pytest.mark.parametrize(
    ("query", "code", "sentence"),
    [
        (b"perfix=a", "unknown_parameter", "this call knows: after, limit, prefix"),
        (b"prefix=a&prefix=b", "invalid_argument", "given twice"),
        (b"prefix=%zz", "invalid_argument", "two hex digits"),
        (b"%ff=1", "unknown_parameter", "unknown query parameter"),
        (b"&".join([b"prefix=a"] * 40), "invalid_argument", "more than 32"),
    ],
)
def test_query_that_is_not_understood_is_refused(query: bytes, code: str, sentence: str) -> None:
    with pytest.raises(ApiError) as refused:
        parsing.parse_query(query, KNOWN)
    assert (refused.value.status, refused.value.code) == (400, code)
    assert sentence in refused.value.detail


@pytest.mark.parametrize(
    "value", [b"1e3", b"-1", b"0", b"1001", b"", b" 5", b"5 ", b"\xd9\xa1", b"9" * 30, b"5.0", b"0x5"]
)
def test_number_out_of_bounds_is_refused(value: bytes) -> None:
    with pytest.raises(ApiError, match="whole number from 1 to 1000"):
        parsing.number({"limit": value}, "limit", 1, 1000)


def test_number_in_bounds() -> None:
    assert parsing.number({"limit": b"1000"}, "limit", 1, 1000) == 1000
    assert parsing.number({}, "limit", 1, 1000) is None


def test_flags() -> None:
    assert parsing.flag({"x": b""}, "x")
    assert parsing.flag({"x": b"true"}, "x")
    assert not parsing.flag({"x": b"false"}, "x")
    assert not parsing.flag({}, "x")
    for value in (b"1", b"yes", b"True"):
        with pytest.raises(ApiError, match="true or false"):
            parsing.flag({"x": value}, "x")


def test_consistency_is_never_guessed() -> None:
    assert not parsing.stale_allowed({})
    assert not parsing.stale_allowed({"consistency": b"linearizable"})
    assert parsing.stale_allowed({"consistency": b"stale"})
    for value in (b"", b"serializable", b"Stale", b"lease"):
        with pytest.raises(ApiError, match="linearizable"):
            parsing.stale_allowed({"consistency": value})


@given(st.binary(min_size=1, max_size=200))
def test_key_of_any_bytes_survives_either_way(key: bytes) -> None:
    escaped = b"/v1/kv/" + b"".join(b"%%%02x" % byte for byte in key)
    assert parsing.key_of(escaped, b"/v1/kv", {}, LIMITS) == key
    for encoded in (base64.b64encode(key), base64.urlsafe_b64encode(key), base64.b64encode(key).rstrip(b"=")):
        assert parsing.key_of(b"/v1/kv", b"/v1/kv", {"key_b64": encoded}, LIMITS) == key


@pytest.mark.parametrize(
    ("path", "parameters", "status", "sentence"),
    [
        (b"/v1/kv/", {}, 400, "the key is empty"),
        (b"/v1/kv", {}, 400, "the key is empty"),
        (b"/v1/kv", {"key_b64": b""}, 400, "the key is empty"),
        (b"/v1/kv", {"key_b64": b"!!!"}, 400, "not base64"),
        (b"/v1/kv", {"key_b64": b"A"}, 400, "not base64"),
        (b"/v1/kv/a", {"key_b64": b"YQ"}, 400, "given twice"),
        (b"/v1/kv/%", {}, 400, "two hex digits"),
        (b"/v1/kv/%4", {}, 400, "two hex digits"),
        (b"/v1/kv/" + b"k" * 1537, {}, 413, "at most 1536"),
        (b"/v1/kv", {"key_b64": base64.b64encode(b"k" * 1537)}, 413, "at most 1536"),
    ],
)
def test_key_that_cannot_be_is_refused(path: bytes, parameters: dict[str, bytes], status: int, sentence: str) -> None:
    with pytest.raises(ApiError) as refused:
        parsing.key_of(path, b"/v1/kv", parameters, LIMITS)
    assert refused.value.status == status
    assert sentence in refused.value.detail


def test_etag_with_and_without_quotes() -> None:
    assert parsing.parse_etag(b'"42"', "If-Match") == 42
    assert parsing.parse_etag(b" 42 ", "If-Match") == 42


@pytest.mark.parametrize(
    "value", [b"*", b'W/"42"', b'"42", "43"', b'"0"', b'"-1"', b"abc", b"", b'"42', b'"99999999999999999999"']
)
def test_etag_of_no_revision_is_refused(value: bytes) -> None:
    with pytest.raises(ApiError, match="one ETag of this store"):
        parsing.parse_etag(value, "If-Match")


@pytest.mark.parametrize(
    "value", [b"", b"a b", b'"', b'""', b"\x7f", b"k" * 256, b'"' + b"k" * 256 + b'"', b'a"b', b"\xff"]
)
def test_idempotency_key_that_cannot_be_is_refused(value: bytes) -> None:
    with pytest.raises(ApiError, match="1 to 255 visible"):
        parsing.idempotency_key(value)


def test_idempotency_key_may_be_quoted() -> None:
    """The header is a structured string in its draft, and bare in most clients: both name the same key."""
    assert parsing.idempotency_key(b'"k-1"') == parsing.idempotency_key(b"k-1") == "k-1"
    assert len(parsing.idempotency_key(b"k" * 255)) == 255
