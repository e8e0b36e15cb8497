"""A real Node in this process, alone on loopback: lives, deaths and resets of its directory (rules 2, 5, 16, 21)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic

import msgspec
import pytest
from tests.counter_machine import CounterMachine

from oarlock.peers.hello import Hello, HelloKind, Verdict
from oarlock.peers.messages import Diverged
from oarlock.raft.types import EntryKind
from oarlock.runtime import joining, recovery
from oarlock.runtime.errors import Refused
from oarlock.runtime.host import Host
from oarlock.runtime.node import HOUSEKEEPING_SECONDS, Node
from oarlock.runtime.settings import NodeSettings
from oarlock.storage import frame as frame_module
from oarlock.storage import segment as segment_module
from oarlock.storage.directory import DataDirectory
from oarlock.storage.errors import OutOfSpace
from oarlock.storage.files import RealFiles
from oarlock.storage.frame import FORMAT_VERSION
from oarlock.storage.wal import Wal

PATIENCE = 15.0


def settings(path: Path) -> NodeSettings:
    return NodeSettings(
        name="m",
        data_dir=path / "m",
        peer_url="http://127.0.0.1:1",
        client_url="http://127.0.0.1:2",
        token="secret",
        election_timeout_seconds=0.1,
        heartbeat_seconds=0.02,
        segment_bytes=1 << 20,
    )


def never(why: str) -> None:
    raise AssertionError(f"the member ended: {why}")


@contextlib.asynccontextmanager
async def running(path: Path, told: NodeSettings | None = None, host: Host | None = None) -> AsyncIterator[Node]:
    node = await Node.start(told or settings(path), CounterMachine(), never, host)
    try:
        yield node
    finally:
        await node.stop()


async def until(node: Node, *states: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while node.status().state not in states or (states == ("Participating",) and not node.ready):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await node.changed.wait()


async def founded(node: Node) -> None:
    """A cluster of this member alone, at work."""
    await until(node, "Idle")
    await node.bootstrap("r1", "main", 1)
    await until(node, "Participating")


async def add(node: Node, name: bytes) -> int:
    async with asyncio.timeout(PATIENCE):
        return int((await node.propose(name)).body)


async def count(node: Node, name: bytes) -> int:
    async with asyncio.timeout(PATIENCE):
        await node.read()
    with node.environment.reader() as trees:
        return int(node.machine.query(trees, name))


async def drop(node: Node) -> None:
    """As kill -9 would, as far as one process can: nothing is handed over, settled, synced or marked."""
    assert node.engine is not None
    assert node._running is not None
    node._running.cancel()
    await asyncio.gather(node._running, return_exceptions=True)
    node.engine.halt()
    await node.engine.close()
    await node.transport.close()
    node.directory.close()


def hello(node: Node, cluster_id: str) -> Hello:
    """A leader's, that has this member in its configuration."""
    return Hello(1, cluster_id, "a-0000000000000061", "http://127.0.0.1:9", "", node.node_id, 1, HelloKind.CONTROL)


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


async def refusal(work: object) -> Refused:
    with pytest.raises(Refused) as caught:
        await work  # type: ignore[misc]
    return caught.value


async def test_no_two_processes_of_a_member_number_their_forwards_alike(tmp_path: Path) -> None:
    """A late answer to the process before must find nobody who waits for it (rule 8)."""
    first = set()
    for _ in range(2):
        async with running(tmp_path) as node:
            await until(node, "Idle")
            assert node.engine is not None
            first.add(node.engine.member._forwards._next)
    assert len(first) == 2


@pytest.mark.parametrize("clean", [True, False])
async def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path, clean: bool) -> None:
    node = await Node.start(settings(tmp_path), CounterMachine(), never)
    await until(node, "Idle")
    assert not node.ready
    assert (await refusal(node.propose(b"x"))).code == "idle"
    cluster_id = await node.bootstrap("r1", "main", 1)
    assert cluster_id.startswith("main+")
    await until(node, "Participating")
    assert [await add(node, b"x") for _ in range(3)] == [1, 2, 3]
    await (node.stop() if clean else drop(node))
    async with running(tmp_path) as node:
        await until(node, "Participating")
        assert await count(node, b"x") == 3
        assert await add(node, b"x") == 4
        assert node.cluster_id == cluster_id


async def test_bootstrap_is_idempotent_and_done_once(tmp_path: Path) -> None:
    """Rule 16: the same request gets the same answer, at once, later and after a restart; another one 409."""
    async with running(tmp_path) as node:
        await until(node, "Idle")
        answers = await asyncio.gather(*(node.bootstrap("r1", "main", 1) for _ in range(5)))
        assert len(set(answers)) == 1
        other = await refusal(node.bootstrap("r2", "main", 1))
        assert (other.code, other.status) == ("already_bootstrapped", 409)
        await until(node, "Participating")
        assert await add(node, b"x") == 1
        assert await node.bootstrap("r1", "main", 1) == answers[0]
    async with running(tmp_path) as node:
        await until(node, "Participating")
        assert await node.bootstrap("r1", "main", 1) == answers[0]
        assert await count(node, b"x") == 1


async def test_two_bootstraps_at_once_make_one_cluster(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await until(node, "Idle")
        one, two = await asyncio.gather(
            node.bootstrap("r1", "main", 1), node.bootstrap("r2", "main", 1), return_exceptions=True
        )
        answered = [a for a in (one, two) if isinstance(a, str)]
        refused = [a for a in (one, two) if isinstance(a, Refused)]
        assert answered == [node.cluster_id]
        assert [r.status for r in refused] == [409]


async def test_a_member_that_is_being_added_is_not_bootstrapped(tmp_path: Path) -> None:
    """Rule 16: the first cluster to come wins, however close the second is."""
    async with running(tmp_path) as node:
        await until(node, "Idle")
        verdict, answer = await asyncio.gather(
            joining.judge(node, hello(node, "theirs+1")), node.bootstrap("r1", "main", 1), return_exceptions=True
        )
        assert verdict is Verdict.OK
        assert isinstance(answer, Refused)
        assert node.cluster_id == "theirs+1"
        assert node.engine is not None
        assert node.engine.core.last_index == 0


async def test_a_bootstrap_broken_off_is_finished_by_the_next_start(tmp_path: Path) -> None:
    """The request was durable, the process ended before the log began."""
    node = await Node.start(settings(tmp_path), CounterMachine(), never)
    await until(node, "Idle")

    async def ended(*_: object) -> None:
        raise asyncio.CancelledError

    assert node.engine is not None
    node.engine.begin_from = ended  # type: ignore[method-assign,assignment]
    with pytest.raises(asyncio.CancelledError):
        await node.bootstrap("r1", "main", 1)
    cluster_id = node.cluster_id
    await drop(node)
    async with running(tmp_path) as node:
        await until(node, "Participating")
        assert await node.bootstrap("r1", "main", 1) == cluster_id
        assert await add(node, b"x") == 1


async def test_reset_is_refused_to_members_and_repeats_its_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await founded(node)
        await add(node, b"x")
        old = node.node_id
        assert (await refusal(node.reset("q", "m-0000000000000000"))).code == "wrong_node"
        assert (await refusal(node.reset("q", old))).code == "still_a_member"
        node._told_removed("somebody")
        answers = await asyncio.gather(node.reset("q1", old), node.reset("q1", old), node.record_notes("pod", "volume"))
        assert answers[0] == answers[1] == (node.node_id, "quarantine-1")
        assert node.node_id != old
        await until(node, "Idle")
        assert await node.reset("q1", old) == answers[0]
        await node.bootstrap("r2", "main", 1)
        await until(node, "Participating")
        assert await add(node, b"x") == 1
    assert (tmp_path / "m" / "quarantine-1" / "wal").is_dir()
    async with running(tmp_path) as node:
        assert node.node_id == answers[0][0]


async def test_a_reset_that_finds_no_room_changes_nothing_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to leave the member with neither its old data nor a new beginning."""
    quarantine = DataDirectory.quarantine
    full = True

    def set_aside(directory: DataDirectory, request_id: str) -> Path:
        if full:
            raise OSError(errno.ENOSPC, "no space")
        return quarantine(directory, request_id)

    monkeypatch.setattr(DataDirectory, "quarantine", set_aside)
    async with running(tmp_path) as node:
        await until(node, "Idle")
        old = node.node_id
        refused = await refusal(node.reset("q1", old))
        assert (refused.code, refused.status, refused.outcome) == ("out_of_space", 507, "unknown")
        await until(node, "Idle")
        assert node.node_id == old
        full = False
        assert (await node.reset("q1", old))[0] != old
        await until(node, "Idle")


async def test_a_reset_on_a_failing_disk_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 5: how much of it is on the disk is not known, and the next start finds out."""
    ended: list[str] = []

    def broken(directory: DataDirectory, request_id: str) -> Path:
        raise OSError(errno.EIO, "bad sector")

    node = await Node.start(settings(tmp_path), CounterMachine(), ended.append)
    try:
        await until(node, "Idle")
        monkeypatch.setattr(DataDirectory, "quarantine", broken)
        assert (await refusal(node.reset("q1", node.node_id))).code == "disk_failed"
        assert len(ended) == 1
    finally:
        await node.stop()


async def test_reset_while_the_log_is_read_is_refused(tmp_path: Path) -> None:
    """Nobody knows yet what configuration this member is in."""
    async with running(tmp_path) as node:
        await founded(node)
    async with running(tmp_path) as node:
        assert node.engine is None
        assert (await refusal(node.reset("q", node.node_id))).code == "replaying"


async def test_a_stop_while_the_log_is_read_leaves_nothing_behind(tmp_path: Path) -> None:
    for _ in range(3):
        node = await Node.start(settings(tmp_path), CounterMachine(), never)
        await asyncio.sleep(0)
        await node.stop()
    async with running(tmp_path) as node:
        await until(node, "Idle")


async def test_a_corrupt_log_stays_and_says_so(tmp_path: Path) -> None:
    """Rule 2: neither votes nor counts; status is served, and a reset makes a new member of it."""
    async with running(tmp_path) as node:
        await founded(node)
        for _ in range(5):
            await add(node, b"x")
    for segment in (tmp_path / "m" / "wal").iterdir():
        data = bytearray(segment.read_bytes())
        at = data.find(b"OarF", data.find(b"OarF") + 1) + 100  # in the second frame, the first that has an entry
        data[at] ^= 0xFF
        segment.write_bytes(data)
    async with running(tmp_path) as node:
        await until(node, "Corrupt")
        assert not node.ready
        assert node.status().storage.failure
        assert (await refusal(node.propose(b"x"))).code == "corrupt"
        assert (await refusal(node.read())).code == "corrupt"
        assert (await refusal(node.transfer("m-1", 0.1))).code == "not_ready"
        await node.reset("q1", node.node_id)
        await until(node, "Idle")


async def test_what_cannot_be_noted_of_a_state_gone_astray_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 26, on a full disk: no reset that fails brings the member back, and it is noted once there is room."""

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    async with running(tmp_path) as node:
        await founded(node)
        await add(node, b"x")
        assert node.engine is not None
        with monkeypatch.context() as full:
            full.setattr(DataDirectory, "save", no_room)
            full.setattr(DataDirectory, "quarantine", no_room)
            node.engine.receive(Diverged(node.node_id, node.node_id, node.term, node.engine.core.last_index, "f" * 32))
            assert node.status().state == "Corrupt"
            assert (await refusal(node.reset("q1", node.node_id))).code == "out_of_space"
            await asyncio.sleep(2.5 * HOUSEKEEPING_SECONDS)
            assert node.status().state == "Corrupt"
            assert node.directory.identity.diverged is None
        async with asyncio.timeout(PATIENCE):
            while node.directory.identity.diverged is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    async with running(tmp_path) as node:
        await until(node, "Corrupt")


async def test_a_state_gone_astray_is_remembered_until_a_reset(tmp_path: Path) -> None:
    """Rule 26: the next start finds nothing wrong with such a directory by itself."""
    async with running(tmp_path) as node:
        await founded(node)
        await add(node, b"x")
        assert node.engine is not None
        index, mine = node.engine.environment.applied.index, node.engine.environment.state_hash
        node.engine.receive(Diverged("l-1", node.node_id, node.term, index, "f" * 32))  # from one that does not lead
        assert node.status().state == "Participating"
        assert node.status().role == "leader"
        node.engine.receive(Diverged(node.node_id, node.node_id, node.term, index, "f" * 32))
        status = node.status()
        assert status.state == "Corrupt"
        assert node.engine.halted
        assert (status.role, status.leader, status.peers) == ("follower", None, {})  # it leads nobody any more
    for _ in range(2):
        async with running(tmp_path) as node:
            await until(node, "Corrupt")
            why = node.status().reason
            assert f"index {index}" in why
            assert mine in why
            assert why.endswith("replace this member")
            assert (await refusal(node.read())).code == "corrupt"
            assert await joining.judge(node, hello(node, node.cluster_id or "")) is Verdict.NOT_READY
    async with running(tmp_path) as node:
        await until(node, "Corrupt")
        await node.reset("q1", node.node_id)
        await until(node, "Idle")
    async with running(tmp_path) as node:
        await until(node, "Idle")


async def test_a_member_whose_log_is_gone_stays_out(tmp_path: Path) -> None:
    """D15: it has voted and acknowledged, and no longer knows what. An empty log under its id would vote again."""
    async with running(tmp_path) as node:
        await founded(node)
        await add(node, b"x")
    shutil.rmtree(tmp_path / "m" / "wal")
    for _ in range(2):  # the first start leaves an empty directory behind
        async with running(tmp_path) as node:
            await until(node, "Corrupt")
            assert "its log is gone: replace this member" in node.status().reason
            assert node.engine is None
            assert await joining.judge(node, hello(node, node.cluster_id or "")) is Verdict.NOT_READY
            assert (await refusal(node.bootstrap("r1", "main", 1))).code == "corrupt"
    async with running(tmp_path) as node:
        await until(node, "Corrupt")
        await node.reset("q1", node.node_id)
        await until(node, "Idle")
        await node.bootstrap("r2", "main", 1)
        await until(node, "Participating")
        assert await add(node, b"x") == 1


class FullUntilReleased(RealFiles):
    """`what` has no room for `name` as long as there is a ballast."""

    def __init__(self, path: Path, what: str, name: str) -> None:
        self._ballast = path / "m" / "ballast"
        self._what, self._name = what, name
        self.refused = self.done = 0

    def _need(self, what: str, path: Path) -> None:
        if what != self._what or path.name != self._name:
            return
        if self._ballast.exists() and self._ballast.stat().st_size:
            self.refused += 1
            raise OSError(errno.ENOSPC, "full")
        self.done += 1

    def create(self, path: Path) -> int:
        self._need("create", path)
        return super().create(path)

    def mkdir(self, path: Path) -> None:
        self._need("mkdir", path)
        super().mkdir(path)


@pytest.mark.parametrize(("what", "name"), [("create", "identity.tmp"), ("mkdir", "snapshots")])
async def test_a_start_on_a_full_disk_has_the_ballast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, name: str
) -> None:
    """Rule 5: whatever it is that has no room, another pod's uid in the identity, too."""
    monkeypatch.setattr("oarlock.runtime.node.NO_SPACE_SECONDS", 0.01)
    ballast = dataclasses.replace(settings(tmp_path), ballast_bytes=1 << 20, pod_uid="pod-1")
    async with running(tmp_path, ballast) as node:
        await founded(node)
        await add(node, b"x")
        assert node.directory.ballast.reserve(1 << 20)
    if what == "mkdir":
        (tmp_path / "m" / name).rmdir()  # as a reset leaves it
    files = FullUntilReleased(tmp_path, what, name)
    async with running(tmp_path, dataclasses.replace(ballast, pod_uid="pod-2"), Host(files=files)) as node:
        await until(node, "Participating")
        assert files.refused == 1
        assert node.status().pod_uid == "pod-2"
        assert await add(node, b"x") == 2


async def test_a_note_that_says_nothing_new_is_not_written(tmp_path: Path) -> None:
    """The same pod starts its container again and again, on a full disk perhaps."""
    told = dataclasses.replace(settings(tmp_path), pod_uid="pod-1")
    async with running(tmp_path, told) as node:
        await founded(node)
    files = FullUntilReleased(tmp_path, "create", "identity.tmp")
    async with running(tmp_path, told, Host(files=files)) as node:
        await until(node, "Participating")
        await node.record_notes("pod-1", None)
        assert files.done == 0
        await node.record_notes("pod-1", "volume-1")
        assert files.done == 1


class StateThatWillNotSync(RealFiles):
    """Below state/, `what` fails once it is told to."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._states: set[int] = set()
        self.failures = 0
        self.broken = False

    def _fail(self, what: str) -> None:
        if self.broken and what == self._what:
            self.failures += 1
            raise OSError(errno.EIO, "broken")

    def open(self, path: Path) -> int:
        handle = super().open(path)
        if path.parent.name == "state":
            self._states.add(handle)
        return handle

    def close(self, handle: int) -> None:
        self._states.discard(handle)
        super().close(handle)

    def sync(self, handle: int) -> None:
        if handle in self._states:
            self._fail("sync")
        super().sync(handle)

    def sync_directory(self, path: Path) -> None:
        if path.name == "state":
            self._fail("sync_directory")
        super().sync_directory(path)


@pytest.mark.parametrize("what", ["sync", "sync_directory"])
async def test_a_stop_that_could_not_sync_its_state_is_not_a_clean_one(tmp_path: Path, what: str) -> None:
    """Rule 21, pitfall D1: a second sync would succeed, though it wrote nothing; so there is none."""
    files = StateThatWillNotSync(what)
    async with running(tmp_path, host=Host(files=files)) as node:
        await founded(node)
        await add(node, b"x")
        files.broken = True
    assert files.failures == 1
    directory = DataDirectory.open(tmp_path / "m", "m")
    assert not directory.stopped_cleanly
    directory.close()
    async with running(tmp_path) as node:
        await until(node, "Participating")
        assert await add(node, b"x") == 2


async def test_an_entry_of_a_newer_version_asks_for_that_version(tmp_path: Path) -> None:
    """Rule 34: the member stops before it, and there is nothing wrong with its data."""
    async with running(tmp_path) as node:
        await founded(node)
        await add(node, b"x")
        assert node.engine is not None
        node.engine.core.propose(msgspec.msgpack.encode(99), monotonic(), EntryKind.VERSION)
        node.engine.wake()
        await until(node, "Outdated")
        assert node.status().reason.endswith("run a newer version")
        assert "replace" not in node.status().reason
        assert not node.ready
        assert (await refusal(node.read())).code == "outdated"
        assert (await refusal(node.reset("q", node.node_id))).code == "still_a_member"
    assert [p.name for p in (tmp_path / "m").iterdir() if p.name == "clean-stop"] == []
    async with running(tmp_path) as node:  # and again, from the log
        await until(node, "Outdated")
        assert node.status().reason.endswith("run a newer version")


async def test_a_segment_of_a_newer_version_asks_for_that_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 34: nobody throws away what this program cannot read, before the cluster says that it needs it no more."""
    with monkeypatch.context() as newer:
        for module in (frame_module, segment_module):
            newer.setattr(module, "FORMAT_VERSION", FORMAT_VERSION + 1)
        async with running(tmp_path) as node:
            await until(node, "Idle")
            await node.bootstrap("r1", "main", 1)
            await until(node, "Participating")
    async with running(tmp_path) as node:
        await until(node, "Outdated")
        assert "format version 2" in node.status().reason
        assert (await refusal(node.reset("q", node.node_id))).code == "outdated"
        node.removed = True  # its peers told it: then nothing of it is needed
        await node.reset("q", node.node_id)
        await until(node, "Idle")


@pytest.mark.parametrize("wiped", [False, True])
async def test_a_member_that_only_joined_keeps_its_place(tmp_path: Path, wiped: bool) -> None:
    """D15: its log has no entry yet, and is no lost one."""
    node = await Node.start(settings(tmp_path), CounterMachine(), never)
    await until(node, "Idle")
    verdicts = await asyncio.gather(*(joining.judge(node, hello(node, "theirs+1")) for _ in range(3)))
    assert verdicts == [Verdict.OK] * 3
    assert await joining.judge(node, hello(node, "others+1")) is Verdict.WRONG_CLUSTER
    await drop(node)
    for _ in range(2):
        if wiped:
            shutil.rmtree(tmp_path / "m" / "wal")
        async with running(tmp_path) as node:
            await until(node, "Lagging", "Corrupt")
            assert (node.status().state == "Corrupt") == wiped
            assert node.cluster_id == "theirs+1"


@pytest.mark.parametrize("at", ["log", "identity"])
async def test_who_joins_has_a_log_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """D15, rule 16: broken off at either step, the member is Idle and may join, or be bootstrapped, later."""
    node = await Node.start(settings(tmp_path), CounterMachine(), never)
    await until(node, "Idle")
    with monkeypatch.context() as patch:
        if at == "log":
            patch.setattr(Wal, "begin", failing(OutOfSpace("no space")))
        else:
            patch.setattr(node.directory, "save", failing(OSError(errno.ENOSPC, "no space")))
        assert await joining.judge(node, hello(node, "theirs+1")) is Verdict.NOT_READY
        assert (await refusal(node.bootstrap("r1", "main", 1))).code == "out_of_space"
    assert node.cluster_id is None
    await drop(node)
    async with running(tmp_path) as node:
        await until(node, "Idle")
        assert node.cluster_id is None
        assert await joining.judge(node, hello(node, "theirs+2")) is Verdict.OK
        assert node.cluster_id == "theirs+2"


async def test_a_full_disk_delays_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D13: the process stays, answers, and goes on when there is space."""
    monkeypatch.setattr("oarlock.runtime.node.NO_SPACE_SECONDS", 0.01)
    tries = 0

    def full(*args: object) -> recovery.Recovered:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise OutOfSpace("no space")
        return recovery.recover(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("oarlock.runtime.node.recover", full)
    async with running(tmp_path) as node:
        assert node.status().state == "Replaying"
        await until(node, "Idle")
        assert tries == 4


async def test_a_snapshot_carries_the_state_over_a_rebuild(tmp_path: Path) -> None:
    """Rule 21: the working file is a cache; snapshot and log are the truth."""
    async with running(tmp_path) as node:
        await founded(node)
        for _ in range(4):
            await add(node, b"x")
        async with asyncio.timeout(PATIENCE):  # the last entry that comes by itself raises the cluster's version
            while not node.status().cluster_version:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        meta = await node.take_snapshot()
        assert await node.take_snapshot() == meta
        async with node.newest_snapshot() as (newest, file):
            assert newest == meta
            assert len(await asyncio.to_thread(file.read)) == meta.size_bytes
        await add(node, b"x")
    for path in (tmp_path / "m" / "state").iterdir():
        path.unlink()
    async with running(tmp_path) as node:
        await until(node, "Participating")
        assert await count(node, b"x") == 5
        assert node.status().snapshot == meta


async def test_log_and_snapshots_stay_bounded_however_much_is_written(tmp_path: Path) -> None:
    """Rules 19 and 20: what is live is small, two snapshots are kept, and the log since the older one."""
    segment, commands = 1 << 16, 16_000
    small = dataclasses.replace(settings(tmp_path), segment_bytes=segment, snapshot_entries=50, trailing_bytes=segment)
    async with running(tmp_path, small) as node:
        await founded(node)
        name = b"n" * 64

        async def write(times: int) -> None:
            for _ in range(times):
                await add(node, name)

        def bounded() -> bool:
            log_bytes = sum(file.stat().st_size for file in (tmp_path / "m" / "wal").iterdir())
            snapshots = list((tmp_path / "m" / "snapshots").glob("[0-9]*"))
            return log_bytes <= 6 * segment and len(snapshots) <= 2

        await asyncio.gather(*(write(commands // 8) for _ in range(8)))
        assert node.metrics.wal_bytes_written > 16 * segment
        async with asyncio.timeout(PATIENCE):
            while node.metrics.snapshots_taken < 4 or not bounded():
                await write(50)  # slowly: what a fast writer adds in the second between two snapshots is kept
                await asyncio.sleep(0.5)
