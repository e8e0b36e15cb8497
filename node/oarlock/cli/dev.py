"""`oarlock dev`: a cluster of real members on loopback, in one terminal.

Real processes, real disks, the same commands and calls that a person would use: what is seen here is what is run
elsewhere. The members end with this command, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from oarlock.cli.admin_client import Admin, adding, member_of
from oarlock.cli.http import make_client, read_token
from oarlock.cli.output import USAGE, CommandError, fail, printable
from oarlock.cli.processes import die_with_parent
from oarlock.wire.admin import State, StatusAnswer

HOST = "127.0.0.1"
PORTS_APART = 10
START_SECONDS = 60.0
RESTART_SECONDS = 5.0
STOP_SECONDS = 20.0
LOOK_SECONDS = 0.25


@dataclass(slots=True)
class Process:
    """One member: where it is, and its process while it runs."""

    name: str
    client_port: int
    data_dir: Path
    log_file: Path
    child: subprocess.Popen[bytes] | None = None
    restart_at: float = 0.0
    seen: dict[str, Any] = field(default_factory=dict)

    @property
    def client_url(self) -> str:
        return f"http://{HOST}:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://{HOST}:{self.client_port + 1}"

    def start(self, token_file: Path) -> None:
        ports = [f"{HOST}:{self.client_port + offset}" for offset in range(3)]
        command = [sys.executable, "-m", "oarlock.cli", "serve", "--name", self.name, "--data-dir", str(self.data_dir)]
        command += ["--cluster-token-file", str(token_file), "--log-format", "json"]
        command += ["--listen-client", ports[0], "--listen-peer", ports[1], "--listen-ops", ports[2]]
        with self.log_file.open("ab") as log:
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this command, which then stops them in order
                preexec_fn=die_with_parent(os.getpid()),
            )


def dev(
    members: Annotated[int, typer.Option("--members", "-m", min=1, max=9, help="How many.")] = 3,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir", "-d", help="Keep the data here; a second start finds it again.", show_default="thrown away"
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option("--port", "-P", min=1, max=65_000, help="Member i takes P+10i, P+10i+1 and P+10i+2."),
    ] = 2379,
) -> None:
    """Start a cluster on this machine and watch it, until Ctrl-C.

    Examples:

      oarlock dev

      oarlock dev --members 5 --dir ./data
    """
    try:
        with _home(directory) as home:
            _Cluster(home, members, port).run()
    except CommandError as e:
        fail(e)


@contextlib.contextmanager
def _home(directory: Path | None) -> Iterator[Path]:
    if directory is None:
        home = Path(tempfile.mkdtemp(prefix="oarlock-dev-"))
        try:
            yield home
        finally:
            shutil.rmtree(home, ignore_errors=True)
        return
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise CommandError(f"{directory} cannot be made: {e.strerror}") from None
    yield directory.resolve()


def _token_file(home: Path) -> Path:
    path = home / "token"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(secrets.token_hex(16) + "\n")
    return path


class _Cluster:
    def __init__(self, home: Path, count: int, port: int) -> None:
        kept = sorted(p.name for p in home.glob("m[1-9]") if p.is_dir())
        if len(kept) > count:
            raise CommandError(
                f"{home} holds {len(kept)} members: start it with --members {len(kept)}, or with another --dir", USAGE
            )
        if port + PORTS_APART * (count - 1) + 2 > 65_535:
            raise CommandError(f"--port {port} leaves no room for {count} members", USAGE)
        self._home = home
        self._token_file = _token_file(home)
        self._processes = [
            Process(f"m{i + 1}", port + PORTS_APART * i, home / f"m{i + 1}", home / f"m{i + 1}.log")
            for i in range(count)
        ]
        self._client = make_client(timeout_seconds=1.0)
        self._leader: tuple[str | None, int] = (None, -1)
        self._stop = False

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            for process in self._processes:
                process.start(self._token_file)
            self._form()
            self._introduce()
            while not self._stop:
                self._look()
                time.sleep(LOOK_SECONDS)
        except KeyboardInterrupt:
            pass
        finally:
            self._end()

    def _on_signal(self, number: int, frame: object) -> None:
        """The first one stops the watching; a second one cannot interrupt the members' clean stop."""
        if not self._stop:
            self._stop = True
            raise KeyboardInterrupt

    # -- forming ----------------------------------------------------------------------------------------------------

    def _form(self) -> None:
        """Bootstraps one member if all are Idle, then adds those that belong to no cluster yet."""
        client = make_client(read_token(self._token_file), timeout_seconds=10.0)
        admin = Admin([p.peer_url for p in self._processes], client, START_SECONDS)
        statuses = [self._wait_for(admin, process) for process in self._processes]
        newcomers = [s for s in statuses if s.state is State.IDLE]
        if len(newcomers) == len(statuses):
            body = {"request_id": secrets.token_hex(8), "cluster_id": "dev", "min_voters": len(statuses)}
            admin.post(self._processes[0].peer_url, "/admin/bootstrap", body, what="the bootstrap")
            newcomers = newcomers[1:]
        if newcomers:
            admin.change(adding([member_of(s, promote=True) for s in newcomers]))
        wanted = {s.node_id for s in statuses}
        admin.wait_until(lambda now: wanted <= {m.id for m in now.voters}, "the joining of all members")

    def _wait_for(self, admin: Admin, process: Process) -> StatusAnswer:
        """Until the member has read its log and says what it is."""
        while time.monotonic() < admin.deadline:
            if process.child is not None and process.child.poll() is not None:
                raise CommandError(f"{process.name} ended at once: {_last_line(process.log_file)}")
            status = admin.try_status(process.peer_url)
            if status is not None and status.state is not State.REPLAYING:
                if status.name != process.name:
                    raise CommandError(f"port {process.client_port + 1} belongs to another member, {status.node_id}")
                return status
            time.sleep(0.1)
        raise CommandError(f"{process.name} did not start in time: {_last_line(process.log_file)}")

    # -- watching ---------------------------------------------------------------------------------------------------

    def _introduce(self) -> None:
        first, last = self._processes[0], self._processes[-1]
        _print("")
        for p in self._processes:
            pid = p.child.pid if p.child is not None else 0
            others = f"peers :{p.client_port + 1}  metrics :{p.client_port + 2}"
            _print(f"  {p.name}  pid {pid:<8} clients {p.client_url}  {others}")
        _print(f"  data and logs in {self._home}")
        _print("")
        _print("Try:")
        _print(f"  curl -X PUT {first.client_url}/v1/kv/greeting -d hello")
        _print(f"  curl -i {last.client_url}/v1/kv/greeting")
        _print(f"  curl '{first.client_url}/v1/kv?prefix='")
        _print(f"  curl {first.client_url}/v1/cluster          # or {first.client_url}/docs in a browser")
        _print("  kill -9 PID                                  # of the leader: watch the election here,")
        if first is not last:
            _print(f"  #   and write on another member's URL ({last.client_url}) while m1 is away")
        _print("")
        _print("Elections are shown below. Ctrl-C stops everything.")

    def _look(self) -> None:
        best: tuple[str | None, int] | None = None
        for process in self._processes:
            self._keep_running(process)
            status = self._ask(process)
            if status is None:
                continue
            before, process.seen = process.seen, status
            if before.get("state") not in (None, status["state"]):
                _tell(f"{process.name} is {status['state']}")
            if best is None or status["term"] > best[1] or (status["term"] == best[1] and status["leader"]):
                best = (status["leader"], status["term"])
        if best is not None and best != self._leader and (best[0] or self._leader[0]):
            self._leader = best
            leader, term = best
            _tell(f"term {term}: {leader.rpartition('-')[0]} leads" if leader else f"term {term}: no leader, election")

    def _ask(self, process: Process) -> dict[str, Any] | None:
        try:
            response = self._client.get(f"{process.client_url}/v1/status")
            answer: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError):
            return None
        return answer if response.status_code == 200 else None

    def _keep_running(self, process: Process) -> None:
        """A member that was killed comes back a little later, so that both can be watched."""
        now = time.monotonic()
        if process.child is not None:
            code = process.child.poll()
            if code is None:
                return
            process.child, process.restart_at, process.seen = None, now + RESTART_SECONDS, {}
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            _tell(f"{process.name} {how}; it starts again in {RESTART_SECONDS:g} s (its log: {process.log_file})")
        elif now >= process.restart_at:
            process.start(self._token_file)
            assert process.child is not None, "just started"
            _tell(f"{process.name} starts again, pid {process.child.pid}")

    def _end(self) -> None:
        """SIGTERM for all, and SIGKILL for those that have not ended in time."""
        self._stop = True
        running = [p.child for p in self._processes if p.child is not None and p.child.poll() is None]
        if running:
            _print("stopping")
        for child in running:
            child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in running:
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _print(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        typer.echo(text)
        sys.stdout.flush()


def _tell(text: str) -> None:
    _print(f"{datetime.now().astimezone():%H:%M:%S}  {printable(text)}")


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else f"see {path}"
