"""Snapshots: the leader's offer, the follower's fetch and install (paper section 7, rule 19).

The file itself travels outside of the core. An offer names it; the follower's answer is an accepted append at its
index, whether it installed the file or found that it needs none of it.

    leader                              follower
      | -- SnapshotOffer(meta) ---------> |  Ready.fetch; the driver downloads and verifies
      |                                   |  install(meta): log restarts, Ready.install
      | <-------- AppendReply(accepted) - |  when the marker is durable
"""

from __future__ import annotations

from oarlock.raft.errors import RemoteError
from oarlock.raft.messages import AppendReply, SnapshotOffer, SnapshotRefusal
from oarlock.raft.progress import PeerProgress, ProgressState
from oarlock.raft.state import Role, State
from oarlock.raft.types import NOBODY, SnapshotMeta

# -- the leader's side ---------------------------------------------------------------------------------------------


def offer(state: State, peer: PeerProgress) -> None:
    """Offer the newest snapshot to a peer that the log no longer reaches. Nothing to offer yet: it waits. What it
    refused is not offered again in a loop: its disk may be full, or our file damaged."""
    meta = state.snapshot
    if meta is None or meta.index < state.log.start_index or peer.leaving:
        return
    if meta == peer.declined and state.within_election_timeout(peer.declined_at):
        return
    peer.become_snapshot(meta, state.now)
    state.send(SnapshotOffer(state.id, peer.id, state.term, meta))


def repeat_offer(state: State, peer: PeerProgress) -> None:
    """An offer may be lost. The same one is repeated, since a newer would make the peer start its download again."""
    if peer.offer is not None and not state.within_election_timeout(peer.offered_at):
        peer.offered_at = state.now
        state.send(SnapshotOffer(state.id, peer.id, state.term, peer.offer))


def on_refusal(state: State, message: SnapshotRefusal) -> None:
    peer = state.peers.get(message.sender)
    if peer is None or peer.state is not ProgressState.SNAPSHOT or peer.snapshot != message.index:
        return
    peer.contact_at = peer.declined_at = state.now
    peer.declined = state.doubted = peer.offer
    peer.become_probe()


# -- the follower's side -------------------------------------------------------------------------------------------


def on_offer(state: State, message: SnapshotOffer) -> None:
    meta = message.meta
    if meta.index < 1 or meta.term < 1 or meta.term > message.term or meta.placed.index > meta.index:
        raise RemoteError("impossible snapshot")
    state.hear_of_commit(meta.index)
    if _needless(state, meta):
        acknowledge(state, min(meta.index, state.commit))
        return
    if state.fetching == (message.sender, meta) or state.installing is not None:
        return
    state.fetching = state.fetch = (message.sender, meta)


def _needless(state: State, meta: SnapshotMeta) -> bool:
    """Whether the log has all of it; a log that matches at the snapshot's place is proof that it is committed (S1)."""
    if meta.index <= state.commit:
        return True
    if state.log.matches(meta.index, meta.term):
        state.commit_to(meta.index)
        return True
    return False


def install(state: State, meta: SnapshotMeta) -> bool:
    """A file is here, verified and durable. False when it is no longer of use; the log is enough then."""
    state.fetching = None
    if state.role is Role.LEADER:
        return False
    if _needless(state, meta):
        acknowledge(state, min(meta.index, state.commit))
        return False
    # Not even the entries before the snapshot may be kept: what conflicts at its place may conflict before (S2).
    # What was committed stays true, so that much of what is on its way to the disk still counts.
    state.durability.cap(state.commit)
    state.log.restart(meta.index, meta.term, meta.time_ms)
    state.configurations.restart(meta.placed)
    state.configuration_changed()
    state.commit = state.handed_out = meta.index
    state.notice_removal()
    state.snapshot = meta
    state.install = state.installing = meta
    acknowledge(state, meta.index)
    return True


def refuse(state: State, meta: SnapshotMeta) -> None:
    """The file could not be fetched or verified."""
    state.fetching = None
    if state.leader not in (NOBODY, state.id):
        state.send(SnapshotRefusal(state.id, state.leader, state.term, meta.index))


def acknowledge(state: State, index: int) -> None:
    """Tell the leader, whichever it is by now, that the log is right up to `index`."""
    if state.leader not in (NOBODY, state.id):
        state.promise(AppendReply(state.id, state.leader, state.term, True, index, 0, 0))
