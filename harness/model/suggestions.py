"""Help for people who mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`did you mean 'container'?`, or a list of what there is when nothing is close."""
    names = [str(name) for name in known]  # of a member of an enumeration, its value
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names)}"


def unknown(noun: str, name: object, known: Sequence[str]) -> str:
    """`no backend is called 'contaner'; did you mean 'container'?`."""
    return f"no {noun} is called {name!r}; {did_you_mean(str(name), known)}"
