"""One member's peers: whom to hear, whom to speak to, and everything that ties a node id to its streams.

Rules of this module:
* `send` never waits and never raises for a peer's sake: a message leaves on the stream that is open now, or is dropped.
* Callbacks run on the loop, between two awaits; they may call back into the transport.
* Peers are those of the configuration, and guests: openers that no configuration we know names yet. A guest is heard
  for as long as it hears us (an Idle member must answer a leader that it has never heard of).

    A (in the configuration)                       B
      |-- GET stream, hello --------------------->|   A hears B
      |<------------------- frames (response) ----|
      |<-------------------- GET stream, hello ---|   B, opened, opens its own back
      |-- frames (response) --------------------->|   B hears A
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from oarlock.peers.asgi import PeerApp
from oarlock.peers.client import Address, OpeningRefused, PeerClient, PeerUnreachable, addresses, check_answer
from oarlock.peers.hello import BadHello, Hello, HelloKind, LocalIdentity, Verdict, make_hello
from oarlock.peers.incoming import Link
from oarlock.peers.messages import Forward, PeerMessage, StreamKind, encode_message, kind_of
from oarlock.peers.options import PeerCounters, PeerOptions
from oarlock.peers.outgoing import Outbox
from oarlock.peers.snapshot_fetch import fetch_file
from oarlock.raft.types import Member, NodeId, SnapshotMeta


@dataclass(slots=True)
class _Peer:
    node_id: NodeId
    peer_url: str
    ip: str = ""  # of its last hello
    configured: bool = False
    links: dict[StreamKind, Link] = field(default_factory=dict)
    outboxes: dict[StreamKind, Outbox] = field(default_factory=dict)
    path_open: bool = False


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """For status and metrics. `hears`/`heard`: the kinds of streams open from it to us, and from us to it."""

    node_id: NodeId
    configured: bool
    hears: tuple[StreamKind, ...]
    heard: tuple[StreamKind, ...]
    queued_bytes: int
    last_failure: str


def _nothing(*_: object) -> None:
    return None


class Transport:
    """Made before the loop runs, started on it by `start`, ended by `close`.

    `asgi` is the app for /raft/*. Callbacks:
    * `local()`: our identity now. `judge(hello)`: the runtime's verdict on an opener whose identity fits (tombstones:
      REMOVED; an Idle member persists `hello.cluster_id` before it answers OK to a stream, rule 16).
    * `is_removed(id)`: is the id tombstoned? Asked about openers that look for another member at our address.
    * `on_message(message)`: from a member that the stream's hello named, addressed to us.
    * `on_connected(id)`/`on_disconnected(id)`: both our streams to it are open / one of them has gone.
    * `on_unheard(id)`: the stream on which it would answer our forwards has gone.
    * `on_hello(hello)`: every acceptable hello, of openers and of those we open (its cluster version counts, rule 34).
    * `on_removed(by)`: a member of our own cluster says that our id is tombstoned (rule 10).
    * `on_stale(by)`: a member of our configuration answered that it belongs to another cluster.
    * `snapshot_file(digest)`: a finished file to serve. `on_snapshot_progress(id, digest)`: some of it was sent.
    """

    def __init__(
        self,
        *,
        local: Callable[[], LocalIdentity],
        token: str,
        on_message: Callable[[PeerMessage], None],
        judge: Callable[[Hello], Awaitable[Verdict]],
        is_removed: Callable[[NodeId], bool] = lambda _: False,
        on_connected: Callable[[NodeId], None] = _nothing,
        on_disconnected: Callable[[NodeId], None] = _nothing,
        on_unheard: Callable[[NodeId], None] = _nothing,
        on_hello: Callable[[Hello], None] = _nothing,
        on_removed: Callable[[NodeId], None] = _nothing,
        on_stale: Callable[[NodeId], None] = _nothing,
        snapshot_file: Callable[[str], Path | None] = lambda _: None,
        on_snapshot_progress: Callable[[NodeId, str], None] = _nothing,
        options: PeerOptions | None = None,
        rng: Random | None = None,
        client: PeerClient | None = None,
    ) -> None:
        """Raises ValueError without a token: the peer port is never open to everybody."""
        if not token:
            raise ValueError("the cluster's bearer token must not be empty")
        self.options = options if options is not None else PeerOptions()
        self.counters = PeerCounters()
        self.rng = rng if rng is not None else Random()
        self.client = client if client is not None else PeerClient(token)
        self.asgi = PeerApp(self, token)
        self.local_identity = local
        self.is_removed = is_removed
        self.snapshot_path = snapshot_file
        self.snapshot_progress = on_snapshot_progress
        self._on_hello = on_hello
        self.told_removed = on_removed
        self.told_stale = on_stale
        self._on_message = on_message
        self._judge = judge
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_unheard = on_unheard
        self._silence_ticks = max(2, math.ceil(self.options.silence_seconds / self.options.heartbeat_seconds))
        self._peers: dict[NodeId, _Peer] = {}
        self._pumps: dict[Outbox, asyncio.Timeout] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.TimerHandle | None = None
        self._closed = False

    # --- the runtime's side -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to keep time; on the loop. Openings are answered 503 before this and after `close`."""
        self._ticker = asyncio.get_running_loop().call_later(self.options.heartbeat_seconds, self._tick)

    async def close(self) -> None:
        """End every stream, both ways, what is queued being sent first; then drop the client's connections."""
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        for peer in list(self._peers.values()):
            peer.configured = False
            for outbox in list(peer.outboxes.values()):
                outbox.close()
            self._stop_links(peer)
        if self._stopping:
            await asyncio.wait(self._stopping)
        await self.client.close()

    def set_peers(self, members: Iterable[Member]) -> None:
        """Whom to hear: the voters, outgoing voters and learners of the latest configuration. Ourselves are left out.

        A member that is no longer named loses its streams: it will open them again, and be told that it was removed if
        it was (M11)."""
        own = self.local_identity().node_id
        wanted = {member.id: member for member in members if member.id != own}
        for node_id, member in wanted.items():
            peer = self._peers.get(node_id)
            if peer is None:
                peer = self._peers[node_id] = _Peer(node_id, member.peer_url)
            peer.configured = True
            peer.peer_url = member.peer_url
            self._start_links(peer)
        for node_id, peer in list(self._peers.items()):
            if node_id not in wanted and peer.configured:
                peer.configured = False
                for outbox in list(peer.outboxes.values()):
                    outbox.close()
                self._stop_links(peer)
                self._forget_if_gone(peer)

    def send(self, message: PeerMessage) -> bool:
        """Queue it for `message.to`. False: dropped, because no stream is open or its window is full.

        A forward needs the way back too: a member that has restarted hears us before we hear it, and what it answers
        while its stream to us is not open is lost."""
        kind = kind_of(message)
        peer = self._peers.get(message.to)
        outbox = peer.outboxes.get(kind) if peer is not None else None
        if outbox is None or (isinstance(message, Forward) and not self._hears(message.to)):
            self.counters.dropped["no_stream"] += 1
            return False
        return outbox.put(encode_message(message))

    def connected(self, node_id: NodeId) -> bool:
        """Are both our streams to it open?"""
        peer = self._peers.get(node_id)
        return peer is not None and peer.path_open

    def url_of(self, node_id: NodeId) -> str | None:
        """Where we would call this peer, as a configuration or its own hello says."""
        peer = self._peers.get(node_id)
        return peer.peer_url if peer is not None else None

    def drop_all(self) -> None:
        """End every stream and forget every peer: this member is about to be another (reset)."""
        for peer in list(self._peers.values()):
            peer.configured = False
            for outbox in list(peer.outboxes.values()):
                outbox.close()
            self._stop_links(peer)
        self._peers.clear()

    def statuses(self) -> list[PeerStatus]:
        return [
            PeerStatus(
                node_id=peer.node_id,
                configured=peer.configured,
                hears=tuple(kind for kind, link in peer.links.items() if link.connected),
                heard=tuple(peer.outboxes),
                queued_bytes=sum(outbox.queued_bytes for outbox in peer.outboxes.values()),
                last_failure=next((link.last_failure for link in peer.links.values() if link.last_failure), ""),
            )
            for peer in self._peers.values()
        ]

    async def dial(self, member: Member) -> Hello:
        """Ask a member for its hello; nothing changes there. Tries the addresses in turn and raises the last one's
        OpeningRefused or PeerUnreachable."""
        peer = self._peers.get(member.id)
        hello = self.hello_for(member.id, HelloKind.HELLO)
        failure: OpeningRefused | PeerUnreachable | None = None
        try:
            candidates = addresses(member.peer_url, peer.ip if peer is not None else "")
        except BadHello as error:
            raise PeerUnreachable(str(error)) from error
        for address in candidates:
            try:
                async with (
                    asyncio.timeout(self.options.dial_timeout_seconds),
                    self.client.open(address, "/raft/hello", hello) as (_, answer),
                ):
                    check_answer(hello, answer)
                    self.heard_hello(answer)
                    return answer
            except TimeoutError:
                failure = PeerUnreachable(f"{address.base_url}: no answer in {self.options.dial_timeout_seconds} s")
            except (OpeningRefused, PeerUnreachable) as error:
                failure = error
        assert failure is not None, "a member has at least one address"
        raise failure

    async def fetch_snapshot(
        self, source: Member, meta: SnapshotMeta, destination: Path, on_progress: Callable[[int], None] = _nothing
    ) -> None:
        """See snapshot_fetch.fetch_file. Raises SnapshotFetchFailed, and OSError of our own disk."""
        peer = self._peers.get(source.id)
        hello = self.hello_for(source.id, HelloKind.SNAPSHOT)
        candidates = addresses(source.peer_url, peer.ip if peer is not None else "")
        await fetch_file(self.client, candidates, hello, meta, destination, on_progress, self.options, self.counters)

    # --- what links ask (incoming.LinkOwner) ------------------------------------------------------------------------

    def hello_for(self, peer: NodeId, kind: HelloKind) -> Hello:
        known = {p.node_id: p.ip for p in self._peers.values() if p.outboxes and p.ip and p.node_id != peer}
        return make_hello(self.local_identity(), peer, kind, known)

    def heard_hello(self, hello: Hello) -> None:
        """Learn too where those are now that we have lost, or never found."""
        for node_id, ip in hello.known.items():
            peer = self._peers.get(node_id)
            if peer is not None and peer.ip != ip and not peer.outboxes and not self._hears(node_id):
                peer.ip = ip
                for link in peer.links.values():
                    link.nudge(moved=True)
        self._on_hello(hello)

    def addresses_of(self, peer: NodeId) -> list[Address]:
        known = self._peers[peer]
        try:
            return addresses(known.peer_url, known.ip)
        except BadHello:  # a configuration with a URL that is none: nobody to call, and status says "no stream"
            return []

    def deliver(self, message: PeerMessage) -> None:
        if message.to != self.local_identity().node_id:
            self.counters.rejected["misaddressed"] += 1
            return
        self._on_message(message)

    def unheard(self, peer: NodeId, kind: StreamKind) -> None:
        if kind is StreamKind.DATA:
            self._on_unheard(peer)

    # --- what the app asks (asgi.Served) ----------------------------------------------------------------------------

    async def judge(self, hello: Hello) -> Verdict:
        if self._closed or self._ticker is None:
            return Verdict.NOT_READY
        verdict = await self._judge(hello)
        if verdict is not Verdict.OK:
            return verdict
        if self._closed:
            return Verdict.NOT_READY
        if hello.kind in (HelloKind.CONTROL, HelloKind.DATA) and hello.node_id not in self._peers:
            guests = sum(not peer.configured for peer in self._peers.values())
            if guests >= self.options.max_guests:
                return Verdict.TOO_MANY
        return Verdict.OK

    def open_outbox(self, hello: Hello, kind: StreamKind) -> Outbox:
        """The opener hears us from now on; the newest stream of a kind replaces the one before."""
        peer = self._peers.get(hello.node_id)
        if peer is None:
            peer = self._peers[hello.node_id] = _Peer(hello.node_id, hello.peer_url)
        moved = peer.ip not in ("", hello.ip)
        peer.ip = hello.ip
        if not peer.configured:
            peer.peer_url = hello.peer_url
        self.counters.streams_accepted += 1
        previous = peer.outboxes.get(kind)
        if previous is not None:
            previous.abandon()
            self._detach(previous)
        window = self.options.data_window_bytes if kind is StreamKind.DATA else self.options.control_window_bytes
        outbox = Outbox(
            hello.node_id, kind, window_bytes=window, chunk_bytes=self.options.chunk_bytes, counters=self.counters
        )
        if self._closed:  # between the verdict and now
            outbox.close()
            return outbox
        self._peers[hello.node_id] = peer  # once more: detaching the stream before may have forgotten a guest
        peer.outboxes[kind] = outbox
        outbox.greet()
        self._start_links(peer)
        for link in peer.links.values():
            link.nudge(moved)
        self.heard_hello(hello)
        if len(peer.outboxes) == len(StreamKind) and not peer.path_open:
            peer.path_open = True
            self._on_connected(peer.node_id)
        return outbox

    def register_pump(self, outbox: Outbox, timeout: asyncio.Timeout) -> None:
        """`timeout` ends the writing; the ticks decide when, for a stream that was replaced too."""
        self._pumps[outbox] = timeout

    def close_outbox(self, outbox: Outbox) -> None:
        self._pumps.pop(outbox, None)
        self._detach(outbox)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _hears(self, node_id: NodeId) -> bool:
        link = self._peers[node_id].links.get(StreamKind.DATA)
        return link is not None and link.connected

    def _detach(self, outbox: Outbox) -> None:
        peer = self._peers.get(outbox.peer)
        if peer is None or peer.outboxes.get(outbox.kind) is not outbox:
            return  # replaced before
        del peer.outboxes[outbox.kind]
        if peer.path_open:
            peer.path_open = False
            self._on_disconnected(peer.node_id)
        self._forget_if_gone(peer)

    def _tick(self) -> None:
        """Once each heartbeat. The next one counts from now, so that a pause of this process is one tick, not many."""
        loop = asyncio.get_running_loop()
        self._ticker = loop.call_later(self.options.heartbeat_seconds, self._tick)
        for peer in list(self._peers.values()):
            for link in peer.links.values():
                link.tick(self._silence_ticks)
        for outbox in list(self._pumps):
            if outbox.tick() >= self._silence_ticks:
                self._pumps.pop(outbox).reschedule(loop.time())

    def _start_links(self, peer: _Peer) -> None:
        for kind in StreamKind:
            if kind not in peer.links:
                peer.links[kind] = Link(self, peer.node_id, kind)
                peer.links[kind].start()

    def _stop_links(self, peer: _Peer) -> None:
        for link in peer.links.values():
            task = link.stop()
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)
        peer.links.clear()

    def _forget_if_gone(self, peer: _Peer) -> None:
        if not peer.configured and not peer.outboxes:
            self._stop_links(peer)
            self._peers.pop(peer.node_id, None)
