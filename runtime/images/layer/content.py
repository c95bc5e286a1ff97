"""The content of a regular file on its way from a tar to the disk; holes stay holes."""

from __future__ import annotations

import os

from runtime.images.formats.digest import BLOCK_BYTES
from runtime.images.formats.tar_reader import TarEntry, TarReader

_ZERO_BLOCK = bytes(BLOCK_BYTES)


def write_content(fd: int, size: int, reader: TarReader) -> None:
    """Write a file; whole blocks of zeros become holes (they read the same)."""
    hole = False
    for chunk in reader.chunks():
        hole = len(chunk) == BLOCK_BYTES and chunk == _ZERO_BLOCK
        if hole:
            os.lseek(fd, len(chunk), os.SEEK_CUR)
        else:
            _write_all(fd, chunk)
    if hole:
        os.ftruncate(fd, size)


def write_sparse_content(fd: int, entry: TarEntry, reader: TarReader) -> None:
    """Write the pieces of a sparse file to their places; all between them are holes."""
    assert entry.sparse is not None
    os.ftruncate(fd, entry.size_bytes)
    pieces = iter(entry.sparse)
    left = 0
    for chunk in reader.chunks():
        view = memoryview(chunk)
        while view:
            while not left:
                offset, left = next(pieces)
                os.lseek(fd, offset, os.SEEK_SET)
            _write_all(fd, view[:left])
            taken = min(left, len(view))
            view = view[taken:]
            left -= taken


def _write_all(fd: int, data: bytes | memoryview) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])
