"""Rows of the dashboard about the consensus: who is there, who leads, how far everybody is."""

from __future__ import annotations

from charts.dashboards.kit import Panel, Query, graph, number, timeline
from charts.dashboards.promql import EVERY, m, quantile, rate, rise

LEADER = m("oarlock_raft_role", 'role="leader"')
READY = {1: ("ready", "green"), 0: ("not ready", "red")}
LEADS = {1: ("leads", "blue"), 0: ("does not lead", "transparent")}


def at_a_glance() -> list[Panel]:
    return [
        number(
            "Members",
            "Ready members, and members that Prometheus scrapes. Normal: both are what spec.replicas says. Fewer "
            "ready: see the row Members for which, then `kubectl get raft` and `kubectl describe pod`. Fewer "
            "scraped: the pod is gone or its port 2381 is not reached.",
            "none",
            Query(f"sum({m('oarlock_member_ready')})", "ready"),
            Query(f"count({m('oarlock_member_ready')})", "scraped"),
        ),
        number(
            "Leader",
            "The member that leads. Normal: one name. None: no writes are possible; see Ready members and Leader "
            "contact age. Two for a moment: one of them was cut off, and its reads and writes fail.",
            "none",
            Query(f"{LEADER} == 1", "{{pod}}"),
            names=True,
        ),
        number(
            "Term",
            "The highest term of a member. Normal: it rises by one with each change of leader. Rising without end: "
            "elections fail; see the row Elections.",
            "none",
            Query(f"max({m('oarlock_raft_term')})", "term"),
            span=2,
        ),
        number(
            "Leader changes",
            "In the time shown. Normal: none, but for updates and drained nodes. More than a few an hour: slow "
            "disks (Log write), a starved CPU (Processor), or a network that loses packets (Streams that ended).",
            "none",
            Query(f"max(increase({m('oarlock_raft_leader_changes_total')}[$__range]))", "changes"),
            above=((3, "orange"), (10, "red")),
        ),
        number(
            "Writes",
            "Commands committed a second. Normal: as your clients write. Zero while clients write: nothing commits; "
            "see Members and Commit lag.",
            "wps",
            Query(f"sum(rate({m('oarlock_raft_commit_latency_seconds_count')}[{EVERY}]))", "committed"),
        ),
        number(
            "Commit latency, p99",
            "From a proposal at the leader to its commit: a disk write on a quorum and a round trip. Normal: below "
            "50 ms on local SSDs. Above: see Log write, then Peer contact age. Empty while nobody writes.",
            "s",
            Query(quantile(0.99, m("oarlock_raft_commit_latency_seconds_bucket"), by=""), "p99"),
            above=((0.1, "orange"), (0.5, "red")),
        ),
        number(
            "Least free disk",
            "Free bytes on the fullest volume. Normal: a quarter of it and more. When too little is left on a "
            "quorum, puts are refused with 507 while deletes and reads go on. Raise spec.storage.size, or delete "
            "keys.",
            "bytes",
            Query(f"min({m('oarlock_storage_free_bytes')})", "free"),
        ),
        number(
            "Versions",
            "Members by the version they run. Normal: one version; two during a rolling update. Two for longer: the "
            "condition Progressing of the RaftCluster says what the update waits for.",
            "none",
            Query(f"count by (version) ({m('oarlock_build_info')})", "{{version}}"),
            names=True,
            span=2,
        ),
        number(
            "Revision",
            "Of the store: it counts the changes ever made. Normal: it rises with the writes and never falls, but "
            "for a cluster that was made anew.",
            "none",
            Query(f"max({m('oarlock_store_revision')})", "revision"),
            span=2,
        ),
    ]


def members() -> list[Panel]:
    return [
        timeline(
            "Ready members",
            "1 while the ready probe succeeds: a voter that follows a leader, or leads. Normal: all. A quorum must "
            "be ready for writes. One that stays away: its log (`kubectl logs`) and its state, beside.",
            Query(m("oarlock_member_ready"), "{{pod}}"),
            READY,
        ),
        graph(
            "Members by state",
            "Normal: all Participating. Replaying: reading its log after a start. Isolated: it hears no leader. "
            "Idle: an empty disk that waits for the operator. Corrupt, Stale, Frozen, Removed, Outdated: `oarlock "
            "status` or status.members of the RaftCluster say what to do.",
            "none",
            Query(f"sum by (state) ({m('oarlock_member_state')})", "{{state}}"),
            stacked=True,
        ),
        timeline(
            "Who leads",
            "Normal: one bar at a time, seldom another. Gaps are times without a leader. Bars that take turns: see "
            "Leader changes.",
            Query(LEADER, "{{pod}}"),
            LEADS,
        ),
    ]


def elections() -> list[Panel]:
    return [
        graph(
            "Term of each member",
            "Normal: equal lines that seldom step. A line below the others: that member hears nobody. All lines "
            "climbing: no candidate wins; a quorum cannot be reached.",
            "none",
            Query(m("oarlock_raft_term"), "{{pod}}"),
        ),
        graph(
            "Elections",
            "Elections stood in and won. Normal: none. Many stood in and none won: no quorum, or a member that is "
            "cut off one way; see Leader contact age for who hears nobody.",
            "none",
            Query(rise(m("oarlock_raft_elections_started_total")), "{{pod}} stood"),
            Query(rise(m("oarlock_raft_elections_won_total")), "{{pod}} won"),
        ),
        graph(
            "Leader changes seen",
            "As each member saw them. Normal: none. Each costs the writes under way, and one to two seconds without "
            "a leader unless the leadership was handed over.",
            "none",
            Query(rise(m("oarlock_raft_leader_changes_total")), "{{pod}}"),
        ),
        graph(
            "Time without a leader, p99",
            "From the loss of a leader until another was known; a point for each time it happened. Normal: below "
            "three seconds, next to nothing after a hand-over. Longer: votes were split or a quorum was away.",
            "s",
            Query(quantile(0.99, m("oarlock_raft_election_duration_seconds_bucket")), "{{pod}}"),
            span=12,
        ),
        graph(
            "Leader contact age",
            "Since each member last heard of a leader. Normal: below 0.2 s, 0 on the leader. Above the election "
            "time-out (1 to 2 s): that member is cut off, or there is no leader if all lines rise.",
            "s",
            Query(m("oarlock_raft_leader_contact_age_seconds"), "{{pod}}"),
            span=12,
        ),
    ]


def replication() -> list[Panel]:
    return [
        graph(
            "Commit lag",
            "Entries in a member's log that are not committed. Normal: near 0, a few hundred under load. Rising on "
            "the leader: no quorum acknowledges; see Match lag for which peers.",
            "short",
            Query(m("oarlock_raft_commit_lag_entries"), "{{pod}}"),
        ),
        graph(
            "Apply lag",
            "Committed entries that a member has not applied. Normal: near 0. Rising: its disk or CPU is too slow "
            "for the load (Apply, Processor), or it is reading its log after a start.",
            "short",
            Query(m("oarlock_raft_apply_lag_entries"), "{{pod}}"),
        ),
        graph(
            "Match lag of each peer",
            "On the leader: entries that a peer lacks. Normal: near 0. Growing: the peer is down, cut off or slower "
            "than the load; while only a bare quorum keeps up, the next failure stops writes.",
            "short",
            Query(m("oarlock_raft_peer_match_lag_entries"), "{{peer}}"),
        ),
        graph(
            "Peer contact age",
            "On the leader: since a peer's last message. Normal: below 0.2 s. Above 2 s: the peer is down or cut off.",
            "s",
            Query(m("oarlock_raft_peer_contact_age_seconds"), "{{peer}}"),
        ),
        graph(
            "Commit latency",
            "From a proposal at the leader to its commit. Normal: p99 below 50 ms on local SSDs. When Log write is "
            "as slow, it is the disk; when not, the network or a starved CPU.",
            "s",
            Query(quantile(0.5, m("oarlock_raft_commit_latency_seconds_bucket"), by=""), "p50"),
            Query(quantile(0.9, m("oarlock_raft_commit_latency_seconds_bucket"), by=""), "p90"),
            Query(quantile(0.99, m("oarlock_raft_commit_latency_seconds_bucket"), by=""), "p99"),
        ),
        graph(
            "Log growth",
            "Entries appended, committed and applied a second, by member. Normal: the same lines for all. A member "
            "whose lines stay below catches up more slowly than the cluster writes.",
            "cps",
            Query(f"deriv({m('oarlock_raft_last_index')}[{EVERY}])", "{{pod}} appended"),
            Query(f"deriv({m('oarlock_raft_commit_index')}[{EVERY}])", "{{pod}} committed"),
            Query(f"deriv({m('oarlock_raft_applied_index')}[{EVERY}])", "{{pod}} applied"),
        ),
        graph(
            "Commands",
            "Proposed at the leader, forwarded to it by followers, and refused (not applied) a second. Normal: none "
            "refused. Refused ones have a cause in Requests by status: 412 is a client's precondition, 429 too much "
            "load, 503 no leader, 507 a full disk.",
            "cps",
            Query(rate(m("oarlock_commands_proposed_total")), "{{pod}} proposed"),
            Query(rate(m("oarlock_commands_forwarded_total")), "{{pod}} forwarded"),
            Query(rate(m("oarlock_commands_refused_total")), "{{pod}} refused"),
        ),
        graph(
            "Linearizable reads",
            "Asked of each member a second. Each joins a round of heartbeats, so they cost a round trip to a quorum "
            "and no disk write. Normal: as your clients spread them.",
            "rps",
            Query(rate(m("oarlock_reads_total")), "{{pod}}"),
        ),
        graph(
            "Apply, p99",
            "Time to apply one batch to the store. Normal: below 10 ms; it is cut into slices, so that heartbeats "
            "go on. Above 100 ms: memory pressure (the store no longer fits in the page cache) or a throttled CPU.",
            "s",
            Query(quantile(0.99, m("oarlock_apply_seconds_bucket")), "{{pod}}"),
        ),
    ]
