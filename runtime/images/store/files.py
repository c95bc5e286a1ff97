"""Files and folders of the store: measure, flush, rename into place, lock, read as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.errors import StoreError
from runtime.linux.files import fsync_directory


def measure(folder: Path) -> dict[str, int]:
    """Return `apparent_bytes` and `allocated_bytes` of a folder, hard links counted once.

    Entries that somebody removes meanwhile count nothing.

    Raises:
        OSError: The folder itself cannot be looked at.
    """
    apparent = allocated = 0
    seen: set[int] = set()
    pending = [os.fsencode(folder)]
    while pending:
        path = pending.pop()
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            if path == os.fsencode(folder):
                raise
            continue
        if stat.S_ISDIR(status.st_mode):
            # An ordinary user cannot look into every folder that he may own.
            with contextlib.suppress(PermissionError, FileNotFoundError):
                pending += [os.path.join(path, name) for name in os.listdir(path)]
        elif status.st_nlink > 1:
            if status.st_ino in seen:
                continue
            seen.add(status.st_ino)
        apparent += status.st_size
        allocated += status.st_blocks * 512
    return {"apparent_bytes": apparent, "allocated_bytes": allocated}


def allocated_bytes(path: Path) -> int:
    """Return what a file takes on disk; 0 if it is not there."""
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder; none if it is not there."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def sync_filesystem(path: Path) -> None:
    """Write all of the path's filesystem that is in memory to disk (syncfs(2), through sync(1))."""
    subprocess.run(["sync", "--file-system", path], check=True)


def rename_file(source: Path, target: Path) -> None:
    """Rename, so that the new name survives a power cut."""
    source.rename(target)
    fsync_directory(target.parent)


def rename_folder(folder: Path, target: Path) -> None:
    """Rename, unless another writer was faster."""
    try:
        rename_file(folder, target)
    except OSError:
        if not target.is_dir():
            raise


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[int]:
    """Open a file for flock(2), made if it is missing; closing it lets the lock go."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def encode_json(document: dict[str, Any]) -> bytes:
    """Write JSON with one spelling for equal documents: sorted, without spaces."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def decode_json(data: bytes, where: object) -> dict[str, Any]:
    """Read a JSON object, or raise StoreError."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise StoreError(f"{where} does not hold a JSON object")
    return document
