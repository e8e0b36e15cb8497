"""The tests' own Kubernetes as an object: started once, images loaded, asked through kubectl as a person would.

Rules of this module:
* One Kubernetes per machine; whoever starts it ends it, by its process id (kube.py takes the lock).
* Traffic stays inside: host, nodes and pods share namespaces and a bridge that kube.py made.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import pathlib
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
KUBE = ROOT / "tests/kube/kube.py"
STATE = pathlib.Path(os.environ.get("OARLOCK_CACHE") or pathlib.Path.home() / ".cache/oarlock") / "kube"
IMAGES = {"node": "docker.io/oarlock/node:0.1.0", "operator": "docker.io/oarlock/operator:0.1.0"}
NEXT = "0.1.1"  # what the programs of the second pair of images report; their tag too

Object = dict[str, Any]
T = TypeVar("T")


def until(what: str, check: Callable[[], T], seconds: float, every: float = 0.5) -> T:
    """Call `check` until it returns something true; raises TimeoutError with its last word."""
    deadline, last = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        if last := check():
            return last
        time.sleep(every)
    raise TimeoutError(f"{what}: not within {seconds} s (last: {last!r})")


def _die_with_us() -> None:
    """In a child, before it becomes kube.py: ask for SIGTERM when this process is gone, however it went."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)


class Kubernetes:
    """Three nodes; node 0 holds the control plane and cannot be switched off."""

    def __init__(self, binaries: pathlib.Path, state: pathlib.Path = STATE) -> None:
        self.binaries, self.state = binaries, state
        self.kubeconfig = state / "admin.kubeconfig"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when every node is Ready. It may wait for another one on this machine to end."""
        self.state.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "KT_BIN": str(self.binaries)}
        dns = ["--dns-seconds", os.environ["OARLOCK_DNS_SECONDS"]] if "OARLOCK_DNS_SECONDS" in os.environ else []
        command = [sys.executable, str(KUBE), "up", str(self.state), *dns]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True, preexec_fn=_die_with_us
        )
        assert self._process.stdout
        for line in self._process.stdout:
            print(line, end="", flush=True)
            if "nodes Ready" in line:
                return
        raise RuntimeError(f"Kubernetes did not start: {self._process.wait()}")

    def stop(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)

    def load(self, *archives: pathlib.Path) -> None:
        subprocess.run([sys.executable, KUBE, "load", self.state, *archives], check=True, stdout=subprocess.DEVNULL)

    def stop_node(self, n: int) -> None:
        """Its power goes: no process of it gets another instruction."""
        subprocess.run([sys.executable, KUBE, "stop-node", self.state, str(n)], check=True)

    def start_node(self, n: int) -> None:
        environment = {**os.environ, "KT_BIN": str(self.binaries)}
        subprocess.run([sys.executable, KUBE, "start-node", self.state, str(n)], check=True, env=environment)

    # .. kubectl ..

    def command(self, *arguments: object) -> list[str]:
        return [str(self.binaries / "kt"), "kubectl", f"--kubeconfig={self.kubeconfig}", *map(str, arguments)]

    def kubectl(self, *arguments: object, stdin: str | None = None) -> str:
        """Its output; raises CalledProcessError with what it said."""
        done = subprocess.run(self.command(*arguments), input=stdin, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *manifests: Object) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(items))

    def get(self, *arguments: object) -> Object:
        answer: Object = json.loads(self.kubectl("get", "-o", "json", *arguments))
        return answer

    def find(self, *arguments: object) -> Object | None:
        """Like `get`; None where there is no such object."""
        text = self.kubectl("get", "-o", "json", "--ignore-not-found", *arguments)
        answer: Object | None = json.loads(text) if text.strip() else None
        return answer

    def client(self) -> httpx.AsyncClient:
        """The API server itself, as an administrator: for what kubectl would be too slow or too heavy."""
        user = yaml.safe_load(self.kubeconfig.read_text())
        where, who = user["clusters"][0]["cluster"], user["users"][0]["user"]
        trust = ssl.create_default_context(cadata=base64.b64decode(where["certificate-authority-data"]).decode())
        headers = {"Authorization": f"Bearer {who['token']}"}
        patience = httpx.Timeout(10.0, read=None)  # a watch says nothing for as long as nothing happens
        return httpx.AsyncClient(
            base_url=where["server"], verify=trust, headers=headers, trust_env=False, timeout=patience
        )

    # .. disks ..

    @contextlib.contextmanager
    def volume(self, name: str, at: pathlib.Path) -> Iterator[pathlib.Path]:
        """The file system of a PersistentVolume mounted at `at`, whether a pod has it mounted or not."""
        image = self.state / f"volumes/{name}.img"
        found = subprocess.run(["losetup", "-n", "-O", "NAME", "-j", image], check=True, capture_output=True, text=True)
        at.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "xfs", found.stdout.split()[0], at], check=True)
        try:
            yield at
        finally:
            subprocess.run(["umount", at], check=True)


def next_images() -> list[pathlib.Path]:
    """Archives of both images whose programs report the version `NEXT`; cached by content."""
    sys.path.insert(0, str(ROOT / "tests/images"))
    import build

    return [build.reporting(target, NEXT) for target in IMAGES]


def prepared() -> tuple[pathlib.Path, list[pathlib.Path]]:
    """(directory of the compiled Kubernetes, archives of the images); both are cached by content."""
    sys.path.insert(0, str(ROOT / "tests/images"))
    import build

    built = subprocess.run(["bash", ROOT / "tests/kube/build.sh"], check=True, stdout=subprocess.PIPE, text=True)
    return pathlib.Path(built.stdout.strip()), [build.archive(target, name) for target, name in IMAGES.items()]
