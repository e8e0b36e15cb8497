"""A snapshot that rots while its leader runs, between two that are due: other stories soon take the next one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.simulation.process import Process
from tests.simulation.story import Story, opened


@pytest.fixture
def story() -> Iterator[Story]:
    """Three members, no faults; their log has been cut, and no snapshot will be due any more."""
    with opened(3) as story:
        story.faults.known, story.admin.restless = [], 0.0
        story.admin.wanted = {process.name for process in story.processes[:3]}
        assert story.world.run(200_000, until=lambda: cut(story))
        story.clients.stopped = True
        story.world.run(20_000, 3.0)
        for process in story.processes:
            if process.node is not None and process.node.engine is not None:
                engine = process.node.engine
                engine.settings = replace(engine.settings, snapshot_entries=100_000, snapshot_wal_bytes=64 << 20)
        yield story


def cut(story: Story) -> bool:
    leader = story.admin.leader()
    if leader is None or leader.node is None or leader.node.engine is None or len(story.admin.wanted) != 3:
        return False
    return leader.node.engine.core.first_index > 1 and story.clients.acknowledged > 150 and story.whole()


def wipe_another(story: Story, leader: Process) -> Process:
    other = next(p for p in story.processes if p.name in story.admin.wanted and p is not leader)
    other.kill(power=True)
    other.swap_disk(None)
    other.start()
    return other


@pytest.mark.parametrize("rots", [False, True])
def test_a_member_is_helped_though_the_leaders_snapshots_rot(story: Story, rots: bool) -> None:
    leader = story.admin.leader()
    assert leader is not None
    if rots:
        for path in leader.disk.snapshot_files():
            leader.disk.flip(path, 5000, 3)
    other = wipe_another(story, leader)
    assert story.world.run(400_000, 10.0, lambda: story.world.events % 20 == 0 and story.whole()), story.states()
    assert other.node is not None
    assert story.world.reached["log: snapshot installed"]
    assert story.world.reached["log: a snapshot is damaged: it is set aside"] == rots
    assert story.world.reached["raft: an offered snapshot was refused"] == rots
