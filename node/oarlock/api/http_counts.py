"""Requests by route and status, in plain dictionaries. A route is a method and a template out of a fixed list, so that
no client can make the number of time series grow (rule 33)."""

from __future__ import annotations

from oarlock.runtime.metrics import Histogram

OTHER = "other"
"""The route of a request that no route knows."""


class HttpCounts:
    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        self.seconds: dict[str, Histogram] = {}
        self.reading_bytes = 0  # of large bodies that are not whole yet
        self.rejected: dict[str, dict[str, int]] = {}  # port name -> reason -> connections ended before a request

    def add(self, route: str, status: int, seconds: float) -> None:
        key = (route, status)
        requests = self.requests
        requests[key] = requests.get(key, 0) + 1
        histogram = self.seconds.get(route)
        if histogram is None:
            histogram = self.seconds[route] = Histogram()
        histogram.observe(seconds)

    def port(self, name: str) -> dict[str, int]:
        return self.rejected.setdefault(name, {})
