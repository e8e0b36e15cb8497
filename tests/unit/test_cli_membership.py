"""Membership changes from the caller's side: the edits are pure, the loop around them is a compare-and-set."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from oarlock.cli import admin_client
from oarlock.cli.admin_client import Admin, adding, promoting, removing, swapping
from oarlock.cli.output import UNKNOWN, CommandError
from oarlock.wire.admin import ConfigurationModel, MemberModel


def member(number: int, *, promote: bool = False) -> MemberModel:
    return MemberModel(
        id=f"m{number}-{number:016x}", peer_url=f"http://m{number}", client_url=f"http://c{number}", promote=promote
    )


ONE, TWO, THREE, FOUR = (member(i) for i in range(1, 5))


def now(voters: list[MemberModel], learners: list[MemberModel] | None = None, **more: Any) -> ConfigurationModel:
    return ConfigurationModel(id="2.7", committed=True, voters=voters, learners=learners or [], **more)


def test_newcomer_is_added_as_a_learner_once() -> None:
    edit = adding([FOUR])
    assert edit(now([ONE])) == ([ONE], [FOUR])
    assert edit(now([ONE], [FOUR])) is None
    assert edit(now([ONE, FOUR])) is None


def test_promotion_is_an_intent_on_the_learner() -> None:
    edit = promoting(FOUR.id)
    assert edit(now([ONE], [FOUR])) == ([ONE], [member(4, promote=True)])
    assert edit(now([ONE], [member(4, promote=True)])) is None
    assert edit(now([ONE, FOUR])) is None
    with pytest.raises(CommandError, match="no learner"):
        edit(now([ONE]))


def test_removal_of_voters_and_learners() -> None:
    assert removing(TWO.id)(now([ONE, TWO], [THREE])) == ([ONE], [THREE])
    assert removing(THREE.id)(now([ONE, TWO], [THREE])) == ([ONE, TWO], [])
    assert removing(TWO.id)(now([ONE], tombstones=[TWO.id])) is None
    with pytest.raises(CommandError, match="no member"):
        removing(FOUR.id)(now([ONE]))
    with pytest.raises(CommandError, match="last voter"):
        removing(ONE.id)(now([ONE], [TWO]))


def test_replacement_is_one_change_and_keeps_the_number_of_voters() -> None:
    desired = swapping(TWO.id, FOUR)(now([ONE, TWO, THREE], [FOUR]))
    assert desired == ([ONE, THREE, FOUR], [])
    assert swapping(TWO.id, FOUR)(now([ONE, THREE, FOUR])) is None


class Cluster:
    """One leader behind a mock transport, whose answers to a change are given in turn."""

    def __init__(self, *answers: tuple[int, dict[str, Any]]) -> None:
        self.answers = list(answers)
        self.requests: list[dict[str, Any]] = []
        self.configuration = now([ONE])
        client = httpx.Client(transport=httpx.MockTransport(self._handle))
        self.admin = Admin(["http://m1"], client, timeout_seconds=5.0)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, text=_status(self.configuration))
        self.requests.append(json.loads(request.content))
        status, body = self.answers.pop(0)
        if status == 0:
            raise httpx.ReadTimeout("slow", request=request)
        return httpx.Response(status, json=body)


def refusal(code: str, outcome: str = "not_applied") -> dict[str, Any]:
    return {"code": code, "outcome": outcome, "detail": "a sentence", "title": "T"}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_client, "POLL_SECONDS", 0.0)


def test_change_names_the_configuration_it_was_made_from() -> None:
    """Rule 12, from outside."""
    cluster = Cluster((200, {"id": "2.8"}))
    assert cluster.admin.change(adding([FOUR]))
    assert cluster.requests[0]["if_config"] == "2.7"
    assert [m["id"] for m in cluster.requests[0]["learners"]] == [FOUR.id]


def test_refused_precondition_is_read_anew_and_tried_again() -> None:
    cluster = Cluster((412, refusal("precondition_failed")), (421, refusal("not_leader")), (200, {"id": "2.9"}))
    assert cluster.admin.change(adding([FOUR]))
    assert len(cluster.requests) == 3


def test_other_refusals_end_the_command() -> None:
    cluster = Cluster((409, refusal("would_lose_quorum")))
    with pytest.raises(CommandError, match="would_lose_quorum"):
        cluster.admin.change(adding([FOUR]))
    assert len(cluster.requests) == 1


def test_member_not_caught_up_is_waited_for_only_where_asked() -> None:
    answers = [(425, refusal("not_caught_up")), (200, {"id": "2.9"})]
    assert Cluster(*answers).admin.change(adding([FOUR]), wait_on=("not_caught_up",))
    with pytest.raises(CommandError, match="not_caught_up"):
        Cluster(*answers).admin.change(adding([FOUR]))


def test_unknown_change_is_never_sent_again() -> None:
    """Rule 8."""
    for answer in ((504, refusal("timeout", "unknown")), (0, {})):
        cluster = Cluster(answer)
        with pytest.raises(CommandError) as error:
            cluster.admin.change(adding([FOUR]))
        assert error.value.code == UNKNOWN
        assert len(cluster.requests) == 1


def _status(configuration: ConfigurationModel) -> str:
    storage = {"healthy": True, "free_bytes": 1, "wal_bytes": 1, "cut_bytes": 0, "low_on_space": False}
    body = {
        "state": "Participating",
        "cluster_id": "c+1",
        "node_id": ONE.id,
        "name": "m1",
        "incarnation": ONE.id[3:],
        "version": "0.1.0",
        "cluster_version": 1,
        "role": "leader",
        "term": 2,
        "leader": ONE.id,
        "leader_contact_age_seconds": 0.0,
        "commit_index": 7,
        "applied_index": 7,
        "last_index": 7,
        "last_term": 2,
        "configuration": configuration.model_dump(),
        "state_hash": "",
        "storage": storage,
    }
    return json.dumps(body)
