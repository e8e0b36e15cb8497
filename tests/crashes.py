"""Every disk that a machine may find when it comes back: a stop after every file operation, and of what was not synced
by then every subset that may have survived.

Rules of this module:
* A subset is a path through the decisions that a power loss takes (tests/simdisk.py): sectors of contents singly, names
  singly. All paths are walked, up to `most` a stop; of more than that, as many again are drawn from a seed.
* A stop of the process alone loses nothing at once, and all that was not synced with the next power loss (rule 4).
* Two disks of the same names and bytes of which the same was promised are one, and come once.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from tests.simdisk import Crash, SimulatedFiles, _Directory, _Node, crash_at, healthy

Fingerprint: TypeAlias = "tuple[tuple[str, Fingerprint | bytes], ...]"
Promised = TypeVar("Promised")

TEARS = (0.0, 0.4, 1.0)  # how much of a write that was under way is there at all


@dataclass(frozen=True)
class Left(Generic[Promised]):
    """A disk after a stop, and what had been promised by then."""

    disk: SimulatedFiles
    promised: Promised
    operation: int  # the stop came before this one
    subset: int  # which of that stop; 0: the process alone ended, and what it wrote is readable, though not durable


class _Script:
    """In the place of the disk's random numbers. Takes the decisions of `script`, then what `otherwise` says; notes
    what was decided."""

    def __init__(self, script: list[bool], otherwise: Callable[[], bool]) -> None:
        self._script = script
        self._otherwise = otherwise
        self.taken: list[bool] = []

    def random(self) -> float:
        at = len(self.taken)
        survives = self._script[at] if at < len(self._script) else self._otherwise()
        self.taken.append(survives)
        return 0.0 if survives else 1.0


class _Tear:
    """In the place of the disk's random numbers: of a write that is cut off, how much of it happened."""

    def __init__(self, share: float) -> None:
        self._share = share
        self.asked = False

    def randrange(self, stop: int) -> int:
        self.asked = True
        return int(self._share * (stop - 1))


def fingerprint(disk: SimulatedFiles) -> Fingerprint:
    """Names and contents of all there is."""

    def of(node: _Node) -> Fingerprint | bytes:
        if isinstance(node, _Directory):
            return tuple((name, of(child)) for name, child in sorted(node.live.items()))
        return bytes(node.live)

    found = of(disk._root)
    assert isinstance(found, tuple)
    return found


def survivors(disk: SimulatedFiles, most: int, seed: int) -> Iterator[SimulatedFiles]:
    """`disk` after a power loss, in each way it may come out of one."""

    disk.operations.clear()

    def lost(script: list[bool], otherwise: Callable[[], bool]) -> tuple[SimulatedFiles, list[bool]]:
        twin = copy.deepcopy(disk)
        twin.rng = decisions = _Script(script, otherwise)  # type: ignore[assignment]
        twin.power_loss(0.5)
        return twin, decisions.taken

    script: list[bool] = []
    for _ in range(most):
        twin, taken = lost(script, lambda: False)
        yield twin
        while taken and taken[-1]:
            taken.pop()
        if not taken:
            return
        script = [*taken[:-1], True]
    yield lost([], lambda: True)[0]
    rng = random.Random(seed)
    for _ in range(most):
        chance = rng.choice((0.1, 0.5, 0.9))
        yield lost([], lambda chance=chance: rng.random() < chance)[0]  # type: ignore[misc]


def every_crash(
    begin: Callable[[], SimulatedFiles],
    run: Callable[[SimulatedFiles, Callable[[Promised], None]], None],
    nothing: Promised,
    most: int = 1024,
) -> Iterator[Left[Promised]]:
    """`run(disk, promise)` on a disk of `begin`, stopped before every operation that changes anything, and not at all.

    `promise` is called with what holds from then on, each time with more than before; `nothing` holds at first.
    """
    found: dict[Fingerprint, Promised] = {}
    at, finished = 0, False
    while not finished:
        for share in TEARS:
            disk = begin()
            tear = disk.rng = _Tear(share)  # type: ignore[assignment]
            disk.fail = crash_at(at)
            held = nothing

            def promise(more: Promised) -> None:
                nonlocal held
                held = more

            try:
                run(disk, promise)
                finished = True
            except Crash:
                pass
            disk.fail, disk.rng = healthy, _Script([], lambda: False)  # type: ignore[assignment]
            disk.kill()
            yield Left(copy.deepcopy(disk), held, at, 0)
            for count, left in enumerate(survivors(disk, most, at), 1):
                key = fingerprint(left)
                if key not in found or found[key] != held:
                    found[key] = held
                    yield Left(left, held, at, count)
            if not tear.asked:
                break
        at += 1
