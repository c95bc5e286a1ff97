"""Decompressing a layer while it streams; its first bytes tell gzip, xz, bzip2, zstd or nothing."""

from __future__ import annotations

import io
import os
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from runtime.errors import LayerError
from runtime.images.digest import BLOCK_BYTES, ByteSource

_GZIP, _XZ, _BZIP2, _ZSTD = b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh", b"\x28\xb5\x2f\xfd"
_INPUT_BYTES = 1 << 17


@contextmanager
def decompressed(file: BinaryIO) -> Iterator[ByteSource]:
    """The plain bytes of a compressed or plain file.

    Args:
        file: A buffered file with a descriptor of its own, at its beginning.

    Raises:
        LayerError: The data is damaged or cut short (when read), or zstd's tool is missing.
    """
    head = file.read(6)
    file.seek(0)
    if head.startswith(_GZIP):
        yield io.BufferedReader(_Gunzip(file), BLOCK_BYTES)
    elif head.startswith((_XZ, _BZIP2)):
        yield _StandardLibrary(file, xz=head.startswith(_XZ))
    elif head.startswith(_ZSTD):
        with _zstd(file) as source:
            yield source
    else:
        yield file


class _Gunzip(io.RawIOBase):
    """gzip members one after another. gzip.GzipFile does the same in several times the steps."""

    def __init__(self, file: ByteSource) -> None:
        self._file = file
        self._inflate = zlib.decompressobj(wbits=31)
        self._input = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        while True:
            if not self._input:
                self._input = self._file.read(_INPUT_BYTES)
                if not self._input and not self._inflate.eof:
                    raise LayerError("the gzip data is cut short")
            if self._inflate.eof:
                # Zeros after the last member are padding; anything else begins another member.
                self._input = self._input.lstrip(b"\0") or self._file.read(_INPUT_BYTES).lstrip(
                    b"\0"
                )
                if not self._input:
                    return 0
                self._inflate = zlib.decompressobj(wbits=31)
            try:
                data = self._inflate.decompress(self._input, len(buffer))
            except zlib.error as error:
                raise LayerError(f"the gzip data is damaged: {error}") from error
            self._input = self._inflate.unconsumed_tail or self._inflate.unused_data
            if data:
                buffer[: len(data)] = data
                return len(data)


class _StandardLibrary:
    """xz and bzip2: rare enough for the plain way."""

    def __init__(self, file: BinaryIO, *, xz: bool) -> None:
        import bz2
        import lzma

        self._file = lzma.LZMAFile(file) if xz else bz2.BZ2File(file)  # noqa: SIM115  # closes nothing
        self._errors = (lzma.LZMAError, EOFError, OSError)

    def read(self, size: int, /) -> bytes:
        try:
            return self._file.read(size)
        except self._errors as error:
            raise LayerError(f"the compressed data is damaged or cut short: {error}") from error


@contextmanager
def _zstd(file: BinaryIO) -> Iterator[ByteSource]:
    # The child reads the descriptor, whose place is not that of our buffer.
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    try:
        process = subprocess.Popen(
            ["zstd", "--decompress", "--stdout", "--quiet"],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError:
        raise LayerError("zstd data needs the program zstd; install the package zstd") from None
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield process.stdout
            # The reader stops at the end of the data, so what is left is only how it ended.
            said = process.stderr.read().decode("utf-8", "replace").strip()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise LayerError(f"the zstd data is damaged or cut short: {said}")
