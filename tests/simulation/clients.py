"""Clients: they write, read and retry, and keep what they were told. Their judge compares it with the ledger.

Rules of this module: a client has one operation at a time; what it was not told is `unknown`; a retry after that is
sent only under an Idempotency-Key. An operation bears a mark of its own (the fingerprint of its command), by which the
ledger finds it in the log.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulation import blackbox
from tests.simulation.ledger import Ledger
from tests.simulation.oracles import violated
from tests.simulation.scheduler import Loop, World
from tests.wgl import Answer

from oarlock.kv import query
from oarlock.kv.commands import encode_delete, encode_put
from oarlock.machine.command import Command, Result, Status
from oarlock.runtime.errors import Refused

if TYPE_CHECKING:
    from tests.simulation.process import Process

PATIENCE_SECONDS = 4.0
CHANGES = (Status.OK, Status.CREATED)


@dataclass
class Operation:
    mark: bytes
    kind: str  # put | delete | read | stale
    key: bytes
    floor: int  # the highest revision that any client had seen when it began
    payload: bytes = b""
    idempotency: str = ""
    begin: float = 0.0
    end: float = 0.0
    outcome: str = "unknown"  # acknowledged | not_applied | unknown
    code: str = ""
    result: Result | None = None
    item: query.KeyValue | None = None
    revision: int = 0
    tries: int = 0
    answered: bool = field(default=False, repr=False)


class Clients:
    def __init__(self, world: World, ledger: Ledger, processes: list[Process], count: int, keys: int) -> None:
        self.world, self.ledger, self.processes = world, ledger, processes
        self.loop = Loop(world, "cli")
        self.keys = [b"key-%d" % number for number in range(keys)]
        self.floor = 0
        self.done: list[Operation] = []
        self.open: set[int] = set()
        self.stopped = False
        self.pace = world.rng.choice((0.02, 0.1, 0.3))
        self._marks = itertools.count()
        self._last_seen: dict[bytes, int] = {}
        for number in range(count):
            self.loop.after(world.rng.uniform(0, self.pace), self._next, number)

    @property
    def acknowledged(self) -> int:
        return sum(op.outcome == "acknowledged" and op.kind in ("put", "delete") for op in self.done)

    # -- one after the other

    def _next(self, client: int) -> None:
        if self.stopped:
            return
        rng = self.world.rng
        key = rng.choice(self.keys)
        kind = rng.choices(("put", "delete", "read", "stale"), (60, 8, 25, 7))[0]
        op = Operation(b"m%015d" % next(self._marks), kind, key, self.floor, begin=self.world.now)
        seen = self._last_seen.get(key, 0)
        if kind == "put":
            value = op.mark + b"." * rng.choice((0, 10, 300, 2000) if rng.random() < 0.2 else (0, 20))
            condition = rng.random()
            op.payload = encode_put(
                key, value, if_match=seen if condition < 0.2 and seen else None, if_none_match=0.2 < condition < 0.25
            )
        elif kind == "delete":
            op.payload = encode_delete(key, seen if rng.random() < 0.3 and seen else None)
        if kind in ("put", "delete") and rng.random() < 0.3:
            op.idempotency = f"idem-{op.mark.decode()}"
        self.open.add(client)
        self._send(client, op)

    def _send(self, client: int, op: Operation) -> None:
        world = self.world
        op.tries += 1
        attempt = op.tries
        process = world.rng.choice(self.processes)
        self.loop.after(PATIENCE_SECONDS, self._late, client, op, attempt)
        if process.up:
            process.loop.after(world.rng.uniform(0.0002, 0.002), self._arrive, process, client, op, attempt)
        else:
            self.loop.after(0.001, self._answer, client, op, attempt, Refused("unreachable", "no connection", status=0))

    def _arrive(self, process: Process, client: int, op: Operation, attempt: int) -> None:
        """On the member's loop."""

        def answer(told: Any) -> None:
            self.loop.after(self.world.rng.uniform(0.0002, 0.002), self._answer, client, op, attempt, told)

        def failed(error: BaseException) -> None:
            answer(error)

        node = process.node
        if node is None:
            answer(Refused("not_ready", "it starts", status=503))
            return
        if op.kind == "stale":
            try:
                with node.environment.reader() as trees:
                    answer((query.get(trees, op.key), node.revision))
            except Refused as error:
                answer(error)
            return
        if op.kind == "read":
            future = node.read()

            def readable(done: Any) -> None:
                error = done.exception()
                if error is not None:
                    failed(error)
                    return
                try:
                    with node.environment.reader() as trees:
                        answer((query.get(trees, op.key), node.revision))
                except Refused as refused:
                    failed(refused)

            future.add_done_callback(readable)
            return
        written = node.propose(op.payload, op.idempotency, op.mark)
        written.add_done_callback(lambda done: answer(done.exception() or done.result()))

    def _late(self, client: int, op: Operation, attempt: int) -> None:
        if op.tries == attempt and not op.answered:
            self.world.reach("client: no answer in time")
            self._retry(client, op, "late")

    def _answer(self, client: int, op: Operation, attempt: int, told: Any) -> None:
        if op.answered or op.tries != attempt:
            return
        if isinstance(told, Refused):
            self.world.reach(f"client: refused, {told.code}")
            if told.outcome == "unknown" or op.outcome == "unsettled":
                self._retry(client, op, told.code)
                return
            op.outcome, op.code = "not_applied", told.code
        elif isinstance(told, Result):
            op.outcome, op.result, op.revision = "acknowledged", told, told.revision
        else:
            op.item, op.revision = told
            op.outcome = "acknowledged"
        self._finish(client, op)

    def _retry(self, client: int, op: Operation, why: str) -> None:
        op.outcome, op.code = "unsettled", why
        if op.idempotency and op.tries < 6 and not self.stopped:
            self.world.reach("client: retried under its key")
            self._send(client, op)
            return
        op.outcome = "unknown"
        self._finish(client, op)

    def _finish(self, client: int, op: Operation) -> None:
        op.answered, op.end = True, self.world.now
        self.done.append(op)
        self.open.discard(client)
        self._judge_now(op)
        if op.outcome == "acknowledged":
            if op.kind != "stale":
                self.floor = max(self.floor, op.revision)
            if op.item is not None:
                self._last_seen[op.key] = op.item.mod_revision
            elif op.kind == "put" and op.result is not None and op.result.status in CHANGES:
                self._last_seen[op.key] = op.result.revision
        self.loop.after(self.pace * self.world.rng.uniform(0.2, 2.0), self._next, client)

    # -- judging

    def _judge_now(self, op: Operation) -> None:
        if op.outcome != "acknowledged":
            return
        if op.kind in ("put", "delete"):
            result = op.result
            assert result is not None
            fates = self.ledger.fates.get(op.mark, [])
            told = [f for f in fates if (f.status, f.revision, f.body) == (result.status, result.revision, result.body)]
            if not told:
                raise violated("acknowledged", f"{op} was answered, and the log says {fates}")
            self.ledger.acknowledged = max(self.ledger.acknowledged, told[0].index)
            changes = result.status in CHANGES and op.tries == 1
            if result.revision < op.floor or (changes and result.revision <= op.floor):
                raise violated("linearizable", f"{op} took effect before what had ended when it began")
            return
        if op.kind == "read" and op.revision < op.floor:
            raise violated("linearizable", f"{op} is stale: revision {op.floor} had been seen before it began")
        wanted = self.ledger.at(op.key, op.revision)
        found = op.item
        said = None if found is None else (found.value, found.create_revision, found.mod_revision, found.version)
        right = None if wanted is None else (wanted.value, wanted.create_revision, wanted.mod_revision, wanted.version)
        if said != right:
            raise violated("read", f"{op} read {said} at revision {op.revision}, and the log says {right}")

    def judge_at_end(self) -> None:
        """Once everything is committed that ever will be."""
        for op in self.done:
            fates = self.ledger.fates.get(op.mark, [])
            if op.outcome == "not_applied" and fates and op.tries == 1:
                raise violated("outcome", f"{op} was refused as not applied, and is in the log: {fates}")
            if len(fates) > 1 and not op.idempotency:
                raise violated("doubled", f"{op} stands in the log {len(fates)} times: {fates}")
            if op.outcome == "acknowledged" and op.kind in ("put", "delete") and not fates:
                raise violated("lost", f"{op} was acknowledged, and is not in the log")
        for key, answer in blackbox.judge(self.done).items():
            if answer is not Answer.YES:
                history = "\n".join(str(op) for op in self.done if op.key == key)
                raise violated("search", f"is the history of {key!r} linearizable? {answer}\n{history}")
            self.world.reach("end: a short history was searched")


def command_of(op: Operation) -> Command:
    return Command(op.payload, op.idempotency, op.mark)
