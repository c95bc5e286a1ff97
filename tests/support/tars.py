"""Tars for tests, made by the standard library: an outside oracle for our own reader and writer."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

DIR, FILE, SYM, LINK, CHR, FIFO = (
    tarfile.DIRTYPE,
    tarfile.REGTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.FIFOTYPE,
)


def member(name: str, kind: bytes = FILE, data: bytes = b"", **fields: Any) -> tuple[Any, bytes]:
    """One member; `fields` are attributes of TarInfo."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(data)
    info.mode = 0o755 if kind == DIR else 0o644
    info.mtime = 1_600_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def make_tar(
    *members: tuple[Any, bytes], style: int = tarfile.PAX_FORMAT, global_pax: Any = None
) -> bytes:
    """An uncompressed archive of the members, in that order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=style, pax_headers=global_pax or {}) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


_LARGE_BYTES = 1 << 16
"""Of what is larger, a tree holds the digest only."""


def tree(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """All that a tar says of a tree: type, mode, owner, time, links, xattrs, content."""
    found: dict[bytes, tuple[Any, ...]] = {}
    first: dict[int, bytes] = {}
    base = os.fsencode(root)
    pending = [b"."]
    while pending:
        name = pending.pop()
        path = os.path.join(base, name)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            # Overlayfs lists a whiteout in a folder that merges with none below; it is not there.
            continue
        kind = stat.S_IFMT(status.st_mode)
        content: Any = None
        if kind == stat.S_IFREG:
            content = Path(os.fsdecode(path)).read_bytes()
            if len(content) > _LARGE_BYTES:
                content = (len(content), hashlib.sha256(content).hexdigest())
        elif kind == stat.S_IFLNK:
            content = os.readlink(path)
        elif kind == stat.S_IFDIR:
            pending += [os.path.join(name, child) for child in sorted(os.listdir(path))]
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            content = status.st_rdev
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
        }
        links = status.st_nlink if kind != stat.S_IFDIR else 0
        found[os.path.normpath(name)] = (
            kind,
            stat.S_IMODE(status.st_mode),
            (status.st_uid, status.st_gid),
            status.st_mtime_ns,
            links,
            xattrs,
            content,
            status.st_ino,
        )
    # Inode numbers differ between trees; which names share one must not.
    for name in sorted(found):
        first.setdefault(found[name][-1], name)
    return {name: (*value[:-1], first[value[-1]]) for name, value in found.items()}


def try_mknod(folder: Path) -> str | None:
    """Why device nodes cannot be made there, None if they can."""
    try:
        os.mknod(folder / "probe", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except OSError as error:
        return f"mknod: {error.strerror}"
    (folder / "probe").unlink()
    return None
