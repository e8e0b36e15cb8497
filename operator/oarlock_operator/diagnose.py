"""Diagnose: what a world means. Pure; every word of the planner is defined here, once.

The three words that matter:

* **confirmed**: the configuration is committed, not joint, and was told by a leader that passed a barrier in this pass.
  Only a confirmed configuration permits a membership change or fewer replicas.
* **participating**: a voter of this cluster that says so, follows this leader, and has a healthy disk. Gates count
  nothing else.
* **lost**: proven, in one of the ways of `evidence`. A member that does not answer is never lost: that is uncertain,
  not proof. One that is *given up* is lost too, but takes part for as long as it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum

from oarlock.wire.admin import ConfigurationModel, MemberModel, Role, State, StatusAnswer

from .evidence import Loss, loss
from .world import Seen, World, quorum, voters_of


class Verdict(StrEnum):
    UNINITIALISED = "Uninitialised"  # nobody holds data, and nobody ever did
    FOREIGN_VOLUMES = "ForeignVolumes"  # disks of an earlier cluster of this name, and no quorum of it to adopt
    SPLIT_IDENTITY = "SplitIdentity"  # two cluster ids claim to be this one
    DATA_LOST = "DataLost"  # it was founded, and every disk is empty
    HEALTHY = "Healthy"
    DEGRADED = "Degraded"  # a quorum, but not everybody
    QUORUM_UNCERTAIN = "QuorumUncertain"  # no quorum now; enough members may still return
    QUORUM_LOST = "QuorumLost"  # so many disks are proven lost that no quorum can return


@dataclass(frozen=True, slots=True)
class Diagnosis:
    verdict: Verdict
    cluster_id: str  # effective; empty when none is known
    leader: Seen | None  # only one that passed the barrier
    configuration: ConfigurationModel | None  # the leader's; else the newest that anybody told
    confirmed: bool
    participating: frozenset[str]
    lost: frozenset[str]
    target: int  # voters that the plan works towards
    replicas: int  # that the StatefulSet shall have now
    losses: Mapping[str, Loss] = field(default_factory=dict)  # of each that is lost: how that is known

    @property
    def initialised(self) -> bool:
        return self.configuration is not None and bool(self.cluster_id)


def diagnose(world: World) -> Diagnosis:
    """The meaning of a world. Never raises."""
    latch = world.cluster.status.bootstrap
    founded = latch.cluster_id if latch else ""
    claims = sorted(
        {status.cluster_id for _, status in answers(world) if status.cluster_id and status.state != State.STALE}
    )
    cluster_id = founded or (claims[0] if len(claims) == 1 else "")
    leader = _leader(world, cluster_id)
    configuration = _configuration(world, leader, cluster_id)
    confirmed = (
        leader is not None and configuration is not None and configuration.committed and not configuration.outgoing
    )
    losses = _losses(world, configuration) if configuration else {}
    gone = frozenset(id_ for id_, found in losses.items() if not found.given_up)
    participating = (
        frozenset(_participating(world, configuration, leader, cluster_id, gone)) if configuration else frozenset()
    )
    # Until the latch of min_voters opens, no write is accepted: a smaller spec must wait until it has been reached.
    target = max(world.cluster.spec.replicas, configuration.min_voters if configuration and cluster_id else 0)
    return Diagnosis(
        verdict=_verdict(world, founded, claims, configuration, leader, participating, gone),
        cluster_id=cluster_id,
        leader=leader,
        configuration=configuration,
        confirmed=confirmed,
        participating=participating,
        lost=frozenset(losses),
        losses=losses,
        target=target,
        replicas=_replicas(world, configuration, confirmed, target, adopted=bool(founded)),
    )


def answers(world: World) -> Iterator[tuple[Seen, StatusAnswer]]:
    """Those that answered, with their answers."""
    for seen in world.seen:
        if seen.status is not None:
            yield seen, seen.status


def differing(diagnosis: Diagnosis) -> list[str]:
    """Members whose state is not the leader's, by what the leader sees, and of whom nobody knows yet who is wrong."""
    leader, configuration = diagnosis.leader, diagnosis.configuration
    if leader is None or leader.status is None or configuration is None:
        return []
    peers = leader.status.peers
    known = {member.id for member in everybody(configuration)} - diagnosis.lost
    return sorted(id_ for id_ in known if id_ in peers and peers[id_].diverged)


def heir(diagnosis: Diagnosis, leaving: Set[str]) -> str:
    """Who leads best when these leave; empty when nobody can. Of sound members one whose state is not that of the
    leader who leaves (a person may have given it up for that), then who has most of its log, then by name."""
    assert diagnosis.leader is not None
    assert diagnosis.leader.status is not None
    match = {id_: peer.match_index for id_, peer in diagnosis.leader.status.peers.items()}
    others = differing(diagnosis)
    heirs = sorted(diagnosis.participating - leaving)
    return max(heirs, key=lambda id_: (id_ not in diagnosis.lost, id_ in others, match.get(id_, -1)), default="")


def everybody(configuration: ConfigurationModel) -> Iterator[MemberModel]:
    """Voters, learners and outgoing voters, each id once."""
    told: set[str] = set()
    for member in (*configuration.voters, *configuration.learners, *configuration.outgoing):
        if member.id not in told:
            told.add(member.id)
            yield member


def _leader(world: World, cluster_id: str) -> Seen | None:
    if world.barrier is None or not cluster_id:
        return None
    for seen, status in answers(world):
        same = status.node_id == world.barrier.node_id and status.term == world.barrier.term
        if same and status.role is Role.LEADER and status.cluster_id == cluster_id:
            return seen
    return None


def _configuration(world: World, leader: Seen | None, cluster_id: str) -> ConfigurationModel | None:
    """The leader's; without a leader the newest that a member of this cluster told (by term, then index)."""
    if leader is not None and leader.status is not None:
        return leader.status.configuration
    told = [
        status.configuration for _, status in answers(world) if status.cluster_id == cluster_id and status.configuration
    ]
    return max(told, key=_place, default=None) if cluster_id else None


def _place(configuration: ConfigurationModel) -> tuple[int, int]:
    term, _, index = configuration.id.partition(".")
    return (int(term), int(index)) if term.isdigit() and index.isdigit() else (0, 0)


def _losses(world: World, configuration: ConfigurationModel) -> dict[str, Loss]:
    found = {member.id: loss(world, member.id) for member in everybody(configuration)}
    return {id_: one for id_, one in found.items() if one is not None}


def _participating(
    world: World, configuration: ConfigurationModel, leader: Seen | None, cluster_id: str, lost: frozenset[str]
) -> Iterator[str]:
    if leader is None or leader.status is None:
        return
    voters = voters_of(configuration)
    for seen, status in answers(world):
        if (
            status.state is State.PARTICIPATING
            and status.node_id in voters
            and status.node_id not in lost
            and status.cluster_id == cluster_id
            and status.leader == leader.status.node_id
            and status.storage.healthy
            and not seen.pod.terminating
        ):
            yield status.node_id


def _verdict(
    world: World,
    founded: str,
    claims: list[str],
    configuration: ConfigurationModel | None,
    leader: Seen | None,
    participating: frozenset[str],
    lost: frozenset[str],
) -> Verdict:
    if founded and claims and founded not in claims:
        return Verdict.SPLIT_IDENTITY
    if not founded and len(claims) > 1:
        return Verdict.SPLIT_IDENTITY
    if configuration is None:
        if founded:
            empty = [status.state is State.IDLE for _, status in answers(world)]
            all_answer = len(empty) == len(world.seen) == (world.live_replicas or 0) and bool(empty)
            return Verdict.DATA_LOST if all_answer and all(empty) else Verdict.QUORUM_UNCERTAIN
        return Verdict.FOREIGN_VOLUMES if foreign(world) else Verdict.UNINITIALISED
    voters = voters_of(configuration)
    if leader is not None:
        return Verdict.HEALTHY if participating == voters else Verdict.DEGRADED
    if len(voters - lost) < quorum(len(voters)):
        return Verdict.QUORUM_LOST
    if not founded and foreign(world):
        return Verdict.FOREIGN_VOLUMES
    return Verdict.QUORUM_UNCERTAIN


def foreign(world: World) -> list[str]:
    """Names of the volumes that were made for another object than this one."""
    return [volume.name for volume in world.volumes if volume.cluster_uid != world.cluster.uid]


def _replicas(
    world: World, configuration: ConfigurationModel | None, confirmed: bool, target: int, *, adopted: bool
) -> int:
    """How many pods there shall be: raised from anybody's configuration, lowered only from a confirmed one.

    A member that was removed keeps its old configuration, in which it still stands; the tombstones of all committed
    configurations take such ids out, else the StatefulSet would go up and down for as long as its pod is ending.
    """
    live = world.live_replicas
    spec = max(world.cluster.spec.replicas, target)
    if confirmed and adopted and configuration is not None:
        return max(spec, _pods_for(world, configuration, frozenset()))
    told = [status.configuration for _, status in answers(world) if status.configuration is not None]
    dead = frozenset(id_ for one in told if one.committed for id_ in one.tombstones)
    needed = max((_pods_for(world, one, dead) for one in told), default=0)
    if live is None:  # made anew around its pods: none of them may go for that
        needed = max(needed, max((pod.ordinal + 1 for pod in world.pods), default=0))
    # Before a cluster is founded or adopted, every old disk gets its pod: only a member can say what its disk holds.
    disks = 0 if adopted else max((volume.ordinal + 1 for volume in world.volumes), default=0)
    return max(spec, live or 0, needed, disks)


def _pods_for(world: World, configuration: ConfigurationModel, dead: frozenset[str]) -> int:
    ordinals = [world.ordinal(member.id) for member in everybody(configuration) if member.id not in dead]
    return 1 + max((ordinal for ordinal in ordinals if ordinal is not None), default=-1)
