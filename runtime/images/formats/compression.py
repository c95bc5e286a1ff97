"""Decompressing a layer while it streams: gzip, xz, bzip2, zstd or plain, by its first bytes."""

from __future__ import annotations

import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from runtime.errors import LayerError
from runtime.images.formats.digest import ByteSource

_GZIP, _XZ, _BZIP2, _ZSTD = b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh", b"\x28\xb5\x2f\xfd"
_INPUT_BYTES = 1 << 17
_XZ_MEMORY_BYTES = 100 << 20
"""xz -9 needs 65 MiB to decompress; data that asks for more is made to exhaust memory."""


@contextmanager
def decompressed(source: ByteSource) -> Iterator[ByteSource]:
    """Give the plain bytes of a compressed or plain stream, which stands at its beginning.

    Raises:
        LayerError: The data is damaged or cut short (when read), or zstd's tool is missing.
    """
    head = b""
    while len(head) < 6 and (more := source.read(6 - len(head))):
        head += more
    whole = _Rejoined(head, source)
    if head.startswith(_GZIP):
        yield _Gunzip(whole)
    elif head.startswith((_XZ, _BZIP2)):
        yield _StandardLibrary(whole, xz=head.startswith(_XZ))
    elif head.startswith(_ZSTD):
        with _zstd(whole) as stream:
            yield stream
    else:
        yield whole


def _past_zeros(data: bytes, source: ByteSource) -> bytes:
    """The data from its first byte that is not zero on, read further if need be."""
    data = data.lstrip(b"\0")
    while not data and (data := source.read(_INPUT_BYTES)):
        data = data.lstrip(b"\0")
    return data


class _Rejoined:
    """A stream whose first bytes have been read already."""

    def __init__(self, head: bytes, source: ByteSource) -> None:
        self._head = head
        self._source = source

    def read(self, size: int, /) -> bytes:
        if not self._head:
            return self._source.read(size)
        data, self._head = self._head[:size], self._head[size:]
        return data


class _Gunzip:
    """gzip members one after another; gzip.GzipFile needs several times the steps."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(wbits=31)
        self._input = b""

    def read(self, size: int, /) -> bytes:
        while True:
            if not self._input:
                self._input = self._source.read(_INPUT_BYTES)
                if not self._input and not self._inflate.eof:
                    raise LayerError("the gzip data is cut short")
            if self._inflate.eof:
                # Zeros after the last member are padding; anything else begins another member.
                self._input = _past_zeros(self._input, self._source)
                if not self._input:
                    return b""
                self._inflate = zlib.decompressobj(wbits=31)
            try:
                data = self._inflate.decompress(self._input, size)
            except zlib.error as error:
                raise LayerError(f"the gzip data is damaged: {error}") from error
            self._input = self._inflate.unconsumed_tail or self._inflate.unused_data
            if data:
                return data


class _StandardLibrary:
    """xz and bzip2: streams one after another, as their tools read them."""

    def __init__(self, source: ByteSource, *, xz: bool) -> None:
        import bz2
        import lzma

        self._source = source
        self._errors = (lzma.LZMAError, EOFError, OSError, ValueError, MemoryError)
        self._new: Callable[[], Any] = bz2.BZ2Decompressor
        if xz:
            self._new = partial(lzma.LZMADecompressor, memlimit=_XZ_MEMORY_BYTES)
        self._decoder = self._new()

    def read(self, size: int, /) -> bytes:
        while True:
            more = b""
            if self._decoder.eof:
                # Between streams xz allows zeros; no stream of either kind begins with one.
                more = _past_zeros(self._decoder.unused_data, self._source)
                if not more:
                    return b""
                self._decoder = self._new()
            elif self._decoder.needs_input:
                more = self._source.read(_INPUT_BYTES)
                if not more:
                    raise LayerError("the compressed data is cut short")
            try:
                data: bytes = self._decoder.decompress(more, size)
            except self._errors as error:
                raise LayerError(f"the compressed data is damaged: {error}") from error
            if data:
                return data


@contextmanager
def _zstd(source: ByteSource) -> Iterator[ByteSource]:
    try:
        process = subprocess.Popen(
            ["zstd", "--decompress", "--stdout", "--quiet"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError:
        raise LayerError("zstd data needs the program zstd; install the package zstd") from None
    with process:
        piped = _Piped(source, process)
        try:
            yield piped
        finally:
            process.kill()
            piped.stop()


class _Piped:
    """A child's output, fed by a thread; at its end, the errors of both."""

    def __init__(self, source: ByteSource, process: subprocess.Popen[bytes]) -> None:
        self._source = source
        self._process = process
        self._error: BaseException | None = None
        self._stopped = False
        self._feeder = threading.Thread(target=self._feed, name="feed zstd", daemon=True)
        self._feeder.start()

    def _feed(self) -> None:
        assert self._process.stdin is not None
        try:
            while not self._stopped and (data := self._source.read(_INPUT_BYTES)):
                self._process.stdin.write(data)
        except BrokenPipeError:
            pass  # it has ended; its exit code says why
        except BaseException as error:
            self._error = error
        with suppress(OSError):
            self._process.stdin.close()

    def stop(self) -> None:
        self._stopped = True
        self._feeder.join()

    def read(self, size: int, /) -> bytes:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        data = self._process.stdout.read(size)
        if not data:
            message = self._process.stderr.read().decode("utf-8", "replace")
            self.stop()
            if self._error is not None:
                raise self._error
            if self._process.wait():
                text = " ".join(message.split()) or "zstd failed"
                raise LayerError(f"the zstd data is damaged or cut short: {text}")
        return data
