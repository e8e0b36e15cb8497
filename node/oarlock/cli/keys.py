"""`oarlock get | put | delete | list`: keys from a shell."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from oarlock.cli.http import Endpoints, error_of, make_client, split_endpoints
from oarlock.cli.options import DEFAULT_ENDPOINTS, EndpointOption
from oarlock.cli.output import CommandError, fail, printable

KeyArgument = Annotated[str, typer.Argument(help="The key; slashes are part of it.", show_default=False)]
StaleOption = Annotated[bool, typer.Option("--stale", help="Read this member's own state, however old that is.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")]
IdempotencyOption = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        help="Makes the write safe to repeat: it is then repeated until its outcome is known. A UUIDv7 is best.",
    ),
]
IfMatchOption = Annotated[int | None, typer.Option("--if-match", help="Only if the key is at this revision.", min=1)]


def _endpoints(urls: list[str]) -> Endpoints:
    return Endpoints(split_endpoints(urls), make_client())


def _path(key: str) -> str:
    raw = key.encode("utf-8", "surrogateescape")
    if not raw:
        raise CommandError("the key is empty", code=2)
    if any(segment in (b"", b".", b"..") for segment in raw.split(b"/")):  # an HTTP client would tidy such a path up
        return "/v1/kv?" + urlencode({"key_b64": base64.b64encode(raw).decode()})
    return "/v1/kv/" + quote(raw, safe="/")


def _with(path: str, **parameters: str | None) -> str:
    given = {name: value for name, value in parameters.items() if value is not None}
    if not given:
        return path
    return path + ("&" if "?" in path else "?") + urlencode(given)


def get(
    key: KeyArgument,
    endpoint: EndpointOption = DEFAULT_ENDPOINTS,
    stale: StaleOption = False,
    revision: Annotated[int | None, typer.Option(help="Read the key as it was at this revision.", min=1)] = None,
    as_json: JsonOption = False,
) -> None:
    """Print a key's value, byte for byte (with a line end on a terminal).

    Examples:

      oarlock get app/config

      oarlock get app/config --json     # with its revisions

      oarlock get app/config --stale    # answers without a leader too
    """
    try:
        path = _with(
            _path(key),
            consistency="stale" if stale else None,
            revision=str(revision) if revision is not None else None,
        )
        headers = {"accept": "application/json"} if as_json else {}
        response = _endpoints(endpoint).read(path, headers=headers)
        if response.status_code != 200:
            raise error_of(response, write=False)
    except CommandError as e:
        fail(e)
    sys.stdout.buffer.write(response.content)
    if as_json or sys.stdout.isatty():
        sys.stdout.buffer.write(b"\n")


def put(
    key: KeyArgument,
    value: Annotated[str | None, typer.Argument(help="The value; '-' or nothing reads it from stdin.")] = None,
    endpoint: EndpointOption = DEFAULT_ENDPOINTS,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the value from this file.")] = None,
    if_match: IfMatchOption = None,
    create: Annotated[bool, typer.Option("--create", help="Only if the key does not exist.")] = False,
    idempotency_key: IdempotencyOption = None,
) -> None:
    """Write a key and print its revision.

    Examples:

      oarlock put app/config '{"debug": true}'

      oarlock put app/config --file config.json

      oarlock put app/config new --if-match 42      # only if nobody changed it since

      oarlock put locks/me host-1 --create          # only if it is free
    """
    try:
        if file is not None and value is not None:
            raise CommandError("give a value or --file, not both", code=2)
        if create and if_match is not None:
            raise CommandError("--create and --if-match exclude each other", code=2)
        content = _value(value, file)
        headers = {"content-type": "application/octet-stream"}
        if if_match is not None:
            headers["if-match"] = f'"{if_match}"'
        if create:
            headers["if-none-match"] = "*"
        if idempotency_key is not None:
            headers["idempotency-key"] = idempotency_key
        response = _endpoints(endpoint).write("PUT", _path(key), content, headers=headers)
        if response.status_code not in (200, 201):
            raise error_of(response, write=True)
    except CommandError as e:
        fail(e)
    typer.echo(response.json()["revision"])


def _value(value: str | None, file: Path | None) -> bytes:
    if file is not None:
        try:
            return file.read_bytes()
        except OSError as e:
            raise CommandError(f"{file} cannot be read: {e.strerror}") from None
    if value is None or value == "-":
        return sys.stdin.buffer.read()
    return value.encode("utf-8", "surrogateescape")


def delete(
    key: KeyArgument,
    endpoint: EndpointOption = DEFAULT_ENDPOINTS,
    if_match: IfMatchOption = None,
    idempotent: Annotated[bool, typer.Option("--idempotent", help="Succeed too if there is no such key.")] = False,
    idempotency_key: IdempotencyOption = None,
) -> None:
    """Delete a key.

    Examples:

      oarlock delete app/config

      oarlock delete app/config --if-match 42
    """
    try:
        headers = {}
        if if_match is not None:
            headers["if-match"] = f'"{if_match}"'
        if idempotency_key is not None:
            headers["idempotency-key"] = idempotency_key
        path = _with(_path(key), idempotent="true" if idempotent else None)
        response = _endpoints(endpoint).write("DELETE", path, headers=headers)
        if response.status_code != 204:
            raise error_of(response, write=True)
    except CommandError as e:
        fail(e)


def list_keys(
    prefix: Annotated[str, typer.Argument(help="Keys that begin with it; without it, all.")] = "",
    endpoint: EndpointOption = DEFAULT_ENDPOINTS,
    keys_only: Annotated[bool, typer.Option("--keys-only", "-k", help="Leave the values out.")] = False,
    count: Annotated[bool, typer.Option("--count", help="Print only how many there are.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", "-n", help="Stop after so many.", min=1)] = None,
    revision: Annotated[int | None, typer.Option(help="List the store as it was at this revision.", min=1)] = None,
    stale: StaleOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List keys by prefix, all at one revision: a key and its value a line, separated by a tab.

    Examples:

      oarlock list app/

      oarlock list app/ --keys-only --limit 10

      oarlock list --count
    """
    parameters = {
        "prefix": prefix or None,
        "keys_only": "true" if keys_only and not count else None,
        "count_only": "true" if count else None,
        "limit": str(limit) if limit is not None and not count else None,
        "revision": str(revision) if revision is not None else None,
        "consistency": "stale" if stale else None,
    }
    try:
        path = _with("/v1/kv", **parameters)
        endpoints = _endpoints(endpoint)
        if count:
            response = endpoints.read(path)
            if response.status_code != 200:
                raise error_of(response, write=False)
            typer.echo(response.json()["count"])
            return
        response = endpoints.read(path, headers={"accept": "application/x-ndjson"})
        if response.status_code != 200:
            raise error_of(response, write=False)
        for line in response.iter_lines():
            item = json.loads(line)
            if "code" in item:
                raise CommandError(f"{item['detail']} ({item['code']}); the list above is not complete")
            typer.echo(line if as_json else _line(item, keys_only))
    except CommandError as e:
        fail(e)


def _line(item: dict[str, Any], keys_only: bool) -> str:
    key = item["key"] if "key" in item else f"base64:{item['key_b64']}"
    if keys_only:
        return printable(key)
    value = item["value"] if "value" in item else f"base64:{item['value_b64']}"
    return f"{printable(key)}\t{printable(value)}"
