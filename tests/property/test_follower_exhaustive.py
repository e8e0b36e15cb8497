"""Every small log of a follower, and every append and snapshot that a leader whose log agrees with it as far as Raft
promises may send: what the follower then holds, commits and answers is what the paper says (figures 2 and 13).

Rules of this module: what is expected is worked out from lists of terms, and never by the code under test; only what a
correct leader can send is sent, but for the one test of a leader that is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement, takewhile

from tests.raft_cluster import configuration
from tests.raft_solo import Solo, only, snapshot_meta

from oarlock.raft.errors import InvariantViolated
from oarlock.raft.messages import AppendReply

LENGTH = 3  # of a log, beyond its first entry
TERM = 3  # of the leader, and the highest one in its log
ABC = configuration("abc")


def logs(highest: int) -> Iterator[list[int]]:
    """The terms of the entries from index 1 on. The first one has founded the cluster and is everybody's."""
    for length in range(LENGTH + 1):
        for terms in combinations_with_replacement(range(1, highest + 1), length):
            yield [1, *terms]


def common(one: list[int], other: list[int]) -> int:
    """How many entries two logs share from the beginning on."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return len(list(same))


def pairs() -> Iterator[tuple[list[int], int, list[int]]]:
    """A follower's log and commit index, and a leader's log that holds what is committed. An entry that both hold has
    the same entries before it in both (log matching)."""
    for ours in logs(TERM - 1):
        for theirs in logs(TERM):
            shared = common(ours, theirs)
            if all(a != b for a, b in zip(ours[shared:], theirs[shared:], strict=False)):
                for commit in range(1, shared + 1):
                    yield ours, commit, theirs


def follower(terms: list[int], commit: int) -> Solo:
    return Solo(terms=terms[1:], term=TERM - 1, commit=commit)


def terms_of(solo: Solo) -> list[int | None]:
    return [solo.core.term_at(index) for index in range(1, solo.core.last_index + 1)]


def appended(ours: list[int], after: int, entries: list[int]) -> list[int]:
    """Nothing goes unless an entry conflicts, and then all that follows it."""
    end = after + len(entries)
    agree = common(ours[after:], entries) == min(len(ours) - after, len(entries))
    return ours if agree and len(ours) >= end else ours[:after] + entries


def test_every_append_to_every_small_log() -> None:
    """Pitfalls L1, L2 and L4."""
    met = {"refused": 0, "extended": 0, "truncated": 0, "kept a longer tail": 0, "committed": 0, "late": 0}
    for ours, commit, theirs in pairs():
        for after in range(1, len(theirs) + 1):
            for end in range(after, len(theirs) + 1):
                for told in range(1, len(theirs) + 1):
                    solo = follower(ours, commit)
                    sent = theirs[after:end]
                    out = solo.append("b", TERM, (after, theirs[after - 1]), told, *sent)
                    (reply,) = only(out, AppendReply)
                    matches = after <= len(ours) and ours[after - 1] == theirs[after - 1]
                    held = appended(ours, after, sent) if matches else ours
                    case = f"{ours} committed to {commit}; {sent} after {after} of {theirs}, commit {told}"
                    assert terms_of(solo) == held, case
                    assert solo.core.commit_index == (max(commit, min(told, end)) if matches else commit), case
                    assert reply.accepted is matches, case
                    assert not matches or end <= reply.index <= common(held, theirs), case
                    met["refused"] += not matches
                    met["extended"] += len(held) > len(ours)
                    met["truncated"] += held[: len(ours)] != ours
                    met["kept a longer tail"] += matches and len(held) > end
                    met["committed"] += solo.core.commit_index > commit
                    met["late"] += after < commit
    assert all(met.values()), met


def test_no_append_replaces_what_is_committed() -> None:
    """Pitfall L5: whatever a broken leader sends."""
    halted = 0
    for ours in logs(TERM - 1):
        for theirs in logs(TERM):
            for commit in range(1, len(ours) + 1):
                for after in range(1, len(theirs) + 1):
                    solo = follower(ours, commit)
                    try:
                        solo.append("b", TERM, (after, theirs[after - 1]), len(theirs), *theirs[after:])
                    except InvariantViolated:
                        halted += 1
                    case = f"{ours} committed to {commit}; {theirs[after:]} after {after} of {theirs}"
                    assert terms_of(solo)[:commit] == ours[:commit], case
    assert halted


def test_every_snapshot_over_every_small_log() -> None:
    """Pitfalls S1 and S2: a fetched file is installed if the log is not right up to its place, and then nothing of the
    log stays; else the log is enough."""
    met = {"installed": 0, "overtaken": 0, "proof of a commit": 0, "a longer log goes": 0}
    for ours, commit, theirs in pairs():
        for index in range(2, len(theirs) + 1):
            solo = follower(ours, commit)
            right = index <= common(ours, theirs)
            case = f"{ours} committed to {commit}; a snapshot at {index} of {theirs}"
            assert solo.core.install(snapshot_meta(index, theirs[index - 1], ABC), solo.now) is not right, case
            solo.take()
            assert solo.core.commit_index == max(commit, index), case
            if right:
                assert terms_of(solo) == ours, case
            else:
                assert (solo.core.first_index, solo.core.last_index) == (index + 1, index), case
                assert solo.core.last_term == theirs[index - 1], case
            met["installed"] += not right
            met["overtaken"] += index < commit
            met["proof of a commit"] += right and index > commit
            met["a longer log goes"] += not right and len(ours) > index
    assert all(met.values()), met
