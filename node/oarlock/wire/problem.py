"""Errors as RFC 9457 problem details (`application/problem+json`), the same on every port."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Outcome(StrEnum):
    """May a refused or broken write still take effect? `not_applied` is a promise (rule 8)."""

    NOT_APPLIED = "not_applied"
    UNKNOWN = "unknown"


class Problem(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = "about:blank"
    title: str
    status: int
    detail: str  # a sentence that says what to do
    code: str  # stable, snake_case
    retryable: bool
    outcome: Outcome = Outcome.NOT_APPLIED
