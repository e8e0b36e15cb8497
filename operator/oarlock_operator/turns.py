"""Whose turn it is: at most so many clusters of one operator are in a rolling update at once.

A turn is held by the uid of a RaftCluster for as long as its `status.operation` is a rolling update, so that a
restarted operator finds out by reading. One that began without asking, to mend a cluster, holds its turn all the same.
"""

from __future__ import annotations


class Turns:
    """Shared by all loops; called between two awaits, so that nobody comes in between."""

    def __init__(self, most: int):
        self._most = most
        self._held: set[str] = set()

    def free(self, uid: str) -> bool:
        """May this cluster begin, or go on?"""
        return uid in self._held or len(self._held) < self._most

    def hold(self, uid: str) -> None:
        self._held.add(uid)

    def give(self, uid: str) -> None:
        self._held.discard(uid)
