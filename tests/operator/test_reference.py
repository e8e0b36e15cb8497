"""docs/crd.md: tables from the models, and a part by hand that they leave alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tools import reference

from oarlock_operator import crd

PAGE = Path(__file__).resolve().parents[2] / "docs/crd.md"
SCHEMA = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]


def test_the_page_is_what_the_models_say() -> None:
    assert reference.fill(PAGE.read_text()) == PAGE.read_text()


@pytest.mark.parametrize("part", ["spec", "status"])
def test_every_field_is_there_and_has_a_meaning(part: str) -> None:
    text = PAGE.read_text()
    for path, field in reference.fields(part, SCHEMA[part]):
        assert f"| `{path}` |" in text
        assert field.get("description"), f"{path} has no description"


def test_a_stale_table_is_made_anew_and_what_is_written_by_hand_stays() -> None:
    text = PAGE.read_text()
    row = next(line for line in text.splitlines() if line.startswith("| `spec.replicas` |"))
    stale = "A word by hand.\n" + text.replace(row, "| `spec.gone` | string | | Gone. |")
    assert reference.fill(stale) == "A word by hand.\n" + text


def test_a_mark_that_is_lost_or_unknown_is_an_error() -> None:
    with pytest.raises(ValueError, match="parts"):
        reference.fill(PAGE.read_text().replace("<!-- generated: status -->", ""))
    with pytest.raises(ValueError, match="nothing"):
        reference.fill(PAGE.read_text() + "<!-- generated: nothing -->\n<!-- end -->\n")
