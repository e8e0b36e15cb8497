"""`oarlock cluster bootstrap`: the first member of a new cluster."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer

from oarlock.cli.admin_client import Admin
from oarlock.cli.http import make_client, read_token, split_endpoints
from oarlock.cli.options import DEFAULT_PEERS, TimeoutOption, TokenFileOption
from oarlock.cli.output import USAGE, CommandError, fail, say

app = typer.Typer(help="Make a cluster.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Make a cluster."""


@app.command("bootstrap")
def bootstrap(
    token_file: TokenFileOption,
    peer: Annotated[
        list[str],
        typer.Option("--peer", "-p", envvar="OARLOCK_PEERS", help="Peer URL of the one Idle member that begins it."),
    ] = DEFAULT_PEERS,
    cluster_id: Annotated[str, typer.Option(help="A name for the cluster; a nonce is added to it.")] = "oarlock",
    min_voters: Annotated[
        int, typer.Option(help="Refuse writes until so many voters have joined, once.", min=1, max=9)
    ] = 1,
    request_id: Annotated[
        str | None, typer.Option(help="Repeat an earlier try whose outcome is unknown: the same id, the same answer.")
    ] = None,
    timeout: TimeoutOption = 30.0,
) -> None:
    """Make one Idle member the first of a new cluster. Do this once, on one member; the others join with `member add`.

    Examples:

      oarlock cluster bootstrap --token-file token

      oarlock cluster bootstrap -p http://10.0.0.1:2380 --min-voters 3 --token-file token
    """
    request = request_id or str(uuid.uuid4())
    try:
        urls = split_endpoints(peer)
        if len(urls) > 1:
            raise CommandError("several peers are given: name the one that begins the cluster with --peer", USAGE)
        url = urls[0]
        admin = Admin([url], make_client(read_token(token_file)), timeout)
        body = {"request_id": request, "cluster_id": cluster_id, "min_voters": min_voters}
        answer = admin.post(url, "/admin/bootstrap", body, what=f"bootstrap (--request-id {request})")
    except CommandError as e:
        fail(e)
    say(f"{answer['node_id']} is the first voter of cluster {answer['cluster_id']}")
    if min_voters > 1:
        say(f"writes begin when {min_voters} voters have joined: oarlock member add PEER_URL")
