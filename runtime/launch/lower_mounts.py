"""Steps that make what a container sees of files: its root, system mounts, devices and volumes.

`runtime.launch.lower` puts them in order and says why it is this one.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from errno import EEXIST
from functools import cache

from runtime.errors import UnsupportedError
from runtime.launch import overlay
from runtime.launch.plan import SLOTS, PackedBytes, ResultSlot, Step
from runtime.launch.spec import DirectoryRoot, OverlayRoot, Volume
from runtime.linux import abi
from runtime.linux.features import Features


def overlay_root(root: OverlayRoot) -> list[Step]:
    """Mount the image's layers and the writable one as the rootfs (overlayfs, kernel docs)."""
    label = f"mount overlay on {root.mountpoint}"
    steps = []
    if not overlay.fits_one_page(root):
        steps += _short_names(root)
        root = overlay.with_short_names(root)
    # nodev: a device node in an image or made in the container must not reach a real device.
    arguments = ("overlay", root.mountpoint, "overlay", abi.MS_NODEV, overlay.options(root))
    return [*steps, Step("mount", arguments, label)]


def _short_names(root: OverlayRoot) -> list[Step]:
    """Give the layers names so short that the options of all of them fit the page of mount(2).

    fsconfig(2) would take long ones, one a call, but only since Linux 6.8. The names are symlinks
    in a tmpfs that nobody else sees: it is buried under the overlay, and goes with the old root.
    """
    closed = abi.MS_NOSUID | abi.MS_NOEXEC | abi.MS_NODEV
    arguments = ("tmpfs", root.mountpoint, "tmpfs", closed, "mode=700,size=4m")
    return [
        Step("mount", arguments, f"mount tmpfs on {root.mountpoint}"),
        Step("chdir", (root.mountpoint,), f"enter {root.mountpoint}"),
        *(
            Step("symlinkat", (path, abi.AT_FDCWD, name), f"name layer {path}")
            for name, path in overlay.short_names(root).items()
        ),
    ]


def enter_root(root: OverlayRoot) -> list[Step]:
    """Make the rootfs the root and let the host's tree go (pivot_root(2))."""
    return [
        Step("chdir", (root.mountpoint,), f"enter {root.mountpoint}"),
        # pivot_root(".", "."): the old root is stacked over the new one, so no folder for it is
        # needed, and "." then names it (pivot_root(2), NOTES).
        Step("pivot_root", (".", "."), "make it the root"),
        Step("umount2", (".", abi.MNT_DETACH), "let the host's tree go"),
        Step("chdir", ("/",), "enter the root"),
    ]


def chroot(root: DirectoryRoot) -> list[Step]:
    """Enter a folder as root, in the host's mount namespace (chroot(2))."""
    return [Step("chroot", (root.path,), f"make {root.path} the root")]


def _mkdir(path: str, mode: int = 0o755) -> Step:
    # EEXIST: most images bring the folder. Through a symlink mkdir says EEXIST too, and the mount
    # that follows decides; it cannot leave the root any more.
    return Step("mkdirat", (abi.AT_FDCWD, path, mode), f"make folder {path}", (EEXIST,))


def _mount(kind: str, target: str, flags: int, options: str | None = None) -> list[Step]:
    arguments = (kind, target, kind, flags, options)
    return [_mkdir(target), Step("mount", arguments, f"mount {kind} on {target}")]


@cache
def system_mounts() -> list[Step]:
    """Mount /proc, /sys and what belongs below /dev."""
    closed = abi.MS_NOSUID | abi.MS_NOEXEC
    return [
        *_mount("proc", "/proc", closed | abi.MS_NODEV),
        *_mount("sysfs", "/sys", closed | abi.MS_NODEV | abi.MS_RDONLY),
        *_mount("tmpfs", "/dev", closed, "mode=755,size=64k"),
        # Group 5 is tty in every distribution that Debian's base-passwd or its like made.
        *_mount("devpts", "/dev/pts", closed, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
        *_mount("tmpfs", "/dev/shm", closed | abi.MS_NODEV, "mode=1777,size=64m"),  # noqa: S108
        *_mount("mqueue", "/dev/mqueue", closed | abi.MS_NODEV),
    ]


_DEVICE_NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8),
                 "urandom": (1, 9), "tty": (5, 0)}  # fmt: skip
"""Name -> (major, minor), Documentation/admin-guide/devices.txt."""
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}


@cache
def devices() -> list[Step]:
    """Fill /dev with the devices that every program expects (null(4) and its like)."""
    steps = [
        Step("mknodat",
             (abi.AT_FDCWD, f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor)),
             f"make /dev/{name}")
        for name, (major, minor) in _DEVICE_NODES.items()
    ]  # fmt: skip
    steps += [
        Step("symlinkat", (target, abi.AT_FDCWD, f"/dev/{name}"), f"link /dev/{name}")
        for name, target in _DEVICE_LINKS.items()
    ]
    return steps


@cache
def hide_kernel_files(features: Features) -> list[Step]:
    """Cover what shows the host or changes it, and make the rest read-only, as docker."""
    closed = abi.MS_NOSUID | abi.MS_NOEXEC | abi.MS_NODEV
    steps = [
        Step("mount", ("/dev/null", path, None, abi.MS_BIND, None), f"hide {path}")
        for path in features.masked_files
    ]
    steps += [
        Step("mount", ("tmpfs", path, "tmpfs", closed | abi.MS_RDONLY, "size=0k"), f"hide {path}")
        for path in features.masked_directories
    ]
    for path in features.read_only_paths:
        label = f"make {path} read-only"
        again = abi.MS_REMOUNT | abi.MS_BIND | abi.MS_RDONLY | closed
        # A bind mount takes MS_RDONLY only when mounted anew (mount(2), "Creating a bind mount").
        steps.append(Step("mount", (path, path, None, abi.MS_BIND | abi.MS_REC, None), label))
        steps.append(Step("mount", (None, path, None, again, None), label))
    return steps


_MOST_VOLUMES = SLOTS - 8
"""The results of the other steps need a few slots too."""


def open_volumes(
    volumes: tuple[Volume, ...], slots: Iterator[int]
) -> tuple[list[Step], tuple[int, ...]]:
    """Take hold of the sources of volumes while the host's tree is still there (open_tree(2))."""
    if len(volumes) > _MOST_VOLUMES:
        raise UnsupportedError(
            f"{len(volumes)} volumes are more than the {_MOST_VOLUMES} that a container can have; "
            "show a folder above several of them"
        )
    steps: list[Step] = []
    trees: list[int] = []
    for volume in volumes:
        tree = next(slots)
        trees.append(tree)
        flags = abi.OPEN_TREE_CLONE | abi.O_CLOEXEC | abi.AT_RECURSIVE
        where = (abi.AT_FDCWD, volume.source, flags)
        steps.append(Step("open_tree", where, f"take hold of {volume.source}", (), tree))
        # nodev for the same reason as the rootfs; the rest of the mount's flags stay.
        attributes = abi.MOUNT_ATTR_NODEV | (abi.MOUNT_ATTR_RDONLY if volume.read_only else 0)
        how = abi.AT_EMPTY_PATH | abi.AT_RECURSIVE
        text = "{MOUNT_ATTR_NODEV" + ("|MOUNT_ATTR_RDONLY}" if volume.read_only else "}")
        packed = PackedBytes(abi.mount_attr.pack(attributes, 0, abi.MS_PRIVATE, 0), text)
        arguments = (ResultSlot(tree), "", how, packed, len(packed.data))
        steps.append(Step("mount_setattr", arguments, f"restrict {volume.source}"))
    return steps, tuple(trees)


def mount_volumes(
    volumes: tuple[Volume, ...], trees: tuple[int, ...], slots: Iterator[int]
) -> list[Step]:
    """Put the volumes in their places, inside the container (move_mount(2))."""
    steps: list[Step] = []
    slot = next(slots) if volumes else 0
    both_empty = abi.MOVE_MOUNT_F_EMPTY_PATH | abi.MOVE_MOUNT_T_EMPTY_PATH
    for volume, tree in zip(volumes, trees, strict=True):
        label = f"mount {volume.source} on {volume.target}"
        steps += reach(volume.target, slot, label, make="folder" if volume.is_directory else "file")
        steps.append(
            Step("move_mount", (ResultSlot(tree), "", ResultSlot(slot), "", both_empty), label)
        )
    return steps


def reach(path: str, slot: int, label: str, *, make: str) -> list[Step]:
    """Open `path` inside the container into `slot`; what is missing of it is made on the way.

    Name by name, and never through a magic link of /proc: those lead out of every root, and the
    path or a symlink of the image could name one (openat2(2), RESOLVE_NO_MAGICLINKS).

    `make` is `folder` or `file`: what `path` becomes if it is missing; or `nothing`. The root
    itself is not made.
    """
    parts = [part for part in posixpath.normpath(path).split("/") if part]
    if make == "nothing" or not parts:
        return [_open_path(abi.AT_FDCWD, "/" + "/".join(parts), slot, label)]
    steps: list[Step] = []
    parent: int | ResultSlot = abi.AT_FDCWD
    for depth, part in enumerate(parts, 1):
        name = part if depth > 1 else f"/{part}"
        so_far = "/" + "/".join(parts[:depth])
        if depth == len(parts) and make == "file":
            arguments = (parent, name, stat.S_IFREG | 0o644, 0)
            steps.append(Step("mknodat", arguments, f"make file {so_far}", (EEXIST,)))
        else:
            steps.append(Step("mkdirat", (parent, name, 0o755), f"make folder {so_far}", (EEXIST,)))
        steps.append(_open_path(parent, name, slot, label))
        parent = ResultSlot(slot)
    return steps


def _open_path(parent: int | ResultSlot, name: str, slot: int, label: str) -> Step:
    how = abi.open_how.pack(abi.O_PATH | abi.O_CLOEXEC, 0, abi.RESOLVE_NO_MAGICLINKS)
    packed = PackedBytes(how, "{O_PATH|O_CLOEXEC, RESOLVE_NO_MAGICLINKS}")
    return Step("openat2", (parent, name, packed, len(how)), label, (), slot)


def read_only_root() -> Step:
    """Make the rootfs read-only, when all mount points are made."""
    packed = PackedBytes(abi.mount_attr.pack(abi.MOUNT_ATTR_RDONLY, 0, 0, 0), "{MOUNT_ATTR_RDONLY}")
    arguments = (abi.AT_FDCWD, "/", 0, packed, len(packed.data))
    return Step("mount_setattr", arguments, "make the rootfs read-only")
