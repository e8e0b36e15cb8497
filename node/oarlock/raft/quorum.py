"""Majorities, as pure functions of the two halves of a configuration (thesis 4.3).

Two rules of this module: a joint configuration decides only what *both* its halves decide, and a member that stands in
neither half counts nowhere, the leader itself included (rule 14).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TypeAlias

from oarlock.raft.types import Configuration, NodeId

Halves: TypeAlias = tuple[tuple[NodeId, ...], ...]
"""The ids of the new voters, and while joint those of the old: one or two halves, never an empty one."""


class Verdict(StrEnum):
    WON = "won"
    LOST = "lost"
    OPEN = "open"


def halves(configuration: Configuration) -> Halves:
    groups = (configuration.voters, configuration.outgoing)
    return tuple(tuple(member.id for member in group) for group in groups if group)


def majority(size: int) -> int:
    return size // 2 + 1


def agreed(groups: Halves, agrees: Callable[[NodeId], bool]) -> bool:
    """Whether a majority of every half agrees. A configuration without voters agrees to nothing."""
    return bool(groups) and all(sum(map(agrees, half)) >= majority(len(half)) for half in groups)


def agreed_value(groups: Halves, value: Callable[[NodeId], int]) -> int:
    """The largest number that a majority of every half has reached; 0 without voters.

    Example: values 7, 5, 4 give 5, since two of three are at 5 or beyond.
    """
    least: int | None = None
    for half in groups:
        values = sorted(map(value, half))
        reached = values[len(half) - majority(len(half))]
        least = reached if least is None or reached < least else least
    return least or 0


def verdict(groups: Halves, votes: Mapping[NodeId, bool]) -> Verdict:
    """How an election stands: lost as soon as some half can no longer reach its majority."""
    if agreed(groups, lambda voter: votes.get(voter, False)):
        return Verdict.WON
    if not groups or any(sum(votes.get(voter, True) for voter in half) < majority(len(half)) for half in groups):
        return Verdict.LOST
    return Verdict.OPEN
