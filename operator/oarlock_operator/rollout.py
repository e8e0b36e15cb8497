"""Which pod template the pods shall have, and which have it. Pure.

* The template is written to the StatefulSet only under a latched operation: until a rolling update may begin, a pod
  that is made anew, for whatever reason, comes back as it was.
* A template whose first member did not come up is not tried again until the spec asks for another one.
* The controller's `updateRevision` is believed only once the controller has seen the object as it is.
"""

from __future__ import annotations

from . import names
from .resources.statefulset import Template, template
from .world import Manifest, Pod, World


def rendered(world: World) -> Template:
    """What the spec asks for."""
    return template(world.cluster, world.default_image)


def failed(world: World) -> bool:
    """Is the template of the spec one that failed, with another to go back to?"""
    rollout = world.cluster.status.rollout
    return rollout is not None and bool(rollout.good_hash) and rollout.failed_hash == rendered(world).hash


def wanted(world: World) -> Template:
    """What the spec asks for, or the last good one when that failed."""
    if not failed(world):
        return rendered(world)
    rollout = world.cluster.status.rollout
    assert rollout is not None
    return Template(rollout.good_hash, _good(world))


def to_write(world: World) -> Template:
    """What the StatefulSet shall hold now: the wanted template only where nothing stands, or once it was latched."""
    want, live = wanted(world), world.statefulset
    if live is None or live_hash(world) == want.hash or latched(world):
        return want
    return Template(live_hash(world), _as_applied(live["spec"]["template"]))


def latched(world: World) -> bool:
    """Was the rolling update to the wanted template written down, and read back?"""
    operation = world.cluster.status.operation
    return operation is not None and (operation.type, operation.target) == ("RollingUpdate", wanted(world).hash)


def live_hash(world: World) -> str:
    """Of the template that the StatefulSet holds; empty when it does not say."""
    meta: Manifest = (world.statefulset or {}).get("metadata", {})
    return str(meta.get("annotations", {}).get(names.TEMPLATE_ANNOTATION, ""))


def revision(world: World) -> str:
    """Of the live template; empty until the controller has seen it."""
    live = world.statefulset or {}
    status = live.get("status", {})
    if status.get("observedGeneration", -1) < live.get("metadata", {}).get("generation", 0):
        return ""
    return str(status.get("updateRevision", ""))


def updated(world: World, pod: Pod) -> bool | None:
    """Was this pod made from the wanted template? None while nobody can tell."""
    if live_hash(world) != wanted(world).hash:
        return False
    now = revision(world)
    return pod.revision == now if now else None


def outdated(world: World) -> list[Pod]:
    return [pod for pod in world.pods if updated(world, pod) is False]


def given_up(world: World, pod: Pod) -> bool:
    """Was this pod made from the template that failed? Asked of outdated pods: all others run the last good one."""
    latch = world.cluster.status.rollout
    return latch is not None and failed(world) and pod.revision != latch.revision


def _good(world: World) -> Manifest:
    """The last good template as it stands, or stood; failing that, made anew for its image and resources."""
    rollout, live = world.cluster.status.rollout, world.statefulset
    assert rollout is not None
    if live is not None and live_hash(world) == rollout.good_hash:
        return _as_applied(live["spec"]["template"])
    if world.good_template is not None:
        return world.good_template
    changes = {"image": rollout.good_image, "resources": rollout.good_resources}
    return template(world.cluster.with_spec(**changes), world.default_image).body


def of_revision(revision: Manifest) -> Manifest:
    """The pod template that a ControllerRevision keeps: a patch of the StatefulSet."""
    body = {key: value for key, value in revision["data"]["spec"]["template"].items() if key != "$patch"}
    return _as_applied(body)


def _as_applied(body: Manifest) -> Manifest:
    """A template as read, fit to be applied: older API servers write a creation time that nobody may set."""
    meta = {key: value for key, value in body.get("metadata", {}).items() if key != "creationTimestamp"}
    return {**body, "metadata": meta}
