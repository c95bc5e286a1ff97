"""Where an imported root filesystem comes from: a folder or a tar file, both read as a tar."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import ImageError
from runtime.images.formats.digest import BLOCK_BYTES, ByteSource
from runtime.images.formats.tar_writer import source_date_epoch_ns, tar_folder


@contextlib.contextmanager
def open_rootfs(source: Path, owner: tuple[int, int] | None) -> Iterator[ByteSource]:
    """Give a folder or tar file, compressed or not, as a tar stream, or raise ImageError.

    `owner` is uid and gid of everything in a folder, instead of what they are.
    """
    if source.is_dir():
        yield PieceStream(tar_folder(source, latest_ns=source_date_epoch_ns(), owner=owner))
        return
    try:
        file = source.open("rb", BLOCK_BYTES)
    except OSError as error:
        raise ImageError(f"cannot read {source}: {error.strerror}") from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ImageError(f"{source} is neither a tar file nor a folder")
        yield file


class PieceStream:
    """Reads an iterator of pieces as a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """Gather small pieces into one of `size` bytes, so that hashing and copying have few."""
        gathered: list[bytes | memoryview] = []
        wanted = size
        while wanted:
            if not self._rest:
                piece = next(self._pieces, b"")
                if not piece:
                    break
                self._rest = memoryview(piece)
            gathered.append(self._rest[:wanted])
            wanted -= len(gathered[-1])
            self._rest = self._rest[len(gathered[-1]) :]
        return b"".join(gathered)
