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

    def total(self, query: str) -> float:
        return sum(self.ask(f"sum({query})", by="").values())

    def names(self, job: str) -> set[str]:
        """Of the metrics that the job's targets serve."""
        told = httpx.get(
            f"{self.url}/api/v1/label/__name__/values", params={"match[]": f'{{job="{job}"}}'}, trust_env=False
        )
        return set(told.raise_for_status().json()["data"])

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
def scraping(directory: pathlib.Path, jobs: Mapping[str, Mapping[str, str]]) -> Iterator[Prometheus]:
    """Prometheus, scraping each job's targets (name -> host:port) every second; they carry the label `member`."""
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [{"targets": [at], "labels": {"member": name}} for name, at in targets.items()],
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
