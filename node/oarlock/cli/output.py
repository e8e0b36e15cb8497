"""What the commands print: results to stdout, everything else to stderr, nothing that could drive a terminal.

Exit codes: 0 done; 1 refused or failed, and certainly not applied; 2 wrong usage; 3 the outcome is unknown.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
from rich.console import Console

FAILED = 1
USAGE = 2
UNKNOWN = 3

stderr = Console(stderr=True, highlight=False, soft_wrap=True)
stdout = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)  # piped: one row, one line


class CommandError(Exception):
    """Ends the command with a sentence on stderr."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def printable(text: str) -> str:
    """`text` with control characters escaped: a key must not move the reader's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(text: str) -> None:
    """Progress and remarks, on stderr, without markup."""
    stderr.print(printable(text), markup=False)


def fail(error: CommandError) -> NoReturn:
    stderr.print("[bold red]error:[/] ", end="")
    stderr.print(printable(str(error)), markup=False)
    raise typer.Exit(error.code)
