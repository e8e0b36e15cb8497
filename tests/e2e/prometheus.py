"""A real Prometheus (Debian's) for a test, on a port and in a directory of its own.

Rule of this module: it asks by PromQL only, as an alert would; a metric that Prometheus cannot use does not exist.
"""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import httpx
from tests.e2e.cluster import until

Sample = dict[str, float]


@dataclass(frozen=True)
class Prometheus:
    url: str

    def ask(self, query: str, by: str = "member") -> Sample:
        """The instant vector of `query`, each value by its label `by`; NaN is left out."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, trust_env=False).raise_for_status()
        rows = answer.json()["data"]["result"]
        told = {row["metric"].get(by, ""): float(row["value"][1]) for row in rows}
        return {label: value for label, value in told.items() if not math.isnan(value)}

    def over(self, query: str, begin: float, end: float) -> list[dict[str, Any]]:
        """Its series from `begin` to `end` (seconds since the epoch), a value a second, as a graph asks for them."""
        when = {"start": begin, "end": end, "step": 1}
        answer = httpx.get(f"{self.url}/api/v1/query_range", params={"query": query, **when}, trust_env=False)
        rows: list[dict[str, Any]] = answer.raise_for_status().json()["data"]["result"]
        return rows

    def label_values(self, series: str, label: str) -> set[str]:
        """What `label` is among the series that fit."""
        where = f"{self.url}/api/v1/label/{label}/values"
        return set(httpx.get(where, params={"match[]": series}, trust_env=False).raise_for_status().json()["data"])

    def total(self, query: str) -> float:
        return sum(self.ask(f"sum({query})", by="").values())

    def names(self, job: str) -> set[str]:
        """Of the metrics that the job's targets serve."""
        return self.label_values(f'{{job="{job}"}}', "__name__")

    def until(self, query: str, true: Callable[[Sample], bool], seconds: float = 20.0, by: str = "member") -> Sample:
        """Ask until the answer is as wanted; raises TimeoutError with the last one."""
        last: Sample = {}

        def check() -> bool:
            nonlocal last
            last = self.ask(query, by)
            return true(last)

        try:
            until(query, check, seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{query}: not as wanted within {seconds} s, last {last}") from error
        return last


@contextlib.contextmanager
def scraping(
    directory: pathlib.Path, jobs: Mapping[str, Mapping[str, str]], namespaces: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Prometheus]:
    """Prometheus, scraping each job's targets (name -> host:port) every second.

    They carry the labels that a scrape of pods gives, `pod` and `namespace` ("default" for a job that is not in
    `namespaces`), and `member`; the labels that a target itself gives win, as docs/operator.md asks for.
    """
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {
                "job_name": job,
                "honor_labels": True,
                "static_configs": [
                    {
                        "targets": [at],
                        "labels": {"member": name, "pod": name, "namespace": namespaces.get(job, "default")},
                    }
                    for name, at in targets.items()
                ],
            }
            for job, targets in jobs.items()
        ],
    }
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(configuration))  # JSON is YAML
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = [f"--config.file={file}", f"--storage.tsdb.path={directory}/data", f"--web.listen-address=127.0.0.1:{port}"]
    with open(directory / "prometheus.log", "w") as log:
        process = subprocess.Popen(["prometheus", *told], stdout=log, stderr=log)
        try:
            prometheus = Prometheus(f"http://127.0.0.1:{port}")

            def ready() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return httpx.get(f"{prometheus.url}/-/ready", trust_env=False).status_code == 200
                return False

            until("Prometheus is ready", ready, 20)
            yield prometheus
        finally:
            process.terminate()
            process.wait(20)
