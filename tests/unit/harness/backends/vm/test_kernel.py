"""The kernel taken out of its bzImage, in every compression, and its PVH note."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.backends.vm.guest.bzimage import extract_elf, has_pvh_entry
from harness.backends.vm.guest.kernel import find_kernel
from harness.model.errors import PrepareError

ELF = b"\x7fELF" + hashlib.shake_128(b"kernel").digest(20_000) + bytes(20_000)
SIZE = struct.pack("<I", len(ELF))
RELEASE = "6.1.0-test"


def command(*argv: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        if shutil.which(argv[0]) is None:
            pytest.skip(f"no {argv[0]} here")
        return subprocess.run(argv, input=data, capture_output=True, check=True).stdout + SIZE

    return compress


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,  # its own trailer is the size
    "xz": lambda data: lzma.compress(data) + SIZE,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE) + SIZE,
    "bzip2": lambda data: bz2.compress(data) + SIZE,
    "zstd": command("zstd", "-c"),
    "lz4": command("lz4", "-lc"),
    "none": lambda data: data,
}


def bzimage(payload: bytes, setup_sectors: int = 3, offset: int = 0x2C0) -> bytes:
    """A setup as Documentation/arch/x86/boot.rst describes it, then the payload."""
    setup = bytearray((setup_sectors + 1) * 512)
    setup[0x1F1] = setup_sectors
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x20F)
    struct.pack_into("<H", setup, 0x20E, 0x300)
    version = f"{RELEASE} (builder@host) #1 SMP\0".encode()
    setup[0x500 : 0x500 + len(version)] = version
    struct.pack_into("<II", setup, 0x248, offset, len(payload))
    return bytes(setup) + bytes(offset) + payload + b"trailing signature"


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_every_compression_gives_the_same_kernel(name: str) -> None:
    assert extract_elf(bzimage(COMPRESSIONS[name](ELF)), "vmlinuz") == ELF


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (b"MZ" + bytes(1000), "vmlinuz is not an x86 bzImage"),
        (bzimage(gzip.compress(ELF))[:4000], "cut off"),
        (bzimage(b"\x89LZO" + bytes(100)), r"unknown way \(magic 894c5a4f\)"),
        (bzimage(gzip.compress(b"no kernel")), "not an ELF"),
        (bzimage(b"\xfd7zXZ\0" + bytes(100)), "cannot be decompressed"),
    ],
)
def test_what_is_no_kernel_is_refused_in_a_sentence(image: bytes, complaint: str) -> None:
    with pytest.raises(PrepareError, match=complaint):
        extract_elf(image, "vmlinuz")


def elf_with_notes(*notes: tuple[bytes, int, bytes]) -> bytes:
    """An ELF64 header, one PT_NOTE program header, and its notes (elf(5))."""
    body = b""
    for owner, kind, value in notes:
        padded = (part + bytes(-len(part) % 4) for part in (owner, value))
        body += struct.pack("<III", len(owner), len(value), kind) + b"".join(padded)
    header = bytearray(64)
    header[:4] = b"\x7fELF"
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, 1)
    return bytes(header) + struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(body), len(body), 4) + body


def test_the_pvh_entry_is_one_kind_of_note_of_one_owner() -> None:
    guest_os = (b"Xen\0", 6, b"linux\0")
    entry = (b"Xen\0", 18, bytes(8))
    assert has_pvh_entry(elf_with_notes(guest_os, entry))
    assert not has_pvh_entry(elf_with_notes(guest_os, (b"GNU\0", 18, bytes(8))))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_kernel_of_ones_own(tmp_path: Path, cache: Path) -> None:
    elf = elf_with_notes((b"Xen\0", 18, bytes(8)))
    image, modules = tmp_path / "vmlinuz", tmp_path / "modules"
    image.write_bytes(bzimage(gzip.compress(elf)))
    (modules / "kernel").mkdir(parents=True)
    found = find_kernel(image, modules, print)
    assert (found.release, found.bzimage, found.modules) == (RELEASE, image, modules)
    assert found.elf.read_bytes() == elf
    assert found.elf.is_relative_to(cache)
    assert [path.name for path in found.elf.parent.iterdir()] == ["vmlinux"]


@pytest.mark.parametrize("what", ["kernel", "modules"])
def test_a_kernel_of_ones_own_that_is_not_whole(tmp_path: Path, cache: Path, what: str) -> None:
    image = tmp_path / "vmlinuz"
    if what == "modules":
        image.write_bytes(bzimage(gzip.compress(ELF)))
    with pytest.raises(PrepareError, match=str(image)):
        find_kernel(image, None, print)


def test_a_kernel_without_pvh_is_refused(tmp_path: Path, cache: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(bzimage(gzip.compress(elf_with_notes((b"GNU\0", 3, b"")))))
    (tmp_path / "modules/kernel").mkdir(parents=True)
    with pytest.raises(PrepareError, match="CONFIG_PVH"):
        find_kernel(image, tmp_path / "modules", print)
