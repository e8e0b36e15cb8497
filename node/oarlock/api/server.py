"""Three servers in one loop: clients, peers and admin, probes and metrics.

* Sockets are bound before the member starts: a port that is taken is found at once, and the start-up probe answers
  while the log is still being read.
* uvicorn's own handling of signals is left out: whoever runs the process decides what a signal means.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn

from oarlock.api.admin import PeerApp
from oarlock.api.asgi import App
from oarlock.api.client import ClientApp
from oarlock.api.http_counts import HttpCounts
from oarlock.api.limits import Limits
from oarlock.api.ops import OpsApp
from oarlock.api.protocol import protocol_for, sweep_for_ever
from oarlock.runtime.node import Node

BACKLOG = 2048
GRACE_SECONDS = 2  # for answers that are under way when the servers go down


@dataclass(frozen=True, slots=True)
class Listeners:
    """Bound sockets. `bind` makes them; `Servers` closes them."""

    client: socket.socket
    peer: socket.socket
    ops: socket.socket

    def close(self) -> None:
        for listener in (self.client, self.peer, self.ops):
            listener.close()


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises OSError with the address in it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as e:
        raise OSError(e.errno, f"cannot listen on {host}:{port}: {e.strerror or e}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as e:
        listener.close()
        raise OSError(e.errno, f"cannot listen on {host}:{port}: {e.strerror or e}") from None
    return listener


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Servers:
    """`await Servers.start(...)`; `await stop()` lets answers finish for a moment, then closes everything."""

    def __init__(self, servers: list[tuple[_Server, socket.socket]]) -> None:
        self._servers = servers
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, node: Node, listeners: Listeners, token: str, limits: Limits | None = None) -> Servers:
        """Serves from now on. Returns when all three ports answer."""
        limits = limits or Limits()
        counts = HttpCounts()
        applications: list[tuple[str, socket.socket, App]] = [
            ("client", listeners.client, ClientApp(node, limits, counts)),
            ("peer", listeners.peer, PeerApp(node, limits, counts, token)),
            ("ops", listeners.ops, OpsApp(node, counts)),
        ]
        self = cls([(_Server(configuration(app, limits, counts.port(name))), at) for name, at, app in applications])
        for server, listener in self._servers:
            self._tasks.append(asyncio.create_task(server.serve(sockets=[listener])))
            self._tasks.append(asyncio.create_task(sweep_for_ever(server.server_state)))
        while not all(server.started for server, _ in self._servers):
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.005)
        return self

    async def stop(self) -> None:
        for server, _ in self._servers:
            server.should_exit = True
        serving = self._tasks[::2]
        await asyncio.gather(*serving, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def configuration(app: App, limits: Limits, rejected: dict[str, int]) -> uvicorn.Config:
    """How every port is served."""
    return uvicorn.Config(
        app,
        http=protocol_for(limits, rejected),
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(limits.idle_seconds),
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
