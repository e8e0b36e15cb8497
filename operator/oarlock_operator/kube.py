"""A thin port to the Kubernetes API: dicts in, dicts out, over the asyncio client of the official package.

Rules of this module: every request has a time-out (the client's own default is 300 s, longer than any lease);
children are written by server-side apply and never by read-modify-write; nothing is cached; no discovery is asked
for (the paths of the few kinds we use never change). The client's typed models are not used: they drop fields that
are newer than themselves.
"""

from __future__ import annotations

import json
import os
from typing import Any, Protocol, cast

from aiohttp import ClientError
from kubernetes.aio import client as aio_client
from kubernetes.aio import config as aio_config
from kubernetes.aio.client.rest import ApiException  # type: ignore[attr-defined]  # re-exported without saying so
from kubernetes.aio.dynamic import DynamicClient

from . import names

Manifest = dict[str, Any]

REQUEST_TIMEOUT_SECONDS = 10.0

_PATHS = {
    ("v1", "Pod"): ("/api/v1", "pods"),
    ("v1", "Node"): ("/api/v1", "nodes"),
    ("v1", "PersistentVolume"): ("/api/v1", "persistentvolumes"),
    ("v1", "PersistentVolumeClaim"): ("/api/v1", "persistentvolumeclaims"),
    ("v1", "Secret"): ("/api/v1", "secrets"),
    ("v1", "Service"): ("/api/v1", "services"),
    ("v1", "Event"): ("/api/v1", "events"),
    ("apps/v1", "StatefulSet"): ("/apis/apps/v1", "statefulsets"),
    ("apps/v1", "ControllerRevision"): ("/apis/apps/v1", "controllerrevisions"),
    ("policy/v1", "PodDisruptionBudget"): ("/apis/policy/v1", "poddisruptionbudgets"),
    ("networking.k8s.io/v1", "NetworkPolicy"): ("/apis/networking.k8s.io/v1", "networkpolicies"),
    ("coordination.k8s.io/v1", "Lease"): ("/apis/coordination.k8s.io/v1", "leases"),
    (names.API_VERSION, names.KIND): (f"/apis/{names.API_VERSION}", names.PLURAL),
}


class KubeError(Exception):
    """The API server refused, or could not be asked. `status` is 0 when there was no answer."""

    def __init__(self, status: int, why: str):
        super().__init__(f"{status or 'no answer'}: {why}")
        self.status = status
        self.why = why


class Kube(Protocol):
    """What the operator needs of Kubernetes. `get` gives None for what is not there; all else raises KubeError."""

    async def get(self, api: str, kind: str, namespace: str, name: str) -> Manifest | None: ...
    async def list(self, api: str, kind: str, namespace: str, selector: str = "") -> list[Manifest]: ...
    async def apply(
        self, manifest: Manifest, *, manager: str = names.MANAGER, subresource: str = "", force: bool = True
    ) -> Manifest: ...
    async def create(self, manifest: Manifest) -> Manifest: ...
    async def replace(self, manifest: Manifest) -> Manifest: ...
    async def delete(self, manifest: Manifest, *, unchanged: bool, orphan: bool = False) -> None: ...
    async def evict(self, manifest: Manifest) -> None: ...
    async def served(self) -> bool: ...


class KubeClient:
    """The port over a real API server. `connect` reads the pod's service account, or else KUBECONFIG."""

    def __init__(self, api: aio_client.ApiClient):
        self._api = api
        self._dynamic = DynamicClient(api)  # type: ignore[no-untyped-call]  # has no annotations

    @classmethod
    async def connect(cls) -> KubeClient:
        configuration = aio_client.Configuration()
        # Python 3.13 refuses certificates without an authority key identifier; many clusters' API servers have such,
        # and every other client takes them. Chain, name and dates are checked all the same.
        configuration.disable_strict_ssl_verification = True
        if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
            aio_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await aio_config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        return cls(aio_client.ApiClient(configuration=configuration))

    async def close(self) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]

    async def get(self, api: str, kind: str, namespace: str, name: str) -> Manifest | None:
        try:
            return await self._request("get", _path(api, kind, namespace, name))
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, api: str, kind: str, namespace: str, selector: str = "") -> list[Manifest]:
        """Every object of a kind in a namespace, read from etcd (not from a watch cache: a stale list is a lie)."""
        answer = await self._request("get", _path(api, kind, namespace), label_selector=selector or None)
        return [{"apiVersion": api, "kind": kind, **item} for item in answer["items"]]

    async def apply(
        self, manifest: Manifest, *, manager: str = names.MANAGER, subresource: str = "", force: bool = True
    ) -> Manifest:
        """Server-side apply. With resourceVersion or uid in the manifest, a changed object gives KubeError 409."""
        path = _path_of(manifest) + (f"/{subresource}" if subresource else "")
        return await self._request(
            "patch",
            path,
            body=manifest,
            content_type="application/apply-patch+yaml",
            field_manager=manager,
            force_conflicts="true" if force else "false",
        )

    async def create(self, manifest: Manifest) -> Manifest:
        path = _path(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["namespace"])
        return await self._request("post", path, body=manifest, field_manager=names.MANAGER)

    async def replace(self, manifest: Manifest) -> Manifest:
        return await self._request("put", _path_of(manifest), body=manifest, field_manager=names.MANAGER)

    async def delete(self, manifest: Manifest, *, unchanged: bool, orphan: bool = False) -> None:
        """Delete exactly this object, by uid; `unchanged`: only as it was read; `orphan`: what it owns stays.

        One that is gone is no error.
        """
        meta = manifest["metadata"]
        preconditions = {"uid": meta["uid"]} | ({"resourceVersion": meta["resourceVersion"]} if unchanged else {})
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        if orphan:
            body["propagationPolicy"] = "Orphan"
        try:
            await self._request("delete", _path_of(manifest), body=body)
        except KubeError as error:
            if error.status != 404:
                raise

    async def evict(self, manifest: Manifest) -> None:
        """Evict exactly this pod, by uid. KubeError 429 while a disruption budget forbids it; one gone is no error."""
        meta = manifest["metadata"]
        path = _path("v1", "Pod", meta["namespace"], meta["name"])
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
            "deleteOptions": {"preconditions": {"uid": meta["uid"]}},
        }
        try:
            await self._request("post", f"{path}/eviction", body=body)
        except KubeError as error:
            if error.status != 404:
                raise

    async def served(self) -> bool:
        """Is our custom resource served? An operator that starts to watch before it is stays blind for ever."""
        try:
            answer = await self._request("get", f"/apis/{names.API_VERSION}")
        except KubeError as error:
            if error.status == 404:
                return False
            raise
        return any(resource["name"] == names.PLURAL for resource in answer["resources"])

    async def _request(self, method: str, path: str, **parameters: Any) -> Manifest:
        try:
            response = await self._dynamic.request(
                method, path, serialize=False, _request_timeout=REQUEST_TIMEOUT_SECONDS, **parameters
            )
            return cast(Manifest, await response.json())
        except ApiException as error:
            raise KubeError(int(error.status or 0), _message(error)) from error
        except (ClientError, TimeoutError, OSError) as error:
            raise KubeError(0, f"{type(error).__name__}: {error}") from error


def _path(api: str, kind: str, namespace: str, name: str = "") -> str:
    """An empty namespace is that of what belongs to none."""
    prefix, plural = _PATHS[(api, kind)]
    inside = f"/namespaces/{namespace}" if namespace else ""
    return f"{prefix}{inside}/{plural}" + (f"/{name}" if name else "")


def _path_of(manifest: Manifest) -> str:
    meta = manifest["metadata"]
    return _path(manifest["apiVersion"], manifest["kind"], meta["namespace"], meta["name"])


def _message(error: ApiException) -> str:
    """The sentence in the API server's Status body, or what there is instead."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason or error.body or "no reason given")
