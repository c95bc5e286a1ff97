"""The search in what a workload prints: what people see is what matches, however it is cut."""

from __future__ import annotations

import pytest

from harness.lab.output_search import WINDOW_CHARACTERS, OutputSearch, stays_in_line

UP = "^up$"


def searched(pattern: str, *pieces: bytes) -> OutputSearch:
    """Feed the pieces, stamped 0, 1, 2 and so on; the output has not ended."""
    search = OutputSearch(pattern)
    for stamp, piece in enumerate(pieces):
        search.feed(piece, stamp)
    return search


@pytest.mark.parametrize(
    ("pattern", "printed"),
    [
        (UP, b"up\n"),
        (UP, b"up"),
        (UP, b"a\nup\nb\n"),
        (UP, b"up\r\n"),
        (UP, b"loading 10%\rloading 99%\rup\n"),
        (UP, b"\x1b[32mup\x1b[0m\n"),
        (UP, b"\x1b[32mup\x1b[0m"),
        (UP, b"\x1b[1;38;5;12mu\x1b[0mp\x1b(B\x1b[m\r\n"),
        (UP, b"\x1b]0;a title\x07up\n"),
        ("größer", "größer\n".encode()),
        (r"^\w{6}$", "größer\n".encode()),
        (UP, b"\xff\xfe\nup\n"),
        (r"one\ntwo", b"one\r\ntwo\r\n"),
        (r"one\s+two", b"one\n\ntwo\n"),
        (r"(?s)begin.*end", b"begin\nmore\nend\n"),
        (r"up\r\n", b"up\r\n"),
        (r"\x1b\[32mup", b"\x1b[32mup\x1b[0m\n"),
    ],
)
def test_what_people_see_matches_in_one_piece_and_in_bytes(pattern: str, printed: bytes) -> None:
    assert searched(pattern, printed).matched_at_ns == 0
    bytewise = searched(pattern, *(bytes([byte]) for byte in printed))
    bytewise.finish()
    assert bytewise.matched_at_ns is not None


@pytest.mark.parametrize(
    ("pattern", "printed"),
    [
        (UP, b"start up\nup and away\n"),
        (UP, b"\x1b[32mup!\x1b[0m\n"),
        ("a.b", b"a\nb\n"),
        (r"^\[32m", b"\x1b[32mup\x1b[0m\n"),
    ],
)
def test_what_is_not_there_does_not_match(pattern: str, printed: bytes) -> None:
    search = searched(pattern, printed)
    search.finish()
    assert search.matched_at_ns is None


def test_the_stamp_is_that_of_the_piece_that_completed_the_match() -> None:
    assert searched(UP, b"no\nu", b"p", b"\n", b"up\n").matched_at_ns == 1
    assert searched("^up\n", b"no\nu", b"p", b"\n", b"up\n").matched_at_ns == 2


def test_the_end_of_a_writers_buffer_is_not_the_end_of_a_line() -> None:
    buffer = b"x" * 4093 + b"\nup"
    assert len(buffer) == 4096
    assert searched(UP, buffer, b"dating\n").matched_at_ns is None
    assert searched(UP, buffer, b"\n").matched_at_ns == 1
    ended = searched(UP, buffer)
    assert ended.matched_at_ns is None
    ended.finish()
    assert ended.matched_at_ns == 0


def test_a_long_line_that_is_cut_has_no_beginning_within() -> None:
    for pattern in (UP, r"^up$|never\n"):
        line = b"x" * 1001 + b"up" * WINDOW_CHARACTERS
        search = searched(pattern, *(line[at : at + 1000] for at in range(0, len(line), 1000)))
        search.finish()
        assert search.matched_at_ns is None
        search = searched(pattern, line, b"\nu", b"p\n")
        assert search.matched_at_ns == 2


@pytest.mark.parametrize("pattern", [UP, r"up\n"])
def test_what_is_held_stays_bounded(pattern: str) -> None:
    search = OutputSearch(pattern)
    for piece in (b"x" * 65536, b"y\n" * 32768, b"\xff" * 65536, b"\x1b[" * 32768):
        for _ in range(20):
            search.feed(piece, 0)
            assert len(search._rest) <= WINDOW_CHARACTERS + 1
    search.feed(b"\nup\n", 7)
    assert search.matched_at_ns == 7


def test_several_lines_match_as_far_as_the_window_reaches() -> None:
    between = b"x\n" * ((WINDOW_CHARACTERS - 100) // 2)
    assert searched(r"(?s)^begin.*end$", b"begin\n", between, b"end\n").matched_at_ns == 2
    assert searched(r"(?s)^begin.*end$", b"begin\n", between * 2, b"end\n").matched_at_ns is None


@pytest.mark.parametrize(
    "pattern",
    [UP, "ready to accept", r"port \d+", r"(a|b)c?", r"(?i)ready", r"x{2,3}",
     r"\bup\b", r"took \d+\.\d+ s", r"\[main\] Started", "[0-9a-f]{8}", ".*"],
)  # fmt: skip
def test_patterns_within_a_line(pattern: str) -> None:
    assert stays_in_line(pattern)


@pytest.mark.parametrize(
    "pattern",
    [r"a\nb", "a\nb", r"a\sb", r"[^x]", r"a\Wb", r"\D", "(?s)a.b", r"[\n]", r"[\s]", r"\x0a",
     r"\012", "(?s:a.b)", r"\Aup", r"[\W]", "[\t-\r]", r"(?is)a.b"],
)  # fmt: skip
def test_patterns_that_may_reach_over_lines(pattern: str) -> None:
    assert not stays_in_line(pattern)
