"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


class Either(list[str]):
    """Environment variables of one option, in order; an error shows them as it shows a single one, within quotes."""

    def __str__(self) -> str:
        return "' or '".join(self)


EndpointOption = Annotated[
    list[str],
    typer.Option(
        "--endpoint",
        "-e",
        envvar="OARLOCK_ENDPOINTS",
        help="Client URL of a member; several may be given, or separated by commas. Any member answers.",
    ),
]

PeerOption = Annotated[
    list[str],
    typer.Option(
        "--peer",
        "-p",
        envvar="OARLOCK_PEERS",
        help="Peer URL (port 2380) of a member; several may be given. The leader is found by itself.",
    ),
]

TokenFileOption = Annotated[
    Path,
    typer.Option(
        "--token-file",
        envvar=Either(["OARLOCK_TOKEN_FILE", "OARLOCK_CLUSTER_TOKEN_FILE"]),
        help="File with the cluster's token, the same as the members' --cluster-token-file.",
    ),
]

TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds to wait for the whole.", min=1.0)]

DEFAULT_ENDPOINTS = ["http://127.0.0.1:2379"]
DEFAULT_PEERS = ["http://127.0.0.1:2380"]
