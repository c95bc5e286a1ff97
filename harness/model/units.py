"""Sizes and durations as people write them, and back."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?", re.IGNORECASE)
_SIZE_EXPONENTS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|s|m|min|h)")
_DURATION_NS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "min": 60_000_000_000,
    "h": 3_600_000_000_000,
}


def parse_size(text: str) -> int:
    """Bytes from `256M`, `256MiB`, `1.5G` or `4096`: all binary multiples, as in docker-run(1).

    Raises:
        ValueError: Not a size, or `MB`, which some mean as 10^6 and some as 2^20.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        message = f"{text!r} is not a size; write it like 256M or 1GiB"
        raise ValueError(message)
    number, prefix, unit = match.groups()
    if prefix and (unit or "").lower() == "b":
        message = f"{text!r} is ambiguous; write {number}{prefix}iB, a multiple of 1024"
        raise ValueError(message)
    if not prefix and (unit or "").lower() == "ib":
        message = f"{text!r} is not a size; write it like 256M or 1GiB"
        raise ValueError(message)
    size = int(float(number) * 1024 ** _SIZE_EXPONENTS[prefix.lower()])
    if size <= 0:
        message = f"{text!r} is nothing; write a size above 0"
        raise ValueError(message)
    return size


def parse_duration(text: str) -> int:
    """Nanoseconds from `500ms`, `30s`, `1.5m` or `1h`.

    Raises:
        ValueError: Not a duration, or one without a unit.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        message = f"{text!r} is not a duration; write it with its unit, like 500ms, 30s or 2m"
        raise ValueError(message)
    duration = round(float(match.group(1)) * _DURATION_NS[match.group(2)])
    if duration <= 0:
        message = f"{text!r} is nothing; write a duration above 0"
        raise ValueError(message)
    return duration


def parse_percent(text: str) -> float:
    """A share from `5%` or `5`: 0.05; below 100 times the whole.

    Raises:
        ValueError: Not a percentage, or negative.
    """
    try:
        value = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not 0 <= value < 100:
        message = f"{text!r} is no percentage; write it like 5%"
        raise ValueError(message)
    return value


def format_duration(duration_ns: int) -> str:
    """A duration for a sentence: `950 us`, `12.3 ms`, `4.21 s`, `3 min 20 s`."""
    if duration_ns < 1_000_000:
        return f"{duration_ns / 1e3:.0f} us"
    if duration_ns < 1_000_000_000:
        return f"{duration_ns / 1e6:.1f} ms"
    if duration_ns < 100_000_000_000:
        return f"{duration_ns / 1e9:.2f} s"
    minutes, seconds = divmod(round(duration_ns / 1e9), 60)
    return f"{minutes} min {seconds} s"
