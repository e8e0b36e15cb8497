"""Membership: one change at a time, by joint consensus whenever the voters change (thesis 4, rules 12 to 15).

    old ──append──> joint (majorities of old and new) ──committed──> final (majority of new) ──committed──> done
                      │ active when appended, rolled back when truncated          │
                      └ any leader goes on from here, once its own no-op and the joint entry are committed

Three rules of this module: only a committed configuration is changed; every step is taken from the log alone, so that
whichever leader comes next can take it; who is dropped becomes a tombstone, and tombstones never return.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from oarlock.raft import quorum, transfer
from oarlock.raft.configurations import encode
from oarlock.raft.errors import Busy, ConfigurationRefused, NotLeader
from oarlock.raft.replication import append_entry, in_contact
from oarlock.raft.state import Role, State
from oarlock.raft.types import NOBODY, Configuration, EntryKind, Member, NodeId

MAX_TOMBSTONES = 4096
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{16}")


# -- what a change appends: pure functions of configurations ----------------------------------------------------------


def first_step(old: Configuration, voters: Sequence[Member], learners: Sequence[Member]) -> Configuration:
    """The entry that begins the way from `old` to the given members: joint if the voters change, final if not.

    Dropped learners become tombstones here: they have no vote that the old half could still need. Dropped voters stand
    in `outgoing` and become tombstones in the final entry.
    """
    new_voters = tuple(msgspec.structs.replace(voter, promote=False) for voter in voters)
    same_voters = sorted(_ids(new_voters)) == sorted(_ids(old.voters))
    present = _ids((*new_voters, *learners))
    dropped = [id for id in _ids(old.learners) if id not in present]
    return Configuration(
        voters=new_voters,
        learners=tuple(learners),
        outgoing=() if same_voters else old.voters,
        tombstones=_with(old.tombstones, dropped),
        min_voters=0 if len(new_voters) >= old.min_voters else old.min_voters,
    )


def last_step(joint: Configuration) -> Configuration:
    """The final configuration that a joint one leads to."""
    present = _ids((*joint.voters, *joint.learners))
    dropped = [id for id in _ids(joint.outgoing) if id not in present]
    return msgspec.structs.replace(joint, outgoing=(), tombstones=_with(joint.tombstones, dropped))


def _with(tombstones: tuple[NodeId, ...], dropped: Iterable[NodeId]) -> tuple[NodeId, ...]:
    return tuple(dict.fromkeys((*tombstones, *dropped)))[-MAX_TOMBSTONES:]


def _ids(members: Iterable[Member]) -> list[NodeId]:
    return [member.id for member in members]


# -- the request ------------------------------------------------------------------------------------------------------


def change(state: State, voters: Sequence[Member], learners: Sequence[Member], if_config: str) -> tuple[int, int]:
    """Append the first step, and return its (index, term); those of the configuration in force if it is already so.

    Raises NotLeader, Busy (leadership is being handed over), ConfigurationRefused.
    """
    if state.role is not Role.LEADER:
        raise NotLeader(state.leader)
    if state.transferring != NOBODY:
        raise Busy("leadership is being handed over")
    _check_form(voters, learners)
    _check_precondition(state, if_config)
    latest = state.configurations.latest
    _check_members(state, latest.configuration, voters, learners)
    step = first_step(latest.configuration, voters, learners)
    if step == latest.configuration:
        return latest.index, latest.term
    entry = append_entry(state, EntryKind.CONFIGURATION, encode(step))
    return entry.index, entry.term


def _check_form(voters: Sequence[Member], learners: Sequence[Member]) -> None:
    ids = _ids((*voters, *learners))
    if not voters:
        raise ConfigurationRefused("bad_request", "a configuration needs a voter")
    for id in ids:
        if not _ID.fullmatch(id):
            raise ConfigurationRefused("bad_request", f"{id!r} is not <name>-<16 hex digits>")
        if ids.count(id) > 1:
            raise ConfigurationRefused("bad_request", f"{id} is named twice")


def _check_precondition(state: State, if_config: str) -> None:
    latest = state.configurations.latest
    if not state.noop_committed:
        raise ConfigurationRefused("precondition_failed", "this leader has not committed an entry of its term yet")
    if latest.index > state.commit or latest.configuration.outgoing:
        raise ConfigurationRefused("precondition_failed", "another change of configuration is under way")
    if latest.id != if_config:
        raise ConfigurationRefused("precondition_failed", f"the configuration is {latest.id}, not {if_config}")


def _check_members(state: State, old: Configuration, voters: Sequence[Member], learners: Sequence[Member]) -> None:
    for member in (*voters, *learners):
        if member.id in old.tombstones:
            raise ConfigurationRefused("tombstoned", f"{member.id} was dropped before; its data must be reset")
    old_voters, new_voters = _ids(old.voters), _ids(voters)
    for id in new_voters:
        if id not in old_voters and not (id in _ids(old.learners) and is_caught_up(state, id)):
            raise ConfigurationRefused("not_caught_up", f"{id} is neither a voter nor a caught-up learner")
    if sorted(old_voters) != sorted(new_voters) and not _would_keep_quorum(state, new_voters):
        raise ConfigurationRefused("would_lose_quorum", "less than a majority of the new voters is in contact")


def is_caught_up(state: State, node: NodeId) -> bool:
    """Whether it holds what was committed one heartbeat ago: as close as a member under load can come (rule 13)."""
    peer = state.peers.get(node)
    return peer is not None and state.within_election_timeout(peer.contact_at) and peer.match >= state.caught_up_from


def _would_keep_quorum(state: State, voters: Sequence[NodeId]) -> bool:
    """Whether a majority of them has answered lately; here a peer that never answered has no time to begin."""
    return quorum.agreed(
        (tuple(voters),),
        lambda node: (
            node == state.id or (node in state.peers and state.within_election_timeout(state.peers[node].contact_at))
        ),
    )


# -- what a leader does of itself -------------------------------------------------------------------------------------


def advance(state: State) -> bool:
    """Take the next step that the committed configuration asks for. Returns whether an entry was appended.

    Asked after every input, so that nothing is forgotten when a step could not be taken at once (M9).
    """
    latest = state.configurations.latest
    _say_farewell(state)
    if not state.noop_committed or latest.index > state.commit or state.transferring != NOBODY:
        return False
    configuration = latest.configuration
    if configuration.outgoing:
        append_entry(state, EntryKind.CONFIGURATION, encode(last_step(configuration)))
        return True
    if transfer.leads_from_outside(state):
        transfer.begin(state, _best_voter(state))
        return False
    return _promote(state, configuration)


def _promote(state: State, old: Configuration) -> bool:
    """All learners that shall become voters, together, so that no even size is passed through (rule 13)."""
    ready = tuple(learner for learner in old.learners if learner.promote)
    if not ready or not all(is_caught_up(state, learner.id) for learner in ready):
        return False
    voters = (*old.voters, *ready)
    if not _would_keep_quorum(state, _ids(voters)):
        return False
    learners = tuple(learner for learner in old.learners if not learner.promote)
    append_entry(state, EntryKind.CONFIGURATION, encode(first_step(old, voters, learners)))
    return True


def _best_voter(state: State) -> NodeId:
    voters = _ids(state.configurations.latest.configuration.voters)
    return max(voters, key=lambda node: (in_contact(state, node), state.peers[node].match))


def _say_farewell(state: State) -> None:
    """Forget members that were dropped, once they know it or an election timeout after the commit (M11)."""
    for node, peer in list(state.peers.items()):
        if not peer.leaving or peer.leaving > state.commit:
            continue
        if peer.leave_at is None:
            peer.leave_at = state.now + state.options.election_timeout_seconds
        if 0 < peer.farewell_round <= peer.acked_round or state.now >= peer.leave_at:
            del state.peers[node]
