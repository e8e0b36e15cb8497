"""The client of a member's admin interface (port 2380, bearer token; models in `oarlock.wire.admin`).

Rules of this module: a member is dialled by its pod's address, never by DNS (a resolver may remember for 30 s that a
name does not exist); each call is made once; an error keeps the member's own sentence, code and outcome.
"""

from __future__ import annotations

from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from oarlock.wire import admin
from oarlock.wire.problem import Problem

from . import names

_Answer = TypeVar("_Answer", bound=BaseModel)

READ_TIMEOUT = httpx.Timeout(3.0, connect=1.0)
CHANGE_TIMEOUT = httpx.Timeout(20.0, connect=1.0)
"""A membership change answers when its final configuration is committed; the member bounds the wait itself."""


class MemberError(Exception):
    """A member refused, or did not answer. `code` is the problem's, or `unreachable`."""

    def __init__(self, why: str, code: str = "unreachable", status: int = 0):
        super().__init__(why)
        self.why = why
        self.code = code
        self.status = status


class Members:
    """Calls to members. One HTTP client for all clusters; the token is an argument, as each cluster has its own."""

    def __init__(self, http: httpx.AsyncClient):
        self._http = http

    async def status(self, ip: str, token: str) -> admin.StatusAnswer:
        return await self._call("GET", "status", ip, token, admin.StatusAnswer)

    async def barrier(self, ip: str, token: str) -> admin.BarrierAnswer:
        return await self._call("GET", "barrier", ip, token, admin.BarrierAnswer)

    async def bootstrap(self, ip: str, token: str, request: admin.BootstrapRequest) -> admin.BootstrapAnswer:
        return await self._call("POST", "bootstrap", ip, token, admin.BootstrapAnswer, request)

    async def configure(self, ip: str, token: str, request: admin.ConfigurationRequest) -> admin.ConfigurationAnswer:
        return await self._call("PUT", "configuration", ip, token, admin.ConfigurationAnswer, request)

    async def transfer(self, ip: str, token: str, request: admin.TransferRequest) -> admin.TransferAnswer:
        return await self._call("POST", "transfer", ip, token, admin.TransferAnswer, request)

    async def snapshot(self, ip: str, token: str) -> admin.SnapshotAnswer:
        """Answers when it is durable; one that was under way already is waited for."""
        return await self._call("POST", "snapshot", ip, token, admin.SnapshotAnswer)

    async def reset(self, ip: str, token: str, request: admin.ResetRequest) -> admin.ResetAnswer:
        return await self._call("POST", "reset", ip, token, admin.ResetAnswer, request)

    async def notes(self, ip: str, token: str, request: admin.NotesRequest) -> None:
        await self._send("PUT", "notes", ip, token, request)

    async def _call(
        self, method: str, call: str, ip: str, token: str, answer: type[_Answer], request: BaseModel | None = None
    ) -> _Answer:
        response = await self._send(method, call, ip, token, request)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise MemberError(f"its answer to {call} is not one: {error.errors()[0]['msg']}", "bad_answer") from error

    async def _send(self, method: str, call: str, ip: str, token: str, request: BaseModel | None) -> httpx.Response:
        host = f"[{ip}]" if ":" in ip else ip
        headers = {"Authorization": f"Bearer {token}"}
        content = None
        if request is not None:
            headers["Content-Type"] = "application/json"
            content = request.model_dump_json(exclude_none=True)
        try:
            response = await self._http.request(
                method,
                f"http://{host}:{names.PEER_PORT}/admin/{call}",
                headers=headers,
                content=content,
                timeout=READ_TIMEOUT if method == "GET" else CHANGE_TIMEOUT,
            )
        except httpx.HTTPError as error:
            raise MemberError(f"{type(error).__name__}{f': {error}' if str(error) else ''}") from error
        if response.is_success:
            return response
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            raise MemberError(f"answered {response.status_code}", "no_problem", response.status_code) from None
        raise MemberError(problem.detail, problem.code, response.status_code)
