"""Lists by prefix over HTTP: pages that show one revision, and the stream of all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.member import RunningMember, running_member

pytestmark = pytest.mark.asyncio(loop_scope="module")

NDJSON = {"accept": "application/x-ndjson"}
MANY = 2500


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def member(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningMember]:
    async with running_member(tmp_path_factory.mktemp("member") / "data") as running:
        for name in ("a/1", "a/2", "a/3", "b/1"):
            await running.client.put(f"/v1/kv/{name}", content=name.encode())
        yield running


async def test_list_by_prefix_in_order(member: RunningMember) -> None:
    body = (await member.client.get("/v1/kv?prefix=a/")).json()
    assert [(i["key"], i["value"]) for i in body["items"]] == [("a/1", "a/1"), ("a/2", "a/2"), ("a/3", "a/3")]
    assert body["more"] is False
    assert "next" not in body


async def test_list_of_everything_without_a_prefix(member: RunningMember) -> None:
    keys = [i["key"] for i in (await member.client.get("/v1/kv?keys_only=true")).json()["items"]]
    assert keys == sorted(keys)
    assert {"a/1", "b/1"} <= set(keys)


async def test_pages_follow_each_other_at_one_revision(member: RunningMember) -> None:
    """Rule 24: what is written meanwhile does not show."""
    first = await member.client.get("/v1/kv?prefix=a/&limit=2&keys_only")
    page = first.json()
    assert [i["key"] for i in page["items"]] == ["a/1", "a/2"]
    assert all("value" not in i for i in page["items"])
    assert page["more"] is True
    assert first.headers["link"] == f'<{page["next"]}>; rel="next"'
    await member.client.put("/v1/kv/a/25", content=b"new")
    second = (await member.client.get(page["next"])).json()
    assert [i["key"] for i in second["items"]] == ["a/3"]
    assert second["revision"] == page["revision"]
    assert second["more"] is False
    await member.client.delete("/v1/kv/a/25")


async def test_next_carries_keys_of_any_bytes(member: RunningMember) -> None:
    await member.client.put("/v1/kv/%FF%261", content=b"")
    await member.client.put("/v1/kv/%FF%262", content=b"")
    page = (await member.client.get("/v1/kv?prefix=%FF%26&limit=1")).json()
    following = (await member.client.get(page["next"])).json()
    assert [i["key_b64"] for i in page["items"] + following["items"]] == ["/yYx", "/yYy"]


async def test_count_only(member: RunningMember) -> None:
    body = (await member.client.get("/v1/kv?prefix=a/&count_only=true")).json()
    assert body == {"count": 3, "revision": body["revision"]}


async def test_list_at_an_older_revision(member: RunningMember) -> None:
    revision = (await member.client.put("/v1/kv/c/1", content=b"old")).json()["revision"]
    await member.client.put("/v1/kv/c/1", content=b"new")
    await member.client.put("/v1/kv/c/2", content=b"new")
    body = (await member.client.get(f"/v1/kv?prefix=c/&revision={revision}")).json()
    assert [(i["key"], i["value"]) for i in body["items"]] == [("c/1", "old")]


async def test_stream_gives_every_key_across_pages(member: RunningMember) -> None:
    futures = [member.node.propose(_put(b"many/%05d" % i)) for i in range(MANY)]
    for future in futures:
        await future
    answer = await member.client.get("/v1/kv?prefix=many/&keys_only=true", headers=NDJSON)
    assert answer.headers["content-type"] == "application/x-ndjson"
    keys = [json.loads(line)["key"] for line in answer.text.splitlines()]
    assert keys == [f"many/{i:05}" for i in range(MANY)]
    counted = (await member.client.get("/v1/kv?prefix=many/&count_only=true")).json()
    assert counted["count"] == MANY


async def test_stream_stops_at_its_limit(member: RunningMember) -> None:
    answer = await member.client.get("/v1/kv?prefix=a/&limit=2", headers=NDJSON)
    assert [json.loads(line)["key"] for line in answer.text.splitlines()] == ["a/1", "a/2"]


async def test_stream_of_nothing_is_empty(member: RunningMember) -> None:
    answer = await member.client.get("/v1/kv?prefix=nothing/", headers=NDJSON)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("limit=0", 400, "invalid_argument"),
        ("limit=1001", 400, "invalid_argument"),
        ("limit=x", 400, "invalid_argument"),
        ("revision=0", 400, "invalid_argument"),
        ("revision=99999999", 400, "future_revision"),
        ("recursive=true", 400, "unknown_parameter"),
        ("keys_only=maybe", 400, "invalid_argument"),
        ("prefix=" + "p" * 1537, 413, "request_too_large"),
    ],
)
async def test_list_that_makes_no_sense_is_refused(member: RunningMember, query: str, status: int, code: str) -> None:
    answer = await member.client.get(f"/v1/kv?{query}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_compacted_page_is_410_and_names_the_floor(member: RunningMember) -> None:
    """Rule 24: a pinned page below the floor is an error, never a mixture."""
    from oarlock.kv import encode_compact

    page = (await member.client.get("/v1/kv?prefix=a/&limit=1")).json()
    floor = (await member.client.put("/v1/kv/a/1", content=b"later")).json()["revision"]
    await member.node.propose(encode_compact(floor))
    answer = await member.client.get(page["next"])
    assert (answer.status_code, answer.json()["code"], answer.json()["compact_revision"]) == (410, "compacted", floor)
    one = await member.client.get(f"/v1/kv/a/1?revision={page['revision']}")
    assert one.status_code == 410


def _put(key: bytes) -> bytes:
    from oarlock.kv import encode_put

    return encode_put(key, b"")
