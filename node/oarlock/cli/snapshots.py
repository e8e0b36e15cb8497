"""`oarlock snapshot save`: a consistent backup as a file."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Annotated

import httpx
import typer

from oarlock.cli.http import PASSING, error_of, make_client, split_endpoints
from oarlock.cli.options import DEFAULT_ENDPOINTS, EndpointOption
from oarlock.cli.output import CommandError, fail, say

app = typer.Typer(help="Backups.", no_args_is_help=True)

TAKING_SECONDS = 300.0  # until the first byte: a large store is copied first


@app.callback()
def group() -> None:
    """Backups."""


@app.command("save")
def save(
    file: Annotated[Path, typer.Argument(help="Where to write it.", show_default=False)],
    endpoint: EndpointOption = DEFAULT_ENDPOINTS,
    last: Annotated[bool, typer.Option("--last", help="Take the last finished one, however old it is.")] = False,
) -> None:
    """Save a snapshot of the whole store, verified against its digest.

    Examples:

      oarlock snapshot save backup.snapshot

      oarlock snapshot save backup.snapshot -e http://127.0.0.1:2389 --last
    """
    partial = file.with_name(file.name + ".part")
    try:
        _save(split_endpoints(endpoint), file, partial, last)
    except CommandError as e:
        partial.unlink(missing_ok=True)
        fail(e)


def _save(urls: list[str], file: Path, partial: Path, last: bool) -> None:
    with make_client(timeout_seconds=TAKING_SECONDS) as client:
        for number, url in enumerate(urls):
            try:
                with client.stream("GET", f"{url}/v1/snapshot" + ("" if last else "?fresh=true")) as response:
                    if response.status_code != 200:
                        response.read()
                        if response.status_code in PASSING and number + 1 < len(urls):
                            continue
                        raise error_of(response, write=False)
                    size = _receive(response, partial)
                    index = response.headers.get("oarlock-snapshot-index")
            except httpx.ConnectError as e:
                if number + 1 < len(urls):
                    continue
                raise CommandError(f"{url} cannot be reached: {e}") from None
            except httpx.HTTPError as e:
                raise CommandError(f"{url} broke off: {e or type(e).__name__}") from None
            except OSError as e:
                raise CommandError(f"{partial} cannot be written: {e.strerror}") from None
            os.replace(partial, file)
            say(f"saved {size} bytes, the state after log index {index}, to {file}")
            return


def _receive(response: httpx.Response, partial: Path) -> int:
    """Writes, syncs and verifies. Raises CommandError if what came is not what was announced."""
    digest = hashlib.sha256()
    size = 0
    with partial.open("wb") as out:
        for chunk in response.iter_raw():
            out.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        out.flush()
        os.fsync(out.fileno())
    wanted = response.headers.get("repr-digest", "").removeprefix("sha-256=:").removesuffix(":")
    if base64.b64encode(digest.digest()).decode() != wanted:
        raise CommandError("the file does not match its digest: it was damaged on the way, try again")
    return size
