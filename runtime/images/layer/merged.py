"""The layers of an image seen as one tree, without mounting anything.

The rules are overlayfs's (kernel: filesystems/overlayfs.rst): an upper entry hides a lower one of
the same name; two folders merge unless the upper is opaque; a character device 0:0 hides and is not
there itself.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import StoreError
from runtime.images.formats.image import Image
from runtime.linux.files import remove_tree

SYMLINK_LIMIT = 40
"""The kernel follows as many in one path (path_resolution(7))."""
_FILE_LIMIT_BYTES = 16 << 20
_OPAQUE_MARKS = ("trusted.overlay.opaque", "user.overlay.opaque")


def flatten(image: Image, target: Path) -> None:
    """Copy the merged tree, with all attributes, into a folder that is new or empty.

    Extents are shared with the layers where the filesystem can (`cp --reflink=auto`).

    Raises:
        StoreError: It holds something already, or copying failed; nothing half-copied is kept.
    """
    made = not target.exists()
    if made:
        target.mkdir(parents=True)
    elif os.listdir(target):
        raise StoreError(f"{target} is not empty: an image is copied into an empty folder only")
    try:
        for path in reversed(image.lowerdirs):
            _apply(path, target)
    except BaseException:
        for entry in list(os.scandir(target)):
            path = Path(entry.path)
            remove_tree(path) if entry.is_dir(follow_symlinks=False) else path.unlink()
        if made:
            target.rmdir()
        raise


def read_file(image: Image, path: str) -> bytes | None:
    """Read a regular file as a program inside would, None if absent; StoreError over 16 MiB."""
    found = _resolve(tuple(os.fsencode(p) for p in image.lowerdirs), os.fsencode(path))
    if found is None:
        return None
    fd = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        data = file.read(_FILE_LIMIT_BYTES + 1)
    if len(data) > _FILE_LIMIT_BYTES:
        raise StoreError(f"{path} in {image.reference} is larger than {_FILE_LIMIT_BYTES} bytes")
    return data


def _resolve(roots: tuple[bytes, ...], path: bytes) -> bytes | None:
    """The real path of a regular file in the merged tree."""
    # The folders that make up each merged folder on the way down, topmost layer first.
    trail = [roots]
    pending = [*reversed(split_path(path))]
    symlinks = 0
    while pending:
        part = pending.pop()
        if part == b"..":
            if len(trail) > 1:
                trail.pop()
            continue
        found, folders = lookup(trail[-1], part)
        if folders:
            trail.append(folders)
        elif found is None:
            return None
        elif os.path.islink(found):
            symlinks += 1
            if symlinks > SYMLINK_LIMIT:
                return None
            link = os.readlink(found)
            if link.startswith(b"/"):
                trail = [roots]
            pending += reversed(split_path(link))
        elif pending or not stat.S_ISREG(os.lstat(found).st_mode):
            return None
        else:
            return found
    return None


def split_path(path: bytes) -> tuple[bytes, ...]:
    """Return the names in a path; `.` and empty ones mean nothing, `..` stays."""
    return tuple(part for part in path.split(b"/") if part not in (b"", b"."))


def lookup(folders: tuple[bytes, ...], name: bytes) -> tuple[bytes | None, tuple[bytes, ...]]:
    """Find `name` in a merged folder: either a path, or the folders that merge into one."""
    merged: list[bytes] = []
    for folder in folders:
        path = os.path.join(folder, name)
        status = _lstat(path)
        if status is None:
            continue
        if stat.S_ISDIR(status.st_mode):
            merged.append(path)
            if is_opaque(path):
                break
        elif merged or is_whiteout(status):
            break
        else:
            return path, ()
    return None, tuple(merged)


def _apply(layer: Path, target: Path) -> None:
    """Lay one layer over what is there already."""
    source, copy = os.fsencode(layer), os.fsencode(target)
    whiteouts, opaque = _make_way(source, copy)
    result = subprocess.run(
        ["cp", "--archive", "--reflink=auto", "--remove-destination", source + b"/.", copy],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if result.returncode:
        lines = result.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = lines[0] if lines else "cp failed"
        raise StoreError(f"cannot copy layer {layer.name[:12]} to {target}: {reason}")
    for name in opaque:
        for mark in _OPAQUE_MARKS:
            with contextlib.suppress(OSError):
                os.removexattr(os.path.join(copy, name), mark, follow_symlinks=False)
    for name in whiteouts:
        os.unlink(os.path.join(copy, name))
    for name in {os.path.dirname(name) for name in whiteouts}:
        # Taking the whiteout out again has changed its folder's times.
        status = os.lstat(os.path.join(source, name))
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(os.path.join(copy, name), ns=times, follow_symlinks=False)


def _make_way(layer: bytes, target: bytes) -> tuple[list[bytes], list[bytes]]:
    """Remove from `target` what the layer hides, so that a plain copy is right.

    Returns whiteouts and folders with an opaque mark: the copy brings them, and they must not stay.
    """
    whiteouts, opaque = [], []
    for name, status in _walk(layer):
        there = os.path.join(target, name)
        below = _lstat(there)
        if is_whiteout(status):
            whiteouts.append(name)
        hides = stat.S_ISDIR(status.st_mode) and is_opaque(os.path.join(layer, name))
        if hides:
            opaque.append(name)
        if below is None:
            continue
        if not (stat.S_ISDIR(status.st_mode) and stat.S_ISDIR(below.st_mode)):
            _remove(there, below)
            continue
        # Of two merged folders only the upper one's attributes show.
        # (cp leaves the setuid and setgid bits of a folder that is there.)
        os.chmod(there, 0o700)
        for xattr in os.listxattr(there, follow_symlinks=False):
            with contextlib.suppress(OSError):
                os.removexattr(there, xattr, follow_symlinks=False)
        # Overlayfs takes no notice of a mark on a layer's own root.
        if hides and name != b".":
            for child in os.listdir(there):
                path = os.path.join(there, child)
                _remove(path, os.lstat(path))
    return whiteouts, opaque


def _lstat(path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _walk(root: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every path in a layer, folders before what is in them."""
    pending = [b"."]
    while pending:
        name = pending.pop()
        status = os.lstat(os.path.join(root, name))
        yield name, status
        if stat.S_ISDIR(status.st_mode):
            pending += [os.path.join(name, child) for child in os.listdir(os.path.join(root, name))]


def _remove(path: bytes, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        remove_tree(Path(os.fsdecode(path)))
    else:
        os.unlink(path)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is overlayfs's mark for a name that is not there: character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: bytes) -> bool:
    """Whether a folder hides the folders of its name in the layers below."""
    for mark in _OPAQUE_MARKS:
        with contextlib.suppress(OSError):
            if os.getxattr(path, mark, follow_symlinks=False) == b"y":
                return True
    return False
