"""Rows of the dashboard about what carries the consensus: disks, clients, the network, processes, the operator."""

from __future__ import annotations

from charts.dashboards.kit import Panel, Query, graph
from charts.dashboards.promql import EVERY, m, o, quantile, rate, rise


def disk() -> list[Panel]:
    return [
        graph(
            "Log write, p99",
            "One write to the log with its fdatasync: every commit waits for it on a quorum. Normal: below 10 ms on "
            "local SSDs, 30 ms on network disks. Above 100 ms: the volume is too slow or shared; above 500 ms "
            "elections follow.",
            "s",
            Query(quantile(0.99, m("oarlock_wal_fsync_seconds_bucket")), "{{pod}}"),
        ),
        graph(
            "Log write, p50",
            "The same, for the median. Normal: 0.2 to 5 ms. A high median is a slow disk; a low one beside a high "
            "p99 is a disk that others use too.",
            "s",
            Query(quantile(0.5, m("oarlock_wal_fsync_seconds_bucket")), "{{pod}}"),
        ),
        graph(
            "Written to the log",
            "Bytes a second. Normal: about equal on all members, a little more than what clients write.",
            "binBps",
            Query(rate(m("oarlock_wal_written_bytes_total")), "{{pod}}"),
        ),
        graph(
            "Size of the log",
            "On disk. Normal: a saw-tooth, as each snapshot lets old segments go. Growing for hours: snapshots fail "
            "(see Snapshots), or a transfer or slow peer still needs the segments.",
            "bytes",
            Query(m("oarlock_wal_bytes"), "{{pod}}"),
        ),
        graph(
            "Free on the volume",
            "Normal: more than the log, the store and two snapshots need to grow. Near 0: raise spec.storage.size; "
            "the operator grows the volumes at once where their class allows it.",
            "bytes",
            Query(m("oarlock_storage_free_bytes"), "{{pod}}"),
        ),
        graph(
            "Disk faults",
            "Normal: 0 everywhere. 'low on space': puts are refused until space is freed. 'failed': a write failed "
            "and the member stops; replace its volume. 'cut': bytes of a torn write dropped at the last start, as "
            "after a power cut; what they held, the other members have.",
            "none",
            Query(m("oarlock_storage_low_on_space"), "{{pod}} low on space"),
            Query(f"1 - {m('oarlock_storage_healthy')}", "{{pod}} failed"),
            Query(m("oarlock_wal_cut_bytes"), "{{pod}} cut"),
        ),
    ]


def snapshots() -> list[Panel]:
    return [
        graph(
            "Snapshots",
            "Taken, received from the leader, and failed. Normal: some taken, none failed; received only by a "
            "member that was away for long or is new. Failures: mostly a full disk; the member's log says why, and "
            "so does status.members of the RaftCluster. Damaged: the disk turned bits over; another snapshot was "
            "taken, and the file is kept for a look beside it, as damaged-*. Replace that member.",
            "none",
            Query(rise(m("oarlock_snapshot_count_total")), "{{pod}} taken"),
            Query(rise(m("oarlock_snapshot_installed_total")), "{{pod}} installed"),
            Query(rise(m("oarlock_snapshot_failures_total")), "{{pod}} failed"),
            Query(m("oarlock_snapshots_damaged"), "{{pod}} damaged"),
        ),
        graph(
            "Entries since the last snapshot",
            "What a member replays on a start after it was killed. Normal: a saw-tooth. Growing for hours: snapshots "
            "fail.",
            "short",
            Query(f"{m('oarlock_raft_applied_index')} - {m('oarlock_snapshot_last_index')}", "{{pod}}"),
        ),
        graph(
            "Size of the last snapshot",
            "Normal: follows the data. The volume needs room for two of them beside the log and the store.",
            "bytes",
            Query(m("oarlock_snapshot_bytes"), "{{pod}}"),
        ),
        graph(
            "Time for one, p99",
            "Copy, digest and publication; a point for each time. Normal: seconds a gibibyte. Writes go on "
            "meanwhile; if Log write rises at the same time, the disk is too slow for both.",
            "s",
            Query(quantile(0.99, m("oarlock_snapshot_seconds_bucket")), "{{pod}}"),
        ),
        graph(
            "Written for snapshots",
            "Bytes a second to the local disk. Normal: a burst for each snapshot taken.",
            "binBps",
            Query(rate(m("oarlock_snapshot_written_bytes_total")), "{{pod}}"),
        ),
        graph(
            "Snapshot transfers",
            "Bytes a second between members. Normal: none, or a burst when a member was added. Again and again to "
            "the same member: it falls behind faster than it catches up.",
            "binBps",
            Query(rate(m("oarlock_peer_snapshot_bytes_total"), "pod, direction"), "{{pod}} {{direction}}"),
        ),
    ]


def http() -> list[Panel]:
    return [
        graph(
            "Requests by route",
            "Answered a second by all members, probes and scrapes included. Normal: as your clients ask.",
            "reqps",
            Query(rate(m("oarlock_http_requests_total"), "route"), "{{route}}"),
            span=12,
        ),
        graph(
            "Requests by status",
            "Normal: 200 and 201, 404 and 412 as clients cause them. 503: no leader or no quorum. 504: a write with "
            "unknown outcome. 429: more load than the cluster takes. 507: a full disk. 401: a wrong token.",
            "reqps",
            Query(rate(m("oarlock_http_requests_total"), "code"), "{{code}}"),
            span=12,
        ),
        graph(
            "Time of requests, p99",
            "To the answer's end, by route. Normal: writes a little above Commit latency, reads a few milliseconds. "
            "A watch or a long poll takes as long as its client asked for.",
            "s",
            Query(quantile(0.99, m("oarlock_http_request_seconds_bucket"), "route"), "{{route}}"),
            span=12,
        ),
        graph(
            "Connections turned away",
            "Ended by a bound or a malformed request, by port and reason. Normal: none. Otherwise a client is "
            "broken, too slow, or opens connections without reusing them; the reason says which.",
            "none",
            Query(rise(m("oarlock_http_connections_rejected_total"), "port, reason"), "{{port}} {{reason}}"),
            span=12,
        ),
        graph(
            "Held in memory",
            "Writes that are not decided yet, entries on their way to the member's own disk, and large values that are "
            "still being read. Normal: below a few MiB. At 64 MiB of one of them the member answers 429: clients send "
            "more than disks and members take, or send too slowly.",
            "bytes",
            Query(m("oarlock_commands_in_flight_bytes"), "{{pod}} undecided"),
            Query(m("oarlock_wal_waiting_bytes"), "{{pod}} to be written"),
            Query(m("oarlock_http_reading_bytes"), "{{pod}} being read"),
        ),
        graph(
            "Reads, keys and copies held",
            "Linearizable reads that wait for an answer, idempotency keys that are remembered (five minutes each), and "
            "clients that copy a snapshot. Normal: reads near none, as many keys as writes bring. Beyond 65,536 reads, "
            "1,048,576 keys or 4 copies the member answers 429.",
            "none",
            Query(m("oarlock_reads_waiting"), "{{pod}} reads"),
            Query(m("oarlock_snapshot_readers"), "{{pod}} copies"),
            Query(m("oarlock_idempotency_records"), "{{pod}} keys"),
        ),
    ]


def peers() -> list[Panel]:
    return [
        graph(
            "Bytes between members",
            "A second, by member and direction. Normal: the leader sends to each follower what clients write.",
            "binBps",
            Query(rate(m("oarlock_peer_bytes_total"), "pod, direction"), "{{pod}} {{direction}}"),
        ),
        graph(
            "Frames between members",
            "A second. Normal: some tens for each peer at rest (heartbeats every 100 ms), more under load. None: "
            "the member is cut off.",
            "mps",
            Query(rate(m("oarlock_peer_frames_total"), "pod, direction"), "{{pod}} {{direction}}"),
        ),
        graph(
            "Streams that ended",
            "Opened again, not answered, closed for silence, closed because nothing was taken. Normal: none, but "
            "for restarts. Otherwise the network between these members loses packets, or one of them is starved of "
            "CPU.",
            "none",
            Query(rise(m("oarlock_peer_reconnects_total")), "{{pod}} reconnected"),
            Query(rise(m("oarlock_peer_dial_failures_total")), "{{pod}} not answered"),
            Query(rise(m("oarlock_peer_streams_silent_total")), "{{pod}} silent"),
            Query(rise(m("oarlock_peer_streams_stalled_total")), "{{pod}} stalled"),
        ),
        graph(
            "Messages not sent",
            "By reason. Normal: none, or no_stream while a peer restarts: it is away. window: it takes less than it "
            "is sent, its network or CPU is too slow. oversized: never; report it.",
            "none",
            Query(rise(m("oarlock_peer_messages_dropped_total"), "pod, reason"), "{{pod}} {{reason}}"),
        ),
        graph(
            "Peers turned away",
            "Openings and frames refused here, and openings of ours refused there. Normal: none, but for a minute "
            "around a replacement. unauthorized: a wrong token. wrong_target, removed: an old identity; the "
            "operator replaces it. wrong_cluster: the addresses of two clusters are mixed up.",
            "none",
            Query(rise(m("oarlock_peer_rejected_total"), "pod, reason"), "{{pod}} refused: {{reason}}"),
            Query(rise(m("oarlock_peer_refused_total"), "pod, code"), "{{pod}} was refused: {{code}}"),
        ),
        graph(
            "Impossible messages",
            "What peers sent and no correct peer sends, by kind. Normal: none, ever. Otherwise something else "
            "speaks on port 2380, or there is a defect: keep the logs of all members and report it.",
            "none",
            Query(rise(m("oarlock_raft_remote_errors_total"), "pod, kind"), "{{pod}} {{kind}}"),
        ),
        graph(
            "Diverged members",
            "Members that applied the same log to another state than their leader, compared once a second. Normal: 0. "
            "Otherwise the one that a majority contradicts is Corrupt, votes no more, and is replaced. Without a "
            "majority nobody is judged: keep the volumes, compare `state_hash` in the members' status, and report it.",
            "none",
            Query(f"sum by (pod) ({m('oarlock_raft_diverged_peers')})", "{{pod}}"),
        ),
    ]


def processes() -> list[Panel]:
    return [
        graph(
            "Processor",
            "Cores used. Normal: below 1, as one event loop does most of the work. Near 1 for long: the member is "
            "at its limit, and heartbeats come late. Below 1 and slow: look for a CPU limit that throttles it.",
            "none",
            Query(f"rate({m('process_cpu_seconds_total')}[{EVERY}])", "{{pod}}"),
        ),
        graph(
            "Resident memory",
            "The mapped store counts, and the kernel takes that part back under pressure. Normal: rises to the size "
            "of the data and stays. Near spec.resources.limits.memory with restarts: raise the limit.",
            "bytes",
            Query(m("process_resident_memory_bytes"), "{{pod}}"),
        ),
        graph(
            "Open files",
            "And the most that the process may open. Normal: some tens, and one for each client connection. Near "
            "the limit: clients open connections without closing them.",
            "none",
            Query(m("process_open_fds"), "{{pod}}"),
            Query(m("process_max_fds"), "{{pod}} at most"),
        ),
        graph(
            "Time since the start",
            "Normal: rises. Each drop is a restart: `kubectl describe pod` and `kubectl logs --previous` say why.",
            "s",
            Query(f"time() - {m('process_start_time_seconds')}", "{{pod}}"),
            span=24,
        ),
    ]


def operator() -> list[Panel]:
    return [
        graph(
            "Passes over this cluster",
            "A second, by result. Normal: ok, one every few seconds. error: see Failed passes. standby: another "
            "operator holds the cluster's Lease. None: the operator is down; the cluster serves on, but nothing is "
            "repaired.",
            "ops",
            Query(rate(o("oarlock_operator_reconciles_total"), "result"), "{{result}}"),
        ),
        graph(
            "Failed passes",
            "Normal: none, or a few while the API server restarts. Steady: the condition Progressing with reason "
            "ReconcileError says what fails, and so does the operator's log.",
            "none",
            Query(f"sum(increase({o('oarlock_operator_reconcile_failures_total')}[{EVERY}]))", "failed"),
        ),
        graph(
            "Time of a pass",
            "Normal: p99 below 1 s; members that do not answer cost their time-out. Above 10 s: the API server is "
            "slow.",
            "s",
            Query(quantile(0.5, o("oarlock_operator_reconcile_duration_seconds_bucket"), by=""), "p50"),
            Query(quantile(0.99, o("oarlock_operator_reconcile_duration_seconds_bucket"), by=""), "p99"),
        ),
        graph(
            "Membership changes",
            "Members added, promoted, demoted and removed. Normal: only when spec.replicas changed or a disk was "
            "lost. Again and again: `kubectl describe raft` has an Event for each.",
            "none",
            Query(rise(o("oarlock_operator_membership_changes_total"), "kind"), "{{kind}}"),
        ),
        graph(
            "Actions",
            "What the operator did, by kind. Normal: none on a cluster at rest. The same one again and again: it "
            "does not reach its goal; status.operation and the conditions say why.",
            "none",
            Query(rise(o("oarlock_operator_actions_total"), "action"), "{{action}}"),
        ),
        graph(
            "Clusters watched over",
            "By all operators that are scraped. Normal: the number of RaftClusters (`kubectl get raft -A`). 0: the "
            "operator sees none; look at its log and its roles.",
            "none",
            Query("sum(oarlock_operator_clusters)", "clusters"),
        ),
    ]
