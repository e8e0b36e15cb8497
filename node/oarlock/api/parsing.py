"""What a client sent, taken apart: paths, queries, ETags, keys. Pure functions; every refusal is a sentence with 400.

* A parameter or header value that is not understood is refused, never ignored: a misspelt `consistency` must not
  turn into another consistency.
* Keys are bytes. Nothing here decodes them as text.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from oarlock.api.limits import Limits
from oarlock.api.problems import ApiError, bad_request, too_large

MAX_PARAMETERS = 32
MAX_REVISION = 2**63 - 1
NO_PARAMETERS: Mapping[str, bytes] = {}

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ETAG = re.compile(rb'"([0-9]{1,19})"|([0-9]{1,19})')
_IDEMPOTENCY_KEY = re.compile(rb'"[\x21\x23-\x5b\x5d-\x7e]{1,255}"|[\x21\x23-\x7e]{1,255}')
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def unescape(raw: bytes, what: str) -> bytes:
    """Percent-decoded bytes. Raises 400 for a `%` that escapes nothing."""
    if b"%" not in raw:
        return raw
    if _BAD_ESCAPE.search(raw):
        raise bad_request(f"{what} has a '%' that is not followed by two hex digits; write a plain '%' as %25")
    return unquote_to_bytes(raw)


def parse_query(query_string: bytes, known: frozenset[str]) -> Mapping[str, bytes]:
    """Name to value, each once. Raises 400 for a parameter that this call does not know, or that comes twice."""
    if not query_string:
        return NO_PARAMETERS
    parameters: dict[str, bytes] = {}
    parts = query_string.split(b"&", MAX_PARAMETERS)
    if len(parts) > MAX_PARAMETERS:
        raise bad_request(f"more than {MAX_PARAMETERS} query parameters")
    for part in parts:
        if not part:
            continue
        raw_name, _, raw_value = part.partition(b"=")
        name = unescape(raw_name.replace(b"+", b" "), "a query parameter's name").decode("utf-8", "replace")
        if name not in known:
            knows = ", ".join(sorted(known)) or "none"
            raise bad_request(f"unknown query parameter {name[:64]!r}; this call knows: {knows}", "unknown_parameter")
        if name in parameters:
            raise bad_request(f"the query parameter {name!r} is given twice")
        parameters[name] = unescape(raw_value.replace(b"+", b" "), f"the query parameter {name!r}")
    return parameters


def flag(parameters: Mapping[str, bytes], name: str) -> bool:
    """`?name`, `?name=true` and `?name=false`; absent is false."""
    value = parameters.get(name)
    if value is None or value == b"false":
        return False
    if value in (b"", b"true"):
        return True
    raise bad_request(f"the query parameter {name!r} takes true or false")


def number(parameters: Mapping[str, bytes], name: str, low: int, high: int) -> int | None:
    value = parameters.get(name)
    if value is None:
        return None
    if not value.isdigit() or len(value) > 19 or not low <= int(value) <= high:
        raise bad_request(f"the query parameter {name!r} takes a whole number from {low} to {high}")
    return int(value)


def stale_allowed(parameters: Mapping[str, bytes]) -> bool:
    """Is `consistency=stale` asked for? Linearizable is the default."""
    value = parameters.get("consistency")
    if value is None or value == b"linearizable":
        return False
    if value == b"stale":
        return True
    raise bad_request("the query parameter 'consistency' takes linearizable (the default) or stale")


def decode_base64(value: bytes, what: str) -> bytes:
    """Standard or URL-safe alphabet, padded or not."""
    padded = value.replace(b" ", b"+").replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
    try:
        return base64.b64decode(padded + b"=" * (-len(padded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise bad_request(f"{what} is not base64") from None


def checked_key(key: bytes, limits: Limits) -> bytes:
    if not key:
        raise bad_request("the key is empty: PUT /v1/kv/some/key, or ?key_b64= for binary keys", "empty_key")
    if len(key) > limits.max_key_bytes:
        raise too_large(f"the key has {len(key)} bytes; at most {limits.max_key_bytes} are allowed")
    return key


def key_of(raw_path: bytes, prefix: bytes, parameters: Mapping[str, bytes], limits: Limits) -> bytes:
    """The key a path (`/v1/kv/{key}`, percent-decoded, slashes included) or `?key_b64=` names; not both."""
    encoded = parameters.get("key_b64")
    raw = raw_path[len(prefix) + 1 :]
    if encoded is None:
        return checked_key(unescape(raw, "the key"), limits)
    if raw:
        raise bad_request("the key is given twice: in the path and as key_b64")
    return checked_key(decode_base64(encoded, "key_b64"), limits)


def parse_etag(value: bytes, header: str) -> int:
    """The revision in `"<revision>"`, the quotes optional because shells eat them. Raises 400 for anything else."""
    match = _ETAG.fullmatch(value.strip())
    revision = int(match[1] or match[2]) if match else 0
    if not 0 < revision <= MAX_REVISION:
        raise bad_request(f'{header} takes one ETag of this store, a revision in quotes: {header}: "42"')
    return revision


def etag_matches(value: bytes, revision: int) -> bool:
    """If-None-Match of a GET (RFC 9110, 13.1.2: weak comparison): is `revision` among the ETags, or is it `*`?"""
    if value.strip() == b"*":
        return True
    wanted = b"%d" % revision
    return any(tag.strip().removeprefix(b"W/").strip(b'"') == wanted for tag in value.split(b","))


def idempotency_key(value: bytes) -> str:
    if not _IDEMPOTENCY_KEY.fullmatch(value):
        raise bad_request("Idempotency-Key takes 1 to 255 visible ASCII characters without spaces; a UUIDv7 is best")
    return value.strip(b'"').decode("ascii")


def request_id(value: bytes) -> bytes:
    """The client's own X-Request-Id if it may be repeated in a header, else nothing."""
    return value if _REQUEST_ID.fullmatch(value) else b""


def content_length(value: bytes) -> int:
    """The announced size of a body. uvicorn's parser has refused what is no number already."""
    if not value.isdigit():
        raise ApiError(400, "invalid_argument", "Content-Length is not a number")
    return int(value)
