"""Commands of the system, run to their end.

Rule of this module: a command that fails raises, with what it said.
"""

from __future__ import annotations

import subprocess


class CommandFailed(AssertionError):
    """A command of the system did not do what a fault needs."""


def run(*command: object, given: str = "", seconds: float = 20) -> str:
    """Its output. Raises CommandFailed."""
    told = [str(part) for part in command]
    done = subprocess.run(told, input=given, capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        raise CommandFailed(f"{' '.join(told)}: {done.returncode} {done.stderr.strip()} {given}")
    return done.stdout
