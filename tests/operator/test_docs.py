"""docs/operator.md knows every reason that a condition can have, and every setting."""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

from oarlock_operator.settings import Settings

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ROOT / "operator/oarlock_operator"
PAGE = (ROOT / "docs/operator.md").read_text()


def first_words(call: ast.Call, at: int) -> Iterator[str]:
    """The string constants that this argument of a call may have."""
    if len(call.args) > at:
        for node in ast.walk(call.args[at]):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.fullmatch("[A-Z][A-Za-z]+", node.value)
            ):
                yield node.value


def reasons() -> set[str]:
    """Every reason of a Wait (which becomes one of Progressing), and every one that `conditions` says."""
    found: set[str] = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                found |= (
                    set(first_words(node, {"Wait": 0, "say": 1}[node.func.id]))
                    if node.func.id in ("Wait", "say")
                    else set()
                )
    return found


def told() -> set[str]:
    """The reasons that stand in the first column of the tables."""
    night = PAGE[PAGE.index("## At three in the morning") : PAGE.index("## Network and rights")]
    rows = [line.split("|")[1] for line in night.splitlines() if re.match(r"\| (True|False|Unknown)", line)]
    return {reason for row in rows for reason in re.findall("`([A-Za-z]+)`", row)}


def test_every_reason_is_explained() -> None:
    code = reasons()
    assert {"Idle", "QuorumHealthy", "CannotReplace", "EvictionRefused"} <= code, "the reader of the sources is blind"
    assert code - told() == set()


def test_no_reason_is_explained_that_there_is_not() -> None:
    text = "".join(path.read_text() for path in SOURCES.rglob("*.py"))
    assert {reason for reason in told() if f'"{reason}"' not in text} == set()


def test_every_setting_is_listed_with_its_default() -> None:
    for name, field in Settings.model_fields.items():
        row = re.search(rf"\| `OARLOCK_OPERATOR_{name.upper()}` \| (.*?) \|", PAGE)
        assert row, f"{name} is not in docs/operator.md"
        if field.default_factory is None and field.default != "":
            assert row[1] == f"`{field.default}`"
