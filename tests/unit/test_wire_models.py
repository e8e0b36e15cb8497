"""The bodies on the wire: strict in what a member takes, lenient in what a caller reads."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from oarlock.api.problems import ApiError, body_of
from oarlock.runtime.status import State as RuntimeState
from oarlock.wire.admin import (
    BootstrapRequest,
    ConfigurationRequest,
    MemberModel,
    NotesRequest,
    ResetRequest,
    State,
    StatusAnswer,
    TransferRequest,
)
from oarlock.wire.problem import Outcome, Problem

ID = "m1-0123456789abcdef"
MEMBER = {"id": ID, "peer_url": "http://a:1", "client_url": "http://a:2"}


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (BootstrapRequest, {"request_id": "r", "cluster_id": "c"}),
        (ConfigurationRequest, {"voters": [MEMBER], "if_config": "1.1"}),
        (TransferRequest, {"target": ID}),
        (ResetRequest, {"request_id": "r", "node_id": ID}),
        (NotesRequest, {"pod_uid": "p"}),
        (MemberModel, MEMBER),
    ],
)
def test_request_with_an_unknown_field_is_refused(model: type, body: dict[str, object]) -> None:
    """A misspelt field must not be ignored."""
    assert model.model_validate(body)  # type: ignore[attr-defined]
    with pytest.raises(ValidationError):
        model.model_validate({**body, "misspelt": 1})  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "node_id",
    [
        "",
        "m1",
        "m1-",
        "m1-0123",
        "M1-0123456789abcdef",
        "m1-0123456789ABCDEF",
        "-0123456789abcdef",
        "m 1-0123456789abcdef",
    ],
)
def test_node_id_is_a_name_and_sixteen_hex_digits(node_id: str) -> None:
    """Rule 15."""
    with pytest.raises(ValidationError):
        TransferRequest(target=node_id)


def test_name_of_a_node_id_may_hold_dashes_and_dots() -> None:
    assert TransferRequest(target="my-cluster.eu-2-0123456789abcdef").target.rpartition("-")[0] == "my-cluster.eu-2"


@pytest.mark.parametrize(
    "url", ["a:1", "http://", "http://a/path", "http://a:1?x", "http://a b", "ftp://a", "http://a\n"]
)
def test_url_of_a_member_is_a_scheme_and_an_address(url: str) -> None:
    with pytest.raises(ValidationError):
        MemberModel.model_validate({**MEMBER, "peer_url": url})


def test_status_of_a_newer_member_can_be_read() -> None:
    storage = {"healthy": True, "free_bytes": 1, "wal_bytes": 1, "cut_bytes": 0, "low_on_space": False, "new": 1}
    body = {
        "state": "Idle",
        "cluster_id": None,
        "node_id": ID,
        "name": "m1",
        "incarnation": "0123456789abcdef",
        "version": "9.9",
        "cluster_version": 9,
        "role": "follower",
        "term": 0,
        "leader": None,
        "leader_contact_age_seconds": None,
        "commit_index": 0,
        "applied_index": 0,
        "last_index": 0,
        "last_term": 0,
        "configuration": None,
        "state_hash": "",
        "storage": storage,
        "a_field_of_the_future": {"x": 1},
    }
    assert StatusAnswer.model_validate(body).state is State.IDLE


def test_states_of_the_runtime_are_those_of_the_wire() -> None:
    assert set(RuntimeState.__args__) == {s.value for s in State}  # type: ignore[attr-defined]


@pytest.mark.parametrize("outcome", ["not_applied", "unknown"])
def test_every_problem_fits_its_model(outcome: str) -> None:
    error = ApiError(412, "precondition_failed", "a sentence", outcome=outcome, extra={"current_mod_revision": 7})
    problem = Problem.model_validate_json(body_of(error))
    assert (problem.status, problem.title, problem.outcome) == (412, "Precondition Failed", Outcome(outcome))
    assert json.loads(body_of(error))["current_mod_revision"] == 7
