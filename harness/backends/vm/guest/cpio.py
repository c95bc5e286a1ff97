"""A writer for the `newc` cpio archives that Linux unpacks as initramfs.

Format: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's tree. The kernel
takes several archives behind one another, so that a small one can be appended to a big one that
stays as it is. Device nodes are entries like any other, which is why no privilege is needed.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field

_ALIGNMENT = 4
_TRAILER = "TRAILER!!!"


@dataclass(slots=True)
class Archive:
    """A cpio archive in the making; equal calls give equal bytes.

    All entries belong to root and carry time 0, so the archive depends on nothing but its content.
    Folders must be added before what lies in them: the kernel creates entries in their order.
    """

    _chunks: list[bytes] = field(default_factory=list)

    def directory(self, name: str, mode: int = 0o755) -> None:
        """Add a folder."""
        self._add(name, stat.S_IFDIR | mode)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._add(name, stat.S_IFREG | mode, data)

    def symlink(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def fifo(self, name: str, mode: int = 0o600) -> None:
        """Add a named pipe."""
        self._add(name, stat.S_IFIFO | mode)

    def character_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node (Documentation/admin-guide/devices.txt has the numbers)."""
        self._add(name, stat.S_IFCHR | mode, device=(major, minor))

    def finish(self) -> bytes:
        """The whole archive, its end marked, as one segment that others may follow.

        Returns:
            The bytes; their number is a multiple of four, as a following segment needs.
        """
        trailer = _header(0, 0, 0, (0, 0), _TRAILER)
        return b"".join((*self._chunks, trailer))

    def _add(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        inode = len(self._chunks) + 1
        entry = _header(inode, mode, len(data), device, name) + data
        self._chunks.append(entry + bytes(-len(entry) % _ALIGNMENT))


def _header(inode: int, mode: int, size: int, device: tuple[int, int], name: str) -> bytes:
    """One entry's header with its name: thirteen 8-digit hexadecimal fields after the magic."""
    raw = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
    # namesize, check.
    fields = (inode, mode, 0, 0, links, 0, size, 0, 0, *device, len(raw), 0)
    entry = b"070701" + b"".join(b"%08X" % value for value in fields) + raw
    return entry + bytes(-len(entry) % _ALIGNMENT)
