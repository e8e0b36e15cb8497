"""`oarlock serve`: one member, in this process.

* SIGTERM and SIGINT: leadership is handed over, the log is settled, the ports close; within 25 seconds.
* A failed write to the log ends the process at once, with nothing more acknowledged (rule 5).
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oarlock.cli.http import read_token
from oarlock.cli.logs import LogFormat, LogLevel, configure
from oarlock.cli.output import USAGE, CommandError, fail

if TYPE_CHECKING:
    from oarlock.api.limits import Limits
    from oarlock.runtime.settings import NodeSettings

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,98}[a-z0-9])?")
URL = re.compile(r"https?://[^/?#\s]+")
WILDCARDS = ("", "0.0.0.0", "::")

FATAL_EXIT = 70
STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str) -> Address:
        """`host:port`, `[v6]:port` or `:port`. Raises CommandError."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdigit() or not 0 <= int(port) <= 65535:
            raise CommandError(f"{option} takes HOST:PORT, not {text!r}", USAGE)
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def url(self) -> str:
        """How others may reach it, as far as this machine can tell."""
        host = socket.gethostname() if self.host in WILDCARDS else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def serve(
    data_dir: Annotated[
        Path,
        typer.Option(envvar="OARLOCK_DATA_DIR", help="This member's own directory; made if it is not there."),
    ],
    cluster_token_file: Annotated[
        Path,
        typer.Option(envvar="OARLOCK_CLUSTER_TOKEN_FILE", help="File with the cluster's token, equal on all members."),
    ],
    name: Annotated[
        str | None,
        typer.Option(envvar="OARLOCK_NAME", help="Stable name of this member.", show_default="the host's name"),
    ] = None,
    listen_client: Annotated[
        str, typer.Option(envvar="OARLOCK_LISTEN_CLIENT", help="HOST:PORT for clients.")
    ] = "127.0.0.1:2379",
    listen_peer: Annotated[
        str, typer.Option(envvar="OARLOCK_LISTEN_PEER", help="HOST:PORT for other members and admin calls.")
    ] = "127.0.0.1:2380",
    listen_ops: Annotated[
        str, typer.Option(envvar="OARLOCK_LISTEN_OPS", help="HOST:PORT for probes and metrics.")
    ] = "127.0.0.1:2381",
    client_url: Annotated[
        str | None,
        typer.Option(
            envvar="OARLOCK_CLIENT_URL",
            help="How clients reach this member.",
            show_default="made of --listen-client",
        ),
    ] = None,
    peer_url: Annotated[
        str | None,
        typer.Option(
            envvar="OARLOCK_PEER_URL",
            help="How other members reach this one.",
            show_default="made of --listen-peer",
        ),
    ] = None,
    advertise_ip: Annotated[
        str, typer.Option(envvar="OARLOCK_ADVERTISE_IP", help="Peers try this address before the name in --peer-url.")
    ] = "",
    pod_uid: Annotated[
        str, typer.Option(envvar="OARLOCK_POD_UID", help="Repeated in the admin status, for the operator.")
    ] = "",
    election_timeout_ms: Annotated[
        int,
        typer.Option(
            envvar="OARLOCK_ELECTION_TIMEOUT_MS", min=50, max=60_000, help="T; each wait is random in [T, 2T)."
        ),
    ] = 1000,
    heartbeat_ms: Annotated[
        int, typer.Option(envvar="OARLOCK_HEARTBEAT_MS", min=10, max=10_000, help="At most a third of T.")
    ] = 100,
    snapshot_entries: Annotated[
        int, typer.Option(envvar="OARLOCK_SNAPSHOT_ENTRIES", min=1, help="Take a snapshot after so many log entries,")
    ] = 100_000,
    snapshot_wal_mib: Annotated[
        int,
        typer.Option(
            envvar="OARLOCK_SNAPSHOT_WAL_MIB", min=1, help="or so much log (and a quarter of the last snapshot)."
        ),
    ] = 64,
    max_connections: Annotated[
        int, typer.Option(envvar="OARLOCK_MAX_CONNECTIONS", min=16, help="A port; 503 beyond.")
    ] = 4096,
    request_timeout_ms: Annotated[
        int, typer.Option(envvar="OARLOCK_REQUEST_TIMEOUT_MS", min=100, help="A read or write; 504 beyond.")
    ] = 5000,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(
            envvar="OARLOCK_LOG_FORMAT", help="json, or for people.", show_default="console on a terminal, else json"
        ),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(envvar="OARLOCK_LOG_LEVEL")] = LogLevel.INFO,
) -> None:
    """Run one member. With an empty directory it is Idle: `cluster bootstrap` or `member add` brings it in.

    Examples:

      oarlock serve --data-dir /var/lib/oarlock --cluster-token-file /etc/oarlock/token

      oarlock serve --name m2 --data-dir data/m2 --cluster-token-file token
        --listen-client 10.0.0.2:2379 --listen-peer 10.0.0.2:2380 --listen-ops 10.0.0.2:2381
    """
    chosen = log_format or (LogFormat.CONSOLE if sys.stderr.isatty() else LogFormat.JSON)
    try:
        listen = [
            Address.parse(listen_client, "--listen-client"),
            Address.parse(listen_peer, "--listen-peer"),
            Address.parse(listen_ops, "--listen-ops"),
        ]
        own_name = _checked_name(name if name is not None else socket.gethostname().split(".")[0].lower())
        if heartbeat_ms * 3 > election_timeout_ms:
            raise CommandError("--heartbeat-ms is at most a third of --election-timeout-ms", USAGE)
        token = read_token(cluster_token_file)
        from oarlock.runtime.settings import NodeSettings

        settings = NodeSettings(
            name=own_name,
            data_dir=data_dir,
            peer_url=_checked_url(peer_url or listen[1].url(), "--peer-url"),
            client_url=_checked_url(client_url or listen[0].url(), "--client-url"),
            token=token,
            advertise_ip=advertise_ip,
            election_timeout_seconds=election_timeout_ms / 1000,
            heartbeat_seconds=heartbeat_ms / 1000,
            snapshot_entries=snapshot_entries,
            snapshot_wal_bytes=snapshot_wal_mib << 20,
            pod_uid=pod_uid,
        )
        from oarlock.api.limits import Limits

        limits = Limits(max_connections=max_connections, request_seconds=request_timeout_ms / 1000)
        configure(chosen, log_level, member=own_name)
        _raise_file_limit()
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(_run(settings, listen, limits))
    except CommandError as e:
        fail(e)
    if code:
        raise typer.Exit(code)


async def _run(settings: NodeSettings, listen: list[Address], limits: Limits) -> int:
    import structlog

    from oarlock import __version__
    from oarlock.api.server import Listeners, Servers, bind
    from oarlock.kv import KvMachine
    from oarlock.runtime.node import Node
    from oarlock.storage.errors import StorageError

    log = structlog.get_logger()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        listeners = Listeners(*[bind(address.host, address.port) for address in listen])
    except OSError as e:
        raise CommandError(str(e)) from None
    try:
        node = await Node.start(settings, KvMachine(), _end_process)
    except (StorageError, OSError) as e:
        listeners.close()
        raise CommandError(f"the data directory {settings.data_dir} cannot be used: {e}") from None
    servers = await Servers.start(node, listeners, settings.token, limits)
    log.info(
        "serving",
        version=__version__,
        node_id=node.node_id,
        state=node.status().state,
        client_url=settings.client_url,
        peer_url=settings.peer_url,
    )
    await stopping.wait()
    log.info("stopping")
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await node.stop()
    except TimeoutError:
        log.error("the member did not stop in time; what it acknowledged is durable")
        os._exit(1)
    await servers.stop()
    return 0


def _end_process(why: str) -> None:
    """The member has said why in its log. Nothing is cleaned up: nothing more may be acknowledged or written."""
    sys.stderr.flush()
    os._exit(FATAL_EXIT)


def _checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise CommandError(
            f"{name!r} is no name for a member: lower-case letters, digits, '-' and '.', at most 100, as in m1", USAGE
        )
    return name


def _checked_url(url: str, option: str) -> str:
    url = url.rstrip("/")
    if not URL.fullmatch(url):
        raise CommandError(f"{option} takes http://HOST:PORT, not {url!r}", USAGE)
    return url


def _raise_file_limit() -> None:
    """As many descriptors as we may have: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
