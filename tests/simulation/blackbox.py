"""Short histories by exhaustive search (tests/wgl.py): what clients saw of a key, without a look at the log.

Rules of this module: it trusts nothing that the ledger says; where a revision was not told it takes any, so that it
errs on the side of the cluster; a history that the search cannot decide is a failure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from tests.wgl import ILLEGAL, Answer, Operation, Verdict, linearizable

from oarlock.kv.commands import Delete, Put, decode_operation, result_number
from oarlock.machine.command import Status

if TYPE_CHECKING:
    from tests.simulation.clients import Operation as Asked

SHORT = 40  # operations on a key
MOST_STEPS = 300_000


class Seen(NamedTuple):
    """A key's state. `revision` is None where the write's answer was lost."""

    value: bytes | None = None
    version: int = 0
    revision: int | None = 0


ABSENT = Seen()


def step(state: Seen, op: Asked) -> Seen | Verdict:
    if op.kind == "read":
        return _read(state, op)
    asked = decode_operation(op.payload)
    assert isinstance(asked, Put | Delete)
    known = op.result if op.outcome == "acknowledged" else None
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


def _read(state: Seen, op: Asked) -> Seen | Verdict:
    if op.item is None:
        return ILLEGAL if state.value is not None else state
    same = (op.item.value, op.item.version) == (state.value, state.version)
    if not same or state.revision not in (None, op.item.mod_revision):
        return ILLEGAL
    return state._replace(revision=op.item.mod_revision)


def _holds(state: Seen, asked: Put | Delete) -> bool | None:
    """Does its condition? None if that depends on a revision that nobody was told."""
    if isinstance(asked, Put) and asked.if_none_match:
        return state.value is None
    if asked.if_match is None:
        return True
    if state.value is None:
        return False
    return None if state.revision is None else state.revision == asked.if_match


def judge(done: Iterable[Asked]) -> dict[bytes, Answer]:
    """Of each key with a short history."""
    histories: dict[bytes, list[Operation[Asked]]] = defaultdict(list)
    for op in done:
        certain = op.outcome == "acknowledged"
        happened = certain or (op.kind in ("put", "delete") and (op.outcome == "unknown" or op.tries > 1))
        if happened and op.kind != "stale":
            histories[op.key].append(Operation(op.begin, op.end if certain else math.inf, op))
    return {
        key: linearizable(operations, step, ABSENT, MOST_STEPS)
        for key, operations in histories.items()
        if len(operations) <= SHORT
    }
