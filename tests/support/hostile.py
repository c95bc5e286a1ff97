"""Archives and documents that mean harm or are broken, and ways to break good ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.support.tars import CHR, DIR, FIFO, FILE, LINK, SYM, make_tar, member

HOSTILE: dict[str, list[tuple[Any, bytes]]] = {
    "dot-dot": [member("../escaped", data=b"x")],
    "dot-dot inside": [member("a/", DIR), member("a/../../escaped", data=b"x")],
    "absolute dot-dot": [member("/../escaped", data=b"x")],
    "symlinked parent": [member("s", SYM, linkname=".."), member("s/escaped", data=b"x")],
    "symlink to here as parent": [member("s", SYM, linkname="."), member("s/escaped", data=b"x")],
    "symlink chain": [
        member("a", SYM, linkname=".."),
        member("b", SYM, linkname="a"),
        member("b/escaped", DIR),
    ],
    "deep symlinked parent": [
        member("d/e", SYM, linkname="../../.."),
        member("d/e/escaped/f", data=b"x"),
    ],
    "folder through symlink": [member("s", SYM, linkname=".."), member("s/escaped", DIR)],
    "symlink through symlink": [
        member("s", SYM, linkname=".."),
        member("s/escaped", SYM, linkname="x"),
    ],
    "fifo through symlink": [member("s", SYM, linkname=".."), member("s/escaped", FIFO)],
    "whiteout through symlink": [member("s", SYM, linkname=".."), member("s/.wh.escaped")],
    "opaque through symlink": [member("s", SYM, linkname=".."), member("s/.wh..wh..opq")],
    "hard link out": [member("h", LINK, linkname="../../victim")],
    "absolute hard link": [member("h", LINK, linkname="/etc/passwd")],
    "hard link through symlink": [
        member("s", SYM, linkname="../.."),
        member("h", LINK, linkname="s/victim"),
    ],
    "hard link to a symlink's parent": [
        member("s", SYM, linkname=".."),
        member("s/escaped", LINK, linkname="s"),
    ],
    "hard link to a folder": [member("d", DIR), member("h", LINK, linkname="d")],
    "hard link to nothing": [member("h", LINK, linkname="nothing")],
    "hard link to a whiteout": [member(".wh.x"), member("h", LINK, linkname="x")],
    "hard link to the root": [member("h", LINK, linkname="./")],
    "root is a file": [member("./", FILE, data=b"x")],
    "root is a symlink": [member(".", SYM, linkname="/etc")],
    "entry in a file": [member("f"), member("f/g")],
    "long component": [member("n" * 300)],
    "long name": [member("d/" * 2100 + "f")],
    "deep name": [member("d/" * 300 + "f")],
    "empty symlink": [member("s", SYM, linkname="")],
    "unknown type": [member("x", b"D")],
}
"""Each is refused, with one sentence."""

_TRICKY: dict[str, list[tuple[Any, bytes]]] = {
    "symlinks out": [member("a", SYM, linkname="/etc"), member("b", SYM, linkname="../../..")],
    "device": [member("sda", b"4", devmajor=8, devminor=0), member("null", CHR, devmajor=1)],
    "absolute": [member("/etc/shadow", data=b"x"), member("//usr//bin/su", data=b"x", mode=0o4755)],
    "control characters": [
        member("a\x1b[31m\nb\x07", data=b"x"), member("\x7f", SYM, linkname="\n"),
    ],
    "whiteouts": [member(".wh.a"), member("b/", DIR), member("b/.wh..wh..opq"), member("b/c")],
    "overlay's own": [
        member("d", DIR, pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc"}),
        member("f", pax_headers={"SCHILY.xattr.trusted.overlay.metacopy": ""}),
    ],
    "replaced": [
        member("x", SYM, linkname="/etc/passwd"), member("x", data=b"attack"),
        member("x", DIR), member("x/y", FIFO), member("x", LINK, linkname="x"),
    ],
    "huge claims": [member("f", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                                             "GNU.sparse.name": "g",
                                             "GNU.sparse.realsize": str(1 << 62)},
                           data=b"1\n0\n1\n".ljust(512, b"\0") + b"x")],
    "times": [member("t", pax_headers={"mtime": "-99999999999.999"}), member("u", mtime=8**11 - 1)],
}  # fmt: skip
"""Each is odd but an archive: what it may do is harmless."""


def archives() -> dict[str, bytes]:
    """The whole corpus, as tars; and a plain one, for breaking."""
    found = {name: make_tar(*members) for name, members in {**HOSTILE, **_TRICKY}.items()}
    plain = [
        member("d/", DIR), member("d/f", data=b"x" * 3000), member("d/l", LINK, linkname="d/f"),
        member("s", SYM, linkname="d/f"), member("p", FIFO), member("n" * 300, data=b"long"),
        member("x", data=b"y", pax_headers={"SCHILY.xattr.user.note": "text", "mtime": "1.5"}),
    ]  # fmt: skip
    found["plain"] = make_tar(*plain)
    return found


# Ways to break an archive.


def _flip_bytes(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.randrange(1, 12)):
        data[chance.randrange(len(data))] = chance.randrange(256)


def _change_field(chance: random.Random, data: bytearray) -> None:
    """Another value in a header, whose checksum is made right again: it will be believed."""
    at = chance.randrange(len(data) // 512) * 512
    start, length = chance.choice(
        [(0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8),
         (329, 16), (345, 155)]
    )  # fmt: skip
    value = chance.choice(
        [
            chance.randbytes(length),
            b"%0*o" % (length, chance.getrandbits(chance.choice([8, 20, 33, 60]))),
            b"\x80" + chance.randbytes(length),
            b"\xff" * length,
            chance.choice([b"../../x", b"/etc/passwd", b"x/" * 50, b"", b"."]),
            bytes([chance.choice(b"0123456789xgLKSDNM\0")]),
        ]
    )
    data[at + start : at + start + length] = value[:length].ljust(length, b"\0")
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])


def _move_blocks(chance: random.Random, data: bytearray) -> None:
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    for _ in range(chance.randrange(1, 4)):
        what = chance.randrange(3)
        block = chance.choice(blocks)
        if what == 0:
            blocks.insert(chance.randrange(len(blocks)), block)
        elif what == 1:
            blocks.remove(block)
        else:
            chance.shuffle(blocks)
        if not blocks:
            return
    data[:] = b"".join(blocks)


def _cut(chance: random.Random, data: bytearray) -> None:
    del data[chance.randrange(len(data)) :]


def _fill(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    data[at : at + chance.randrange(1, 2000)] = bytes([chance.choice(b"\0\xff0 ")]) * 700


_BREAKERS: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _flip_bytes, _change_field, _change_field, _change_field, _move_blocks, _cut, _fill,
)  # fmt: skip


def broken(chance: random.Random, corpus: dict[str, bytes]) -> bytes:
    """One of the corpus, changed in some way; perhaps compressed, perhaps then changed again."""
    import gzip
    import lzma

    data = bytearray(corpus[chance.choice(sorted(corpus))])
    for _ in range(chance.randrange(3)):
        if len(data) >= 512:
            chance.choice(_BREAKERS)(chance, data)
    if chance.random() < 0.5:
        data = bytearray(gzip.compress(data, 1) if chance.random() < 0.8 else lzma.compress(data))
        if chance.random() < 0.4:
            chance.choice((_flip_bytes, _cut, _fill))(chance, data)
    return bytes(data)
