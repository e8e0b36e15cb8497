"""The leader's side of replication: appending, sending, counting, and the heartbeat (paper 5.3, thesis 10.2).

Three rules of this module: a leader only ever appends to its own log; only an entry of its own term is committed by
counting, those before it follow (figure 8); a member counts where the configuration in force has it, nowhere else.
"""

from __future__ import annotations

from oarlock.raft import quorum, snapshots
from oarlock.raft.configurations import placed_of
from oarlock.raft.errors import RemoteError
from oarlock.raft.log import size_of
from oarlock.raft.messages import Append, AppendReply, Heartbeat, HeartbeatReply
from oarlock.raft.progress import PeerProgress, ProgressState
from oarlock.raft.state import State
from oarlock.raft.types import Entry, EntryKind, NodeId


def append_entry(state: State, kind: int, data: bytes) -> Entry:
    entry = Entry(state.log.last_index + 1, state.term, kind, state.cluster_time_ms(), data)
    state.log.append((entry,))
    state.uncommitted_bytes += size_of(entry)
    if kind == EntryKind.CONFIGURATION:
        state.configurations.append(placed_of(entry))
        state.configuration_changed()
    return entry


# -- sending -------------------------------------------------------------------------------------------------------


def send_appends(state: State) -> None:
    """To each peer all that its state allows. Called after every input, so it must find out quickly that there is
    nothing to do."""
    for peer in state.peers.values():
        if peer.state is ProgressState.REPLICATE:
            if peer.next <= state.log.last_index:
                _send_pipelined(state, peer)
        elif peer.state is ProgressState.PROBE and not peer.paused:
            peer.paused = _send_append(state, peer, with_entries=True)


def _send_pipelined(state: State, peer: PeerProgress) -> None:
    options = state.options
    while peer.next <= state.log.last_index:
        if peer.window_is_full(options.max_inflight_appends, options.max_inflight_bytes):
            return
        if not _send_append(state, peer, with_entries=True):
            return


def _send_append(state: State, peer: PeerProgress, *, with_entries: bool) -> bool:
    """One append from `peer.next`. False when the log does not reach back so far: a snapshot is offered, if any."""
    previous = peer.next - 1
    previous_term = state.log.term_at(previous)
    if previous_term is None:
        snapshots.offer(state, peer)
        return False
    entries: tuple[Entry, ...] = ()
    if with_entries and peer.next <= state.log.last_index:
        entries = state.log.batch(peer.next, state.options.max_append_bytes)
    state.send(Append(state.id, peer.id, state.term, previous, previous_term, state.commit, entries))
    peer.sent_commit = max(peer.sent_commit, min(state.commit, previous + len(entries)))
    if entries and peer.state is ProgressState.REPLICATE:
        peer.sent(entries[-1].index, sum(map(size_of, entries)))
    return True


def send_heartbeats(state: State) -> None:
    """One round of heartbeats to every participant, with a number of its own (rule 9).

    The commit index is capped at what the receiver is known to hold: a heartbeat has no log match check (L3).
    """
    state.round += 1
    for peer in state.peers.values():
        commit = min(state.commit, peer.match)
        peer.sent_commit = max(peer.sent_commit, commit)
        if peer.leaving and not peer.farewell_round and commit >= peer.leaving:
            peer.farewell_round = state.round
        state.send(Heartbeat(state.id, peer.id, state.term, commit, state.round))


def regular_heartbeat(state: State) -> None:
    """The heartbeat of the clock; what is measured from one to the next is measured here."""
    send_heartbeats(state)
    state.next_heartbeat = state.now + state.options.heartbeat_seconds
    state.notice_at = None
    state.caught_up_from = max(state.noop_index, state.commit_at_heartbeat)
    state.commit_at_heartbeat = state.commit
    for peer in state.peers.values():
        peer.stalled = peer.match == peer.match_at_heartbeat and peer.match < state.log.last_index
        peer.match_at_heartbeat = peer.match


def notice_commit(state: State) -> None:
    """The notice is due: if some follower could know of the commit and was not told, heartbeats tell it."""
    state.notice_at = None
    if any(peer.sent_commit < min(state.notice_commit, peer.match) for peer in state.peers.values()):
        send_heartbeats(state)


# -- counting ------------------------------------------------------------------------------------------------------


def match_of(state: State, node: NodeId) -> int:
    """How far `node` holds the log durably. The leader itself only after its own disk said so (C3)."""
    if node == state.id:
        return state.durability.durable_index
    peer = state.peers.get(node)
    return peer.match if peer is not None else 0


def advance_commit(state: State) -> None:
    index = quorum.agreed_value(state.halves, lambda node: match_of(state, node))
    if index > state.commit and state.log.term_at(index) == state.term:
        state.commit_to(index)


def in_contact(state: State, node: NodeId) -> bool:
    """Whether `node` answered within an election timeout; one that is new has that long to begin."""
    if node == state.id:
        return True
    peer = state.peers.get(node)
    if peer is None:
        return False
    return state.within_election_timeout(peer.created_at if peer.contact_at is None else peer.contact_at)


def has_quorum_contact(state: State) -> bool:
    return quorum.agreed(state.halves, lambda node: in_contact(state, node))


# -- answers -------------------------------------------------------------------------------------------------------


def on_append_reply(state: State, message: AppendReply) -> None:
    peer = state.peers.get(message.sender)
    if peer is None:
        return  # dropped by a later configuration, and told
    if message.accepted and message.index > state.log.last_index:
        raise RemoteError("acknowledges entries that were never sent")
    peer.contact_at = state.now
    if not message.accepted:
        # The follower named the highest place with a term it can agree to; ours may be beyond that term too, and
        # skipping it here costs nothing, so that a repair takes one probe for each term (L6).
        try_at, _ = state.log.last_not_above(message.hint_index, message.hint_term)
        peer.refused(message.index, try_at)
        return
    news = peer.accepted(message.index)
    found = peer.state is ProgressState.PROBE and (news or message.index == peer.match)
    # Even one at an older place than was offered will do, as long as the log goes on from there (S5, S6).
    arrived = peer.state is ProgressState.SNAPSHOT and peer.match >= state.log.start_index
    if found or arrived:
        peer.become_replicate()
    elif peer.state is ProgressState.SNAPSHOT and peer.match >= peer.snapshot:
        # It has what it was offered, and the log was cut beyond that meanwhile: it needs a newer one. Without this it
        # would be offered the same one for ever (S6).
        peer.become_probe()


def on_heartbeat_reply(state: State, message: HeartbeatReply) -> None:
    peer = state.peers.get(message.sender)
    if peer is None:
        return
    if message.round > state.round:
        raise RemoteError("echoes a heartbeat that was never sent")
    peer.contact_at = state.now
    peer.acked_round = max(peer.acked_round, message.round)
    peer.paused = False
    if peer.state is ProgressState.SNAPSHOT:
        snapshots.repeat_offer(state, peer)
    elif peer.stalled and peer.state is ProgressState.REPLICATE:
        # It answers, yet acknowledges nothing: what filled the window may be lost, and with the window full or the log
        # at its end nothing more would ever be sent. An empty append makes it say what it has (L8).
        peer.stalled = False
        _send_append(state, peer, with_entries=False)


# -- connections ---------------------------------------------------------------------------------------------------


def peer_connected(state: State, node: NodeId) -> None:
    """A stream to `node` opened: what was in flight before may be lost, an offered snapshot unheard."""
    peer = state.peers.get(node)
    if peer is not None:
        _doubt(peer)
        peer.paused = False


def peer_disconnected(state: State, node: NodeId) -> None:
    peer = state.peers.get(node)
    if peer is not None:
        _doubt(peer)
        peer.paused = True  # until it is connected again, or a heartbeat is answered


def _doubt(peer: PeerProgress) -> None:
    if peer.state is not ProgressState.PROBE:  # a search in progress keeps its place
        peer.become_probe()
