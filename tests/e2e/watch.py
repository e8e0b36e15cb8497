"""Every status that a RaftCluster ever showed, with the time it was seen: by a watch, so that nothing short is missed.

Rule of this module: it only looks. What follows from a status is `trial.py`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable

import httpx
from tests.e2e.cluster import Kubernetes, Object

NOBODY: Object = {}


class Watch:
    """`seen` is (monotonic seconds, status); an empty status while there is no such object."""

    def __init__(self, kube: Kubernetes, namespace: str, name: str) -> None:
        self._kube, self._path = kube, f"/apis/oarlock.dev/v1alpha1/namespaces/{namespace}/raftclusters"
        self._name = name
        self.seen: list[tuple[float, Object]] = []
        self._news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Watch]:
        watching = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def _run(self) -> None:
        """A watch ends after a while, and when the API server is busy: it is begun again, and tells the state anew."""
        parameters = {"watch": "1", "fieldSelector": f"metadata.name={self._name}", "timeoutSeconds": "600"}
        async with self._kube.client() as http:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    async with http.stream("GET", self._path, params=parameters) as answer:
                        async for line in answer.aiter_lines():
                            self._hear(json.loads(line))
                await asyncio.sleep(0.2)

    def _hear(self, event: Object) -> None:
        if event["type"] not in ("ADDED", "MODIFIED", "DELETED"):
            return  # a bookmark, or an error that ends the watch
        status = NOBODY if event["type"] == "DELETED" else event["object"].get("status", {})
        self.seen.append((time.monotonic(), status))
        self._news.set()

    async def until(self, true: Callable[[Object], bool], seconds: float) -> Object:
        """The first status from now on, the present one too, for which it is true; raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not (self.seen and true(self.seen[-1][1])):
                self._news.clear()
                await self._news.wait()
            return self.seen[-1][1]

    def recovered(self, end: float) -> float | None:
        """Seconds from `end` until the condition Available was True for good; None while it is not."""
        since = None
        for at, status in self.seen:
            if not available(status):
                since = None
            elif since is None:
                since = at
        return None if since is None else max(0.0, since - end)

    def operations(self, since: float) -> list[str]:
        """The types of `status.operation` that stood at some moment after `since` (monotonic seconds), each once."""
        stood = [status for at, status in self.seen if at < since][-1:]
        stood += [status for at, status in self.seen if at >= since]
        return sorted({status["operation"]["type"] for status in stood if status.get("operation")})


def available(status: Object) -> bool:
    return any(c["type"] == "Available" and c["status"] == "True" for c in status.get("conditions", []))
