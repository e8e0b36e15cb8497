"""The tables of values in docs/helm.md, from the comments in each chart's values.yaml. What stands outside of the marks
in that file is written by hand.

A value's meaning is the comment above it. A map with a comment whose own values have none is one value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from tests.tools.reference import MARKED

CHARTS = Path(__file__).resolve().parents[2] / "charts"
PARTS = {"operator": "oarlock-operator", "cluster": "oarlock-cluster"}


def fill(text: str) -> str:
    """The page with each marked part made anew. Raises ValueError when a part is missing or not known."""
    if sorted(found := [name for _, name, _ in MARKED.findall(text)]) != sorted(PARTS):
        raise ValueError(f"docs/helm.md has the marks {found}; there are the parts {sorted(PARTS)}")

    def part(match: re.Match[str]) -> str:
        return f"{match[1]}{table((CHARTS / PARTS[match[2]] / 'values.yaml').read_text())}{match[3]}"

    return MARKED.sub(part, text)


def table(values: str) -> str:
    """Raises ValueError for a value that says nothing of itself."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for path, default, meaning in rows(values):
        shown = "" if default in (None, {}, [], "") else f"`{_short(default)}`"
        lines.append(f"| `{path}` | {shown} | {meaning} |")
    return "".join(f"{line}\n" for line in lines)


def rows(values: str) -> Iterator[tuple[str, Any, str]]:
    """(path, default, meaning) in the file's order; a map of values that have meanings of their own has no default."""
    comments, whole = _comments(values), ""
    for path, value in _paths(yaml.safe_load(values), ""):
        if whole and path.startswith(whole):
            continue
        below = any(other.startswith(f"{path}.") for other in comments)
        if path in comments:
            yield path, None if below else value, comments[path]
            whole = "" if below else f"{path}."
        elif not (isinstance(value, dict) and value):
            raise ValueError(f"{path} says nothing of itself: it needs a comment above it")


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _paths(node: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")


def _comments(values: str) -> dict[str, str]:
    """The comment above each key that has one, by the key's path."""
    found: dict[str, str] = {}
    above: list[str] = []
    keys: list[tuple[int, str]] = []
    for line in values.splitlines():
        if comment := re.fullmatch(r" *# ?(.*)", line):
            above.append(comment[1])
            continue
        if key := re.match(r"( *)([\w-]+):", line):
            keys = [k for k in keys if k[0] < len(key[1])] + [(len(key[1]), key[2])]
            if above:
                found[".".join(name for _, name in keys)] = " ".join(above)
        above = []
    return found
