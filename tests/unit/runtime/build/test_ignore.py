"""Ignore files: moby's patternmatcher is the rule; the cases are those of its documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.build.ignore import Ignore, find_ignore
from runtime.errors import ImageError


@pytest.mark.parametrize(
    ("patterns", "ignored", "kept"),
    [
        ("*/temp*", ["some/temporary.txt", "a/temp"], ["temp", "a/b/temp"]),
        ("*/*/temp*", ["a/b/temporary"], ["a/temp"]),
        ("temp?", ["tempa", "temp1"], ["temp", "tempab", "a/tempa"]),
        ("**/*.go", ["a.go", "a/b/c.go"], ["a.gox"]),
        ("a/**", ["a/b", "a/b/c"], ["a"]),
        ("a/**/z", ["a/z", "a/b/c/z"], ["az"]),
        ("*.md\n!README.md", ["a.md"], ["README.md"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["README-secret.md"], ["README-x.md"]),
        ("*.md\nREADME-secret.md\n!README*.md", ["a.md"], ["README-secret.md"]),
        ("/a", ["a", "a/b"], ["b/a"]),
        ("a/", ["a", "a/b"], ["b"]),
        ("a/../b", ["b"], ["a"]),
        ("# a\n  b  \n\n", ["b"], ["a", "# a"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "/x"]),
        ("[^a]x", ["bx"], ["ax"]),
        (r"\*x", ["*x"], ["ax"]),
        (r"a\ b", ["a b"], ["ab"]),
        (".", [], ["a"]),
        ("dir\n!dir/keep", ["dir/x", "dir"], ["dir/keep", "dir/keep/below"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a\nb\n!a", ["b"], ["a"]),
    ],
)
def test_patterns(patterns: str, ignored: list[str], kept: list[str]) -> None:
    ignore = Ignore(patterns)
    assert [path for path in ignored if not ignore.ignores(path)] == []
    assert [path for path in kept if ignore.ignores(path)] == []


@pytest.mark.parametrize("pattern", ["[a", "a\\", "!"])
def test_malformed_patterns_are_named_with_their_line(pattern: str) -> None:
    with pytest.raises(ImageError, match=r"^\.dockerignore:2: "):
        Ignore(f"x\n{pattern}\n", ".dockerignore")


def test_which_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "x.containerfile"
    assert not find_ignore(tmp_path, file).ignores("a")
    for name in (".dockerignore", ".containerignore", "x.containerfile.dockerignore"):
        (tmp_path / name).write_text(f"{name}\n")
        ignore = find_ignore(tmp_path, file)
        assert (ignore.name, ignore.ignores(name)) == (name, True)
