"""The peer port (2380): streams between members, and the contract with the operator (`wire.admin`).

* Every request carries the cluster's token, `/raft/*` included; without it 401 and nothing happens.
* This module translates between `wire.admin` and the node; it decides nothing. Membership is decided in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, TypeVar

from fastapi import Depends, FastAPI, Query
from fastapi.responses import Response

from oarlock.api.asgi import App, Receive, Scope, Send
from oarlock.api.framework import json_response, known_parameters, make_app
from oarlock.api.guard import Guarded, RequireToken
from oarlock.api.http_counts import HttpCounts
from oarlock.api.limits import Limits
from oarlock.api.problems import ApiError
from oarlock.api.status import status_answer
from oarlock.raft.types import Member
from oarlock.runtime.node import Node
from oarlock.wire.admin import (
    BarrierAnswer,
    BootstrapAnswer,
    BootstrapRequest,
    ConfigurationAnswer,
    ConfigurationRequest,
    MemberModel,
    NotesRequest,
    ResetAnswer,
    ResetRequest,
    SnapshotAnswer,
    StatusAnswer,
    TransferAnswer,
    TransferRequest,
)

T = TypeVar("T")

Timeout = Annotated[float | None, Query(gt=0, le=600, description="Seconds to wait; 504 `unknown` beyond")]

no_parameters = Depends(known_parameters())
timeout_only = Depends(known_parameters("timeout_seconds"))


class PeerApp:
    """Everything on the peer port: `/raft/*` goes to the transport, the rest to the admin application."""

    def __init__(self, node: Node, limits: Limits, counts: HttpCounts, token: str) -> None:
        guarded = Guarded(admin_app(node, limits), counts, limits.max_admin_body_bytes)
        self._app = RequireToken(_Split(guarded, node.transport.asgi), token, counts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class _Split:
    def __init__(self, rest: App, raft: App) -> None:
        self._rest = rest
        self._raft = raft

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._raft if scope["path"].startswith("/raft/") else self._rest
        await app(scope, receive, send)


def admin_app(node: Node, limits: Limits) -> FastAPI:
    app = make_app("Oarlock: admin", "The contract between a member and its operator.", docs=False)

    @app.get("/admin/status", response_model=StatusAnswer, dependencies=[no_parameters])
    async def status() -> Response:
        """Served in every state."""
        return json_response(status_answer(node.status(), node.settings))

    @app.post("/admin/bootstrap", response_model=BootstrapAnswer, dependencies=[no_parameters])
    async def bootstrap(request: BootstrapRequest) -> Response:
        """Only from Idle; the same request gets the same answer, another one 409."""
        cluster_id = await node.bootstrap(request.request_id, request.cluster_id, request.min_voters)
        return json_response(BootstrapAnswer(cluster_id=cluster_id, node_id=node.node_id))

    @app.put("/admin/configuration", response_model=ConfigurationAnswer, dependencies=[timeout_only])
    async def configuration(request: ConfigurationRequest, timeout_seconds: Timeout = None) -> Response:
        """Leader only. Answers the id of the final configuration once that is committed."""
        seconds = timeout_seconds or limits.admin_seconds
        voters = [_member(m) for m in request.voters]
        learners = [_member(m) for m in request.learners]
        change = node.change_configuration(voters, learners, request.if_config, seconds)
        return json_response(ConfigurationAnswer(id=await _bounded(change, seconds, "the change of configuration")))

    @app.post("/admin/transfer", response_model=TransferAnswer, dependencies=[timeout_only])
    async def transfer(request: TransferRequest, timeout_seconds: Timeout = None) -> Response:
        """Leader only. Answers who leads afterwards."""
        seconds = timeout_seconds or limits.admin_seconds
        leader, term = await _bounded(node.transfer(request.target, seconds), seconds, "the transfer of leadership")
        return json_response(TransferAnswer(leader=leader, term=term))

    @app.get("/admin/barrier", response_model=BarrierAnswer, dependencies=[timeout_only])
    async def barrier(timeout_seconds: Timeout = None) -> Response:
        """A linearizable no-op: it answers only with a majority."""
        seconds = timeout_seconds or limits.request_seconds
        index, term = await _bounded(node.barrier(seconds), seconds, "the barrier", changes=False)
        return json_response(BarrierAnswer(index=index, term=term))

    @app.post("/admin/snapshot", response_model=SnapshotAnswer, dependencies=[no_parameters])
    async def snapshot() -> Response:
        """Takes one now and answers when it is durable."""
        meta = await node.take_snapshot()
        answer = SnapshotAnswer(index=meta.index, term=meta.term, size_bytes=meta.size_bytes, digest=meta.digest)
        return json_response(answer)

    @app.post("/admin/reset", response_model=ResetAnswer, dependencies=[no_parameters])
    async def reset(request: ResetRequest) -> Response:
        """Renames the data to a quarantine and makes a new incarnation; nothing is deleted."""
        node_id, quarantine = await node.reset(request.request_id, request.node_id)
        return json_response(ResetAnswer(node_id=node_id, quarantine=str(quarantine)))

    @app.put("/admin/notes", status_code=204, dependencies=[no_parameters])
    async def notes(request: NotesRequest) -> Response:
        """Records what the operator knows about this member's place; `/admin/status` repeats it."""
        await node.record_notes(request.pod_uid, request.volume_uid)
        return Response(status_code=204)

    return app


def _member(model: MemberModel) -> Member:
    return Member(model.id, model.peer_url, model.client_url, model.promote)


async def _bounded(work: Awaitable[T], seconds: float, what: str, *, changes: bool = True) -> T:
    """The node keeps to its time-out by itself; this holds if it does not."""
    try:
        return await asyncio.wait_for(work, seconds + 1.0)
    except TimeoutError:
        outcome = "unknown" if changes else "not_applied"
        why = f"{what} was not done within {seconds:g} s" + ("; it may still happen" if changes else "")
        raise ApiError(504, "timeout", why, outcome=outcome, retryable=not changes) from None
