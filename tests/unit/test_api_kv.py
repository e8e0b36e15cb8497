"""One key over HTTP, against a real member of one: what a client of /v1/kv can rely on."""

from __future__ import annotations

import asyncio
import base64
import gc
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.member import RunningMember, running_member

from oarlock.api.problems import ApiError
from oarlock.runtime.errors import Refused

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def member(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningMember]:
    async with running_member(tmp_path_factory.mktemp("member") / "data") as running:
        yield running


async def test_put_creates_then_replaces(member: RunningMember) -> None:
    created = await member.client.put("/v1/kv/put/a", content=b"one")
    replaced = await member.client.put("/v1/kv/put/a", content=b"two")
    assert (created.status_code, replaced.status_code) == (201, 200)
    first, second = created.json(), replaced.json()
    assert first == {"key": "put/a", "revision": first["revision"], "version": 1}
    assert second == {"key": "put/a", "revision": first["revision"] + 1, "version": 2}
    assert replaced.headers["etag"] == f'"{second["revision"]}"'


async def test_get_returns_the_raw_bytes_and_their_place(member: RunningMember) -> None:
    value = bytes(range(256))
    put = (await member.client.put("/v1/kv/get/a", content=value)).json()
    got = await member.client.get("/v1/kv/get/a")
    assert got.content == value
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["etag"] == f'"{put["revision"]}"'
    assert got.headers["oarlock-create-revision"] == str(put["revision"])
    assert got.headers["oarlock-version"] == "1"


async def test_every_answer_says_who_gave_it(member: RunningMember) -> None:
    for answer in (await member.client.get("/v1/kv/absent"), await member.client.put("/v1/kv/headers", content=b"")):
        assert answer.headers["oarlock-member"] == member.node.node_id
        assert answer.headers["oarlock-leader"] == member.node.node_id
        assert answer.headers["oarlock-term"] == str(member.node.term)
        assert int(answer.headers["oarlock-revision"]) <= member.node.revision
        assert answer.headers["x-request-id"]


async def test_request_id_is_repeated_only_if_it_is_harmless(member: RunningMember) -> None:
    kept = await member.client.get("/v1/kv/absent", headers={"x-request-id": "abc-1"})
    made = await member.client.get("/v1/kv/absent", headers={"x-request-id": "a b"})
    assert kept.headers["x-request-id"] == "abc-1"
    assert made.headers["x-request-id"] != "a b"


async def test_json_envelope_names_text_and_base64_apart(member: RunningMember) -> None:
    await member.client.put("/v1/kv/envelope/text", content="grün".encode())
    await member.client.put("/v1/kv/envelope/bytes", content=b"\xff\x00")
    accept = {"accept": "application/json"}
    text = (await member.client.get("/v1/kv/envelope/text", headers=accept)).json()
    raw = (await member.client.get("/v1/kv/envelope/bytes", headers=accept)).json()
    assert text["value"] == "grün"
    assert text["mod_revision"] == text["create_revision"]
    assert raw["value_b64"] == base64.b64encode(b"\xff\x00").decode()
    assert "value" not in raw


async def test_a_refused_request_leaves_nothing_to_the_garbage_collector(
    member: RunningMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 33: an error, its traceback and the frame that keeps it are a cycle, with the request's body in it. There is
    no collection for as long as a flood makes few objects, each of a megabyte."""
    assert member.node.engine is not None
    monkeypatch.setattr(member.node.engine.member, "in_flight_bytes", member.node.engine.member.limits.in_flight_bytes)
    gc.collect()
    gc.disable()
    try:
        for size, status in ((100_000, 429), (2 << 20, 413)):  # refused by the engine, and while it is read
            assert (await member.client.put("/v1/kv/refused", content=b"x" * size)).status_code == status
        kept = [error for error in gc.get_objects() if isinstance(error, (ApiError, Refused))]
    finally:
        gc.enable()
    assert not kept


async def test_absent_key_is_404(member: RunningMember) -> None:
    answer = await member.client.get("/v1/kv/absent")
    assert answer.status_code == 404
    assert answer.json()["code"] == "key_not_found"
    assert answer.headers["content-type"] == "application/problem+json"


async def test_head_has_the_headers_and_the_length_but_no_body(member: RunningMember) -> None:
    await member.client.put("/v1/kv/head", content=b"12345")
    head = await member.client.head("/v1/kv/head")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "5", b"")
    assert (await member.client.head("/v1/kv/absent")).status_code == 404


async def test_if_none_match_of_a_get_answers_304(member: RunningMember) -> None:
    etag = (await member.client.put("/v1/kv/cached", content=b"x")).headers["etag"]
    for header in (etag, f"W/{etag}", f'"1", {etag}', "*"):
        answer = await member.client.get("/v1/kv/cached", headers={"if-none-match": header})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert (await member.client.get("/v1/kv/cached", headers={"if-none-match": '"1"'})).status_code == 200


async def test_compare_and_set(member: RunningMember) -> None:
    first = (await member.client.put("/v1/kv/cas", content=b"1")).json()["revision"]
    put = await member.client.put("/v1/kv/cas", content=b"2", headers={"if-match": f'"{first}"'})
    assert put.status_code == 200
    late = await member.client.put("/v1/kv/cas", content=b"3", headers={"if-match": f'"{first}"'})
    assert late.status_code == 412
    problem = late.json()
    assert problem["code"] == "precondition_failed"
    assert problem["current_mod_revision"] == put.json()["revision"]
    assert problem["outcome"] == "not_applied"
    assert (await member.client.get("/v1/kv/cas")).content == b"2"


async def test_create_only(member: RunningMember) -> None:
    headers = {"if-none-match": "*"}
    assert (await member.client.put("/v1/kv/create", content=b"1", headers=headers)).status_code == 201
    again = await member.client.put("/v1/kv/create", content=b"2", headers=headers)
    assert again.status_code == 412
    assert (await member.client.get("/v1/kv/create")).content == b"1"


async def test_compare_and_set_of_an_absent_key_says_so(member: RunningMember) -> None:
    answer = await member.client.put("/v1/kv/nothing", content=b"", headers={"if-match": '"1"'})
    assert (answer.status_code, answer.json()["current_mod_revision"]) == (412, 0)


async def test_delete(member: RunningMember) -> None:
    await member.client.put("/v1/kv/delete", content=b"x")
    assert (await member.client.delete("/v1/kv/delete", headers={"if-match": '"1"'})).status_code == 412
    assert (await member.client.delete("/v1/kv/delete")).status_code == 204
    assert (await member.client.get("/v1/kv/delete")).status_code == 404
    again = await member.client.delete("/v1/kv/delete")
    assert (again.status_code, again.json()["outcome"]) == (404, "not_applied")
    assert (await member.client.delete("/v1/kv/delete?idempotent=true")).status_code == 204


async def test_read_at_a_revision(member: RunningMember) -> None:
    first = (await member.client.put("/v1/kv/history", content=b"old")).json()["revision"]
    await member.client.put("/v1/kv/history", content=b"new")
    old = await member.client.get(f"/v1/kv/history?revision={first}")
    assert (old.content, old.headers["etag"]) == (b"old", f'"{first}"')
    future = await member.client.get("/v1/kv/history?revision=999999")
    assert (future.status_code, future.json()["code"]) == (400, "future_revision")


async def test_idempotency_key_returns_the_first_result(member: RunningMember) -> None:
    """X2, over HTTP: a repeated write is applied once, and answers as it did."""
    headers = {"idempotency-key": "order-1"}
    first = await member.client.put("/v1/kv/once", content=b"1", headers=headers)
    await member.client.put("/v1/kv/once", content=b"2")
    repeat = await member.client.put("/v1/kv/once", content=b"1", headers=headers)
    assert (repeat.status_code, repeat.json()) == (first.status_code, first.json())
    assert (await member.client.get("/v1/kv/once")).content == b"2"


async def test_idempotency_key_of_another_request_is_422(member: RunningMember) -> None:
    """Rule 30."""
    headers = {"idempotency-key": '"order-2"'}
    await member.client.put("/v1/kv/fingerprint", content=b"1", headers=headers)
    for other in (
        await member.client.put("/v1/kv/fingerprint", content=b"2", headers=headers),
        await member.client.put("/v1/kv/fingerprint2", content=b"1", headers=headers),
        await member.client.delete("/v1/kv/fingerprint", headers=headers),
    ):
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_idempotency_key_of_a_refused_condition_is_remembered(member: RunningMember) -> None:
    """Rule 30: a 412 is a result too; the retry must not succeed where the first try did not."""
    headers = {"idempotency-key": "order-3", "if-none-match": "*"}
    await member.client.put("/v1/kv/held", content=b"theirs")
    assert (await member.client.put("/v1/kv/held", content=b"mine", headers=headers)).status_code == 412
    await member.client.delete("/v1/kv/held")
    assert (await member.client.put("/v1/kv/held", content=b"mine", headers=headers)).status_code == 412


async def test_old_idempotency_key_without_a_record_is_unknown(member: RunningMember) -> None:
    """Rule 30: a UUIDv7 older than a record lives may have been applied long ago."""
    answer = await member.client.put(
        "/v1/kv/expired", content=b"", headers={"idempotency-key": "01890a5d-ac96-774b-bcce-b302099a8057"}
    )
    assert answer.status_code == 409
    assert (answer.json()["code"], answer.json()["outcome"]) == ("idempotency_expired", "unknown")


KEYS = [
    b"a/b/c",
    b"/leading",
    b"double//slash",
    b"a%b",
    b"sp ace",
    b"?q#f",
    b"\x00\xff\x80",
    "ключ".encode(),
    b"+",
    b".",
]


@pytest.mark.parametrize("key", KEYS)
async def test_any_bytes_are_a_key(member: RunningMember, key: bytes) -> None:
    escaped = "".join(f"%{byte:02X}" for byte in key)
    encoded = base64.urlsafe_b64encode(key).decode().rstrip("=")
    put = await member.client.put(f"/v1/kv/{escaped}", content=key)
    assert put.status_code in (200, 201)
    assert (await member.client.get(f"/v1/kv?key_b64={encoded}")).content == key
    assert (await member.client.head(f"/v1/kv/?key_b64={encoded}")).status_code == 200
    assert (await member.client.get(f"/v1/kv/{escaped}")).content == key
    answer = put.json()
    assert answer.get("key", "").encode() == key or base64.b64decode(answer["key_b64"]) == key
    assert (await member.client.delete(f"/v1/kv?key_b64={encoded}")).status_code == 204


async def test_largest_key_and_value_are_taken(member: RunningMember) -> None:
    key = "k" * member.limits.max_key_bytes
    value = b"v" * member.limits.max_body_bytes
    assert (await member.client.put(f"/v1/kv/{key}", content=value)).status_code == 201
    assert (await member.client.get(f"/v1/kv/{key}")).content == value
    assert (await member.client.delete(f"/v1/kv/{key}")).status_code == 204


async def test_stale_read_asks_nobody(member: RunningMember) -> None:
    await member.client.put("/v1/kv/stale", content=b"x")
    before = member.node.metrics.reads
    assert (await member.client.get("/v1/kv/stale?consistency=stale")).content == b"x"
    assert member.node.metrics.reads == before
    assert (await member.client.get("/v1/kv/stale?consistency=linearizable")).content == b"x"
    assert member.node.metrics.reads == before + 1


async def test_redirect_on_the_leader_itself_answers(member: RunningMember) -> None:
    assert (await member.client.put("/v1/kv/redirect?redirect=true", content=b"x")).status_code == 201


async def test_concurrent_writes_each_get_their_own_revision(member: RunningMember) -> None:
    answers = await asyncio.gather(*[member.client.put(f"/v1/kv/many/{i}", content=b"") for i in range(100)])
    revisions = [a.json()["revision"] for a in answers]
    assert len(set(revisions)) == 100


async def test_requests_are_counted_by_template(member: RunningMember) -> None:
    """Rule 33: a client's keys make no new time series."""
    before = len(member.counts.requests)
    route = "GET /v1/kv/{key}"
    count = member.counts.requests.get((route, 404), 0)
    for i in range(20):
        await member.client.get(f"/v1/kv/never/{i}")
    assert member.counts.requests[route, 404] == count + 20
    assert len(member.counts.requests) <= before + 1
