"""A stream worked on by several threads at once: each stage reads ahead of the next.

    source ─read, hash, keep─▶ compressed ─inflate─▶ plain ─hash─▶ tar entries ─▶ files

zlib, hashlib, read(2) and write(2) let go of the interpreter's lock, so the stages run side by
side; the queues between them are short, so memory does not depend on the length of the stream.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
from collections.abc import Callable
from typing import IO

from runtime.errors import LayerError
from runtime.images.formats.compression import decompressed
from runtime.images.formats.digest import BLOB_LIMIT_BYTES, ByteSource, drain

_CHUNK_BYTES = 1 << 19
_CHUNKS_AHEAD = 6


class ReadAhead:
    """A stream read by a thread of its own, a few chunks before its reader. To be closed.

    `read` raises what reading the source raises, unchanged.

    Attributes:
        error: What reading the source raised, once it has come out.
    """

    def __init__(self, source: ByteSource) -> None:
        self.error: BaseException | None = None
        self._source = source
        self._chunks: queue.Queue[bytes | BaseException] = queue.Queue(_CHUNKS_AHEAD)
        self._stopped = False
        self._chunk = b""
        self._position = 0
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="read ahead", daemon=True)
        self._thread.start()

    def read(self, size: int, /) -> bytes:
        """Return exactly `size` bytes; fewer only at the end."""
        end = self._position + size
        if end <= len(self._chunk):
            data = self._chunk[self._position : end]
            self._position = end
            return data
        pieces = [self._chunk[self._position :]]
        wanted = size - len(pieces[0])
        while wanted and self._next():
            pieces.append(self._chunk[:wanted])
            self._position = len(pieces[-1])
            wanted -= self._position
        return b"".join(pieces)

    def close(self) -> None:
        """End the thread, after the read of the source that it is in."""
        self._stopped = True
        while self._thread.is_alive():
            try:
                self._chunks.get(timeout=0.02)
            except queue.Empty:
                continue
        self._thread.join()

    def _next(self) -> bool:
        self._chunk, self._position = b"", 0
        if self._ended:
            return False
        chunk = self._chunks.get()
        if isinstance(chunk, BaseException):
            self._ended = True
            self.error = chunk
            raise chunk
        self._chunk = chunk
        self._ended = not chunk
        return not self._ended

    def _run(self) -> None:
        try:
            chunk = b"-"
            while chunk and not self._stopped:
                chunk = self._source.read(_CHUNK_BYTES)
                self._chunks.put(chunk)
        except BaseException as error:
            self._chunks.put(error)


class HashedSource:
    """Passes a stream on while hashing it.

    Args:
        source: The stream; more than `BLOB_LIMIT_BYTES` of it are refused.
        copy: A file that gets all that passes.
        size_bytes: The only length that is right.
        progress: Called with the number of bytes that have passed.
    """

    def __init__(
        self,
        source: ByteSource,
        *,
        copy: IO[bytes] | None = None,
        size_bytes: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._source = source
        self._copy = copy
        self._wanted = size_bytes
        self._progress = progress
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def read(self, size: int, /) -> bytes:
        """Read from the source.

        Raises:
            LayerError: It is longer than allowed, or not as long as it must be.
        """
        data = self._source.read(size)
        self.size_bytes += len(data)
        if self._wanted is not None:
            if self.size_bytes > self._wanted:
                raise LayerError(f"is longer than the {self._wanted} bytes that it must have")
            if not data and self.size_bytes < self._wanted:
                raise LayerError(
                    f"is cut short: {self.size_bytes} of {self._wanted} bytes have come"
                )
        if self.size_bytes > BLOB_LIMIT_BYTES:
            raise LayerError(f"has more than {BLOB_LIMIT_BYTES} bytes, the limit for one layer")
        self._hash.update(data)
        if self._copy is not None:
            self._copy.write(data)
        if self._progress is not None:
            self._progress(self.size_bytes)
        return data

    @property
    def digest(self) -> str:
        """The digest of all that has passed so far."""
        return "sha256:" + self._hash.hexdigest()


def digest_unpacked(blob: ByteSource) -> str:
    """Return a blob's diff ID, the digest of its tar; raise LayerError if it is damaged."""
    with contextlib.closing(ReadAhead(blob)) as compressed, decompressed(compressed) as stream:
        plain = HashedSource(stream)
        drain(plain)
    return plain.digest
