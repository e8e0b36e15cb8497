"""The oracle of every test with real members: what it finds in their logs."""

from __future__ import annotations

import asyncio
import pathlib
import subprocess
import sys

import pytest
from tests.integration.members import Cluster, MemberProcess

LOGGING = """
import structlog
from oarlock.cli.logs import LogFormat, LogLevel, configure
configure(LogFormat.JSON, LogLevel.INFO, member="a")
log = structlog.get_logger()
{}
"""
CLEAN = 'log.info("leader", leader="a-1", term=3, leads=True); log.warning("low on disk space: puts are refused")'


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ('log.critical("fatal", why="the log could not be written")', "fatal"),
        ('try: 1 / 0\nexcept ZeroDivisionError: log.exception("a request failed")', "ZeroDivisionError"),
        ('from oarlock.raft.errors import InvariantViolated as E; log.error("stop", why=repr(E("gap")))', "gap"),
        ('raise ValueError("of the process itself")', "Traceback"),
    ],
)
def test_complaint_in_a_log_is_found(tmp_path: pathlib.Path, statement: str, word: str) -> None:
    """In the words of the members' own logging; what is no complaint is left alone, beside it and in another log."""
    made = Cluster(tmp_path)
    for name, said in (("a", f"{CLEAN}\n{statement}"), ("b", CLEAN)):
        member = made.members[name] = MemberProcess(name, tmp_path, made.token_file)
        with member.log.open("wb") as log:
            subprocess.run([sys.executable, "-c", LOGGING.format(said)], stderr=log)
        assert member.log.stat().st_size > 100, "nothing was logged"
    (complaint,) = made.complaints()
    asyncio.run(made.close())
    assert complaint.startswith("a: ")
    assert word in complaint
