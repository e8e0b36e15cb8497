#!/usr/bin/env python3
"""Builds the project's own Dockerfile without a registry, and keeps what it built by content.

Needs root, buildah and debootstrap.

    build.py base               prints a directory: Debian trixie with Python 3.13, venv and pip
    build.py node|operator [NAME] [--version V]   prints an OCI archive of that target, to be loaded under NAME;
                                                  V: the same program, with one layer more in which it reports V

Rules: nothing is built twice from the same content; a cache entry is complete or absent (it appears by rename); what
a build needs of this machine to reach its package index (CA certificates, pip's configuration) is mounted, never
copied in.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("OARLOCK_CACHE") or pathlib.Path.home() / ".cache/oarlock")
SUITE = "trixie"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
UNNEEDED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale", "var/log")
KEPT_LAYERS = 100  # of earlier builds, so that the packages are not installed again
NAMES = {"node": "docker.io/oarlock/node:0.1.0", "operator": "docker.io/oarlock/operator:0.1.0"}
SOURCES = ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE", "requirements", "node", "operator")


def run(*command: object) -> str:
    """Its standard output; what it says besides goes to ours, and a failure ends the build."""
    return subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def content(paths: Iterable[str]) -> str:
    """A key of the files' names and bytes."""
    digest = hashlib.sha256()
    for name in paths:
        top = ROOT / name
        files = (
            sorted(f for f in top.rglob("*") if f.is_file() and "__pycache__" not in f.parts) if top.is_dir() else [top]
        )
        for file in files:
            data = file.read_bytes()
            digest.update(f"{file.relative_to(ROOT)}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:16]


@contextmanager
def only_one() -> Iterator[None]:
    """Two builds at once would race for buildah's storage and for the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "build.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def base_key() -> str:
    return hashlib.sha256(f"{SUITE} {PACKAGES} {UNNEEDED}".encode()).hexdigest()[:16]


def base_directory() -> pathlib.Path:
    """A root file system of Debian `SUITE`; about half a minute the first time."""
    done = CACHE / f"{SUITE}-{base_key()}"
    if not done.exists():
        partial = done.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        log = subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(partial)],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
        if log.returncode:
            sys.exit(f"debootstrap failed:\n{log.stdout[-4000:]}")
        for name in UNNEEDED:
            shutil.rmtree(partial / name, ignore_errors=True)
            (partial / name).mkdir()
        partial.rename(done)
    return done


def base_image() -> str:
    """The name, in buildah's storage, of an image of `base_directory()`."""
    name = f"localhost/oarlock-base:{base_key()}"
    if not run("buildah", "images", "--quiet", "--filter", f"reference={name}"):
        container = run("buildah", "from", "scratch")
        try:
            run("buildah", "copy", "--quiet", container, base_directory(), "/")
            run("buildah", "commit", "--quiet", container, name)
        finally:
            run("buildah", "rm", container)
    return name


def reporting(target: str, version: str, name: str | None = None) -> pathlib.Path:
    """An OCI archive like `archive`'s, of a program that says it is `version`: what an upgrade goes to."""
    name = name or f"{NAMES[target].rpartition(':')[0]}:{version}"
    of = archive(target)
    with only_one():
        key = hashlib.sha256(f"{of.name} {name} {version}".encode()).hexdigest()[:16]
        done = CACHE / f"image-{target}-next-{key}.tar"
        if not done.exists():
            container = run("buildah", "from", "--pull-never", f"oci-archive:{of}")
            image = run("buildah", "inspect", "--format", "{{.FromImageID}}", container)
            try:
                tell_version(pathlib.Path(run("buildah", "mount", container)), version)
                run("buildah", "umount", container)
                save(done, container, name)
            finally:
                run("buildah", "rm", container)
                run("buildah", "rmi", image)
            keep_last(f"image-{target}-next-*.tar")
        return done


def tell_version(root: pathlib.Path, version: str) -> None:
    """Change the version in the packages of the image whose files are at `root`."""
    packages = next(root.glob("opt/oarlock/lib/python3*/site-packages"))
    for file, before, after in (
        (packages / "oarlock/__init__.py", r'__version__ = ".*"', f'__version__ = "{version}"'),
        (next(packages.glob("oarlock-*.dist-info")) / "METADATA", r"(?m)^Version: .*$", f"Version: {version}"),
    ):
        text, times = re.subn(before, after, file.read_text())
        assert times == 1, f"{file} does not say a version as it used to"
        file.write_text(text)
    for stale in (packages / "oarlock/__pycache__").glob("__init__.*"):
        stale.unlink()


def save(done: pathlib.Path, container: str, name: str) -> None:
    """What the working container holds, as an archive that appears whole."""
    partial = done.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    image = run("buildah", "commit", "--quiet", container)
    run("buildah", "push", "--quiet", image, f"oci-archive:{partial}:{name}")
    run("buildah", "rmi", image)
    partial.rename(done)


def keep_last(pattern: str) -> None:
    """The last few archives are enough."""
    for old in sorted(CACHE.glob(pattern), key=os.path.getmtime)[:-3]:
        old.unlink()


def archive(target: str, name: str | None = None) -> pathlib.Path:
    """An OCI archive of the Dockerfile's `target`, holding the image under `name`."""
    name = name or NAMES[target]
    with only_one():
        key = hashlib.sha256(f"{base_key()} {content(SOURCES)} {target} {name}".encode()).hexdigest()[:16]
        done = CACHE / f"image-{target}-{key}.tar"
        if not done.exists():
            base = base_image()
            mounts = [f"--volume={p}:{p}:ro" for p in ("/etc/ssl/certs", "/etc/pip.conf") if pathlib.Path(p).exists()]
            tag = f"localhost/oarlock-build-{target}:{key}"
            how = ["--quiet", "--layers", "--isolation=chroot", "--pull-never", f"--build-arg=BASE={base}", *mounts]
            run("buildah", "bud", *how, f"--target={target}", f"--tag={tag}", ROOT)
            partial = done.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            run("buildah", "push", "--quiet", tag, f"oci-archive:{partial}:{name}")
            run("buildah", "rmi", tag)
            if len(run("buildah", "images", "--all", "--quiet").split()) > KEPT_LAYERS:
                run("buildah", "rmi", "--prune")
            partial.rename(done)
            keep_last(f"image-{target}-[0-9a-f]*.tar")
        return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["base", "node", "operator"])
    parser.add_argument("name", nargs="?")
    parser.add_argument("--version", help="let the program report this version")
    arguments = parser.parse_args()
    if arguments.what == "base":
        with only_one():
            print(base_directory())
    elif arguments.version:
        print(reporting(arguments.what, arguments.version, arguments.name))
    else:
        print(archive(arguments.what, arguments.name))


if __name__ == "__main__":
    main()
