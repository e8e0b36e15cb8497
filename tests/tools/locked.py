#!/usr/bin/env python3
"""Do the lock files under requirements/ still satisfy pyproject.toml? Says which packages they miss or hold too old.

`make lock` writes them anew. This check needs no network.
"""

from __future__ import annotations

import pathlib
import re
import sys
import tomllib

from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).resolve().parents[2]


def locked(name: str) -> dict[str, str]:
    """Package name -> version."""
    text = (ROOT / "requirements" / name).read_text()
    return {m[1].lower().replace("_", "-"): m[2] for m in re.finditer(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.M)}


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    core: list[str] = project["project"]["dependencies"]
    extras: dict[str, list[str]] = project["project"]["optional-dependencies"]
    wanted = {
        "node.txt": core,
        "operator.txt": core + extras["operator"],
        "dev.txt": core + extras["operator"] + extras["dev"],
        "build.txt": project["build-system"]["requires"],
    }
    faults = 0
    for file, requirements in wanted.items():
        versions = locked(file)
        for requirement in map(Requirement, requirements):
            name = requirement.name.lower().replace("_", "-")
            if name == project["project"]["name"]:
                continue
            if name not in versions or versions[name] not in requirement.specifier:
                print(f"requirements/{file}: {requirement} is wanted, {versions.get(name, 'nothing')} is locked")
                faults += 1
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
