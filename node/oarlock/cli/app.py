"""The tree of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from oarlock import __version__
from oarlock.cli import cluster, dev, keys, members, serve, snapshots

app = typer.Typer(
    name="oarlock",
    help="A Raft consensus service: a durable, linearizable key-value store over HTTP.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"oarlock {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """A Raft consensus service: a durable, linearizable key-value store over HTTP."""


app.command("serve")(serve.serve)
app.command("dev")(dev.dev)
app.command("get")(keys.get)
app.command("put")(keys.put)
app.command("delete")(keys.delete)
app.command("list")(keys.list_keys)
app.add_typer(cluster.app, name="cluster")
app.add_typer(members.app, name="member")
app.add_typer(snapshots.app, name="snapshot")
