"""Evidence: whose disk is lost, and how that is known. Pure.

A member that does not answer is uncertain, never lost: its node may come back. Proof is one of these and nothing else:

* from its pod answers another identity that is empty or useless, or itself, saying that its data is damaged (Corrupt)
  or another cluster's (Stale);
* it runs on another volume claim than the one it was admitted on: an old copy may hold an old vote;
* its volume claim is being deleted, or is gone;
* its pod's Node is gone or out of service, and no other Node can use its volume;
* a person says so, by the annotation `oarlock.dev/replace` with its node id.

Outdated is none of them: that disk is sound, and only waits for a newer version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oarlock.wire.admin import State, StatusAnswer

from . import names
from .world import Manifest, Node, Pod, Volume, World

_GONE = (State.IDLE, State.STALE, State.CORRUPT, State.REMOVED)


@dataclass(frozen=True, slots=True)
class Loss:
    """`why` completes "its disk is lost: ". `given_up`: it may still take part, on a disk that will not stay."""

    why: str
    given_up: bool = False


def loss(world: World, node_id: str) -> Loss | None:
    """Why the disk of this member is lost; None while nothing proves it."""
    ordinal = world.ordinal(node_id)
    if ordinal is None:
        return None
    seen, volume = world.at(ordinal), world.volume(ordinal)
    status = seen.status if seen is not None else None
    if status is not None and status.node_id != node_id:
        gone = status.state in _GONE
        return Loss(f"{status.node_id} answers in its place and is {status.state}") if gone else None
    if status is not None and (own := _own_word(status, volume)) is not None:
        return own
    if volume is not None and volume.terminating:
        return Loss(f"its volume claim {volume.name} is being deleted", given_up=seen is not None)
    if world.cluster.annotations.get(names.REPLACE_ANNOTATION) == node_id:
        return Loss(f"the annotation {names.REPLACE_ANNOTATION} says so", given_up=status is not None)
    if status is not None:
        return None
    if volume is None:
        return Loss(f"its volume claim {names.claim(world.cluster.name, ordinal)} is gone")
    stranded_ = stranded(world, seen.pod if seen is not None else None, volume)
    return Loss(stranded_) if stranded_ else None


def _own_word(status: StatusAnswer, volume: Volume | None) -> Loss | None:
    if status.state in (State.CORRUPT, State.STALE):
        return Loss(f"it is {status.state}: {status.reason}" if status.reason else f"it is {status.state}")
    moved = volume is not None and status.volume_uid is not None and status.volume_uid != volume.uid
    if moved and status.state is not State.OUTDATED:
        return Loss("it stands under another volume claim than before")
    return None


def condemned(world: World, ordinal: int) -> str:
    """Why the volume of a place that no member holds is to be replaced by a new one; empty when it is not.

    A member that answers is reset instead: that keeps its data in quarantine. Ask only for ordinals that the confirmed
    configuration lacks.
    """
    volume, seen = world.volume(ordinal), world.at(ordinal)
    if volume is None:
        return ""
    if volume.terminating:
        return "is being deleted"
    if seen is not None and seen.status is not None:
        return ""
    asked = world.cluster.annotations.get(names.REPLACE_ANNOTATION, "")
    # The claim says whose disk it holds; else a new, empty one would be condemned for the old one's sake.
    if asked and volume.member == asked and world.ordinal(asked) == ordinal:
        return f"holds the disk of {asked}, which the annotation {names.REPLACE_ANNOTATION} gives up"
    return stranded(world, seen.pod if seen is not None else None, volume)


def stranded(world: World, pod: Pod | None, volume: Volume) -> str:
    """Why no Node can use this volume any more; empty when one can, or when that cannot be known."""
    around = world.around
    if around is None or around.nodes is None:
        return ""
    usable = [node for node in around.nodes if not node.out_of_service]
    if pod is not None and pod.node in {node.name for node in usable}:
        return ""
    terms = _terms(around.disks.get(volume.disk, {}))
    if not terms or any(matches(terms, node) for node in usable):
        return ""
    where = f"Node {pod.node}" if pod is not None and pod.node else "its Node"
    return f"{where} is gone or out of service, and no other can use the volume of {volume.name}"


def _terms(disk: Manifest) -> list[Manifest]:
    required = disk.get("spec", {}).get("nodeAffinity", {}).get("required", {})
    return list(required.get("nodeSelectorTerms", []))


def matches(terms: list[Manifest], node: Node) -> bool:
    """As the scheduler does: one term must match whole; an empty one matches nothing."""
    return any(_term_matches(term, node) for term in terms)


def _term_matches(term: Manifest, node: Node) -> bool:
    labels, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not labels and not fields:
        return False
    return all(_holds(one, node.labels) for one in labels) and all(
        _holds(one, {"metadata.name": node.name}) for one in fields
    )


def _holds(requirement: dict[str, Any], values: Any) -> bool:
    """An operator that is not known holds: what is not understood is no proof."""
    key, wanted = requirement["key"], requirement.get("values") or []
    value = values.get(key)
    match requirement["operator"]:
        case "In":
            return value in wanted
        case "NotIn":
            return value not in wanted
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as which:
            if value is None or not wanted or not (_number(value) and _number(wanted[0])):
                return False
            return int(value) > int(wanted[0]) if which == "Gt" else int(value) < int(wanted[0])
        case _:
            return True


def _number(text: str) -> bool:
    return text.removeprefix("-").isdigit()
