"""Kubernetes' own controllers over a `Sim`: StatefulSet, kubelet, scheduler, volumes, node life cycle.

Each function is one controller's sync: it moves what it can, and returns whether anything moved. What was tried on a
real Kubernetes 1.36 is kept: a claim that is ending stops the StatefulSet controller at its ordinal and all later ones;
with OnDelete a recreated pod runs the update revision; a claim is protected while a pod names it.
"""

from __future__ import annotations

import hashlib
import json
import marshal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from oarlock_operator import names

if TYPE_CHECKING:
    from tests.operator.sim import Sim

Manifest = dict[str, Any]
PROTECTION = "kubernetes.io/pvc-protection"
HOSTNAME = "kubernetes.io/hostname"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNREACHABLE_SECONDS = 300.0  # the toleration that every pod has by default


def copied(manifest: Any) -> Any:
    """A deep copy of something that came from JSON; many times faster than `copy.deepcopy`."""
    return marshal.loads(marshal.dumps(manifest))


@lru_cache(maxsize=4096)
def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def revision(sts: Manifest) -> str:
    return f"{sts['metadata']['name']}-{_digest(json.dumps(sts['spec']['template'], sort_keys=True))}"


def statefulset(sim: Sim, name: str) -> bool:
    sts = sim.objects.get(("StatefulSet", name))
    pods = {name_: pod for (kind, name_), pod in sim.objects.items() if kind == "Pod"}
    if sts is None or "deletionTimestamp" in sts["metadata"]:
        return False
    moved, update = False, revision(sts)
    if ("ControllerRevision", update) not in sim.objects:
        _keep_revision(sim, sts, update)
        moved = True
    for pod in pods.values():  # orphans are adopted by their labels
        if not pod["metadata"].get("ownerReferences"):
            pod["metadata"]["ownerReferences"] = [_owner(sts)]
            sim.touch(pod)
            moved = True
    for ordinal in range(sts["spec"]["replicas"]):
        claim = sim.objects.get(("PersistentVolumeClaim", names.claim(name, ordinal)))
        pod_name = names.pod(name, ordinal)
        if pod_name in pods:
            continue
        if claim is not None and "deletionTimestamp" in claim["metadata"]:
            break
        if claim is None:
            _make_claim(sim, sts, ordinal)
        _make_pod(sim, sts, pod_name, ordinal, update)
        moved = True
    for pod_name, pod in pods.items():
        ordinal_ = names.ordinal_of_pod(name, pod_name)
        surplus = ordinal_ is not None and ordinal_ >= sts["spec"]["replicas"]
        if surplus and "deletionTimestamp" not in pod["metadata"]:
            sim.mark_deleted(pod)
            moved = True
    return _sts_status(sim, sts, update) or moved


def _make_claim(sim: Sim, sts: Manifest, ordinal: int) -> None:
    claim = names.claim(sts["metadata"]["name"], ordinal)
    template = copied(sts["spec"]["volumeClaimTemplates"][0])
    meta = {
        "name": claim,
        "namespace": sts["metadata"]["namespace"],
        "labels": template["metadata"]["labels"],
        "finalizers": [PROTECTION],
    }
    made = sim.put({**template, "metadata": meta, "status": {"phase": "Pending"}})
    sim.new_disk(made["metadata"]["uid"], ordinal)


def _make_pod(sim: Sim, sts: Manifest, name: str, ordinal: int, update: str) -> None:
    template = copied(sts["spec"]["template"])
    labels = {**template["metadata"]["labels"], "controller-revision-hash": update}
    labels |= {"statefulset.kubernetes.io/pod-name": name, "apps.kubernetes.io/pod-index": str(ordinal)}
    meta = {"name": name, "namespace": sts["metadata"]["namespace"], "labels": labels}
    meta["annotations"] = template["metadata"].get("annotations", {})
    meta["ownerReferences"] = [_owner(sts)]
    spec = {**template["spec"]}
    data = {"name": "data", "persistentVolumeClaim": {"claimName": f"data-{name}"}}
    spec["volumes"] = [data, *spec.get("volumes", [])]
    status = {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]}
    sim.put({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": status})


def _keep_revision(sim: Sim, sts: Manifest, name: str) -> None:
    """What a StatefulSet's template was, as a patch of it."""
    meta = {"name": name, "namespace": sts["metadata"]["namespace"], "ownerReferences": [_owner(sts)]}
    template = {**copied(sts["spec"]["template"]), "$patch": "replace"}
    data = {"spec": {"template": template}}
    sim.put({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": meta, "data": data, "revision": 1})


def _owner(sts: Manifest) -> Manifest:
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "uid": sts["metadata"]["uid"], "controller": True}


def _sts_status(sim: Sim, sts: Manifest, update: str) -> bool:
    pods = [pod for (kind, _), pod in sim.objects.items() if kind == "Pod"]
    status = {
        "observedGeneration": sts["metadata"].get("generation", 1),
        "updateRevision": update,
        "currentRevision": sts.get("status", {}).get("currentRevision", update),
        "replicas": len(pods),
        "readyReplicas": sum(ready(pod) for pod in pods),
        "updatedReplicas": sum(pod["metadata"]["labels"].get("controller-revision-hash") == update for pod in pods),
    }
    if sts.get("status") == status:
        return False
    sts["status"] = status
    sim.touch(sts)
    return True


def ready(pod: Manifest) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def kubelet(sim: Sim, pod: Manifest) -> bool:
    """One pod's next step: scheduled, started, ready or not, gone."""
    meta, name = pod["metadata"], pod["metadata"]["name"]
    node = pod["spec"].get("nodeName")
    if node is None:
        if "deletionTimestamp" in meta:
            del sim.objects[("Pod", name)]
            return True
        return _schedule(sim, pod)
    if ("Node", node) not in sim.objects or node in sim.nodes_off:
        return False  # nobody there to do it; the node life cycle speaks for it
    if "deletionTimestamp" in meta:
        if name in sim.stuck:
            return False
        del sim.objects[("Pod", name)]
        return True
    return _set_status(sim, pod, _running(sim, pod))


def _schedule(sim: Sim, pod: Manifest) -> bool:
    name = pod["metadata"]["name"]
    claim = sim.objects.get(("PersistentVolumeClaim", f"data-{name}"))
    node = why = None
    if claim is None:
        why = f'persistentvolumeclaim "data-{name}" not found'
    elif _needs_too_much(pod):
        why = "0/3 nodes are available: insufficient cpu."
    else:
        node = _node_for(sim, claim)
        why = None if node else "0/3 nodes are available: didn't match the volume's node affinity."
    if node is None:
        return _set_status(sim, pod, _pending([{"type": "PodScheduled", "status": "False", "message": why}]))
    pod["spec"]["nodeName"] = node
    sim.touch(pod)
    return True


def _node_for(sim: Sim, claim: Manifest | None) -> str | None:
    """The volume's own node if it has one; else the usable node with the fewest pods, to which it is bound now."""
    assert claim is not None
    usable = [node for node in sim.node_names() if node not in sim.nodes_off and not _tainted(sim, node)]
    volume = sim.objects.get(("PersistentVolume", claim["spec"].get("volumeName", "")))
    if volume is not None:
        bound = host_of(volume)
        return bound if bound in usable else None
    if "volumeName" in claim["spec"]:
        return None
    load = dict.fromkeys(usable, 0)
    for (kind, _), pod in sim.objects.items():
        if kind == "Pod" and pod["spec"].get("nodeName") in load:
            load[pod["spec"]["nodeName"]] += 1
    if not load:
        return None
    node = min(sorted(load), key=lambda n: load[n])
    sim.bind(claim, node)
    return node


def host_of(volume: Manifest) -> str:
    terms = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    return str(terms[0]["matchExpressions"][0]["values"][0])


def _tainted(sim: Sim, node: str) -> bool:
    manifest = sim.objects.get(("Node", node))
    return bool(manifest is None or manifest["spec"].get("taints") or manifest["spec"].get("unschedulable"))


def _needs_too_much(pod: Manifest) -> bool:
    requests = pod["spec"]["containers"][0].get("resources", {}).get("requests", {})
    return str(requests.get("cpu", "0")) in ("100", "1000")


def _pending(conditions: list[Manifest], **more: Any) -> Manifest:
    return {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}, *conditions], **more}


def _waiting(reason: str) -> list[Manifest]:
    return [{"name": "oarlock", "ready": False, "state": {"waiting": {"reason": reason}}}]


def _running(sim: Sim, pod: Manifest) -> Manifest:
    name, image = pod["metadata"]["name"], pod["spec"]["containers"][0]["image"]
    scheduled = {"type": "PodScheduled", "status": "True"}
    address = {"podIP": pod["status"].get("podIP") or sim.address(name)}
    if sim.bad_image(image):
        return _pending([scheduled], containerStatuses=_waiting("ImagePullBackOff"), **address)
    if sim.crashing(image):
        status = {"phase": "Running", "containerStatuses": _waiting("CrashLoopBackOff"), **address}
        return {**status, "conditions": [{"type": "Ready", "status": "False"}, scheduled]}
    ok = "True" if sim.is_ready(name) else "False"
    return {"phase": "Running", **address, "conditions": [{"type": "Ready", "status": ok}, scheduled]}


def _set_status(sim: Sim, pod: Manifest, status: Manifest) -> bool:
    if pod["status"] == status:
        return False
    pod["status"] = status
    sim.touch(pod)
    return True


def volumes(sim: Sim) -> bool:
    """Claims that are ending: protected while a pod names them, gone with their last finalizer."""
    moved = False
    for key, claim in list(sim.objects.items()):
        if key[0] != "PersistentVolumeClaim" or "deletionTimestamp" not in claim["metadata"]:
            continue
        finalizers = claim["metadata"].get("finalizers", [])
        if PROTECTION in finalizers and ("Pod", key[1].removeprefix("data-")) not in sim.objects:
            claim["metadata"]["finalizers"] = finalizers = [f for f in finalizers if f != PROTECTION]
            sim.touch(claim)
            moved = True
        if not finalizers:
            del sim.objects[key]
            sim.objects.pop(("PersistentVolume", claim["spec"].get("volumeName", "")), None)
            moved = True
    return moved


def nodes(sim: Sim) -> bool:
    """What Kubernetes says and does about nodes that do not answer or are gone."""
    moved = False
    for node in sim.node_names():
        moved |= _taint(sim, node, off=node in sim.nodes_off)
    for key, pod in list(sim.objects.items()):
        node = pod["spec"].get("nodeName") if key[0] == "Pod" else None
        if node is None:
            continue
        manifest = sim.objects.get(("Node", node))
        if manifest is None:
            del sim.objects[key]  # pod garbage collection
            moved = True
        elif node in sim.nodes_off:
            keys = {taint["key"] for taint in manifest["spec"].get("taints", [])}
            if OUT_OF_SERVICE in keys:
                del sim.objects[key]
                moved = True
                continue
            conditions = [{"type": "Ready", "status": "False"}, {"type": "PodScheduled", "status": "True"}]
            moved |= _set_status(sim, pod, {**pod["status"], "conditions": conditions})
            late = sim.now - sim.nodes_off[node] > UNREACHABLE_SECONDS
            if late and "deletionTimestamp" not in pod["metadata"]:
                sim.mark_deleted(pod)
                moved = True
    return moved


def _taint(sim: Sim, node: str, *, off: bool) -> bool:
    manifest = sim.objects[("Node", node)]
    ready_ = {"type": "Ready", "status": "Unknown" if off else "True"}
    taints = [taint for taint in manifest["spec"].get("taints", []) if taint["key"] != UNREACHABLE]
    if off:
        taints.append({"key": UNREACHABLE, "effect": "NoExecute"})
    if manifest["status"]["conditions"] == [ready_] and manifest["spec"].get("taints", []) == taints:
        return False
    manifest["status"]["conditions"], manifest["spec"]["taints"] = [ready_], taints
    sim.touch(manifest)
    return True
