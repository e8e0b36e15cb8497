"""Short histories by exhaustive search (tests/wgl.py): what clients saw of a key, without a look at the log.

Rules of this module: it trusts nothing that the ledger says; where a revision was not told it takes any, so that it
errs on the side of the cluster; a history that the search cannot decide is a failure. Of a write whose answer was lost
the value is forgotten where no read found it, so that the search sees how many there are that differ in nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace
from tests.wgl import ILLEGAL, Answer, Operation, Verdict, linearizable

from oarlock.kv.commands import Delete, Put, decode_operation, result_number
from oarlock.machine.command import Status

if TYPE_CHECKING:
    from tests.simulation.clients import Operation as Told

    from oarlock.kv.query import KeyValue
    from oarlock.machine.command import Result

SHORT = 40  # operations on a key
MOST_STEPS = 300_000


class Seen(NamedTuple):
    """A key's state. `revision` is None where the write's answer was lost."""

    value: bytes | None = None
    version: int = 0
    revision: int | None = 0


ABSENT = Seen()


class Asked(NamedTuple):
    """All that decides what an operation may do: two that are equal may stand for each other."""

    write: Put | Delete | None  # None: a read
    known: Result | None = None  # what a write was told
    item: KeyValue | None = None  # what a read found


def step(state: Seen, op: Asked) -> Seen | Verdict:
    asked, known = op.write, op.known
    if asked is None:
        return _read(state, op.item)
    holds = _holds(state, asked)
    if known is not None and known.status == Status.PRECONDITION:
        return ILLEGAL if holds is True else state
    if known is not None and known.status == Status.NOT_FOUND:
        return ILLEGAL if state.value is not None else state
    if holds is False:
        return ILLEGAL
    if isinstance(asked, Delete):
        return ILLEGAL if state.value is None else ABSENT
    version = state.version + 1
    if known is not None and result_number(known.body) != version:
        return ILLEGAL
    return Seen(asked.value, version, known.revision if known is not None else None)


def _read(state: Seen, item: KeyValue | None) -> Seen | Verdict:
    if item is None:
        return ILLEGAL if state.value is not None else state
    same = (item.value, item.version) == (state.value, state.version)
    if not same or state.revision not in (None, item.mod_revision):
        return ILLEGAL
    return state._replace(revision=item.mod_revision)


def _holds(state: Seen, asked: Put | Delete) -> bool | None:
    """Does its condition? None if that depends on a revision that nobody was told."""
    if isinstance(asked, Put) and asked.if_none_match:
        return state.value is None
    if asked.if_match is None:
        return True
    if state.value is None:
        return False
    return None if state.revision is None else state.revision == asked.if_match


def judge(done: Iterable[Told]) -> dict[bytes, Answer]:
    """Of each key with a short history."""
    histories: dict[bytes, list[Told]] = defaultdict(list)
    for op in done:
        may_have_happened = op.kind in ("put", "delete") and (op.outcome == "unknown" or op.tries > 1)
        if op.kind != "stale" and (op.outcome == "acknowledged" or may_have_happened):
            histories[op.key].append(op)
    return {
        key: linearizable(_operations(history), step, ABSENT, MOST_STEPS)
        for key, history in histories.items()
        if len(history) <= SHORT
    }


def _operations(history: list[Told]) -> list[Operation[Asked]]:
    found = {op.item.value for op in history if op.item is not None}
    operations = []
    for op in history:
        certain = op.outcome == "acknowledged"
        write = None
        if op.kind != "read":
            write = decode_operation(op.payload)
            assert isinstance(write, Put | Delete)
            if isinstance(write, Put) and not certain and write.value not in found:
                write = replace(write, value=b"")
        asked = Asked(write, op.result if certain else None, op.item)
        operations.append(Operation(op.begin, op.end if certain else math.inf, asked))
    return operations
