"""Who is called diverged, in all small clusters and many larger ones: only who is wrong; and one alone among the right.

A member's life: a state for each of four steps, which it made of the one before and the log, or copied from a member.
At any step it may go astray, to a state of its own, and every state made of that is astray as well (rule 26).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from oarlock.raft.types import Configuration, Member
from oarlock.runtime.divergence import Finding, States, compare

STEPS = 4
Strays = int | None  # at which step, or never
Copies = tuple[int, int] | None  # (at which step, from whom), or never


class Life(NamedTuple):
    strays: Strays
    copies: Copies


def lives_of(lives: tuple[Life, ...]) -> list[list[str]]:
    """The state hash of each at each step."""
    states = [["right 0"] for _ in lives]
    for step in range(1, STEPS):
        for number, life in enumerate(lives):
            before = states[number][-1]
            if life.copies is not None and life.copies[0] == step:
                before = states[life.copies[1]][step - 1]
            origin = before.rpartition(" ")[0]
            states[number].append(f"{f'astray {number}' if life.strays == step else origin} {step}")
    return states


def told(lives: tuple[Life, ...]) -> list[States]:
    """What each has noted, since it began: at the log's first entry, or at what it copied."""
    tables, all_states = [], lives_of(lives)
    for states, life in zip(all_states, lives, strict=True):
        since, source = (life.copies[0] - 1, all_states[life.copies[1]]) if life.copies is not None else (0, states)
        table = States(since)
        for step in range(max(since, 1), STEPS):
            table.note(step, source[step] if step == since else states[step])
        tables.append(table)
    return tables


def findings(lives: tuple[Life, ...], voters: int) -> Iterator[tuple[int, Finding]]:
    """Of each voter as the leader."""
    tables = told(lives)
    ids = [f"m{number}-{number:016x}" for number in range(len(lives))]
    members = [Member(id, "", "") for id in ids]
    configuration = Configuration(tuple(members[:voters]), tuple(members[voters:]))
    for leader in range(voters):
        reports = {id: table for number, (id, table) in enumerate(zip(ids, tables, strict=True)) if number != leader}
        yield leader, compare(ids[leader], tables[leader], reports, set(ids), configuration, {})


def judged(finding: Finding) -> set[int]:
    return {int(id.partition("-")[0][1:]) for id in finding.odd}


def wrong(lives: tuple[Life, ...]) -> set[int]:
    return {number for number, states in enumerate(lives_of(lives)) if not states[-1].startswith("right")}


def every_life(me: int, members: int) -> list[Life]:
    strays: list[Strays] = [None, *range(1, STEPS)]
    copies: list[Copies] = [None, *product(range(1, STEPS), [m for m in range(members) if m != me])]
    return [Life(*one) for one in product(strays, copies)]


def check(lives: tuple[Life, ...], voters: int) -> int:
    """How many were judged."""
    count = 0
    for _, finding in findings(lives, voters):
        assert judged(finding) <= wrong(lives), f"judged wrongly: {lives} {finding}"
        count += len(judged(finding))
    return count


def test_every_cluster_of_three_judges_only_who_is_wrong() -> None:
    some = sum(check(lives, 3) for lives in product(*(every_life(me, 3) for me in range(3))))
    assert some > 1000


def test_clusters_of_other_sizes_judge_only_who_is_wrong() -> None:
    rng, some = random.Random(26), 0
    for _ in range(20_000):
        members = rng.choice((2, 4, 5, 6))
        voters = rng.choice([v for v in (2, 3, 4, 5) if v <= members])
        lives = tuple(rng.choice(every_life(me, members)) for me in range(members))
        some += check(lives, voters)
    assert some > 1000


def test_one_that_goes_astray_alone_is_found_by_every_leader() -> None:
    for voters, learners, step in product((3, 4, 5), (0, 1), range(1, STEPS)):
        for odd in range(voters + learners):
            lives = tuple(Life(step if number == odd else None, None) for number in range(voters + learners))
            for leader, finding in findings(lives, voters):
                assert judged(finding) == {odd}, (lives, leader, finding)


def test_of_two_nobody_is_judged() -> None:
    for lives in product(every_life(0, 2), every_life(1, 2)):
        assert check(lives, 2) == 0
