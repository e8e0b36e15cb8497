"""Members under random faults, from one seed each: what they told their clients is judged by what was committed."""

from __future__ import annotations

import random

import pytest
from tests.member_cluster import Cluster

from oarlock.runtime.errors import Refused


def life(seed: int) -> Cluster:
    """A hundred random acts, then healing."""
    rng = random.Random(seed)
    names = "abc" if rng.random() < 0.6 else "abcde"
    cluster = Cluster(names, seed=seed, loss=rng.choice((0.0, 0.05, 0.2)))
    cluster.elect()
    number = 0
    for _ in range(100):
        up = [n for n in names if cluster.site(n).up]
        match rng.randrange(18):
            case 0:
                left = "".join(n for n in names if rng.random() < 0.5)
                cluster.split(left, "".join(n for n in names if n not in left))
            case 1:
                cluster.split(names)
            case 2 if len(up) > 1:
                victim = rng.choice(up)
                rng.choice((cluster.kill, cluster.stop))(victim)
            case 3:
                down = [n for n in names if not cluster.site(n).up]
                if down:
                    cluster.restart(rng.choice(down))
            case 4:
                site = cluster.site(rng.choice(up))
                site.disk_hangs = not site.disk_hangs
            case 5:
                site = cluster.site(rng.choice(up))
                site.apply_waits = not site.apply_waits
            case 6:
                site = cluster.site(rng.choice(up))
                if site.core.durable_index >= site.machine.index > 0:
                    cluster.snapshot(site.id)
            case _:
                for _ in range(rng.randrange(1, 4)):
                    number += 1
                    name = rng.choice(up)
                    if rng.random() < 0.3:
                        cluster.read(name, b"read-%d" % number)
                    else:
                        cluster.submit(name, b"write-%d" % number)
        cluster.run(rng.choice((0.001, 0.01, 0.1, 0.1, 0.5, 1.5)))
    cluster.heal()
    cluster.settle()
    cluster.run(40.0)
    return cluster


@pytest.mark.parametrize("seed", range(100))
def test_what_clients_hear_is_true(seed: int) -> None:
    """Rule 8 over whole lives, X2 as far as the runtime goes: no write twice, none lost, no false `not_applied`."""
    cluster = life(seed)
    cluster.judge()
    assert [s.member.in_flight_bytes for s in cluster.sites.values()] == [0] * len(cluster.sites)
    assert not [s for s in cluster.sites.values() if s.member._reads]


def test_every_kind_of_end_is_reached() -> None:
    """The faults above are worth nothing if nothing fails in them."""
    lives = [life(seed) for seed in (2, 3, 11, 15, 17)]
    codes = {refused.code for cluster in lives for refused in cluster.refusals.values()}
    assert {"superseded", "forward_broken", "stopping", "no_leader", "snapshot_installed"} <= codes
    assert sum(len(cluster.results) for cluster in lives) > 100
    assert sum(len(cluster.readable) for cluster in lives) > 40


def test_the_oracle_fires() -> None:
    """A judge that never condemns is none."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    cluster.submit(leader, b"x")
    cluster.run(0.5)
    cluster.judge()
    cluster.refusals[b"x"] = Refused("superseded", "a lie", status=503)
    with pytest.raises(AssertionError, match="refused as not_applied"):
        cluster.judge()
    del cluster.refusals[b"x"]
    cluster.results[b"y"] = cluster.results[b"x"]
    with pytest.raises(AssertionError, match="acknowledged"):
        cluster.judge()
