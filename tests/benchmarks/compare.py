"""Puts and linearizable gets a second, beside etcd through its JSON gateway, interleaved in one run.

    python -m tests.benchmarks.compare [--seconds 5] [--rounds 3] [--write docs/performance.md]

Three members of each on loopback, the same disk, fsync on, values of 256 bytes, 1,000 keys; wrk with one thread; only
one of the two clusters runs at a time. A figure is the median of its rounds. Needs wrk and etcd (Debian's etcd-server).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
from tests import run
from tests.integration.members import cluster, free_ports

KEYS, VALUE_BYTES = 1000, 256
VALUE = "x" * VALUE_BYTES
NAMES = ("a", "b", "c")
DATA = run.ROOT / "build/bench"  # on one disk for both, and where the members' Python can see it


@dataclass(frozen=True)
class Case:
    name: str
    connections: int
    writes: bool


CASES = [
    Case("put, 1 connection", 1, True),
    Case("put, 64 connections", 64, True),
    Case("put, 256 connections", 256, True),
    Case("linearizable get, 64 connections", 64, False),
]


@dataclass(frozen=True)
class Figure:
    per_second: float
    p50_ms: float
    p99_ms: float


def oarlock_script(case: Case) -> str:
    method, body = ("PUT", f'"{VALUE}"') if case.writes else ("GET", "nil")
    return f"""
local n = 0
request = function() n = n + 1; return wrk.format("{method}", "/v1/kv/key" .. n % {KEYS}, nil, {body}) end
"""


def etcd_script(case: Case) -> str:
    keys = ",".join(f'"{base64.b64encode(f"key{n}".encode()).decode()}"' for n in range(KEYS))
    value = base64.b64encode(VALUE.encode()).decode()
    path, rest = ("/v3/kv/put", f',"value":"{value}"') if case.writes else ("/v3/kv/range", "")
    return f"""
local keys, n = {{{keys}}}, 0
request = function()
  n = n + 1
  return wrk.format("POST", "{path}", nil, '{{"key":"' .. keys[n % {KEYS} + 1] .. '"{rest}}}')
end
"""


def wrk(url: str, script: str, connections: int, seconds: int) -> Figure:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", file.name, url]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise SystemExit(f"the run does not count:\n{output}")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])
    return Figure(rate, _milliseconds(output, "50%"), _milliseconds(output, "99%"))


def _milliseconds(output: str, percentile: str) -> float:
    number, unit = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)", output).groups()
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


@contextlib.asynccontextmanager
async def oarlock_cluster(root: pathlib.Path) -> AsyncIterator[str]:
    async with cluster(root, *NAMES, python=run.python_313()) as running:
        yield running.members[await running.leader()].client_url


@contextlib.asynccontextmanager
async def etcd_cluster(root: pathlib.Path) -> AsyncIterator[str]:
    ports = free_ports(6)
    peers = {name: f"http://127.0.0.1:{ports[i]}" for i, name in enumerate(NAMES)}
    clients = {name: f"http://127.0.0.1:{ports[i + 3]}" for i, name in enumerate(NAMES)}
    initial = ",".join(f"{name}={url}" for name, url in peers.items())
    processes = []
    try:
        for name in NAMES:
            command = ["etcd", "--name", name, "--data-dir", str(root / name), "--initial-cluster", initial]
            command += ["--listen-peer-urls", peers[name], "--initial-advertise-peer-urls", peers[name]]
            command += ["--listen-client-urls", clients[name], "--advertise-client-urls", clients[name]]
            with (root / f"{name}.log").open("wb") as log:
                processes.append(await asyncio.to_thread(subprocess.Popen, command, stdout=log, stderr=log))
        yield await _etcd_leader(list(clients.values()))
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def _etcd_leader(urls: list[str]) -> str:
    async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(30):
        while True:
            for url in urls:
                with contextlib.suppress(httpx.TransportError):
                    status = (await http.post(f"{url}/v3/maintenance/status", json={})).json()
                    if status.get("leader") and status["leader"] == status["header"]["member_id"]:
                        return url
            await asyncio.sleep(0.1)


SYSTEMS = {"Oarlock": (oarlock_cluster, oarlock_script), "etcd": (etcd_cluster, etcd_script)}


async def measure(seconds: int, rounds: int) -> dict[tuple[str, Case], list[Figure]]:
    found: dict[tuple[str, Case], list[Figure]] = {}
    DATA.mkdir(parents=True, exist_ok=True)
    for number in range(rounds):
        for system, (start, script) in SYSTEMS.items():
            with tempfile.TemporaryDirectory(dir=DATA) as root:
                async with start(pathlib.Path(root)) as url:
                    fill = Case("fill", 16, True)
                    await asyncio.to_thread(wrk, url, script(fill), 16, 2)
                    for case in CASES:
                        figure = await asyncio.to_thread(wrk, url, script(case), case.connections, seconds)
                        found.setdefault((system, case), []).append(figure)
                        print(f"round {number + 1} {system:8} {case.name:34} {figure}", flush=True)
    return found


def fsync_milliseconds() -> tuple[float, float]:
    """p50 and p99 of writing 20 KiB and fdatasync, on the disk of the members."""
    taken = []
    with tempfile.NamedTemporaryFile(dir=DATA) as file:
        os.pwrite(file.fileno(), bytes(16 << 20), 0)
        os.fsync(file.fileno())
        for n in range(400):
            began = time.perf_counter()
            os.pwrite(file.fileno(), os.urandom(20 << 10), n * (20 << 10))
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken), statistics.quantiles(taken, n=100)[98]


def table(found: dict[tuple[str, Case], list[Figure]], seconds: int, rounds: int) -> str:
    lines = ["| case | | a second | p50 ms | p99 ms |", "|---|---|---|---|---|"]
    for case in CASES:
        medians = {}
        for system in SYSTEMS:
            figures = found[(system, case)]
            m = [statistics.median(getattr(f, field) for f in figures) for field in ("per_second", "p50_ms", "p99_ms")]
            medians[system] = m
            lines.append(f"| {case.name} | {system} | {m[0]:,.0f} | {m[1]:.2f} | {m[2]:.2f} |")
        ratios = [ours / theirs for ours, theirs in zip(medians["Oarlock"], medians["etcd"], strict=True)]
        lines.append(f"| | ratio | **{ratios[0]:.2f}x** | {ratios[1]:.2f}x | {ratios[2]:.2f}x |")
    p50, p99 = fsync_milliseconds()
    etcd = subprocess.run(["etcd", "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    python = subprocess.run([*run.python_313(), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    cpu = next((n for n in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if n.startswith("model name")), "?")
    facts = [
        f"Measured {time.strftime('%Y-%m-%d')}: {os.cpu_count()} cores ({cpu.partition(':')[2].strip()}), "
        f"Linux {platform.release()}, {python} (as in the image), {etcd}.",
        f"The disk: writing 20 KiB and fdatasync takes {p50:.2f} ms (p50), {p99:.2f} ms (p99). The three members and",
        f"wrk share the cores. Median of {rounds} rounds of {seconds} s each, the two systems in turn.",
    ]
    return "\n".join([*facts, "", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=pathlib.Path, help="replace the table in this file")
    arguments = parser.parse_args()
    missing = [program for program in ("wrk", "etcd") if not shutil.which(program)]
    if missing:
        raise SystemExit(f"install {' and '.join(missing)} first (Debian: wrk, etcd-server)")
    text = table(asyncio.run(measure(arguments.seconds, arguments.rounds)), arguments.seconds, arguments.rounds)
    print(f"\n{text}")
    if arguments.write:
        begin, end = "<!-- bench:begin -->", "<!-- bench:end -->"
        page = arguments.write.read_text()
        head, _, rest = page.partition(begin)
        arguments.write.write_text(f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
