"""How the commands talk to members: a few endpoints tried in turn, problems turned into sentences.

* A request that may have changed something goes on to the next member only if it never left (connection refused), was
  refused for now and certainly not applied (rule 8), or carries an Idempotency-Key (a repeat returns the first result).
* An error always says whether the write may have happened.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from oarlock import __version__
from oarlock.cli.output import FAILED, UNKNOWN, CommandError

CONNECT_SECONDS = 3.0
ATTEMPTS = 4  # of a request that may be repeated
PASSING = (429, 503, 504)  # statuses that another member, or a later moment, may not give
PAUSE_SECONDS = 0.5

UNKNOWN_SENTENCE = "The write may have been applied: read before you repeat it."
NOT_APPLIED_SENTENCE = "Nothing was changed."


def make_client(token: str | None = None, timeout_seconds: float = 15.0) -> httpx.Client:
    """Proxies in the environment are not used: members are reached directly."""
    headers = {"user-agent": f"oarlock/{__version__}"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    timeout = httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS)
    return httpx.Client(headers=headers, timeout=timeout, trust_env=False)


def split_endpoints(values: Sequence[str]) -> list[str]:
    """URLs given one by one or separated by commas, without their last slash. Raises CommandError."""
    urls = [url.strip().rstrip("/") for value in values for url in value.split(",") if url.strip()]
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise CommandError(f"{url!r} is not a URL: it begins with http:// or https://", code=2)
    if not urls:
        raise CommandError("no endpoint is given", code=2)
    return urls


def read_token(path: Path) -> str:
    """The token in a file, white space around it dropped. Raises CommandError."""
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise CommandError(f"the token file {path} cannot be read: {e}") from None
    if not token or not token.isprintable() or " " in token:
        raise CommandError(f"the token file {path} does not hold one token of visible ASCII characters")
    return token


def problem_of(response: httpx.Response) -> dict[str, Any]:
    """The problem in an answer; for anything else one made of the status."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, dict) and "code" in body:
        return body
    code = response.status_code
    return {"status": code, "code": "http_error", "detail": f"HTTP {code}", "retryable": False, "outcome": "unknown"}


def refused_for_now(response: httpx.Response) -> bool:
    """Is it sure that this member did nothing, and may another one do it? Even a write may go on to that one then."""
    if response.status_code != 503:
        return False
    problem = problem_of(response)
    return problem.get("outcome") == "not_applied" and problem.get("retryable") is True


def error_of(response: httpx.Response, *, write: bool) -> CommandError:
    """A problem as a sentence and an exit code."""
    problem = problem_of(response)
    text = f"{problem.get('detail') or problem.get('title')} ({problem['code']})"
    if not write:
        return CommandError(text)
    if problem.get("outcome") == "not_applied":
        return CommandError(f"{text}. {NOT_APPLIED_SENTENCE}", FAILED)
    return CommandError(f"{text}. {UNKNOWN_SENTENCE}", UNKNOWN)


class Endpoints:
    """A few members that answer alike."""

    def __init__(self, urls: Sequence[str], client: httpx.Client) -> None:
        self.urls = list(urls)
        self.client = client

    def read(self, path: str, *, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """GET from the first member that answers; refusals that may pass are tried again. Raises CommandError."""
        return self._ask("GET", path, b"", headers or {}, write=False, repeat=True)

    def write(
        self, method: str, path: str, content: bytes = b"", *, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Sent until a member takes it, or with an Idempotency-Key until the outcome is known. Raises CommandError."""
        headers = headers or {}
        return self._ask(method, path, content, headers, write=True, repeat="idempotency-key" in headers)

    def _ask(
        self, method: str, path: str, content: bytes, headers: Mapping[str, str], *, write: bool, repeat: bool
    ) -> httpx.Response:
        last: CommandError | None = None
        for attempt in range(ATTEMPTS if repeat else 1):
            if attempt:
                time.sleep(PAUSE_SECONDS * attempt)
            for url in self.urls:
                try:
                    response = self.client.request(method, url + path, content=content or None, headers=dict(headers))
                except (httpx.ConnectError, httpx.ConnectTimeout) as e:  # it never left
                    last = last or CommandError(f"{url} cannot be reached: {e or type(e).__name__}. {_end(write)}")
                    continue
                except httpx.HTTPError as e:
                    text = f"{url} did not answer: {e or type(e).__name__}"
                    last = CommandError(f"{text}. {UNKNOWN_SENTENCE}", UNKNOWN) if write else CommandError(text)
                    if repeat:
                        continue
                    raise last from None
                if refused_for_now(response) or (repeat and response.status_code in PASSING):
                    if last is None or last.code != UNKNOWN:  # no later refusal makes an earlier attempt certain
                        last = error_of(response, write=write)
                    continue
                return response
        assert last is not None, "one attempt at least"
        raise last


def _end(write: bool) -> str:
    return NOT_APPLIED_SENTENCE if write else ""
