"""Plants every bug, one at a time, and hunts it: python -m tests.mutants [NAME ...] [--record]  (`make mutants`).

`--record` writes table.json: how many stories it took, and which oracle stopped it. `make test` replays each bug from
the seed in that table. The exit status is not 0 if one survived, or if the sources as they are fail on the same seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.hunt import CAUGHT, Catch, judged_test
from tests.mutants.planted import ROOMS, ROOT, Bug, bugs, planted

SEEDS = 200
EXHAUSTIVE = "tests/property/"
HUNTERS = ("the simulation", "exhaustive or random tests", "ordinary tests")
TABLE = Path(__file__).parent / "table.json"


def caught(bug: Bug | None, first: int = 0, count: int = SEEDS) -> Catch:
    """Hunt it, in a process of its own. Raises DoesNotApply."""
    with planted(bug) as environment:
        if bug is not None and bug.test:
            shown = ["-q", "--tb=auto", "--color=no"]  # what judged_test reads
            plugins = ["-p", "tests.mutants.unshrunk", "-p", "no:cacheprovider"]
            command = [sys.executable, "-m", "pytest", "-x", *shown, *plugins, bug.test]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            said = next((line for line in done.stdout.splitlines() if line.startswith("E  ")), done.stdout[-300:])
            how = "survived" if done.returncode == 0 else "crash"
            if done.returncode == 1:  # tests ran, and one failed
                how = judged_test(done.stdout)
            return Catch(how, bug.test, 0, 1, said)
        command = [sys.executable, "-m", "tests.mutants.hunt", str(first), str(count)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        return Catch("crash", said=done.stderr[-300:])
    return Catch(**json.loads(done.stdout.splitlines()[-1]))


def hunters(chosen: Iterable[Bug]) -> str:
    """How many of them are left to what."""
    counts = Counter(_hunter(bug) for bug in chosen)
    return ", ".join(f"{counts[hunter]} by {hunter}" for hunter in HUNTERS)


def _hunter(bug: Bug) -> str:
    simulation, exhaustive, ordinary = HUNTERS
    return simulation if not bug.test else exhaustive if bug.test.startswith(EXHAUSTIVE) else ordinary


def _write(table: Mapping[str, object]) -> None:
    """After each hunt: an hour's work is not lost with its end."""
    known = {bug.name for bug in bugs()}
    kept = {name: row for name, row in sorted(table.items()) if name in known}
    TABLE.write_text(json.dumps(kept, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    chosen = [bug for bug in bugs() if not arguments.names or bug.name in arguments.names]
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    for bug in chosen:  # before an hour's hunt
        with planted(bug):
            pass
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sound = pool.submit(caught, None, 0, arguments.seeds) if not arguments.names else None
        hunts = [(bug, pool.submit(caught, bug, 0, arguments.seeds)) for bug in chosen]
        counts: Counter[str] = Counter()
        for bug, hunt in hunts:
            catch = hunt.result()
            counts[catch.how] += 1
            where = f"seed {catch.seed}, story {catch.seeds}" if catch.seed >= 0 else ""
            print(f"{bug.name:<55} {catch.how:<14} {catch.oracle:<20} {where}", flush=True)
            if catch.how in ("crash", "undecided"):
                print(f"    {catch.said}")
            table.pop(bug.name, None)
            if catch.how in CAUGHT:
                table[bug.name] = {"how": catch.how, "oracle": catch.oracle, "seed": catch.seed, "stories": catch.seeds}
            if arguments.record:
                _write(table)
        unpatched = sound.result() if sound is not None else Catch("survived")
    if unpatched.how != "survived":
        print(f"the sources as they are fail on seed {unpatched.seed}: {unpatched.said}")
    rooms = ", ".join(f"{sum(bug.room == room for bug in chosen)} in {room}" for room in ROOMS)
    print(f"{rooms}; stopped by the product's own assertions alone: {counts['own assertion']}")
    print(f"hunted: {hunters(chosen)}")
    survived = len(chosen) - sum(counts[how] for how in CAUGHT)
    print(f"planted {len(chosen)}, caught {len(chosen) - survived}, survived {survived}")
    return 1 if survived or unpatched.how != "survived" else 0


if __name__ == "__main__":
    sys.exit(main())
