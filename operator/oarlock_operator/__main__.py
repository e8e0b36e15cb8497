"""`oarlock-operator`: composes everything and runs until SIGTERM. Settings come from `OARLOCK_OPERATOR_*`."""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from datetime import UTC, datetime
from importlib.metadata import version

import httpx
import structlog

from . import handlers, logs, names
from .kube import KubeClient, KubeError
from .lease import Lease
from .loops import STALE_SECONDS, Loops
from .members import Members
from .metrics import Metrics
from .reconcile import Reconciler
from .serving import serve
from .settings import Settings
from .turns import Turns

log = structlog.get_logger(__name__)


class Pulse:
    """Is the event loop turning? Beaten once a second from within, read from the thread that answers the probe."""

    def __init__(self) -> None:
        self.beat = time.monotonic()

    async def run(self) -> None:
        while True:
            self.beat = time.monotonic()
            await asyncio.sleep(1)

    def stale(self) -> bool:
        return time.monotonic() - self.beat > STALE_SECONDS / 2


async def until_served(kube: KubeClient) -> None:
    """Wait for the custom resource. An operator that starts to watch before it exists stays blind for ever."""
    said = ""
    while True:
        try:
            if await kube.served():
                return
            why = f"{names.PLURAL}.{names.GROUP} is not served yet"
        except KubeError as error:
            why = str(error)
        if why != said:
            log.info("waiting", why=why)
            said = why
        await asyncio.sleep(1)


async def operate(settings: Settings) -> None:
    kube = await KubeClient.connect()
    http = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_keepalive_connections=50))
    members, metrics, pulse = Members(http), Metrics(), Pulse()
    turns = Turns(settings.rolling_clusters)

    def make(namespace: str, name: str, uid: str) -> Reconciler:
        return Reconciler(
            namespace,
            name,
            uid,
            kube=kube,
            members=members,
            lease=Lease(kube, namespace, name, uid, settings.identity, time.monotonic),
            metrics=metrics,
            default_image=settings.node_image,
            monotonic=time.monotonic,
            wall=lambda: datetime.now(UTC),
            operator_namespace=settings.namespace,
            turns=turns,
        )

    loops = Loops(make, monotonic=time.monotonic, rng=random.Random(), on_count=metrics.clusters.set)

    def sick() -> str:
        if pulse.stale():
            return "the event loop does not turn"
        stale = loops.stale()
        return f"no pass finished for too long: {', '.join(stale)}" if stale else ""

    _, stop_serving = serve(settings.host, settings.port, metrics.registry, sick)
    beating = asyncio.create_task(pulse.run())
    try:
        log.info("starting", version=version("oarlock"), identity=settings.identity, node_image=settings.node_image)
        await until_served(kube)
        await handlers.run(loops, loops.stop, settings.watch_namespace)
    finally:
        beating.cancel()
        await http.aclose()
        await kube.close()
        stop_serving()


def main() -> None:
    parser = argparse.ArgumentParser(prog="oarlock-operator", description="Runs RaftClusters on Kubernetes.")
    parser.add_argument("--version", action="version", version=f"oarlock-operator {version('oarlock')}")
    parser.parse_args()
    settings = Settings()
    logs.configure(settings.log_level, settings.log_format)
    asyncio.run(operate(settings))


if __name__ == "__main__":
    main()
