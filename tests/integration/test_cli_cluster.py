"""A cluster without Kubernetes, with the commands alone, as a person would make one: three `serve` members, a fourth
and a fifth join, two leave, one is replaced; keys are written and read, and a backup is saved on the way."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from tests.integration.members import OARLOCK, MemberProcess, free_ports

PATIENCE_SECONDS = 60.0


class Shell:
    """Runs commands with what a person would have exported."""

    def __init__(self, root: pathlib.Path, members: list[MemberProcess]) -> None:
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "OARLOCK_TOKEN_FILE": str(root / "token"),
            "OARLOCK_PEERS": ",".join(m.peer_url for m in members),
            "OARLOCK_ENDPOINTS": ",".join(m.client_url for m in members),
        }

    def fails(self, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [*OARLOCK, *arguments], env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        return done.returncode, done.stderr

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [*OARLOCK, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            input=stdin,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"oarlock {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def voters(self) -> list[str]:
        return sorted(m["id"] for m in json.loads(self("member", "list", "--json"))["voters"])


@contextmanager
def running(root: pathlib.Path, count: int) -> Iterator[list[MemberProcess]]:
    (root / "token").write_text("secret\n")
    members = [MemberProcess(f"m{i + 1}", root, root / "token") for i in range(count)]
    try:
        for member in members:
            member.start()
        for member in members:
            _until_answers(member)
        yield members
    finally:
        for member in members:
            member.kill()


def _until_answers(member: MemberProcess) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if httpx.get(f"{member.ops_url}/healthz/startup", trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            if time.monotonic() > end:
                pytest.fail(f"{member.name} does not answer: {member.log.read_text()[-2000:]}")
            time.sleep(0.05)


def test_three_to_five_to_three_with_the_commands_alone(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 6) as members:
        oarlock = Shell(tmp_path, members[:3])
        oarlock("cluster", "bootstrap", "--peer", members[0].peer_url, "--min-voters", "3")
        ids = {}
        for member in members[1:3]:
            ids[member.name] = oarlock("member", "add", member.peer_url)
        assert len(oarlock.voters()) == 3

        assert oarlock("put", "app/config", "one", "--create") == "1"
        assert oarlock("put", "app/config", "--if-match", "1", stdin="two\nlines") == "2"
        assert oarlock("get", "app/config") == "two\nlines"
        assert oarlock.fails("put", "app/config", "late", "--if-match", "1")[0] == 1
        for i in range(5):
            oarlock("put", f"many/{i:02}", str(i), "--idempotency-key", f"k{i}")

        for member in members[3:5]:
            ids[member.name] = oarlock("member", "add", member.peer_url)
        assert len(oarlock.voters()) == 5
        assert ids["m4"] in oarlock.voters()
        oarlock("member", "transfer", ids["m5"])
        listed = oarlock("member", "list")
        assert next(line for line in listed.splitlines() if line.startswith(ids["m5"])).split()[2] == "yes"
        assert oarlock("member", "status").count("Participating") == 5

        first = next(v for v in oarlock.voters() if v.startswith("m1-"))
        oarlock("member", "remove", ids["m5"])  # the leader itself
        oarlock("member", "remove", first)
        again = oarlock("member", "reset", first, members[0].peer_url)
        assert again.startswith("m1-")
        assert again != first
        assert oarlock("member", "reset", first, members[0].peer_url) == again  # the same request, the same answer
        assert oarlock.voters() == sorted([ids["m2"], ids["m3"], ids["m4"]])
        assert "no member" in oarlock.fails("member", "remove", "m9-0123456789abcdef")[1]
        assert members[0].stop() == 0
        assert members[4].stop() == 0

        oarlock.environment["OARLOCK_PEERS"] = ",".join(m.peer_url for m in members[1:4])
        oarlock.environment["OARLOCK_ENDPOINTS"] = ",".join(m.client_url for m in members[1:4])
        members[1].kill()
        new = oarlock("member", "replace", ids["m2"], members[5].peer_url)
        assert oarlock.voters() == sorted([new, ids["m3"], ids["m4"]])

        for member in (members[2], members[3], members[5]):  # read through each of those that are left
            assert oarlock("list", "many/", "--count", "-e", member.client_url) == "5"
            assert oarlock("get", "app/config", "-e", member.client_url) == "two\nlines"
        assert oarlock("list", "many/", "-n", "2") == "many/00\t0\nmany/01\t1"
        oarlock("delete", "many/00")
        assert oarlock.fails("get", "many/00")[0] == 1
        oarlock("snapshot", "save", str(tmp_path / "backup"))
        assert (tmp_path / "backup").stat().st_size > 0


def test_member_that_is_told_to_stop_hands_over_and_ends_cleanly(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 1) as members:
        oarlock = Shell(tmp_path, members)
        oarlock("cluster", "bootstrap")
        _until_written(oarlock)
        assert members[0].stop() == 0
        members[0].start()
        _until_answers(members[0])
        assert "once" in oarlock("list")
        members[0].signal(signal.SIGINT)
        assert members[0].process is not None
        assert members[0].process.wait(20) == 0


def _until_written(oarlock: Shell) -> None:
    oarlock("put", "a", "once", "--idempotency-key", "k")


def test_second_process_on_a_directory_and_a_taken_port_end_with_a_sentence(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 1) as members:
        serve = [*OARLOCK, "serve", "--name", "m1", "--data-dir", str(members[0].directory)]
        serve += ["--cluster-token-file", str(tmp_path / "token")]
        client, peer, ops = free_ports(3)
        apart = ["--listen-client", f"127.0.0.1:{client}", "--listen-peer", f"127.0.0.1:{peer}"]
        apart += ["--listen-ops", f"127.0.0.1:{ops}"]
        second = subprocess.run([*serve, *apart], capture_output=True, text=True, timeout=30, check=False)
        assert (second.returncode, "Traceback" in second.stderr) == (1, False)
        assert "cannot be used" in second.stderr
        taken = [*serve, *apart[:-1], f"127.0.0.1:{members[0].ports[0]}"]
        third = subprocess.run(taken, capture_output=True, text=True, timeout=30, check=False)
        assert (third.returncode, "Traceback" in third.stderr) == (1, False)
        assert f"cannot listen on 127.0.0.1:{members[0].ports[0]}" in third.stderr


def test_dev_forms_a_cluster_finds_its_data_again_and_leaves_nobody_behind(tmp_path: pathlib.Path) -> None:
    port = _port_for_dev()
    command = [*OARLOCK, "dev", "--dir", str(tmp_path / "dev"), "--port", str(port)]
    with _dev(command, tmp_path / "first") as (process, output):
        pids = [int(line.split("pid")[1].split()[0]) for line in output if " pid " in line]
        assert len(pids) == 3
        put = httpx.put(f"http://127.0.0.1:{port + 10}/v1/kv/a", content=b"kept", timeout=20, trust_env=False)
        assert put.status_code == 201
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0
    assert not any(_alive(pid) for pid in pids)
    with _dev(command, tmp_path / "second") as (process, output):
        pids = [int(line.split("pid")[1].split()[0]) for line in output if " pid " in line]
        got = httpx.get(f"http://127.0.0.1:{port + 20}/v1/kv/a", timeout=20, trust_env=False)
        assert got.content == b"kept"
        process.kill()  # without a chance to stop them: they end with it all the same
        process.wait()
        end = time.monotonic() + PATIENCE_SECONDS
        while any(_alive(pid) for pid in pids):
            assert time.monotonic() < end, "members outlived their parent"
            time.sleep(0.05)


@contextmanager
def _dev(command: list[str], log: pathlib.Path) -> Iterator[tuple[subprocess.Popen[bytes], list[str]]]:
    """Runs it until it shows who leads."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE_SECONDS
        while " leads" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield process, log.read_text().splitlines()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(40)


def _port_for_dev() -> int:
    """Room for three members at distances of ten. Nobody else takes ports in so regular a pattern."""
    for _ in range(50):
        port = free_ports(1)[0]
        if port < 65_000:
            return port
    pytest.fail("no port with room behind it")


def _alive(pid: int) -> bool:
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
