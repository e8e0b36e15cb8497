"""The only file that imports kopf: it supplies watches, and each event does nothing but wake a loop.

Not used, on purpose: kopf's daemons (restarted on a Terminating object they never start, and their cleanup is cut off),
its change detection (it would write annotations to every object), its finalizer, its peering (it pauses on clocks).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import fields
from typing import Any

import kopf

from . import names
from .loops import Loops

CHILDREN = (("apps", "v1", "statefulsets"), ("", "v1", "pods"), ("", "v1", "persistentvolumeclaims"))


class Connection(kopf.ConnectionInfo):
    """As kopf's, but it takes what Kubernetes' own clients take: see `kube.KubeClient.connect`."""

    def as_ssl_context(self) -> ssl.SSLContext:
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


class Backoffs:
    """Endless, jittered: an API server that is away for an hour is asked again when it is back."""

    def __iter__(self) -> Iterator[float]:
        return (random.uniform(0.5, 1.0) * min(30.0, 2.0**n) for n in itertools.count())


def registry(loops: Loops, on_exit: Callable[[], Awaitable[None]]) -> kopf.OperatorRegistry:
    """Every handler of the operator. `on_exit` runs when kopf ends, before it cancels what it finds running."""
    found = kopf.OperatorRegistry()

    @kopf.on.startup(registry=found)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.scanning.disabled = True  # no rights to list namespaces and CRDs are needed
        settings.posting.enabled = False  # our Events are our own
        settings.watching.server_timeout = 300
        settings.watching.client_timeout = 330
        settings.watching.connect_timeout = 10
        settings.networking.request_timeout = 30
        settings.networking.error_backoffs = Backoffs()
        settings.queueing.worker_limit = None
        for resource in CHILDREN:
            settings.watching.label_selectors[resource] = names.CLUSTER_LABEL

    @kopf.on.login(registry=found)
    async def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        found = kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)
        return Connection(**{field.name: getattr(found, field.name) for field in fields(found)}) if found else None

    @kopf.on.cleanup(registry=found)
    async def cleanup(**_: Any) -> None:
        await asyncio.shield(on_exit())

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=found, id="cluster")
    async def cluster_event(type: str | None, meta: Any, **_: Any) -> None:
        namespace, name, uid = meta["namespace"], meta["name"], meta["uid"]
        if type == "DELETED":
            loops.cluster_gone(namespace, name, uid)
            return
        mark = (meta.get("generation"), dict(meta.get("annotations") or {}), meta.get("deletionTimestamp"))
        loops.cluster_seen(namespace, name, uid, mark)

    for group, version, plural in CHILDREN:

        @kopf.on.event(
            group, version, plural, registry=found, id=f"child-{plural}", labels={names.CLUSTER_LABEL: kopf.PRESENT}
        )
        async def child_event(meta: Any, **_: Any) -> None:
            loops.child_seen(meta["namespace"], meta["labels"][names.CLUSTER_LABEL])

    return found


async def run(loops: Loops, on_exit: Callable[[], Awaitable[None]], namespace: str) -> None:
    """Watch until SIGTERM or SIGINT, one namespace or, when it is empty, all.

    Call only once the custom resource is served: a watch of nothing stays blind.
    """
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # each event would say that its handler succeeded
    where: dict[str, Any] = {"namespaces": [namespace]} if namespace else {"clusterwide": True}
    await kopf.operator(registry=registry(loops, on_exit), standalone=True, **where)
