"""docs/helm.md lists every value of both charts, with what its comment says."""

from __future__ import annotations

import pytest
from tests.tools import values


def test_a_value_is_its_comment_and_a_map_is_one_value_or_many() -> None:
    assert list(
        values.rows("# The image.\nimage:\n  # Its tag.\n  tag: a\n\n# Room.\n# For all.\nroom:\n  cpu: 1\n")
    ) == [
        ("image", None, "The image."),
        ("image.tag", "a", "Its tag."),
        ("room", {"cpu": 1}, "Room. For all."),
    ]


def test_a_value_that_says_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"image\.tag says nothing"):
        values.table("image:\n  tag: a\n")


@pytest.mark.parametrize("text", ["", "<!-- generated: operator -->\n<!-- end -->\n"])
def test_a_page_without_its_marks_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="has the marks"):
        values.fill(text)
