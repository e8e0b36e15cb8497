"""How the commands speak to members: what is repeated, what never is, and what an error says."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from oarlock.cli import http, snapshots
from oarlock.cli.http import Endpoints, error_of, read_token, split_endpoints
from oarlock.cli.output import FAILED, UNKNOWN, USAGE, CommandError, printable

URLS = ["http://a", "http://b"]
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PAUSE_SECONDS", 0.0)


class Members:
    """Members behind a mock transport; `seen` is every request that arrived."""

    def __init__(self, handler: Handler) -> None:
        self.seen: list[str] = []
        self._handler = handler
        self.endpoints = Endpoints(URLS, httpx.Client(transport=httpx.MockTransport(self._handle)))

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(f"{request.method} {request.url.host}")
        return self._handler(request)


def problem(status: int, code: str, outcome: str, *, retryable: bool = True) -> httpx.Response:
    body = {"status": status, "code": code, "detail": "a sentence", "outcome": outcome, "title": "T"}
    return httpx.Response(status, json={**body, "retryable": retryable})


def refuses_at_a(request: httpx.Request) -> httpx.Response:
    if request.url.host == "a":
        raise httpx.ConnectError("refused", request=request)
    return httpx.Response(200)


def breaks(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("broken", request=request)


def test_request_that_never_left_goes_to_the_next_member() -> None:
    members = Members(refuses_at_a)
    assert members.endpoints.write("PUT", "/v1/kv/a").status_code == 200
    assert members.endpoints.read("/v1/kv/a").status_code == 200
    assert members.seen == ["PUT a", "PUT b", "GET a", "GET b"]


def test_write_without_a_key_is_sent_once_and_its_outcome_unknown() -> None:
    """X1, rule 8: never repeated by itself, and the error says that it may have happened."""
    members = Members(breaks)
    with pytest.raises(CommandError, match="may have been applied") as error:
        members.endpoints.write("PUT", "/v1/kv/a")
    assert error.value.code == UNKNOWN
    assert members.seen == ["PUT a"]


def test_write_with_a_key_is_repeated_until_it_is_answered() -> None:
    answers = [httpx.ReadError("broken"), problem(504, "timeout", "unknown"), httpx.Response(200)]

    def handler(request: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    members = Members(handler)
    assert members.endpoints.write("PUT", "/v1/kv/a", headers={"idempotency-key": "k"}).status_code == 200
    assert members.seen == ["PUT a", "PUT b", "PUT a"]


def test_write_with_a_key_that_nobody_answers_ends_as_unknown() -> None:
    members = Members(breaks)
    with pytest.raises(CommandError) as error:
        members.endpoints.write("PUT", "/v1/kv/a", headers={"idempotency-key": "k"})
    assert error.value.code == UNKNOWN
    assert len(members.seen) == http.ATTEMPTS * len(URLS)


def test_read_is_repeated() -> None:
    members = Members(lambda request: problem(503, "no_leader", "not_applied"))
    with pytest.raises(CommandError, match="no_leader"):
        members.endpoints.read("/v1/kv/a")
    assert len(members.seen) == http.ATTEMPTS * len(URLS)


@pytest.mark.parametrize("code", ["removed", "idle", "not_ready", "stopping", "no_leader"])
def test_write_that_was_certainly_not_applied_goes_on_to_the_next_member(code: str) -> None:
    answers = {"a": problem(503, code, "not_applied"), "b": httpx.Response(201)}
    members = Members(lambda request: answers[request.url.host])
    assert members.endpoints.write("PUT", "/v1/kv/a").status_code == 201
    assert members.seen == ["PUT a", "PUT b"]


def test_write_that_every_member_refuses_goes_around_once() -> None:
    members = Members(lambda request: problem(503, "no_leader", "not_applied"))
    with pytest.raises(CommandError, match=r"no_leader.*Nothing was changed") as error:
        members.endpoints.write("PUT", "/v1/kv/a")
    assert error.value.code == FAILED
    assert members.seen == ["PUT a", "PUT b"]


@pytest.mark.parametrize(
    "answer",
    [
        problem(503, "forward_broken", "unknown"),
        problem(504, "timeout", "unknown"),
        problem(429, "overloaded", "not_applied"),
        problem(412, "precondition_failed", "not_applied"),
        problem(503, "final", "not_applied", retryable=False),
        httpx.Response(503, text="<html>"),
    ],
)
def test_write_stays_where_another_member_could_do_it_twice_or_no_better(answer: httpx.Response) -> None:
    """Rule 8: after an outcome that is not known for certain, no second member is asked."""
    members = Members(lambda request: answer)
    assert members.endpoints.write("PUT", "/v1/kv/a") is answer
    assert members.seen == ["PUT a"]


@pytest.mark.parametrize("first", [httpx.ReadError("broken"), problem(504, "timeout", "unknown")])
def test_refusal_after_an_unknown_outcome_does_not_make_it_certain(first: httpx.Response | Exception) -> None:
    """Rule 8: the second attempt was not applied, the first one may have been."""
    answers = [first]

    def handler(request: httpx.Request) -> httpx.Response:
        answer = answers.pop() if answers else problem(503, "no_leader", "not_applied")
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(CommandError, match="may have been applied") as error:
        Members(handler).endpoints.write("PUT", "/v1/kv/a", headers={"idempotency-key": "k"})
    assert error.value.code == UNKNOWN


def test_snapshot_is_saved_from_the_next_member_if_the_first_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = base64.b64encode(hashlib.sha256(b"state").digest()).decode()
    answers = {
        "a": problem(503, "removed", "not_applied"),
        "b": httpx.Response(200, content=iter([b"state"]), headers={"repr-digest": f"sha-256=:{digest}:"}),
    }
    members = Members(lambda request: answers[request.url.host])
    monkeypatch.setattr(snapshots, "make_client", lambda **_: members.endpoints.client)
    snapshots.save(tmp_path / "out", URLS)
    assert (tmp_path / "out").read_bytes() == b"state"
    assert members.seen == ["GET a", "GET b"]


def test_error_says_whether_the_write_may_have_happened() -> None:
    certain = error_of(problem(412, "precondition_failed", "not_applied"), write=True)
    assert (certain.code, str(certain).endswith("Nothing was changed.")) == (FAILED, True)
    unknown = error_of(problem(504, "timeout", "unknown"), write=True)
    assert (unknown.code, "may have been applied" in str(unknown)) == (UNKNOWN, True)
    strange = error_of(httpx.Response(502, text="<html>"), write=True)
    assert strange.code == UNKNOWN
    read = error_of(problem(504, "timeout", "not_applied"), write=False)
    assert "applied" not in str(read)


def test_endpoints_may_be_separated_by_commas() -> None:
    assert split_endpoints(["http://a/, http://b", "https://c"]) == ["http://a", "http://b", "https://c"]
    for wrong in (["a:2379"], [""], []):
        with pytest.raises(CommandError) as error:
            split_endpoints(wrong)
        assert error.value.code == USAGE


def test_token_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("  secret\n")
    assert read_token(path) == "secret"
    for content in (b"", b" \n", b"two words", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(CommandError, match="token file"):
            read_token(path)
    with pytest.raises(CommandError, match="cannot be read"):
        read_token(tmp_path / "absent")


def test_what_is_printed_cannot_drive_a_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\x7f\u202e") == "a\\x1b[2Jb\\nc\\x7f\\u202e"
    assert printable("grün ключ") == "grün ключ"
