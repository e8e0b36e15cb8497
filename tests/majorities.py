"""Majorities by the book, and not by the core's own arithmetic, which is under test."""

from __future__ import annotations

from collections.abc import Sequence

from oarlock.raft.types import Configuration, NodeId


def has_majorities(of: Configuration, ids: Sequence[NodeId]) -> bool:
    """Do `ids` make a majority of each half that is in force?"""
    groups = [group for group in (of.voters, of.outgoing) if group]
    return all(2 * sum(one.id in ids for one in group) > len(group) for group in groups)
