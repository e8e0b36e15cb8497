#!/usr/bin/env python3
"""What says of manifests whether a Kubernetes would know them, without a Kubernetes: kubeconform and its schemas.

    conform.py           fetches and builds what the functions below need

The programs are built from Go modules (tests/charts/go). The schemas of several versions of Kubernetes come in one
wheel from PyPI; the names and references in them are made relative, so that nobody looks for them in the network. All
is kept in ~/.cache/oarlock by content.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from tests.tools import helm  # noqa: E402

SOURCES = ROOT / "tests/charts/go"
CACHE = Path(os.environ.get("OARLOCK_CACHE") or Path.home() / ".cache/oarlock")
WHEEL, VERSION = "kubernetes-validate", "1.37.0"
SHA256 = "85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9"
KUBERNETES = ("1.34.0", "1.35.0", "1.36.0", "1.37.0")
OURS = "raftcluster-oarlock-v1alpha1.json"


def conforms(manifests: str, kubernetes: str, crd: dict[str, Any]) -> str:
    """Nothing if kubeconform accepts every manifest for that version of Kubernetes with that CRD, else what it says.

    Monitors are not its business (`monitors` reads those).
    """
    with tempfile.TemporaryDirectory() as own:
        (Path(own) / OURS).write_text(json.dumps(schema_of(crd)))
        command = [programs() / "kubeconform", "-strict", "-output=text", "-skip=ServiceMonitor,PodMonitor"]
        for folder in (f"{schemas()}/{{{{.NormalizedKubernetesVersion}}}}", own):
            command.append(f"-schema-location={folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json")
        done = subprocess.run(
            [*map(str, command), f"-kubernetes-version={kubernetes}"], input=manifests, capture_output=True, text=True
        )
        return "" if done.returncode == 0 else done.stdout + done.stderr


def monitors(manifests: str) -> int:
    """How many ServiceMonitors and PodMonitors there are; raises ValueError for one that the type does not fit."""
    done = subprocess.run([programs() / "monitors"], input=manifests, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr.strip())
    return int(done.stdout)


def schema_of(crd: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a CRD's first version; a field that it does not name is an error."""
    made: dict[str, Any] = _closed(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    made["properties"]["metadata"] = {"type": "object"}
    return made


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        return [_closed(child) for child in node]
    if not isinstance(node, dict):
        return node
    made = {key: _closed(value) for key, value in node.items()}
    return {**made, "additionalProperties": False} if isinstance(node.get("properties"), dict) else made


def programs() -> Path:
    """The directory with `kubeconform` and `monitors`. Raises CalledProcessError when they cannot be built."""
    digest = hashlib.sha256(subprocess.run(["go", "version"], check=True, capture_output=True).stdout)
    for file in sorted(SOURCES.iterdir()):
        digest.update(file.read_bytes())
    done = CACHE / f"conform-{digest.hexdigest()[:16]}"
    with _made_once(done) as partial:
        if partial:
            environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
            for name, package in (("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"), ("monitors", ".")):
                build = ["go", "build", "-buildvcs=false", "-trimpath", "-o", str(partial / name), package]
                subprocess.run(build, cwd=SOURCES, env=environment, check=True)
    return done


def schemas() -> Path:
    """The directory with a folder of JSON schemas for each of `KUBERNETES`. Raises CalledProcessError, ValueError."""
    done = CACHE / f"schemas-{VERSION}-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}"
    with _made_once(done) as partial:
        if partial:
            download = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(partial)]
            subprocess.run([*helm.pip(), *download, f"{WHEEL}=={VERSION}"], check=True)
            (wheel,) = partial.glob("*.whl")
            if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
                raise ValueError(f"{wheel.name} is not the one that was looked at: its hash differs")
            _unpack(wheel, partial)
            wheel.unlink()
    return done


def _unpack(wheel: Path, into: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            folder, _, file = name.removeprefix("kubernetes_validate/kubernetes-json-schema/").partition("/")
            version = folder.removesuffix("-local-strict").removeprefix("v")
            if folder.endswith("-strict") and version in KUBERNETES:
                (into / f"v{version}").mkdir(exist_ok=True)
                schema = json.loads(archive.read(name))
                schema.pop("$id", None)
                text = json.dumps(schema).replace('"/api/_definitions.json#', '"_definitions.json#')
                (into / f"v{version}" / file).write_text(text)


@contextmanager
def _made_once(done: Path) -> Iterator[Path | None]:
    """A directory to be filled that then becomes `done`, or None if that is there already."""
    if done.exists():
        yield None
        return
    done.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{done}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            yield None
            return
        partial = done.with_name(f"{done.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        partial.rename(done)


if __name__ == "__main__":
    print(programs(), schemas(), helm.path(), sep="\n")
