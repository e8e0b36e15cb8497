"""Every oracle of this tier fires, and every means strikes: a check that cannot fail is a defect."""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import threading

import pytest
from tests.chaos import oracles
from tests.chaos.clocks import MovableClock
from tests.chaos.commands import CommandFailed, run
from tests.chaos.disks import Disk
from tests.chaos.namespaces import DROP, RESET, Network, between, deaf, mute, packets, ring, ruleset, some
from tests.chaos.oracles import NotObserved, Observation
from tests.chaos.scenario import ChaosCluster, ChaosMember, Trial
from tests.judge import ABSENT, Outcome, Read, Seen, Write
from tests.load import Load
from tests.wgl import Answer

from oarlock.raft.types import Entry, EntryKind, HardState
from oarlock.storage.files import RealFiles
from oarlock.storage.frame import Frame
from oarlock.storage.wal import Wal


def test_fault_that_nobody_looked_for() -> None:
    with pytest.raises(NotObserved, match="nothing was observed"):
        Observation("cut").check()


@pytest.mark.parametrize("evidence", [0, "", False, None, []])
def test_fault_that_did_not_strike(evidence: object) -> None:
    with pytest.raises(NotObserved, match="packets lost"):
        Observation("cut").saw("packets lost", evidence)


def test_fault_that_was_too_weak() -> None:
    seen = Observation("slow disk")
    with pytest.raises(NotObserved, match=r"0\.001"):
        seen.measured("seconds a write", 0.001, 0.05)
    seen.measured("seconds a write", 0.2, 0.05)
    seen.check()


def read(key: str, begin: float, end: float, number: int) -> Read:
    return Read("a", key, begin, end, Seen(number, number, number))


def test_too_few_operations() -> None:
    with pytest.raises(AssertionError, match="199 operations"):
        oracles.enough([read("k", 0, 1, 1)] * 199)
    oracles.enough([read("k", 0, 1, 1)] * 200)


@pytest.mark.parametrize(
    ("outcome", "counts"),
    [
        (Outcome.ACKNOWLEDGED, True),
        (Outcome.PRECONDITION, True),
        (Outcome.REFUSED, False),
        (Outcome.UNKNOWN, False),
    ],
)
def test_only_what_was_answered_for_certain_counts(outcome: Outcome, counts: bool) -> None:
    history = [*[read("k", 0, 1, 1)] * 199, Write(0, "k", 1, ABSENT, 0, 1, outcome)]
    with contextlib.nullcontext() if counts else pytest.raises(AssertionError, match="199 operations"):
        oracles.enough(history)


def statuses(**told: tuple[int, str]) -> dict[str, dict[str, object]]:
    other = {"state": "Participating", "role": "follower", "term": 1}
    return {name: {**other, "applied_index": at, "state_hash": state} for name, (at, state) in told.items()}


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (statuses(a=(7, "x"), b=(7, "x"), c=(7, "x")), ""),
        (statuses(a=(7, "x"), b=(7, "x"), c=(7, "x"), guest=(3, "y")), ""),
        (statuses(a=(7, "x"), b=(7, "x"), c=(7, "z")), "at 7: {'a': 'x', 'b': 'x', 'c': 'z'}"),
        (statuses(a=(7, ""), b=(7, ""), c=(7, "")), "at 7: {'a': '', 'b': '', 'c': ''}"),
        (statuses(a=(7, "x"), c=(7, "x")), "no status of b"),
        (statuses(a=(7, "x")), "no status of b, c"),
        (statuses(), "no status of a, b, c"),
        (statuses(a=(7, "x"), b=(8, "y"), c=(7, "x")), "nothing to compare: {'a': 7, 'b': 8, 'c': 7}"),
    ],
)
def test_unequal_states(found: dict[str, dict[str, object]], complaint: str) -> None:
    """States that differ, and states that were not compared."""
    assert oracles.unequal_states(found, "abc") == ([complaint] if complaint else [])


def test_one_member_is_compared_with_nobody() -> None:
    assert oracles.unequal_states(statuses(a=(7, "x")), "a") == ["nothing to compare: {'a': 7}"]


async def test_the_states_that_are_judged_are_those_at_one_index(tmp_path: pathlib.Path) -> None:
    """One does not answer, then they are at two indices; the first answers that can be compared are the ones judged,
    though everybody falls silent after them."""
    answers = [
        statuses(a=(7, "x"), b=(7, "x")),
        statuses(a=(7, "x"), b=(8, "y"), c=(7, "x")),
        statuses(a=(8, "y"), b=(8, "y"), c=(8, "z")),
    ]

    class Told(ChaosCluster):
        async def statuses(self, *_: str) -> dict[str, dict[str, object]]:
            return answers.pop(0) if answers else {}

    cluster = Told(tmp_path, (), None, {})
    try:
        found = await Trial(cluster, Load(["http://unused"]), ("a", "b", "c")).all_at_one_index()
    finally:
        await cluster.close()
    assert oracles.unequal_states(found, "abc") == ["at 8: {'a': 'y', 'b': 'y', 'c': 'z'}"]


def told_of_leaders(
    cluster: ChaosCluster, name: str, *, by_log: tuple[int, str] | None, by_word: dict[str, object]
) -> None:
    """A member that has ended, and left a log with the no-op of a leader (term, node id) and a line of its own."""
    member = cluster.members[name] = ChaosMember(name, cluster.root, cluster.token_file)
    member.directory.mkdir()
    if by_log is not None:
        term, leader = by_log
        wal, _ = Wal.open(member.directory / "wal", RealFiles())
        wal.append([Frame(HardState(term), (Entry(1, term, EntryKind.NOOP, 0, leader.encode()),))])
        wal.close()
    member.log.write_text(json.dumps(by_word) + "\n")


class Ended(Load):
    """A load that has ended, with one write that every member knows."""

    async def final_reads(self, timeout_seconds: float = 0) -> dict[str, dict[str, Seen]]:
        self.history = [Write(0, "k", 1, ABSENT, 0, 1, Outcome.ACKNOWLEDGED, 1, 1), read("k", 2, 3, 1)]
        return {"a": {"k": Seen(1, 1, 1)}}


NOTHING: dict[str, object] = {"event": "stopped"}


def leads(term: int, leader: str, itself: bool = True) -> dict[str, object]:
    return {"event": "leader", "term": term, "leader": leader, "leads": itself}


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (((2, "a-1"), NOTHING), ((2, "b-1"), NOTHING), "two leaders:  term 2: a-1, b-1"),
        ((None, leads(2, "a-1")), (None, leads(2, "b-1")), "two leaders:  term 2: a-1, b-1"),
        (((2, "a-1"), NOTHING), (None, leads(2, "b-1")), "two leaders:  term 2: a-1, b-1"),
        (((2, "a-1"), leads(2, "a-1")), ((2, "a-1"), leads(3, "b-1")), "no fault struck"),  # which comes after it
        (((2, "a-1"), NOTHING), (None, leads(2, "b-1", itself=False)), "no fault struck"),  # who heard of it, only
        ((None, NOTHING), (None, leads(2, "b-1", itself=False)), "no log names a leader"),
    ],
)
async def test_two_leaders_of_one_term(
    tmp_path: pathlib.Path,
    one: tuple[tuple[int, str] | None, dict[str, object]],
    other: tuple[tuple[int, str] | None, dict[str, object]],
    verdict: str,
) -> None:
    """By the logs' entries, by the members' words, or by one of each; where neither names a leader, nobody looked."""
    cluster = ChaosCluster(tmp_path, (), None, {})
    try:
        for name, (by_log, by_word) in (("a", one), ("b", other)):
            told_of_leaders(cluster, name, by_log=by_log, by_word=by_word)
        with pytest.raises(AssertionError, match=verdict):
            await Trial(cluster, Ended(["http://unused"]), ()).judged()
    finally:
        await cluster.close()


def test_history_that_no_order_explains() -> None:
    """Two writes, one after the other, then the first is read."""
    first = Write(0, "k", 1, ABSENT, 0, 1, Outcome.ACKNOWLEDGED, 1, 1)
    second = Write(0, "k", 2, Seen(1, 1, 1), 2, 3, Outcome.ACKNOWLEDGED, 2, 2)
    assert oracles.not_linearizable([first, second, read("k", 4, 5, 2)]) == []
    assert oracles.not_linearizable([first, second, read("k", 4, 5, 1)]) == ["k: no"]


def test_undecided_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracles, "check_load", lambda *_: {"k": Answer.UNKNOWN})
    assert oracles.not_linearizable([]) == ["k: unknown"]


def test_complaint_that_the_fault_did_not_cause() -> None:
    lines = ["a: the log could not be written: Input/output error", "b: Traceback ..."]
    assert oracles.unexpected(lines, ["Input/output error"]) == ["b: Traceback ..."]
    assert oracles.unexpected(lines) == lines


def test_which_links_are_cut() -> None:
    assert between("a", "bc") == {("a", "b"), ("b", "a"), ("a", "c"), ("c", "a")}
    assert deaf("a", "abc") == {("b", "a"), ("c", "a")}
    assert mute("a", "abc") == {("a", "b"), ("a", "c")}
    reached = {m: {n for n in "abcde" if (m, n) not in ring("abcde")} for m in "abcde"}
    assert all(len(names) == 3 for names in reached.values()), "each sees a majority"
    assert len({frozenset(names) for names in reached.values()}) == 5, "and no two the same one"


def test_rules_and_their_counters() -> None:
    (text,) = ruleset({"b": ["10.0.0.1"]}, DROP, some(10)).values()
    assert "ip saddr 10.0.0.1 meta l4proto tcp numgen random mod 100 < 10 counter drop" in text
    listed = {"nftables": [{"table": {}}, {"rule": {"expr": [{"counter": {"packets": 3}}, {"drop": None}]}}] * 2}
    assert packets(listed) == 6


def test_command_that_fails_is_told() -> None:
    with pytest.raises(CommandFailed, match="such"):
        run("ls", "/no/such/file")


@pytest.mark.parametrize(("verdict", "error"), [(DROP, TimeoutError), (RESET, ConnectionError)])
def test_network_cuts_and_heals(verdict: str, error: type[OSError]) -> None:
    with Network("a") as network, socket.socket() as listening:
        listening.bind(("0.0.0.0", 0))
        listening.listen()
        host, port = network.hosts["a"], listening.getsockname()[1]
        dial = f"import socket; socket.create_connection(('10.77.0.1', {port}), timeout=0.5)"

        def dialled() -> str:
            done = subprocess.run([*host.wrapper, sys.executable, "-c", dial], capture_output=True, text=True)
            return done.stderr

        assert dialled() == ""
        assert network.lost_packets() == {}
        network.hosts["middle"] = type(host)("10.77.0.1", host.holder)
        network.cut({("middle", "a")}, verdict=verdict)
        assert network.lost("a") == 0
        told = dialled()
        assert error.__name__ in told or "ConnectionRefused" in told or "timed out" in told, told
        assert network.lost_packets()["a"] > 0
        network.heal()
        assert dialled() == ""
        del network.hosts["middle"]


def test_network_is_left_as_it_was() -> None:
    before = run("ip", "-br", "link")
    with Network("a", "b"):
        assert run("ip", "-br", "link") != before
    assert run("ip", "-br", "link") == before


def test_power_loss_drops_what_was_not_synced(tmp_path: pathlib.Path) -> None:
    with Disk(tmp_path, "a") as disk:
        assert not disk.refuses_writes()
        with (disk.place / "file").open("wb", buffering=0) as file:
            file.write(b"synced")
            run("sync", disk.place / "file")
            file.write(b" and not")
            disk.lose_power()
            assert disk.refuses_writes()
        disk.unmount()
        disk.mount()
        assert (disk.place / "file").read_bytes() == b"synced"
        assert not disk.refuses_writes()


def test_frozen_and_full_disks(tmp_path: pathlib.Path) -> None:
    with Disk(tmp_path, "a") as disk:
        written = threading.Thread(target=(disk.place / "file").write_bytes, args=(b"x",))
        disk.freeze()
        written.start()
        written.join(0.3)
        assert written.is_alive(), "a write to a frozen disk waits"
        disk.thaw()
        written.join(5)
        assert not written.is_alive()
        disk.fill(32 << 20)
        assert 32 << 20 <= disk.free_bytes < 34 << 20
        disk.fill()
        with pytest.raises(OSError, match="No space"):
            (disk.place / "more").write_bytes(bytes(1 << 20))
    assert not disk.place.is_mount()


PROBE = """
import asyncio, sys, threading, time, uvloop
async def main():
    loop, lock = asyncio.get_running_loop(), threading.Lock()
    lock.acquire()
    def waits():
        lock.acquire(timeout=0.2)
    print(loop.time(), time.monotonic(), time.time(), flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    await asyncio.wait_for(loop.run_in_executor(None, waits), 5)
    print(loop.time(), time.monotonic(), time.time(), flush=True)
uvloop.run(main())
"""


def test_clocks_move_under_uvloop(tmp_path: pathlib.Path) -> None:
    """The loop's too; and a thread that waits by the clock does not wait for the jump as well."""
    clock = MovableClock(tmp_path, "a")
    command = [*clock.wrapper, sys.executable, "-c", PROBE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as probe:
        assert probe.stdin is not None
        assert probe.stdout is not None
        before = [float(word) for word in probe.stdout.readline().split()]
        clock.jump(wall=-3600, monotonic=100)
        probe.stdin.write("\n")
        probe.stdin.flush()
        after = [float(word) for word in probe.stdout.readline().split()]
        assert probe.wait(10) == 0
    moved = [b - a for a, b in zip(before, after, strict=True)]
    assert [round(seconds / 100) for seconds in moved] == [1, 1, -36]
    assert clock.read() == (-3600, 100)
