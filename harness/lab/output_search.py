"""Searches what a workload prints for a pattern, once, as it comes, with bounded memory.

```
 bytes ─► UTF-8, line ends ─► escape sequences out ─► rest of before + new text ─► search ─► rest
```

The rest is what a match can begin in and has not ended in: the unfinished line, where the pattern
cannot contain a line end; else the last 64 KiB. So a line is looked at once, however many came
before it.
"""

from __future__ import annotations

import codecs
import io
import re

WINDOW_CHARACTERS = 64 << 10
"""How far back a match may begin: in a line that has no end yet, or over several lines."""
_LONGEST_ESCAPE = 1024
"""What is kept beside a plain text, so that an escape sequence in pieces is seen as one."""
_PAGE_BYTES = 4096
"""A writer that fills a buffer writes whole pages, wherever its lines end."""
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor (ECMA-48 5.4)
    r"|\][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC: titles, links
    r"|[ -/]+[0-~])"  # character sets, as in `tput sgr0`
)
_NAMES_ESCAPE = re.compile(r"\\x1b|\\033|\\u001b|\x1b", re.IGNORECASE)
_NAMES_RETURN = re.compile(r"\\r|\\x0d|\\015|\\u000d|\r", re.IGNORECASE)
_WITHIN_LINE = re.compile(
    r"""(?x) (?: [^\\\[(\x00-\x1f]           # any character for itself, and operators
        | \\[dwbSt.^$*+?{}\[\]|()\\/\-:"'\#=,<>@%&!~_;`\ ]   # escapes that no line end matches
        | \((?!\?)  | \(\?: | \(\?i\) | \(\?P<\w+> | \(\?[=!]
        | \[(?!\^)(?:[^\\\]\[\x00-\x1f]|\\[dwStnr.^$*+?{}\[\]|()\\/\-])+\]
    )*"""
)
_CLASS_WITH_LINE_END = re.compile(r"\\n|\\r")
_LITERAL = re.compile(r"(\^?)([^\\.^$*+?{}\[\]|()\x00-\x1f]+)(\$?)")


def stays_in_line(pattern: str) -> bool:
    """Whether no match of a pattern can contain a line end; False where that is not evident."""
    return (
        _WITHIN_LINE.fullmatch(pattern) is not None and _CLASS_WITH_LINE_END.search(pattern) is None
    )


class OutputSearch:
    r"""The search for one pattern in one stream.

    `^` and `$` match at lines. The end of what has come so far is the end of a line too, so that a
    prompt is found; but not where a writer's buffer ended, until nothing more has come. Line ends
    of terminals (`\r\n`, `\r`) are line ends, and escape sequences are left out, unless the
    pattern names these characters itself.

    Attributes:
        pattern: The regular expression, on text.
        matched_at_ns: Stamp of the piece that completed the first match; None as long as there is
            none.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.matched_at_ns: int | None = None
        self._compiled = re.compile(pattern, re.MULTILINE)
        self._literal = _LITERAL.fullmatch(pattern)
        self._within_line = stays_in_line(pattern)
        self._strips = _NAMES_ESCAPE.search(pattern) is None
        self._needs_line_end = "$" in pattern
        self._window = WINDOW_CHARACTERS
        if self._literal is not None:
            self._window = len(pattern) + _LONGEST_ESCAPE
        # Where only ASCII is looked for, what other bytes mean does not matter, and decoding as
        # UTF-8 is the dearest part of it.
        ascii_only = self._literal is not None and pattern.isascii()
        encoding = "latin-1" if ascii_only else "utf-8"
        decoder = codecs.getincrementaldecoder(encoding)("replace")
        translates = _NAMES_RETURN.search(pattern) is None
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=translates)
        self._rest = ""
        self._begin = 0
        self._last_at_ns = 0

    def feed(self, data: bytes, at_ns: int) -> None:
        """Look at the next piece of the output, which arrived at `at_ns`."""
        if self.matched_at_ns is not None:
            return
        self._last_at_ns = at_ns
        text = self._text(data)
        end = self._find(text)
        if end is not None:
            at_end = end == len(text) and not text.endswith("\n")
            if not (at_end and self._needs_line_end and len(data) % _PAGE_BYTES == 0):
                self.matched_at_ns = at_ns
                return
        self._keep_rest(text)

    def finish(self) -> int | None:
        """Take the end of what has come for the end of its last line; returns `matched_at_ns`."""
        if self.matched_at_ns is None and self._find(self._text(b"", final=True)) is not None:
            self.matched_at_ns = self._last_at_ns
        return self.matched_at_ns

    def _text(self, data: bytes, *, final: bool = False) -> str:
        text = self._rest + self._decoder.decode(data, final=final)
        return _ESCAPES.sub("", text) if self._strips and "\x1b" in text else text

    def _find(self, text: str) -> int | None:
        """Where a match ends; None if there is none."""
        if self._literal is None:
            found = self._compiled.search(text, self._begin)
            return None if found is None else found.end()
        # Looking for a string is 30 times as fast as the search of the expression.
        caret, wanted, dollar = self._literal.groups()
        if wanted not in text:
            return None
        before = "\n" if caret and not self._begin else ""
        text, wanted = before + text, ("\n" if caret else "") + wanted
        at = text.find(wanted + ("\n" if dollar else ""), 0 if caret else self._begin)
        if at >= 0:
            return at + len(wanted) - len(before)
        return len(text) - len(before) if dollar and text.endswith(wanted) else None

    def _keep_rest(self, text: str) -> None:
        keep_from = text.rfind("\n") + 1 if self._within_line else 0
        shortest = len(text) - self._window - 1
        # One character more than is searched, so that `^` does not match where the text was cut.
        self._begin = 1 if shortest > keep_from or (self._begin and not keep_from) else 0
        self._rest = text[max(keep_from, shortest) :]
