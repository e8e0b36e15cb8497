"""The admin contract from the caller's side: find the leader, ask it, change who takes part.

A change of membership is a compare-and-set on the configuration's id. A precondition that fails is read anew and tried
again, because nothing was appended; an unknown outcome is resolved by reading the configuration.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from oarlock.cli.http import UNKNOWN_SENTENCE, error_of, problem_of
from oarlock.cli.output import UNKNOWN, CommandError
from oarlock.wire.admin import ConfigurationModel, MemberModel, Role, State, StatusAnswer

POLL_SECONDS = 0.3

Edit = Callable[[ConfigurationModel], tuple[list[MemberModel], list[MemberModel]] | None]
"""From the present configuration to the desired (voters, learners), or None if there is nothing to do."""


class Admin:
    """The peer ports of a cluster. `deadline` is on the monotonic clock: every wait ends there."""

    def __init__(self, urls: Sequence[str], client: httpx.Client, timeout_seconds: float) -> None:
        self.urls = list(urls)
        self.client = client
        self.deadline = time.monotonic() + timeout_seconds

    # -- reading ----------------------------------------------------------------------------------------------------

    def status(self, url: str) -> StatusAnswer:
        """Raises CommandError if the member does not answer, or refuses the token."""
        try:
            response = self.client.get(f"{url}/admin/status")
        except httpx.HTTPError as e:
            raise CommandError(f"{url} does not answer: {e or type(e).__name__}") from None
        if response.status_code != 200:
            raise error_of(response, write=False)
        return StatusAnswer.model_validate_json(response.content)

    def try_status(self, url: str) -> StatusAnswer | None:
        try:
            return self.status(url)
        except CommandError:
            return None

    def leader(self) -> tuple[str, StatusAnswer]:
        """(peer URL, status) of the leader. Waits for an election until the deadline. Raises CommandError."""
        last: CommandError | None = None
        while True:
            for url in self._known():
                try:
                    status = self.status(url)
                except CommandError as e:
                    last = e
                    continue
                if status.role is Role.LEADER:
                    return url, status
                named = _peer_url(status, status.leader)
                if named is not None and named != url:
                    led = self.try_status(named)
                    if led is not None and led.role is Role.LEADER:
                        return named, led
                if status.state is State.IDLE:
                    last = CommandError(f"{url} is Idle, in no cluster yet: `oarlock cluster bootstrap` makes one")
                else:
                    last = CommandError(f"no leader is known at {url} ({status.state.value}: {status.reason})")
            if not self._pause():
                raise last or CommandError("no leader was found in time")

    def _known(self) -> list[str]:
        return list(dict.fromkeys(self.urls))

    # -- changing ---------------------------------------------------------------------------------------------------

    def change(self, edit: Edit, *, wait_on: Sequence[str] = ()) -> bool:
        """Applies `edit` to the present configuration by compare-and-set; False if there was nothing to do.

        Refusals that may pass (no leader, precondition, and the codes in `wait_on`) are tried again until the deadline.
        """
        while True:
            url, status = self.leader()
            configuration = status.configuration
            if configuration is None:
                raise CommandError(f"{url} leads without a configuration: this should not be")
            self.urls = list(dict.fromkeys([*(m.peer_url for m in configuration.voters), *self.urls]))
            desired = edit(configuration)
            if desired is None:
                return False
            voters, learners = desired
            body = {
                "voters": [m.model_dump() for m in voters],
                "learners": [m.model_dump() for m in learners],
                "if_config": configuration.id,
            }
            left = max(1.0, self.deadline - time.monotonic())
            try:
                response = self.client.put(
                    f"{url}/admin/configuration?timeout_seconds={left:.0f}", json=body, timeout=left + 2.0
                )
            except httpx.HTTPError as e:
                text = f"{url} did not answer: {e or type(e).__name__}"
                raise CommandError(f"{text}. It may still happen: see `oarlock member list`", UNKNOWN) from None
            if response.status_code == 200:
                return True
            problem = problem_of(response)
            passing = {"not_leader", "no_leader", "precondition_failed", "overloaded", "not_ready", *wait_on}
            if problem["code"] not in passing or problem.get("outcome") != "not_applied" or not self._pause():
                raise error_of(response, write=True)

    def post(self, url: str, path: str, body: dict[str, Any], *, what: str) -> dict[str, Any]:
        """One call that changes something, sent once. Raises CommandError with the outcome."""
        left = max(1.0, self.deadline - time.monotonic())
        try:
            response = self.client.post(url + path, json=body, timeout=left)
        except httpx.ConnectError as e:
            raise CommandError(f"{url} cannot be reached: {e}. Nothing was changed.") from None
        except httpx.HTTPError as e:
            raise CommandError(
                f"{what}: {url} did not answer ({e or type(e).__name__}). {UNKNOWN_SENTENCE}", UNKNOWN
            ) from None
        if response.status_code != 200:
            raise error_of(response, write=True)
        answer: dict[str, Any] = response.json()
        return answer

    def wait_until(self, true: Callable[[ConfigurationModel], bool], what: str) -> None:
        """Looks at the leader's configuration until `true`. Raises CommandError at the deadline."""
        while True:
            _, status = self.leader()
            if status.configuration is not None and status.configuration.committed and true(status.configuration):
                return
            if not self._pause():
                raise CommandError(f"{what} is not done yet; it goes on without this command", UNKNOWN)

    def _pause(self) -> bool:
        """False at the deadline."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(POLL_SECONDS, left))
        return True


def member_of(status: StatusAnswer, *, promote: bool) -> MemberModel:
    """What to write into a configuration for the member that answered `status`."""
    return MemberModel(id=status.node_id, peer_url=status.peer_url, client_url=status.client_url, promote=promote)


def _peer_url(status: StatusAnswer, node_id: str | None) -> str | None:
    if status.configuration is None or node_id is None:
        return None
    configuration = status.configuration
    for member in (*configuration.voters, *configuration.learners, *configuration.outgoing):
        if member.id == node_id:
            return member.peer_url
    return None


# -- edits: pure ------------------------------------------------------------------------------------------------------


def adding(newcomers: Sequence[MemberModel]) -> Edit:
    """As learners; those with `promote` become voters by themselves when they have caught up."""

    def edit(now: ConfigurationModel) -> tuple[list[MemberModel], list[MemberModel]] | None:
        present = {m.id for m in (*now.voters, *now.learners)}
        missing = [m for m in newcomers if m.id not in present]
        return (now.voters, [*now.learners, *missing]) if missing else None

    return edit


def promoting(node_id: str) -> Edit:
    def edit(now: ConfigurationModel) -> tuple[list[MemberModel], list[MemberModel]] | None:
        if any(m.id == node_id for m in now.voters):
            return None
        if all(m.id != node_id for m in now.learners):
            raise CommandError(f"{node_id} is no learner of this cluster: `oarlock member list` shows who is")
        learners = [m.model_copy(update={"promote": True}) if m.id == node_id else m for m in now.learners]
        return None if learners == now.learners else (now.voters, learners)

    return edit


def removing(node_id: str) -> Edit:
    def edit(now: ConfigurationModel) -> tuple[list[MemberModel], list[MemberModel]] | None:
        voters = [m for m in now.voters if m.id != node_id]
        learners = [m for m in now.learners if m.id != node_id]
        if len(voters) == len(now.voters) and len(learners) == len(now.learners):
            if node_id in now.tombstones:
                return None
            raise CommandError(f"{node_id} is no member of this cluster: `oarlock member list` shows who is")
        if not voters:
            raise CommandError(f"{node_id} is the last voter: a cluster ends by stopping its members, not like this")
        return voters, learners

    return edit


def swapping(old_id: str, new: MemberModel) -> Edit:
    """One joint change: `new`, a learner, takes the place of `old_id`, so that no even size is passed through."""

    def edit(now: ConfigurationModel) -> tuple[list[MemberModel], list[MemberModel]] | None:
        if any(m.id == new.id for m in now.voters) and all(m.id != old_id for m in now.voters):
            return None
        voters = [m for m in now.voters if m.id not in (old_id, new.id)] + [new]
        return voters, [m for m in now.learners if m.id not in (old_id, new.id)]

    return edit
