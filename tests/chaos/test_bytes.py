"""Bytes that are no message of ours, too many of them or too few, on every port of every member, under load."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import random
from collections import Counter
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.chaos.oracles import Observation
from tests.chaos.scenario import Trial, trial

THREE = ("a", "b", "c")
ANSWER_SECONDS = 1.0  # what is cut short gets none
TWO_LENGTHS = b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"
HUGE_HEADER = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n"
HUGE_BODY = b"PUT /v1/kv/huge HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 4_000_000
HUGE_UNANNOUNCED = (
    b"PUT /v1/kv/huge HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"%x\r\n%b\r\n0\r\n\r\n" % (2_000_000, b"x" * 2_000_000)
)
CUT_HEAD = b"PUT /v1/kv/cut HTTP/1.1\r\nHost: x\r\nContent-Le"
CUT_SHORT = b"PUT /v1/kv/cut HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 1000
STREAM = b"GET /raft/stream?kind=control HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\noarlock-hello: %s\r\n\r\n"
NOTES = (
    b"PUT /admin/notes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
    b'Content-Length: %d\r\n\r\n{"pod_uid": "%s"'
)

REJECTED = 'oarlock_http_connections_rejected_total{port="%s",reason="%s"}'
ANSWERED = 'oarlock_http_requests_total{code="%d",route="%s"}'
BAD_HELLO = 'oarlock_peer_rejected_total{reason="bad_hello"}'
PUT_KEY = "PUT /v1/kv/{key}"


class Message(NamedTuple):
    kind: str  # each is sent and counted apart from the others
    data: bytes
    counted: str  # the sample of the member's metrics that grows by it; "": none does


def messages(choice: random.Random, port: str, token: bytes) -> list[Message]:
    """Garbage, oversized and truncated, and how this port tells that it has refused each of them. The peer port also
    gets some with the cluster's token, which get past its door."""
    malformed, large_head = (REJECTED % (port, reason) for reason in ("malformed", "head_too_large"))
    # How the port refuses a body that is too large and one that is cut short, of those that have no token.
    large, cut = {
        "client": (ANSWERED % (413, PUT_KEY), ANSWERED % (499, PUT_KEY)),
        "peer": (ANSWERED % (401, "other"),) * 2,
        "ops": (ANSWERED % (405, "other"),) * 2,
    }[port]
    garbage = [choice.randbytes(choice.randrange(64, 1 << 14)) for _ in range(8)]  # fewer bytes may begin a request
    streams = [STREAM % (token, hello) for hello in (b"", b"{}", b"garbage", b"{" * 5000)]
    unknown = BAD_HELLO if port == "peer" else ANSWERED % (404, "other")
    made = [
        *(Message("garbage", data, malformed) for data in (*garbage, TWO_LENGTHS)),
        *(Message("garbage", stream, unknown) for stream in streams),
        *(Message("garbage", stream + choice.randbytes(4096), malformed) for stream in streams),
        Message("oversized", HUGE_HEADER, large_head),
        Message("oversized", HUGE_BODY, large),
        Message("oversized", HUGE_UNANNOUNCED, large),
        Message("truncated", CUT_HEAD, ""),
        Message("truncated", CUT_SHORT, cut),
    ]
    if port == "peer":
        made.append(Message("oversized", NOTES % (token, 4_000_000, b"x" * 3_999_000), ANSWERED % (413, "other")))
        made.append(Message("truncated", NOTES % (token, 100, b"cut"), ANSWERED % (400, "PUT /admin/notes")))
    return made


async def send(url: str, data: bytes) -> None:
    """All of it, or as much as is taken; hangs up after the answer, or soon if there is none."""
    at = urlsplit(url)
    try:
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                writer.write(data)
                await writer.drain()
                await reader.read(-1)
        finally:
            writer.close()
    except (OSError, TimeoutError):
        pass


async def samples(t: Trial, name: str) -> Counter[str]:
    """All that the member counts."""
    text = (await t.cluster.http.get(f"{t.member(name).ops_url}/metrics")).text
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return Counter({sample: int(float(value)) for sample, value in lines})


async def refused(t: Trial, name: str, port: str, url: str, sent: list[Message], seen: Observation) -> None:
    """Send these, of one kind; each of them is counted where this port counts such a one."""
    kind, before = sent[0].kind, await samples(t, name)
    await asyncio.gather(*(send(url, message.data) for message in sent))
    expected = Counter(message.counted for message in sent if message.counted)
    with contextlib.suppress(TimeoutError):  # a member notices a moment later that a client has hung up
        async with asyncio.timeout(5):
            while not expected <= await samples(t, name) - before:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    grown = await samples(t, name) - before
    for sample, count in sorted(expected.items()):
        seen.measured(f"{kind} at {port} of {name}, {sample}", grown[sample], count)


async def test_garbage_on_every_port(tmp_path: pathlib.Path) -> None:
    """It is refused and counted, kind by kind; nothing of it is written, no term passes, and clients see nothing."""
    choice = random.Random(4)
    async with trial(tmp_path, *THREE) as t:
        term = (await t.cluster.status(await t.leader()))["term"]
        async with t.fault("garbage on every port") as seen:
            for name in THREE:
                member = t.member(name)
                ports = {"client": member.client_url, "peer": member.peer_url, "ops": member.ops_url}
                for port, url in ports.items():
                    made = messages(choice, port, t.cluster.token.encode())
                    for kind in ("garbage", "oversized", "truncated"):
                        sent = [message for message in made if message.kind == kind]
                        await refused(t, name, port, url, sent, seen)
        assert (await t.cluster.status(await t.leader()))["term"] == term
        for name in THREE:
            assert (await t.cluster.status(name))["pod_uid"] is None
            for key in ("cut", "huge", "a"):
                answer = await t.cluster.http.get(f"{t.member(name).client_url}/v1/kv/{key}")
                assert (answer.status_code, answer.json()["code"]) == (404, "key_not_found"), f"{key} was written"
        gap = t.load.disturbances[0].gap_seconds
        assert gap < 1, f"{gap} s without an acknowledgement"
