"""Members as values: what is on a disk, and the replicated state of a cluster. Elections, commits and promotions.

The log is counted, not kept: `Disk.log` is the last index that a disk holds, `Group.acked` the last that a client was
told of. A leader is elected only with a quorum of both halves and a log as long as theirs (paper, 5.4.1); a winner
whose log ends below `acked` is an acknowledged write that was lost (I22).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from oarlock.wire import admin
from oarlock.wire.admin import MemberModel
from oarlock_operator.world import quorum


class Oracle(AssertionError):
    """The operator did what it may never do. The text begins with the invariant's name and a colon."""

    @property
    def name(self) -> str:
        return str(self).partition(":")[0]


@dataclass
class Disk:
    """What is on a volume: an identity, and the cluster it belongs to ("" is Idle)."""

    node_id: str
    cluster_id: str = ""
    volume_uid: str | None = None
    corrupt: bool = False
    quarantined: int = 0
    log: int = 0
    snapshot: admin.SnapshotModel | None = None


@dataclass
class Group:
    """The replicated state of one cluster id: what a quorum of its members agrees on."""

    cluster_id: str
    voters: list[MemberModel]
    learners: list[MemberModel] = field(default_factory=list)
    outgoing: list[MemberModel] = field(default_factory=list)
    tombstones: set[str] = field(default_factory=set)
    min_voters: int = 0
    term: int = 1
    index: int = 1
    committed: bool = True
    leader: str = ""
    place: tuple[int, int] = (1, 1)  # term and index of the latest configuration entry
    acked: int = 0
    history: list[tuple[int, admin.ConfigurationModel]] = field(default_factory=list)

    def model(self) -> admin.ConfigurationModel:
        return admin.ConfigurationModel(
            id="{}.{}".format(*self.place),
            committed=self.committed,
            voters=self.voters,
            learners=self.learners,
            outgoing=self.outgoing,
            tombstones=sorted(self.tombstones),
            min_voters=self.min_voters,
        )

    def model_at(self, log: int) -> admin.ConfigurationModel:
        """The latest configuration that a member with so long a log knows of."""
        known = [model for index, model in self.history if index <= log]
        return known[-1] if log < self.place[1] and known else self.model()

    def append(self) -> None:
        """The configuration was changed: it is a new entry of this term."""
        self.index += 1
        self.place = (self.term, self.index)

    def remember(self) -> None:
        """Keep the latest configuration, for members that lag behind the next."""
        self.history = [*self.history[-7:], (self.place[1], self.model())]

    def halves(self) -> list[list[MemberModel]]:
        return [half for half in (self.voters, self.outgoing) if half]

    def ids(self) -> set[str]:
        return {m.id for m in (*self.voters, *self.learners, *self.outgoing)}

    def has_quorum(self, up: Collection[str]) -> bool:
        return all(sum(m.id in up for m in half) >= quorum(len(half)) for half in self.halves())


def elect(group: Group, disks: dict[str, Disk], up: set[str], prefer: str = "") -> None:
    """A leader where a quorum can talk, and none where it cannot. `disks`: by node id, of those that are up."""
    if not group.has_quorum(up):
        group.leader = ""
        return
    voters = {m.id for m in group.voters}
    if group.leader in up & voters and not prefer:
        return
    eligible = [id_ for id_ in sorted(up & voters) if _electable(group, disks, up, id_)]
    if not eligible:
        group.leader = ""  # the longest log is an outgoing voter's: it leads until the change is committed
        candidates = [id_ for id_ in sorted(up & {m.id for m in group.outgoing}) if _electable(group, disks, up, id_)]
        if not candidates:
            return
        eligible = candidates
    group.leader = prefer if prefer in eligible else eligible[0]
    log = disks[group.leader].log
    if log < group.acked:
        raise Oracle(f"I22: {group.leader} leads with a log of {log}, a write at {group.acked} was acknowledged")
    group.term += 1
    if log < group.place[1] and not group.committed:
        _roll_back(group)
    group.index = max(log, group.place[1]) + 1  # its no-op
    disks[group.leader].log = group.index


def _electable(group: Group, disks: dict[str, Disk], up: set[str], id_: str) -> bool:
    """Do a quorum of each half hold no longer a log than this one?"""
    mine = disks[id_].log
    behind = {one for one in up if one in disks and disks[one].log <= mine}
    return group.has_quorum(behind)


def _roll_back(group: Group) -> None:
    """An appended configuration that the new leader never had is gone (rule 14)."""
    if not group.history:
        return
    index, before = group.history[-1]
    group.voters, group.learners, group.outgoing = list(before.voters), list(before.learners), list(before.outgoing)
    group.tombstones, group.min_voters, group.committed = set(before.tombstones), before.min_voters, before.committed
    term, _, _ = before.id.partition(".")
    group.place = (int(term), index)


def replicate(group: Group, disks: dict[str, Disk], up: Collection[str]) -> bool:
    """The leader's log, to these. True if anything moved."""
    moved = False
    members = group.ids()
    for id_ in up:
        if id_ in members and id_ in disks and disks[id_].log < group.index:
            disks[id_].log, moved = group.index, True
    return moved


def commit(group: Group, disks: dict[str, Disk]) -> bool:
    """Commit the joint configuration where a quorum of both halves holds it, and append the final one."""
    if group.committed or not group.leader or not _held(group, disks, group.place[1]):
        return False
    group.remember()
    dropped = {m.id for m in group.outgoing} - {m.id for m in (*group.voters, *group.learners)}
    group.tombstones |= dropped
    group.outgoing, group.committed = [], True
    group.append()
    if group.leader not in {m.id for m in group.voters}:
        group.leader = ""
    _open(group)
    return True


def promote(group: Group, disks: dict[str, Disk], up: set[str]) -> bool:
    """Rule 13: all learners with the intent, in one joint change, once each of them is caught up."""
    coming = [m for m in group.learners if m.promote]
    caught_up = all(
        m.id in up and m.id in disks and disks[m.id].log >= max(group.place[1], group.acked) for m in coming
    )
    if not coming or not caught_up or not group.committed or group.leader not in disks:
        return False
    group.remember()
    group.outgoing, group.committed = list(group.voters), False
    group.voters = [*group.voters, *(m.model_copy(update={"promote": False}) for m in coming)]
    group.learners = [m for m in group.learners if not m.promote]
    group.append()
    disks[group.leader].log = group.index
    return True


def write(group: Group, disks: dict[str, Disk], up: Collection[str]) -> bool:
    """A client's write, acknowledged if these are a quorum: its index, or nothing."""
    if not group.leader or group.leader not in up or group.min_voters:
        return False
    group.index += 1
    replicate(group, disks, up)
    if not group.has_quorum({id_ for id_ in up if id_ in disks}):
        return False
    group.acked = group.index
    return True


def _held(group: Group, disks: dict[str, Disk], index: int) -> bool:
    return group.has_quorum({id_ for id_, disk in disks.items() if disk.log >= index})


def _open(group: Group) -> None:
    if len(group.voters) >= group.min_voters:
        group.min_voters = 0


def members(groups: dict[str, Group]) -> Iterator[str]:
    for group in groups.values():
        yield from group.ids()
