"""The command `oarlock`: runs members, and speaks HTTP to them. It composes; every decision is made elsewhere."""

from __future__ import annotations


def main() -> None:
    """The entry point. The commands' own imports wait until one of them runs, so that `--help` is quick."""
    from oarlock.cli.app import app

    app(prog_name="oarlock")
