from __future__ import annotations

import pytest

from runtime.errors import InvalidReferenceError
from runtime.images.formats.reference import parse_reference

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "whole", "parts"),
    [
        ("busybox", "busybox:latest", ("", "busybox", "latest", None)),
        ("busybox:1.36", "busybox:1.36", ("", "busybox", "1.36", None)),
        ("library/busybox", "library/busybox:latest", ("", "library/busybox", "latest", None)),
        ("localhost/a", "localhost/a:latest", ("localhost", "a", "latest", None)),
        ("localhost:5000/a", "localhost:5000/a:latest", ("localhost:5000", "a", "latest", None)),
        ("127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b:t", ("127.0.0.1:5000", "a/b", "t", None)),
        ("[::1]:5000/a", "[::1]:5000/a:latest", ("[::1]:5000", "a", "latest", None)),
        (f"a@sha256:{HEX}", f"a@sha256:{HEX}", ("", "a", None, f"sha256:{HEX}")),
        (f"a:t@sha256:{HEX}", f"a:t@sha256:{HEX}", ("", "a", "t", f"sha256:{HEX}")),
        ("a__b.c---d", "a__b.c---d:latest", ("", "a__b.c---d", "latest", None)),
        ("a:" + "T" * 128, "a:" + "T" * 128, ("", "a", "T" * 128, None)),
    ],
)
def test_parses_as_docker_does(text: str, whole: str, parts: tuple[object, ...]) -> None:
    reference = parse_reference(text)
    assert str(reference) == whole
    assert (reference.registry, reference.repository, reference.tag, reference.digest) == parts
    assert parse_reference(whole) == reference


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "lower-case letters"),
        ("Busybox", "names are lower-case"),
        ("a b", "lower-case letters"),
        ("a/", "lower-case letters"),
        ("/a", "lower-case letters"),
        ("a//b", "lower-case letters"),
        ("../etc", "not a host"),
        ("a..b", "lower-case letters"),
        ("a:", "a tag is"),
        ("a:.x", "a tag is"),
        ("a:" + "t" * 129, "a tag is"),
        ("a@", "digest of the form"),
        ("a@sha256:abc", "digest of the form"),
        ("a@sha512:" + HEX, "digest of the form"),
        ("a" * 256, "at most 255"),
        ("sha256:" + HEX, "beginning of a digest"),
        ("a\n", "lower-case letters"),
        ("a:t\n", "a tag is"),
        ("host.:x/a", "not a host"),
    ],
)
def test_says_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(InvalidReferenceError, match=reason):
        parse_reference(text)
