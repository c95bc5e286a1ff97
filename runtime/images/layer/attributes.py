"""Attributes of unpacked entries: owner, mode, times, extended attributes.

The order matters: chown(2) clears setuid bits and capabilities, so the owner comes first;
everything changes the times, so they come last.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from enum import Enum

from runtime.errors import LayerError
from runtime.images.formats.tar_reader import SYMLINK, TarEntry


class Devices(Enum):
    """Says what to do with device nodes in an archive."""

    CREATE = "create"
    SKIP = "skip"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class UnpackOptions:
    """Says how to unpack.

    Attributes:
        owners: Set owners, and fail if that is not allowed; an ordinary user keeps all for itself.
        devices: What to do with device nodes.
        overlay_xattr: Namespace of overlayfs's marks: `trusted.overlay` or, with the mount option
            `userxattr`, `user.overlay`.
    """

    owners: bool
    devices: Devices
    overlay_xattr: str

    @classmethod
    def for_this_user(cls) -> UnpackOptions:
        """Allow everything to real root, and to others what they may do."""
        is_root = os.geteuid() == 0
        if is_root and not _in_user_namespace():
            return cls(owners=True, devices=Devices.CREATE, overlay_xattr="trusted.overlay")
        return cls(owners=is_root, devices=Devices.SKIP, overlay_xattr="user.overlay")


@dataclass(slots=True)
class Attributes:
    """Holds what a folder gets once it is full; `implied` if no entry describes it."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)
    implied: bool = True


def set_by_fd(
    fd: int,
    wanted: TarEntry | Attributes,
    options: UnpackOptions,
    owner: tuple[int, int] | None = None,
) -> None:
    """Give an open file or folder its attributes; `owner` is its owner, if known."""
    if options.owners and (wanted.uid, wanted.gid) != owner:
        os.fchown(fd, wanted.uid, wanted.gid)
    for name, value in wanted.xattrs.items():
        _set_xattr(fd, name, value, options)
    os.fchmod(fd, wanted.mode)
    os.utime(fd, ns=(wanted.mtime_ns, wanted.mtime_ns))


def set_by_name(
    parent: int,
    name: bytes,
    entry: TarEntry,
    options: UnpackOptions,
    owner: tuple[int, int] | None = None,
) -> None:
    """Do the same for what cannot be opened without side effects: symlinks, FIFOs, devices.

    `name` in the folder `parent` has just been made by us, so it is what the entry says.
    """
    if options.owners and (entry.uid, entry.gid) != owner:
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
    for xattr, value in entry.xattrs.items():
        _set_xattr(b"/proc/self/fd/%d/%s" % (parent, name), xattr, value, options)
    if entry.kind != SYMLINK:
        os.chmod(name, entry.mode, dir_fd=parent)
    times = (entry.mtime_ns, entry.mtime_ns)
    os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)


def _set_xattr(target: int | bytes, name: str, value: bytes, options: UnpackOptions) -> None:
    try:
        if isinstance(target, int):
            os.setxattr(target, name, value)
        else:
            os.setxattr(target, name, value, follow_symlinks=False)
    except OSError as error:
        # An ordinary user may set neither capabilities nor trusted.*: like owners, they are lost.
        unprivileged = options.overlay_xattr == "user.overlay"
        if not (unprivileged and error.errno in (errno.EPERM, errno.ENOTSUP)):
            raise LayerError(f"extended attribute {name!r}: {error.strerror}") from error


def _in_user_namespace() -> bool:
    """Whether uid 0 here is not the uid 0 of the machine (user_namespaces(7))."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return file.read().split() != ["0", "0", "4294967295"]
    except OSError:
        return False
