"""Which bytes of a snapshot's file a request gets (RFC 9110, 13.1.1 and 14.2)."""

import pytest

from oarlock.peers.snapshot_serve import RangeAnswer, answer_range

DIGEST = "ab" * 32
OTHER = "cd" * 32


@pytest.mark.parametrize(
    ("range_header", "answer"),
    [
        (None, RangeAnswer(200, 0, 100)),
        ("bytes=0-9", RangeAnswer(206, 0, 10, partial=True)),
        ("bytes=90-", RangeAnswer(206, 90, 100, partial=True)),
        ("bytes=90-1000", RangeAnswer(206, 90, 100, partial=True)),
        ("bytes=99-99", RangeAnswer(206, 99, 100, partial=True)),
        ("bytes=100-", RangeAnswer(416)),
        ("bytes=100-200", RangeAnswer(416)),
        ("bytes=9-8", RangeAnswer(416)),
        ("bytes=-5", RangeAnswer(416)),
        ("bytes=0-1,5-6", RangeAnswer(416)),
        ("lines=0-1", RangeAnswer(416)),
        ("bytes=0-9x", RangeAnswer(416)),
        ("bytes=0-9\n", RangeAnswer(206, 0, 10, partial=True)),  # white space around a value is none of it
        ("bytes=" + "9" * 19 + "-", RangeAnswer(416)),
        ("", RangeAnswer(416)),
    ],
)
def test_ranges(range_header: str | None, answer: RangeAnswer) -> None:
    assert answer_range(100, DIGEST, None, range_header) == answer
    assert answer_range(100, DIGEST, f'"{DIGEST}"', range_header) == answer


@pytest.mark.parametrize("if_match", [f'"{OTHER}"', DIGEST, "", f'W/"{DIGEST}"'])
def test_another_digest_is_refused(if_match: str) -> None:
    """Rule 19: ranges name the digest; a range of another file is worse than none."""
    assert answer_range(100, DIGEST, if_match, "bytes=0-9").status == 412


def test_an_empty_file_has_no_ranges() -> None:
    assert answer_range(0, DIGEST, None, "bytes=0-") == RangeAnswer(416)
    assert answer_range(0, DIGEST, None, None) == RangeAnswer(200, 0, 0)
