#!/usr/bin/env python3
"""Runs the tiers of tests, keeps their time, and says at the end which ran, which did not and why.

    run.py                   every tier
    run.py unit property     some
    run.py --prepare e2e     only what that tier needs
    run.py --list

Rules:
* A tier that this machine could run and that did not run is a failure; so is a tier without a single test.
* What a tier needs (Debian packages, the Go-built Kubernetes, images) is fetched or built here, before its time begins.
* A tier over its budget is told; over twice its budget (a cold machine) it is ended and has failed.

Logs: build/test-logs/TIER.log. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, field

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOGS = ROOT / "build/test-logs"
FLOOR = "(at least "  # in a line of a log: how much happened, which is told also where all is well
CACHE = pathlib.Path(os.environ.get("OARLOCK_CACHE") or pathlib.Path.home() / ".cache/oarlock")
PYTHON = sys.executable

KUBERNETES = (
    *("containerd", "runc", "containernetworking-plugins", "iptables", "nftables", "iproute2"),
    *("xfsprogs", "util-linux", "procps", "curl", "gcc", "libc6-dev"),
)
IMAGES = ("debootstrap", "buildah")
E2E = (*KUBERNETES, *IMAGES, "prometheus")
CHAOS = ("iproute2", "nftables", "e2fsprogs", "xfsprogs", "util-linux", "strace", "gcc", "libc6-dev")


class CannotRun(Exception):
    """This machine lacks something that a test run cannot give it."""


class NotPrepared(Exception):
    """Something could be had and was not: a failure of the tier."""


@dataclass(frozen=True)
class Tier:
    name: str
    budget_minutes: float
    paths: tuple[str, ...]
    packages: tuple[str, ...] = ()
    needs: tuple[Callable[[], None], ...] = ()
    command: Callable[[pathlib.Path], list[str]] | None = None  # given where the JUnit report goes
    options: tuple[str, ...] = ()


@dataclass
class Result:
    tier: Tier
    state: str = "ran"  # ran | failed | cannot
    why: str = ""
    seconds: float = 0.0
    prepared_seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    skips: list[str] = field(default_factory=list)


# -- what tiers need ---------------------------------------------------------------------------------------------------


def root() -> None:
    if os.geteuid():
        raise CannotRun("needs root")


def go() -> None:
    if not shutil.which("go"):
        raise CannotRun("needs Go (it compiles Kubernetes, and what checks manifests)")


def prepare(*command: object) -> str:
    """Run a preparation; its last line of output."""
    with open(LOGS / "prepare.log", "a") as log:
        print("$", *command, file=log, flush=True)
        done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)
        log.write(done.stdout)
    if done.returncode:
        raise NotPrepared(f"{' '.join(map(str, command[:3]))} failed: see build/test-logs/prepare.log")
    return done.stdout.strip().rsplit("\n", 1)[-1]


def install(packages: tuple[str, ...]) -> None:
    """Those Debian packages that are missing."""

    def installed(package: str) -> bool:
        query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
        return subprocess.run(query, capture_output=True, text=True).stdout == "installed"

    if not shutil.which("dpkg-query"):
        raise CannotRun("needs a Debian machine")
    if missing := [p for p in packages if not installed(p)]:
        if os.geteuid():
            raise CannotRun(f"needs the Debian packages {' '.join(missing)}, or root to install them")
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        prepare("apt-get", "update", "-q")
        prepare("apt-get", "install", "-q", "-y", "--no-install-recommends", *missing)


def conformance() -> None:
    prepare(PYTHON, "tests/tools/conform.py")


def kubernetes() -> None:
    os.environ["KT_BIN"] = prepare("bash", "tests/kube/build.sh")


def images() -> None:
    for target in ("node", "operator"):
        os.environ[f"OARLOCK_{target.upper()}_ARCHIVE"] = prepare(PYTHON, "tests/images/build.py", target)
        prepare(PYTHON, "tests/images/build.py", target, "--version", "0.1.1")  # what e2e upgrades to


def debian_root() -> bool:
    """Is there no Python 3.13 here, so that one in a Debian root file system must do?"""
    found = shutil.which("python3.13")
    return not found or bool(subprocess.run([found, "-c", "import venv, ensurepip"], capture_output=True).returncode)


def python313() -> None:
    """A virtual environment of Python 3.13 with what the tests need, at `venv313()`."""
    if debian_root():
        root()
        install(("debootstrap",))
        prepare(PYTHON, "tests/images/build.py", "base")
    prepare(*in_313("bash", "tests/images/venv313.sh", venv313()))


def venv313() -> pathlib.Path:
    import hashlib

    key = hashlib.sha256((ROOT / "requirements/dev.txt").read_bytes()).hexdigest()[:16]
    return CACHE / f"venv313-{key}"


def in_313(*command: object) -> list[str]:
    """The command, where `python3` is Python 3.13."""
    told = [str(c) for c in command]
    if not debian_root():
        return told
    base = subprocess.run(
        [PYTHON, "tests/images/build.py", "base"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return ["bash", "tests/images/in_base.sh", base.stdout.strip(), str(ROOT), str(CACHE), *told]


def python_313() -> list[str]:
    """The command that runs Python 3.13 on this checkout's sources. It sees the project and the cache, not /tmp."""
    sources = f"PYTHONPATH={ROOT}/node:{ROOT}/operator"  # the environment serves every checkout: it holds none
    return in_313("env", sources, venv313() / "bin/python")


def pytest_313(report: pathlib.Path) -> list[str]:
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    return [*python_313(), *pytest, "tests/unit", "tests/golden"]


def chaos(report: pathlib.Path) -> list[str]:
    """With one long scenario: another one with each commit, the first where nobody can count them."""
    commits = ""
    if shutil.which("git"):
        counted = subprocess.run(["git", "rev-list", "--count", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        commits = counted.stdout.strip()
    return [PYTHON, "-m", "pytest", "-q", "-s", "--turn", commits or "0", f"--junitxml={report}", "tests/chaos"]


TIERS = (
    Tier("check", 2, ("tests/tools/check.py",), command=lambda report: [PYTHON, "tests/tools/check.py", str(report)]),
    Tier("unit", 1, ("tests/unit", "tests/golden")),
    Tier("unit-3.13", 1, ("tests/unit", "tests/golden"), needs=(python313,), command=pytest_313),
    Tier("property", 2, ("tests/property",)),
    Tier("simulation", 5, ("tests/simulation",), options=("-s",)),
    Tier("mutants", 6, ("tests/mutants",), ("patch",)),
    Tier("integration", 4, ("tests/integration",), ("prometheus",)),
    Tier("chaos", 4, ("tests/chaos",), CHAOS, (root,), command=chaos),
    Tier("planner", 3, ("tests/operator",)),
    Tier("charts", 2, ("tests/charts",), needs=(go, conformance)),
    Tier("e2e", 11, ("tests/e2e",), E2E, (root, go, kubernetes, images), options=("-s",)),
)
EXTRAS = {"bench": (("etcd-server", "wrk"), python313)}  # what verbs that are no tiers need

# -- running -----------------------------------------------------------------------------------------------------------


def prepare_tier(tier: Tier) -> None:
    """Raises CannotRun or NotPrepared."""
    for path in tier.paths:
        if not (ROOT / path).exists():
            raise NotPrepared(f"{path} is missing")
    of_the_machine = [need for need in tier.needs if need in (root, go)]
    for need in of_the_machine:  # before anything is installed or built in vain
        need()
    install(tier.packages)
    for need in tier.needs:
        if need not in of_the_machine:
            need()


def prepare_only(name: str) -> int:
    try:
        if name in EXTRAS:
            packages, need = EXTRAS[name]
            install(packages)
            need()
        else:
            prepare_tier(next(t for t in TIERS if t.name == name))
    except (CannotRun, NotPrepared) as why:
        print(why)
        return 1
    return 0


def run(tier: Tier) -> Result:
    result = Result(tier)
    began = time.monotonic()
    try:
        prepare_tier(tier)
    except CannotRun as why:
        result.state, result.why = "cannot", str(why)
        return result
    except NotPrepared as why:
        result.state, result.why = "failed", str(why)
        return result
    result.prepared_seconds = time.monotonic() - began

    report = LOGS / f"{tier.name}.xml"
    report.unlink(missing_ok=True)
    if tier.command:
        command = tier.command(report)
    else:
        command = [PYTHON, "-m", "pytest", "-q", *tier.options, f"--junitxml={report}", *tier.paths]
    began = time.monotonic()
    code = execute(command, LOGS / f"{tier.name}.log", tier.budget_minutes * 120)
    result.seconds = time.monotonic() - began
    count(result, report)
    if code is None:
        result.state, result.why = "failed", f"ended after {tier.budget_minutes * 2:g} minutes"
    elif code or result.failed:
        result.state, result.why = "failed", f"exit status {code}"
    elif not result.passed:
        result.state, result.why = "failed", "not one test ran"
    return result


def execute(command: list[str], log: pathlib.Path, seconds: float) -> int | None:
    """The exit status, or None if its time ran out. It is asked to end first: what it started, it must end."""
    with open(log, "w") as out:
        child = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGINT)
        except BaseException:
            os.killpg(child.pid, signal.SIGINT)
            child.wait(60)
            raise
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return None


def count(result: Result, report: pathlib.Path) -> None:
    if not report.exists():
        return
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag: child for child in case}
        if "failure" in kinds or "error" in kinds:
            result.failed += 1
        elif "skipped" in kinds:
            result.skipped += 1
            result.skips.append(f"{case.get('name')}: {kinds['skipped'].get('message')}")
        else:
            result.passed += 1


def tell(result: Result) -> None:
    """One line now, and the end of the log where something is wrong."""
    over = " OVER BUDGET" if result.seconds > result.tier.budget_minutes * 60 else ""
    took = f"{result.seconds:.1f} s of {result.tier.budget_minutes:g} min{over}"
    took += f", prepared in {result.prepared_seconds:.0f} s" if result.prepared_seconds >= 1 else ""
    counts = f"{result.passed} passed, {result.failed} failed, {result.skipped} skipped"
    print(f"{result.tier.name:<12} {result.state:<7} {counts}; {took} {result.why}".rstrip(), flush=True)
    log = LOGS / f"{result.tier.name}.log"
    told = log.read_text(errors="replace").splitlines() if log.exists() else []
    if result.state == "ran":
        print("".join(f"    {line}\n" for line in told if FLOOR in line), end="", flush=True)
    if result.state == "failed" and told:
        print("\n".join(f"    {line}" for line in told[-80:]), flush=True)


def summary(results: list[Result]) -> int:
    print(f"\n{'tier':<12} {'':<10} {'seconds':>8} {'budget':>7}  passed  failed  skipped")
    for r in results:
        word = {"ran": "ran", "failed": "FAILED", "cannot": "not run"}[r.state]
        numbers = f"{r.seconds:>8.1f} {r.tier.budget_minutes * 60:>7.0f} {r.passed:>7} {r.failed:>7} {r.skipped:>8}"
        print(f"{r.tier.name:<12} {word:<10} {numbers}  {r.why}".rstrip())
    for r in results:
        for skip in r.skips:
            print(f"skipped in {r.tier.name}: {skip}")
    if absent := [r.tier.name for r in results if r.state == "cannot"]:
        print(f"tiers that this machine cannot run: {', '.join(absent)}")
    ran = [r.tier.name for r in results if r.state != "cannot"]
    failed = [r.tier.name for r in results if r.state == "failed"]
    print(f"tiers that ran: {', '.join(ran) or 'none'}; failed: {', '.join(failed) or 'none'}")
    total = [sum(getattr(r, kind) for r in results) for kind in ("passed", "failed", "skipped")]
    lost = sum(r.state == "failed" and not r.failed for r in results)  # a tier that broke counts as a failure
    print(f"{total[0]} passed, {total[1] + lost} failed, {total[2]} skipped")
    return 1 if failed or not ran else 0


def main() -> int:
    names = [t.name for t in TIERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiers", nargs="*", metavar="TIER", help=", ".join(names))
    parser.add_argument("--prepare", choices=[*names, *EXTRAS], help="install and build what it needs, run nothing")
    parser.add_argument("--list", action="store_true", help="name the tiers and their budgets")
    arguments = parser.parse_args()
    if unknown := set(arguments.tiers) - set(names):
        parser.error(f"no such tier: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if arguments.list:
        for tier in TIERS:
            print(f"{tier.name:<12} {tier.budget_minutes:g} min")
        return 0
    LOGS.mkdir(parents=True, exist_ok=True)
    if arguments.prepare:
        return prepare_only(arguments.prepare)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
    results = []
    for tier in TIERS:
        if not arguments.tiers or tier.name in arguments.tiers:
            results.append(run(tier))
            tell(results[-1])
    return summary(results)


if __name__ == "__main__":
    sys.exit(main())
