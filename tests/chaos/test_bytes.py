"""Bytes that are no message of ours, too many of them or too few, on every port of every member, under load."""

from __future__ import annotations

import asyncio
import pathlib
import random
from urllib.parse import urlsplit

from tests.chaos.scenario import Trial, trial

THREE = ("a", "b", "c")
TWO_LENGTHS = b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"
HUGE_HEADER = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n"
CUT_SHORT = b"PUT /v1/kv/cut HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 1000
HUGE_BODY = b"PUT /v1/kv/huge HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 4_000_000
STREAM = b"GET /raft/stream?kind=control HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\noarlock-hello: %s\r\n\r\n"


def messages(choice: random.Random, token: str) -> list[bytes]:
    """Garbage, oversized and truncated; the peer port also gets some with the cluster's token."""
    garbage = [choice.randbytes(choice.randrange(1, 1 << 14)) for _ in range(8)]
    streams = [STREAM % (token.encode(), hello) for hello in (b"", b"{}", b"garbage", b"{" * 5000)]
    behind = [stream + choice.randbytes(4096) for stream in streams]
    return [*garbage, TWO_LENGTHS, HUGE_HEADER, CUT_SHORT, HUGE_BODY, *streams, *behind]


async def send(url: str, data: bytes) -> None:
    """All of it, or as much as is taken; hangs up after the answer, or soon if there is none."""
    at = urlsplit(url)
    try:
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        try:
            async with asyncio.timeout(0.5):
                writer.write(data)
                await writer.drain()
                await reader.read(-1)
        finally:
            writer.close()
    except (OSError, TimeoutError):
        pass


async def rejected(t: Trial, name: str, port: str) -> float:
    text = (await t.cluster.http.get(f"{t.member(name).ops_url}/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("oarlock_http_connections_rejected_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if f'port="{port}"' in line)


async def test_garbage_on_every_port(tmp_path: pathlib.Path) -> None:
    """It is refused and counted; no term passes, and clients see nothing of it."""
    choice = random.Random(4)
    async with trial(tmp_path, *THREE) as t:
        term = (await t.cluster.status(await t.leader()))["term"]
        async with t.fault("garbage on every port") as seen:
            for name in THREE:
                member = t.member(name)
                ports = {"client": member.client_url, "peer": member.peer_url, "ops": member.ops_url}
                for port, url in ports.items():
                    before = await rejected(t, name, port)
                    sent = messages(choice, t.cluster.token)
                    await asyncio.gather(*(send(url, data) for data in sent))
                    seen.saw(f"{port} of {name} rejected", await rejected(t, name, port) - before)
        assert (await t.cluster.status(await t.leader()))["term"] == term
        gap = t.load.disturbances[0].gap_seconds
        assert gap < 1, f"{gap} s without an acknowledgement"
