"""Entries become state: whole, once, in slices, the same however they are grouped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.counter_machine import CounterMachine
from tests.state_driver import Driver, TickingClock, apply, never, replay

from oarlock.kv import KvMachine, encode_put, get
from oarlock.machine import Applied, Environment, Status, UnknownEntry
from oarlock.raft.types import Configuration, Entry, EntryKind, Member, PlacedConfiguration

A = Member("a-0000000000000001", "http://a:2380", "http://a:2379")
B = Member("b-0000000000000002", "http://b:2380", "http://b:2379")


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path / "state.mdb", CounterMachine())
    yield driver
    driver.close()


@pytest.fixture
def kv(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path / "kv.mdb", KvMachine())
    yield driver
    driver.close()


def count(driver: Driver, name: bytes) -> bytes:
    with driver.environment.reader() as trees:
        return driver.machine.query(trees, name)


def test_results_in_order_and_only_for_commands(counter: Driver) -> None:
    entries = [
        counter.batch(b"x", b"y", b"x"),
        Entry(2, 1, EntryKind.NOOP, 1000, b""),
        Entry(3, 1, EntryKind.COMMANDS, 1000, counter.batch(b"x", b"").data),
    ]
    first, noop, last = counter.apply(entries)
    assert [(r.status, r.revision, r.body) for r in first] == [(0, 1, b"1"), (0, 2, b"1"), (0, 3, b"2")]
    assert noop == []
    assert [r.status for r in last] == [Status.OK, Status.INVALID]
    assert counter.environment.revision == 4


def test_applied_index_atomic_with_state(tmp_path: Path) -> None:
    """Pitfall C6. The process is killed inside the transaction, at each of its steps, and right after the commit."""
    path = tmp_path / "state.mdb"
    driver = Driver(path, CounterMachine())
    driver.command(b"x")
    entries = [driver.batch(b"x", b"x"), Entry(3, 1, EntryKind.NOOP, 1000, b"")]
    driver.close()
    for steps in range(6):
        child = os.fork()
        if child == 0:
            try:
                environment = Environment.open(path, CounterMachine())
                job = environment.begin(entries)
                for _ in range(steps):
                    if job.run(0.5, TickingClock()):
                        job.commit()
                        break
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        driver.reopen()
        committed = driver.environment.applied == Applied(3, 1, 1000)
        assert committed or driver.environment.applied == Applied(1, 1, 1000)
        assert count(driver, b"x") == (b"3" if committed else b"1")
        assert committed == (steps == 5)  # two commands, two ends of entries, and the turn that finds nothing left
        driver.close()


def test_slices_end_between_commands_and_show_nothing(counter: Driver) -> None:
    """Rule 24: apply runs in slices inside one transaction; readers see the state before it."""
    job = counter.environment.begin([counter.batch(*[b"x"] * 5)])
    slices = 1
    while not job.run(0.5, TickingClock()):
        slices += 1
        assert count(counter, b"x") == b"0"
        assert counter.environment.applied.index == 0
        assert counter.environment.revision == 0
    assert slices == 7
    assert count(counter, b"x") == b"0"
    assert [r.body for r in job.commit()[0]] == [b"1", b"2", b"3", b"4", b"5"]
    assert count(counter, b"x") == b"5"
    assert counter.environment.applied.index == 1


def test_a_slice_keeps_to_its_budget(counter: Driver) -> None:
    """Rule 24: the budget is looked at after every command, not once a batch."""
    job = counter.environment.begin([counter.batch(*[b"x"] * 100)])
    looks = iter([0.0] + [0.001 * n for n in range(1, 11)])  # the tenth command ends at 10 ms
    assert job.run(0.010, lambda: next(looks)) is False
    assert next(looks, None) is None
    job.abort()
    assert counter.environment.applied.index == 0


def test_grouping_changes_nothing(tmp_path: Path) -> None:
    """Rule 27: a follower may apply in larger batches; results, state and hash are the leader's."""
    leader = Driver(tmp_path / "leader.mdb", KvMachine())
    results = []
    for n in range(30):
        leader.time_ms += 4000
        results += leader.apply([leader.batch(encode_put(b"k%d" % (n % 7), b"v%d" % n), b"garbage")])
    for size in (2, 7, 30):
        follower = Environment.open(tmp_path / f"follower-{size}.mdb", KvMachine())
        again = []
        for at in range(0, 30, size):
            again += apply(follower, leader.entries[at : at + size])
        assert again == results
        assert follower.state_hash == leader.environment.state_hash
        assert follower.applied == leader.environment.applied
        follower.close()
    leader.close()


def test_an_aborted_job_leaves_nothing(counter: Driver) -> None:
    entry = counter.batch(b"x")
    job = counter.environment.begin([entry])
    job.run(1.0, never)
    job.abort()
    with pytest.raises(RuntimeError):
        job.commit()
    assert counter.environment.applied.index == 0
    assert counter.apply([entry])[0][0].body == b"1"


def test_one_job_at_a_time(counter: Driver) -> None:
    job = counter.environment.begin([counter.batch(b"x")])
    with pytest.raises(RuntimeError):
        counter.environment.begin([counter.batch(b"x")])
    with pytest.raises(RuntimeError):
        job.commit()  # not run yet
    job.abort()
    counter.command(b"x")


def test_entries_are_applied_in_order_and_once(counter: Driver) -> None:
    entry = counter.batch(b"x")
    counter.apply([entry])
    for wrong in ([entry], [Entry(3, 1, EntryKind.NOOP, 0, b"")], [], [counter.batch(b"x"), counter.batch(b"x")]):
        with pytest.raises(ValueError, match=r"next to be applied|needs an entry"):
            counter.environment.begin(wrong)
    assert count(counter, b"x") == b"1"
    counter.command(b"x")  # a refused job holds no transaction


def test_configuration_is_applied_with_its_index(counter: Driver) -> None:
    """Rule 17: what is kept is the configuration applied, in the transaction that moves the applied index."""
    first = Configuration(voters=(A,))
    second = Configuration(voters=(A, B), outgoing=(A,))
    counter.configuration(first)
    job = counter.environment.begin([Entry(2, 7, EntryKind.CONFIGURATION, 1000, _encoded(second))])
    job.run(1.0, never)
    assert counter.environment.placed == PlacedConfiguration(1, 1, first)
    job.commit()
    assert counter.environment.placed == PlacedConfiguration(2, 7, second)
    assert counter.environment.placed.id == "7.2"
    counter.reopen()
    assert counter.environment.placed == PlacedConfiguration(2, 7, second)
    assert counter.environment.applied.index == 2


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (17, b""),
        (EntryKind.VERSION, b"\x04"),  # the counter machine knows 3
        (EntryKind.VERSION, b"\xc1"),
        (EntryKind.COMMANDS, b"\xc1"),
        (EntryKind.COMMANDS, b"\x90"),
        (EntryKind.CONFIGURATION, b"\x01"),
    ],
)
def test_a_member_stops_before_an_unknown_entry(counter: Driver, kind: int, data: bytes) -> None:
    """Rule 34: everything before it is committed, nothing of it or after it, and it is met again each time."""
    before, after = counter.batch(b"x"), Entry(3, 1, EntryKind.NOOP, 1000, b"")
    unknown = Entry(2, 1, kind, 1000, data)
    assert len(counter.apply([before, unknown, after])) == 1
    assert counter.environment.applied.index == 1
    for _ in range(2):
        job = counter.environment.begin([unknown, after])
        with pytest.raises(UnknownEntry) as raised:
            job.run(1.0, never)
        assert raised.value.entry == unknown
        assert counter.environment.applied.index == 1
    assert count(counter, b"x") == b"1"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (EntryKind.COMMANDS, b"\x93\x05\x90" + b"\x91" * 200_000 + b"\x90"),  # a field more, too deep for any parser
        (EntryKind.COMMANDS, b"\x92\x05\x91\x92\xc4\x01x\xa1\xff"),  # a key that is no UTF-8
        (EntryKind.CONFIGURATION, b"\x91\x91\x93\xa1\xff\xa0\xa0"),  # an id that is none
    ],
)
def test_what_the_parser_chokes_on_is_unknown_too(counter: Driver, kind: int, data: bytes) -> None:
    """Rule 34: another error would end every member that applies it."""
    ended: BaseException | None = None
    try:
        counter.apply([counter.entry(kind, data)])
    except Exception as error:
        ended = error
    assert isinstance(ended, UnknownEntry), repr(ended)
    assert counter.environment.applied.index == 0


def test_cluster_version_is_raised_by_its_entry(counter: Driver) -> None:
    """Rule 34: the version comes out of the log, and is there after a restart."""
    assert counter.environment.cluster_version == 0
    counter.version(2)
    assert counter.environment.cluster_version == 2
    counter.reopen()
    assert counter.environment.cluster_version == 2


def test_cluster_time_comes_from_the_entries_and_never_goes_back(counter: Driver) -> None:
    """Rule 28: apply has no clock."""
    counter.time_ms = 5000
    counter.noop()
    counter.time_ms = 4000
    counter.noop()
    assert counter.environment.applied == Applied(2, 1, 5000)
    counter.time_ms = 9000
    counter.noop()
    assert counter.environment.applied == Applied(3, 1, 9000)


def test_apply_deterministic_under_hash_seeds(tmp_path: Path) -> None:
    """Pitfall X7: another process with another hash seed gets the same results and the same state hash."""
    script = (
        "import sys; from pathlib import Path; from oarlock.kv import *; from oarlock.machine import Command\n"
        "from tests.state_driver import Driver\n"
        "d = Driver(Path(sys.argv[1]), KvMachine()); out = []\n"
        "for n in range(40):\n"
        "    d.time_ms += 9000\n"
        "    put = encode_put(b'k%d' % (n % 9), b'v%d' % n)\n"
        "    out += d.commands(put, Command(put, f'key-{n % 11}', bytes(16)), encode_delete(b'k%d' % (n % 4)))\n"
        "print(hash('x'), out, d.environment.state_hash, sep='\\n')\n"
    )
    answers = []
    for seed in ("0", "1", "4242"):
        ran = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / f"{seed}.mdb")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        answers.append(ran.stdout.splitlines())
    assert len({seed for seed, *_ in answers}) == 3  # the seeds do differ
    assert answers[0][1:] == answers[1][1:] == answers[2][1:]


def test_a_replay_gives_the_same_state(kv: Driver, tmp_path: Path) -> None:
    """From nothing, and from the middle: what a restart does."""
    for n in range(20):
        kv.commands(encode_put(b"k%d" % (n % 3), b"v%d" % n))
    other = Environment.open(tmp_path / "other.mdb", KvMachine())
    replay(other, kv.entries[:9])
    replay(other, kv.entries)
    assert other.state_hash == kv.environment.state_hash
    with other.reader() as trees:
        item = get(trees, b"k1")
    assert item is not None
    assert (item.value, item.version, item.create_revision, item.mod_revision) == (b"v19", 7, 2, 20)
    other.close()


def _encoded(configuration: Configuration) -> bytes:
    return msgspec.msgpack.encode(configuration)
