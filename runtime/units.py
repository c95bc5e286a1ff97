"""Sizes as people write them. One rule for command lines and scenario files: docker's."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?B)?|B)?", re.IGNORECASE)
_EXPONENTS = {"k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Read a size: `256m`, `256MB`, `1.5GiB` or `4096`, in bytes.

    Every unit is a power of 1024, `MB` too, as in docker-run(1).

    Raises:
        ValueError: Not a size, or nothing.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        message = f"{text!r} is not a size; write a number and b, k, m or g, as in 512m"
        raise ValueError(message)
    size_bytes = int(float(match[1]) * 1024 ** _EXPONENTS.get((match[2] or "").lower(), 0))
    if size_bytes <= 0:
        message = f"{text!r} is nothing; write a size above 0"
        raise ValueError(message)
    return size_bytes
