"""The uncompressed ELF kernel out of a bzImage.

A bzImage is a real-mode setup, a decompressor and the compressed kernel; its header says where the
payload lies (Documentation/arch/x86/boot.rst, `payload_offset` and `payload_length`, boot protocol
2.08). A monitor that enters the ELF directly, by the PVH entry point, saves the guest firmware,
real mode and decompression.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import subprocess
import zlib
from collections.abc import Iterator

from harness.model.errors import PrepareError

_HEADER_MAGIC = b"HdrS"
_PAYLOAD_PROTOCOL = 0x208
_SECTOR_BYTES = 512
_PT_NOTE = 4
_XEN_ELFNOTE_PHYS32_ENTRY = 18  # include/xen/interface/elfnote.h

_COMMANDS = {
    b"\x28\xb5\x2f\xfd": ("zstd", "-dcq"),
    b"\x02\x21\x4c\x18": ("lz4", "-dcq"),  # the legacy frame, which is what the kernel uses
}


def extract_elf(image: bytes, name: str) -> bytes:
    """Find and decompress the ELF kernel in a bzImage.

    Args:
        image: The whole bzImage.
        name: What to call it in an error.

    Raises:
        PrepareError: It is no bzImage, is compressed in an unknown way, or the tool is missing.
    """
    elf = _decompress(_payload(image, name), name)
    if not elf.startswith(b"\x7fELF"):
        raise PrepareError(f"{name}: what the bzImage holds is not an ELF kernel")
    return elf


def has_pvh_entry(elf: bytes) -> bool:
    """Whether a 64-bit ELF kernel has the PVH entry point (a Xen note, CONFIG_PVH)."""
    return any(
        kind == _PT_NOTE and _XEN_ELFNOTE_PHYS32_ENTRY in _xen_notes(elf, offset, offset + size)
        for kind, offset, size in program_headers(elf)
    )


def program_headers(elf: bytes) -> Iterator[tuple[int, int, int]]:
    """Type, file offset and size in bytes of each segment of a 64-bit ELF file (elf(5), Phdr)."""
    (start,) = struct.unpack_from("<Q", elf, 32)
    entry_bytes, count = struct.unpack_from("<HH", elf, 54)
    for position in range(start, start + count * entry_bytes, entry_bytes):
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", elf, position)
        yield kind, offset, size


def _xen_notes(elf: bytes, position: int, end: int) -> set[int]:
    """Types of all notes with the owner `Xen` between two file offsets (elf(5), Nhdr)."""
    found = set()
    while position + 12 <= end:
        name_size, value_size, kind = struct.unpack_from("<III", elf, position)
        owner = elf[position + 12 : position + 12 + name_size].rstrip(b"\0")
        if owner == b"Xen":
            found.add(kind)
        position += 12 + (name_size + 3 & ~3) + (value_size + 3 & ~3)
    return found


def _payload(image: bytes, name: str) -> bytes:
    """The compressed kernel, as the setup header locates it."""
    if len(image) < 0x260 or image[0x202:0x206] != _HEADER_MAGIC:
        raise PrepareError(f"{name} is not an x86 bzImage")
    (protocol,) = struct.unpack_from("<H", image, 0x206)
    if protocol < _PAYLOAD_PROTOCOL:
        raise PrepareError(
            f"{name}: boot protocol {protocol:#x} is too old to say where its payload is"
        )
    setup_sectors = image[0x1F1] or 4  # 0 means 4, for kernels of old
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * _SECTOR_BYTES + offset
    payload = image[start : start + length]
    if len(payload) != length or length < 8:
        raise PrepareError(f"{name} is cut off: its payload should have {length} bytes")
    return payload


def _decompress(payload: bytes, name: str) -> bytes:
    """Decompress by magic.

    Except for gzip the kernel's build appends the uncompressed size in four bytes
    (scripts/Makefile.lib, `size_append`), which is no part of the compressed stream.
    """
    try:
        if payload.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(wbits=31).decompress(payload)
        if payload.startswith(b"\xfd7zXZ\0"):
            return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
        if payload.startswith(b"\x5d\x00\x00"):
            return lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(payload[:-4])
        if payload.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(payload)
    except (zlib.error, lzma.LZMAError, OSError) as error:
        raise PrepareError(f"{name}: the kernel in it cannot be decompressed: {error}") from None
    if payload.startswith(b"\x7fELF"):
        return payload
    command = _COMMANDS.get(payload[:4])
    if command is None:
        raise PrepareError(f"{name}: compressed in an unknown way (magic {payload[:4].hex()})")
    return decompressed_by(command, payload[:-4], name)


def decompressed_by(command: tuple[str, ...], data: bytes, name: str) -> bytes:
    """What a program makes of compressed data.

    Raises:
        PrepareError: There is no such program, or it refuses.
    """
    try:
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise PrepareError(
            f"{name} is compressed by {command[0]}, and there is no such command; "
            f"install the package {command[0]}"
        ) from None
    except subprocess.CalledProcessError as error:
        detail = error.stderr.decode("utf-8", "replace").strip()
        raise PrepareError(f"{name}: {command[0]} cannot decompress it: {detail}") from None
