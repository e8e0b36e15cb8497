"""Idempotency (rule 30): a command with a key is applied once, for five minutes of cluster time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.counter_machine import CounterMachine, CounterSession
from tests.state_driver import WALL_MS, Driver, apply

from oarlock.kv import KvMachine, encode_put
from oarlock.machine import ApplyContext, Command, Environment, Result, Status, Trees, records

PRINT = b"f" * 16
FIVE_MINUTES_MS = 300_000  # as the API promises


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path / "state.mdb", CounterMachine())
    yield driver
    driver.close()


def keyed(key: str, payload: bytes = b"x", fingerprint: bytes = PRINT) -> Command:
    return Command(payload, key, fingerprint)


def uuid7(ms: int) -> str:
    digits = f"{ms:012x}"
    return f"{digits[:8]}-{digits[8:]}-7abc-8def-0123456789ab"


def test_a_retry_gets_the_first_result(counter: Driver) -> None:
    """Rule 30: status, revision and body are those of the first time."""
    first = counter.command(keyed("k"))
    counter.command(b"x")
    assert counter.command(keyed("k")) == first == Result(Status.OK, 1, b"1")
    assert counter.environment.revision == 2
    assert [r.body for r in counter.commands(keyed("m"), keyed("m"))] == [b"3", b"3"]  # in one batch too


def test_retry_applied_once_across_failover(counter: Driver, tmp_path: Path) -> None:
    """Pitfall X2: the record is replicated: another member, having applied the same log, answers the retry; also when
    the first attempt and the retry both got into the log."""
    first = counter.command(keyed("k"))
    other = Driver(tmp_path / "other.mdb", CounterMachine())
    apply(other.environment, counter.entries)
    assert other.command(keyed("k")) == first
    other.reopen()
    assert other.command(keyed("k")) == first
    assert other.environment.revision == 1
    other.close()


def test_a_refusal_is_kept_too(tmp_path: Path) -> None:
    """Rule 30: a 412 that becomes a 200 on the retry would be two outcomes for one request."""
    driver = Driver(tmp_path / "kv.mdb", KvMachine())
    conditional = Command(encode_put(b"a", b"1", if_match=1), "k", PRINT)
    first = driver.command(conditional)
    assert first.status == Status.PRECONDITION
    driver.command(encode_put(b"a", b"0"))  # now the condition would hold
    assert driver.command(conditional) == first
    assert driver.environment.revision == 1
    driver.close()


def test_another_request_under_the_same_key(counter: Driver) -> None:
    """Rule 30: 422, and nothing is changed, neither state nor record."""
    counter.command(keyed("k"))
    reused = counter.command(keyed("k", fingerprint=b"g" * 16))
    assert reused == Result(Status.KEY_REUSED, 0)
    assert counter.environment.revision == 1
    assert counter.command(keyed("k")) == Result(Status.OK, 1, b"1")


def test_session_expiry_deterministic(counter: Driver, tmp_path: Path) -> None:
    """Pitfall X3, rule 30: a record lives by cluster time, to the millisecond, and is never evicted earlier, however
    the entries are grouped and whatever the wall clock says."""
    counter.command(keyed("k"))
    counter.time_ms += FIVE_MINUTES_MS - 1
    assert counter.command(keyed("k"), wall_ms=WALL_MS + 10 * FIVE_MINUTES_MS).revision == 1
    counter.time_ms += 1
    again = counter.command(keyed("k"), wall_ms=WALL_MS - 10 * FIVE_MINUTES_MS)
    assert again == Result(Status.OK, 2, b"2")  # a key that is not a UUIDv7 is a new write by now: documented
    other = Environment.open(tmp_path / "other.mdb", CounterMachine())
    apply(other, counter.entries)
    assert other.state_hash == counter.environment.state_hash
    other.close()


def test_expired_session_rejected(counter: Driver) -> None:
    """Pitfall X4, rule 30: a UUIDv7 key that is older than any record is refused, not applied again."""
    key = uuid7(WALL_MS)
    first = counter.command(keyed(key))
    counter.time_ms += records.LIFETIME_MS
    late = WALL_MS + records.LIFETIME_MS
    assert counter.command(keyed(key), wall_ms=late + 1) == Result(Status.KEY_EXPIRED, 0)
    assert counter.environment.revision == first.revision == 1
    assert counter.environment.idempotency_records == 0
    # by the leader's stamp it may still be a first attempt: applied
    assert counter.command(keyed(key), wall_ms=late).revision == 2


def test_an_old_uuid7_with_a_record_is_answered(counter: Driver) -> None:
    """The record decides first: wall clocks may jump, cluster time does not."""
    key = uuid7(WALL_MS)
    first = counter.command(keyed(key))
    assert counter.command(keyed(key), wall_ms=WALL_MS + 100 * records.LIFETIME_MS) == first


@pytest.mark.parametrize(
    ("key", "ms"),
    [
        ("017f22e2-79b0-7cc3-98c4-dc0c0c07398f", 0x017F22E279B0),  # RFC 9562, appendix A.6
        ("017F22E2-79B0-7CC3-98C4-DC0C0C07398F", 0x017F22E279B0),
        ("017f22e2-79b0-4cc3-98c4-dc0c0c07398f", None),  # version 4
        ("017f22e2-79b0-7cc3-c8c4-dc0c0c07398f", None),  # another variant
        ("017f22e279b07cc398c4dc0c0c07398f", None),
        ("017f22e2-79b0-7cc3-98c4-dc0c0c07398f\n", None),
        ("order-17", None),
    ],
)
def test_uuid7_time(key: str, ms: int | None) -> None:
    assert records.uuid7_ms(key) == ms


def test_a_full_table_refuses_new_keys_and_evicts_none(counter: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules 30 and 33: the bound is reached; old keys and writes without a key go on; expiry makes room."""
    monkeypatch.setattr(records, "MAX_RECORDS", 3)
    for n in range(3):
        counter.command(keyed(f"k{n}"))
    assert counter.command(keyed("k3")) == Result(Status.KEYS_FULL, 0)
    assert counter.environment.idempotency_records == 3
    assert counter.command(keyed("k0")).revision == 1
    assert counter.command(b"x").status == Status.OK
    counter.time_ms += records.LIFETIME_MS
    counter.noop()
    assert counter.environment.idempotency_records == 0
    assert counter.environment.position.records_digest == bytes(16)  # the sum of none
    assert counter.command(keyed("k3")).status == Status.OK


def test_expired_records_go_in_bounded_slices(counter: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules 24 and 30: an entry removes a bounded number; each keyed command removes more than it adds."""
    for at in range(0, 300, 100):
        counter.commands(*[keyed(f"old-{n}") for n in range(at, at + 100)])
    counter.time_ms += records.LIFETIME_MS
    counter.noop()
    assert counter.environment.idempotency_records == 300 - records.SWEEP_AFTER_ENTRY
    counter.commands(*[keyed(f"new-{n}") for n in range(50)])
    left = 300 - 2 * records.SWEEP_AFTER_ENTRY - 50 * records.SWEEP_AFTER_COMMAND
    assert counter.environment.idempotency_records == left + 50
    counter.noop()
    counter.noop()
    assert counter.environment.idempotency_records == 50


def test_an_expired_record_counts_as_absent_before_it_is_swept(
    counter: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that when a member sweeps can never change an answer."""
    counter.command(keyed("k"))
    monkeypatch.setattr("oarlock.machine.apply.SWEEP_AFTER_ENTRY", 0)
    counter.time_ms += records.LIFETIME_MS
    counter.noop()
    assert counter.environment.idempotency_records == 1
    assert counter.command(keyed("k", fingerprint=b"g" * 16)) == Result(Status.OK, 2, b"2")
    assert counter.environment.idempotency_records == 1
    assert counter.command(keyed("k", fingerprint=b"g" * 16)).revision == 2  # the new record stands


def test_a_key_too_long_is_invalid(counter: Driver) -> None:
    """Whatever a log holds, apply answers."""
    assert counter.command(keyed("é" * 128)) == Result(Status.INVALID, 0)
    assert counter.command(keyed("k" * records.MAX_KEY_BYTES)).status == Status.OK


def test_a_large_body_is_not_kept(tmp_path: Path) -> None:
    """Rule 30: up to 1 KiB of result; the retry of a larger one still gets status and revision."""

    class Chatty(CounterMachine):
        def begin(self, trees: Trees) -> CounterSession:
            return ChattySession(trees)

    class ChattySession(CounterSession):
        def apply(self, payload: bytes, context: ApplyContext) -> Result:
            result = super().apply(payload, context)
            return Result(result.status, result.revision, payload * 64)

    driver = Driver(tmp_path / "state.mdb", Chatty())
    exact, over = b"a" * 16, b"b" * 17
    assert len(driver.command(keyed("exact", exact)).body) == records.MAX_BODY_BYTES
    assert driver.command(keyed("exact", exact)).body == exact * 64
    assert driver.command(keyed("over", over)).body == over * 64
    assert driver.command(keyed("over", over)) == Result(Status.OK, 2, b"")
    driver.close()
