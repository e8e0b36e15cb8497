"""Worlds to plan on, made by hand: `world()` is a healthy cluster of three, and each argument makes it less so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from oarlock.wire import admin
from oarlock.wire.admin import ConfigurationModel, MemberModel, Role, State, StatusAnswer
from oarlock_operator import names
from oarlock_operator.api.spec import Spec
from oarlock_operator.api.status import BootstrapStatus, Status
from oarlock_operator.resources import statefulset
from oarlock_operator.world import Barrier, Cluster, Pod, Seen, Volume, World

NAME, NAMESPACE, UID, CLUSTER_ID = "demo", "default", "uid-of-the-cluster", "demo-uid+nonce"
REVISION, NOW = "demo-revision", 1_000_000.0


def node_id(ordinal: int, incarnation: int = 1) -> str:
    return f"{NAME}-{ordinal}-{incarnation:016x}"


def member(ordinal: int, incarnation: int = 1, *, promote: bool = False) -> MemberModel:
    pod = names.pod(NAME, ordinal)
    return MemberModel(
        id=node_id(ordinal, incarnation),
        peer_url=names.peer_url(NAME, NAMESPACE, pod),
        client_url=names.client_url(NAME, NAMESPACE, pod),
        promote=promote,
    )


def configuration(
    voters: Iterable[int], *, id: str = "1.10", committed: bool = True, **parts: Any
) -> ConfigurationModel:
    return ConfigurationModel(id=id, committed=committed, voters=[member(v) for v in voters], **parts)


def answer(ordinal: int, config: ConfigurationModel | None, leader: int | None, **changes: Any) -> StatusAnswer:
    """What a sound member says; without a configuration it is Idle."""
    ids = {m.id for m in (*config.voters, *config.learners)} if config else set()
    body: dict[str, Any] = {
        "state": State.PARTICIPATING if config else State.IDLE,
        "cluster_id": CLUSTER_ID if config else None,
        "node_id": node_id(ordinal),
        "name": names.pod(NAME, ordinal),
        "incarnation": f"{1:016x}",
        "version": "0.1.0",
        "cluster_version": 1,
        "role": Role.LEADER if leader == ordinal else Role.FOLLOWER,
        "term": 1,
        "leader": node_id(leader) if leader is not None else None,
        "leader_contact_age_seconds": 0.1,
        "commit_index": 100,
        "applied_index": 100,
        "last_index": 100,
        "last_term": 1,
        "configuration": config,
        "state_hash": "",
        "peers": {id_: admin.PeerModel(match_index=100, contact_age_seconds=0.1, progress="replicate") for id_ in ids},
        "storage": admin.StorageModel(healthy=True, free_bytes=1, wal_bytes=1, cut_bytes=0, low_on_space=False),
        "pod_uid": f"pod-{ordinal}",
        "volume_uid": f"volume-{ordinal}",
    }
    return StatusAnswer(**{**body, **changes})


def pod(ordinal: int, **changes: Any) -> Pod:
    body = {"name": names.pod(NAME, ordinal), "uid": f"pod-{ordinal}", "ordinal": ordinal, "ip": f"10.0.0.{ordinal}"}
    return Pod(**{**body, "ready": True, "terminating": False, **changes})


def volume(ordinal: int, **changes: Any) -> Volume:
    meta: dict[str, Any] = {"name": names.claim(NAME, ordinal), "uid": f"volume-{ordinal}", "resourceVersion": "1"}
    manifest = {"metadata": {**meta, "annotations": {names.MEMBER_ANNOTATION: node_id(ordinal)}}}
    body = {"name": names.claim(NAME, ordinal), "ordinal": ordinal, "uid": f"volume-{ordinal}", "cluster_uid": UID}
    return Volume(**{**body, "manifest": manifest, **changes})


def world(
    *,
    spec: int = 3,
    live: int | None = None,
    config: ConfigurationModel | None = None,
    leader: int | None = 0,
    barrier: bool = True,
    answers: Mapping[int, StatusAnswer | None] | None = None,
    idle: Iterable[int] = (),
    volumes: Iterable[Volume] | None = None,
    founded: bool = True,
    storage: Mapping[str, Any] | None = None,
    image: str | None = None,
    live_image: str | None = None,
    pods: Mapping[int, Mapping[str, Any]] | None = None,
    gone: Iterable[int] = (),
    status: Mapping[str, Any] | None = None,
    now: float = NOW,
) -> World:
    """`idle` pods stand beside the members; `answers` replaces what a pod says (None: it does not answer).

    `live_image` is in the StatefulSet's template when it is another than the spec's; `pods` changes pods, `gone` are
    those that are not there; `status` holds latches.
    """
    config = config or configuration(range(spec))
    ordinals = sorted(
        o for m in (*config.voters, *config.learners) if (o := names.ordinal_of_member(NAME, m.id)) is not None
    )
    said: dict[int, StatusAnswer | None] = {o: answer(o, config, leader) for o in ordinals}
    said |= {o: answer(o, None, None) for o in idle}
    said |= answers or {}
    latch = BootstrapStatus(seed="demo-0", node_id=node_id(0), cluster_id=CLUSTER_ID if founded else "")
    live = live if live is not None else max(said) + 1
    changed = {o: pod(o, **{"revision": REVISION, **(pods or {}).get(o, {})}) for o in sorted(said) if o not in gone}
    cluster = Cluster(
        name=NAME,
        namespace=NAMESPACE,
        uid=UID,
        generation=1,
        resource_version="7",
        spec=Spec.model_validate({"replicas": spec, "storage": storage or {}, "image": image}),
        status=Status(bootstrap=latch if founded else None, **(status or {})),
    )
    template = statefulset.template(cluster.with_spec(image=live_image or image), "")
    sts = {
        "kind": "StatefulSet",
        "metadata": {"generation": 1, "annotations": {names.TEMPLATE_ANNOTATION: template.hash}},
        "spec": {"replicas": live, "template": template.body},
        "status": {"observedGeneration": 1, "updateRevision": REVISION},
    }
    return World(
        cluster=cluster,
        statefulset=sts,
        pods=tuple(changed.values()),
        volumes=tuple(volumes) if volumes is not None else tuple(volume(o) for o in sorted(said)),
        seen=tuple(
            Seen(one, said[o], "" if said[o] else one.why or "connection refused") for o, one in changed.items()
        ),
        barrier=Barrier(node_id(leader), 1) if barrier and leader is not None else None,
        token="token",
        now=now,
    )
