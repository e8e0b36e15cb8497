"""Every query of the dashboard about members has an answer: three real members, a load, an election, a lost disk, and a
real Prometheus that scrapes them. The operator's queries are asked where it runs (tests/e2e/test_metrics.py)."""

from __future__ import annotations

import asyncio
import pathlib
import time

from tests import grafana
from tests.e2e.prometheus import Prometheus, scraping
from tests.integration.members import Cluster, cluster
from tests.load import Load

NAMES = ("three-0", "three-1", "three-2")


async def told(prometheus: Prometheus, query: str, seconds: float = 20) -> None:
    """Until Prometheus has a series for it."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(prometheus.ask, query):  # noqa: ASYNC110 - it is asked, it tells nobody
            await asyncio.sleep(0.2)


async def eventful(running: Cluster, prometheus: Prometheus) -> None:
    """What a cluster lives through, so that nothing on the dashboard has an excuse."""
    await told(prometheus, "sum(up) == 3")
    load = Load([m.client_url for m in running.members.values()], clients=4)
    async with load.running():
        await load.steady()
        leader = await running.leader()
        answer = await running.http.post(f"{running.members[leader].peer_url}/admin/snapshot")
        assert answer.status_code == 200, answer.text
        await told(prometheus, "sum(oarlock_snapshot_count_total) > 0")  # it dies with the process that counted it
        running.members[leader].kill()
        leader_after = await running.leader(other_than=leader)
        running.members[leader].start()
        await running.participating(*NAMES)
        emptied = next(name for name in NAMES if name != leader_after)
        running.members[emptied].kill()
        running.members[emptied].wipe()
        running.members[emptied].start()
        await told(prometheus, "sum(oarlock_peer_refused_total) > 0")  # the old identity is asked for, and is no more
        await running.reconfigure(*NAMES)
        await running.participating(*NAMES)
        await told(prometheus, "count(oarlock_member_ready == 1) == 3")
        await asyncio.sleep(3)  # of steady load behind it all: what a person sees who opens the dashboard


async def test_every_query_about_members_has_an_answer(tmp_path: pathlib.Path) -> None:
    begin = time.time()
    async with cluster(tmp_path, *NAMES) as running:
        targets = {name: member.ops_url.removeprefix("http://") for name, member in running.members.items()}
        with scraping(tmp_path, {"members": targets}) as prometheus:
            await eventful(running, prometheus)
            values = grafana.chosen(prometheus, "default", "three")
            assert values["pod"] == f"({'|'.join(NAMES)})"
            asked = [query for query in grafana.queries() if not query.of_operator]
            assert grafana.complaints(prometheus, asked, values, begin, time.time()) == []

            latest = [query for query in asked if query.instant]
            assert latest
            for query in latest:
                answer = prometheus.ask(grafana.replaced(query.expression, values), by="")
                assert answer, f"{query.panel} is empty under load: {query.expression}"

            wrong = grafana.Query("p", 'oarlock_raft_trem{namespace="$namespace"}', "", False)
            unlabelled = grafana.Query("p", "sum(oarlock_raft_term)", "{{pod}}", False)
            found = grafana.complaints(prometheus, [wrong, unlabelled], values, begin, time.time())
            assert [complaint.split(":")[1] for complaint in found] == [
                " no data",
                " a series without the legend's label pod",
            ]
