"""Spec and features in, plan out: the one owner of the order in which a container is made.

A pure function: it makes no system call, so every order and every flag can be tested without
privilege. Each section is a function that returns steps; `lower` lists the sections, with the
reason wherever the order is forced. Sections that are the same for every container are cached: a
launch is timed, and so is this.
"""

from __future__ import annotations

import os
import posixpath
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from errno import EACCES, EEXIST, EISDIR, ENOENT, ENOTDIR
from functools import cache

from runtime.errors import UnsupportedError
from runtime.launch import capabilities, overlay
from runtime.launch.plan import SLOTS, Packed, Plan, Slot, Step, Strings
from runtime.launch.spec import (
    DEFAULT_PATH,
    ContainerSpec,
    DirectoryRoot,
    Namespace,
    OverlayRoot,
    User,
    Volume,
)
from runtime.linux import abi
from runtime.linux.features import Features

_NOT_HERE = (ENOENT, ENOTDIR, EACCES, EISDIR)
"""Errnos after which execvp(3) tries the next folder of PATH."""

_CLONE_FLAGS = {
    Namespace.MOUNT: abi.CLONE_NEWNS,
    Namespace.PID: abi.CLONE_NEWPID,
    Namespace.UTS: abi.CLONE_NEWUTS,
    Namespace.IPC: abi.CLONE_NEWIPC,
    Namespace.NET: abi.CLONE_NEWNET,
}
"""All but cgroup, which is made later; see `_join_cgroups`."""


@dataclass(frozen=True, slots=True)
class CgroupEntry:
    """How the child gets into its cgroups.

    Attributes:
        tasks_fds: Open `tasks` files, one a v1 hierarchy (v2 is entered by clone3 itself).
    """

    tasks_fds: tuple[int, ...] = ()


def lower(spec: ContainerSpec, features: Features, cgroup: CgroupEntry) -> Plan:
    """Write the launch of `spec` on a kernel with `features` as a plan."""
    new = spec.namespaces
    slots = iter(range(SLOTS))
    steps = [
        # First, so that from here on the child cannot outlive whoever started it.
        *_die_with_parent(),
        *_own_signals(),
        # Before the cgroup namespace is made: its root is the cgroup that its maker is in.
        *_join_cgroups(spec, cgroup),
        *_join_network(spec),
        # As soon as no descriptor of the launcher is needed: an image could name one, as
        # /proc/self/fd/7, in its working directory or behind a symlink, and a step that went
        # through it would be outside the rootfs (CVE-2024-21626).
        *_standard_streams(spec.stdio),
        Step("close_range", (3, 0xFFFFFFFF, 0), "close all other descriptors"),
    ]
    if isinstance(spec.root, OverlayRoot):
        # Sources of volumes are paths of the host: taken hold of before the host's tree is gone.
        volume_steps, trees = _open_volumes(spec.volumes, slots)
        steps += [
            *_private_mounts(),
            *volume_steps,
            *_overlay_root(spec.root),
            *_enter_root(spec.root),
            # From here on every path is the container's own. Mounting only now means that no
            # symlink of the image can lead a mount out of its rootfs.
            *_system_mounts(),
            *_devices(),
            # After /dev is filled: a hidden file is a bind mount of the container's /dev/null.
            *_hide_kernel_files(features),
            *_mount_volumes(spec.volumes, trees, slots),
        ]
    else:
        steps += _chroot(spec.root)
    if Namespace.NET in new and spec.network.kind == "none":
        steps += _loopback(slots)
    if Namespace.UTS in new:
        steps.append(_set_hostname(spec.hostname))
    if isinstance(spec.root, OverlayRoot):
        steps += _working_directory(spec.working_directory, slots, make=True)
        if spec.read_only_root:
            # Last of the mounts, since the mount points above were made in it.
            steps.append(_read_only_root())
    else:
        steps += _working_directory(spec.working_directory, slots, make=False)
    if spec.new_session:
        steps.append(Step("setsid", (), "leave the caller's session and terminal"))
    # Last of the set-up: what comes before needs the privileges that this gives up.
    steps += _identity(
        spec.user, spec.capabilities, spec.no_new_privileges,
        isinstance(spec.root, OverlayRoot), features,
    )  # fmt: skip
    isolated = len(steps) - 1
    steps += _execute(spec)
    flags = 0
    for namespace, flag in _CLONE_FLAGS.items():
        if namespace in new and not (namespace is Namespace.NET and spec.network.kind != "none"):
            flags |= flag
    return Plan(flags, tuple(steps), isolated)


@cache
def _die_with_parent() -> list[Step]:
    return [
        Step("prctl", (abi.PR_SET_PDEATHSIG, 9, 0, 0, 0), "ask to die with the launcher"),
        # Modes are given exactly from here on; the workload's own mask is set at the end.
        Step("umask", (0,), "clear the file mode mask"),
    ]


_OFTEN_IGNORED = {1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 13: "SIGPIPE", 15: "SIGTERM",
                  17: "SIGCHLD", 25: "SIGXFSZ"}  # fmt: skip


@cache
def _own_signals() -> list[Step]:
    # CLONE_CLEAR_SIGHAND reset the handlers but keeps what is ignored: Python ignores SIGPIPE and
    # SIGXFSZ, nohup SIGHUP, a shell without job control SIGINT and SIGQUIT of its background jobs.
    default = Packed(abi.kernel_sigaction.pack(abi.SIG_DFL, 0, 0, 0), "{SIG_DFL}")
    return [
        Step("rt_sigaction", (number, default, None, abi.SIGNAL_SET_BYTES), f"reset {name}")
        for number, name in _OFTEN_IGNORED.items()
    ]


def _join_cgroups(spec: ContainerSpec, cgroup: CgroupEntry) -> list[Step]:
    steps = [Step("write", (fd, "0", 1), "join a version 1 cgroup") for fd in cgroup.tasks_fds]
    if Namespace.CGROUP in spec.namespaces:
        steps.append(Step("unshare", (abi.CLONE_NEWCGROUP,), "make a cgroup namespace"))
    return steps


def _join_network(spec: ContainerSpec) -> list[Step]:
    if spec.network.namespace_fd is None:
        return []
    arguments = (spec.network.namespace_fd, abi.CLONE_NEWNET)
    return [Step("setns", arguments, "join the network namespace")]


@cache
def _private_mounts() -> list[Step]:
    # Otherwise mounts made here would spread to the host: shared propagation, mount_namespaces(7).
    flags = abi.MS_REC | abi.MS_PRIVATE
    return [Step("mount", (None, "/", None, flags, None), "make all mounts private")]


def _overlay_root(root: OverlayRoot) -> list[Step]:
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


def _enter_root(root: OverlayRoot) -> list[Step]:
    return [
        Step("chdir", (root.mountpoint,), f"enter {root.mountpoint}"),
        # pivot_root(".", "."): the old root is stacked over the new one, so no folder for it is
        # needed, and "." then names it (pivot_root(2), NOTES).
        Step("pivot_root", (".", "."), "make it the root"),
        Step("umount2", (".", abi.MNT_DETACH), "let the host's tree go"),
        Step("chdir", ("/",), "enter the root"),
    ]


def _chroot(root: DirectoryRoot) -> list[Step]:
    return [Step("chroot", (root.path,), f"make {root.path} the root")]


def _mkdir(path: str, mode: int = 0o755) -> Step:
    # EEXIST: most images bring the folder. Through a symlink mkdir says EEXIST too, and the mount
    # that follows decides; it cannot leave the root any more.
    return Step("mkdirat", (abi.AT_FDCWD, path, mode), f"make folder {path}", (EEXIST,))


def _mount(kind: str, target: str, flags: int, options: str | None = None) -> list[Step]:
    arguments = (kind, target, kind, flags, options)
    return [_mkdir(target), Step("mount", arguments, f"mount {kind} on {target}")]


@cache
def _system_mounts() -> list[Step]:
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
def _devices() -> list[Step]:
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
def _hide_kernel_files(features: Features) -> list[Step]:
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


def _open_volumes(
    volumes: tuple[Volume, ...], slots: Iterator[int]
) -> tuple[list[Step], tuple[int, ...]]:
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
        arguments = (abi.AT_FDCWD, volume.source, flags)
        steps.append(Step("open_tree", arguments, f"take hold of {volume.source}", (), tree))
        # nodev for the same reason as the rootfs; the rest of the mount's flags stay.
        attributes = abi.MOUNT_ATTR_NODEV | (abi.MOUNT_ATTR_RDONLY if volume.read_only else 0)
        text = "{MOUNT_ATTR_NODEV" + ("|MOUNT_ATTR_RDONLY}" if volume.read_only else "}")
        packed = Packed(abi.mount_attr.pack(attributes, 0, abi.MS_PRIVATE, 0), text)
        steps.append(
            Step("mount_setattr",
                 (Slot(tree), "", abi.AT_EMPTY_PATH | abi.AT_RECURSIVE, packed, len(packed.data)),
                 f"restrict {volume.source}")
        )  # fmt: skip
    return steps, tuple(trees)


def _mount_volumes(
    volumes: tuple[Volume, ...], trees: tuple[int, ...], slots: Iterator[int]
) -> list[Step]:
    steps: list[Step] = []
    slot = next(slots) if volumes else 0
    both_empty = abi.MOVE_MOUNT_F_EMPTY_PATH | abi.MOVE_MOUNT_T_EMPTY_PATH
    for volume, tree in zip(volumes, trees, strict=True):
        label = f"mount {volume.source} on {volume.target}"
        steps += _reach(
            volume.target, slot, label, make="folder" if volume.is_directory else "file"
        )
        steps.append(Step("move_mount", (Slot(tree), "", Slot(slot), "", both_empty), label))
    return steps


def _reach(path: str, slot: int, label: str, *, make: str) -> list[Step]:
    """Open `path` inside the container into `slot`; what is missing of it is made on the way.

    Name by name, and never through a magic link of /proc: those lead out of every root, and the
    path or a symlink of the image could name one (openat2(2), RESOLVE_NO_MAGICLINKS).

    Args:
        path: Absolute; the root itself is not made.
        slot: Where its descriptor is kept.
        label: Of the step that opens it.
        make: `folder` or `file`: what `path` becomes if it is missing; or `nothing`.
    """
    parts = [part for part in posixpath.normpath(path).split("/") if part]
    if make == "nothing" or not parts:
        return [_open_path(abi.AT_FDCWD, "/" + "/".join(parts), slot, label)]
    steps: list[Step] = []
    parent: int | Slot = abi.AT_FDCWD
    for depth, part in enumerate(parts, 1):
        name = part if depth > 1 else f"/{part}"
        so_far = "/" + "/".join(parts[:depth])
        if depth == len(parts) and make == "file":
            arguments = (parent, name, stat.S_IFREG | 0o644, 0)
            steps.append(Step("mknodat", arguments, f"make file {so_far}", (EEXIST,)))
        else:
            steps.append(Step("mkdirat", (parent, name, 0o755), f"make folder {so_far}", (EEXIST,)))
        steps.append(_open_path(parent, name, slot, label))
        parent = Slot(slot)
    return steps


def _open_path(parent: int | Slot, name: str, slot: int, label: str) -> Step:
    how = abi.open_how.pack(abi.O_PATH | abi.O_CLOEXEC, 0, abi.RESOLVE_NO_MAGICLINKS)
    packed = Packed(how, "{O_PATH|O_CLOEXEC, RESOLVE_NO_MAGICLINKS}")
    return Step("openat2", (parent, name, packed, len(how)), label, (), slot)


def _loopback(slots: Iterator[int]) -> list[Step]:
    socket = next(slots)
    up = Packed(abi.ifreq_flags.pack(b"lo", abi.IFF_UP), '{"lo", IFF_UP}')
    kind = abi.SOCK_DGRAM | abi.SOCK_CLOEXEC
    return [
        Step("socket", (abi.AF_INET, kind, 0), "bring loopback up", (), socket),
        Step("ioctl", (Slot(socket), abi.SIOCSIFFLAGS, up), "bring loopback up"),
    ]


def _set_hostname(hostname: str) -> Step:
    return Step("sethostname", (hostname, len(os.fsencode(hostname))), f"set hostname {hostname}")


def _working_directory(path: str, slots: Iterator[int], *, make: bool) -> list[Step]:
    slot, label = next(slots), f"enter working directory {path}"
    return [
        *_reach(path, slot, label, make="folder" if make else "nothing"),
        Step("fchdir", (Slot(slot),), label),
    ]


def _read_only_root() -> Step:
    packed = Packed(abi.mount_attr.pack(abi.MOUNT_ATTR_RDONLY, 0, 0, 0), "{MOUNT_ATTR_RDONLY}")
    arguments = (abi.AT_FDCWD, "/", 0, packed, len(packed.data))
    return Step("mount_setattr", arguments, "make the rootfs read-only")


def _standard_streams(stdio: tuple[int, int, int]) -> list[Step]:
    # The launcher sees to it that a descriptor which has to move is above 2, so that no dup
    # overwrites one that is still needed.
    return [
        Step("dup3", (fd, target, 0), f"connect {name}")
        for fd, target, name in zip(stdio, (0, 1, 2), ("stdin", "stdout", "stderr"), strict=True)
        if fd != target
    ]


@cache
def _identity(
    user: User, names: tuple[str, ...], no_new_privileges: bool, isolated: bool, features: Features
) -> list[Step]:
    steps: list[Step] = []
    keep = capabilities.mask(names) & features.effective_capabilities
    if isolated:
        steps += capabilities.drop_bounding_set(
            keep, features.effective_capabilities, features.last_capability
        )
    # Groups before user: afterwards it would not be allowed. Unchanged ids are not set again: the
    # change would make the memory that parent and child share undumpable (prctl(2)).
    if isolated or user != User():
        gids = user.additional_gids or (user.gid,)
        packed = Packed(struct.pack(f"@{len(gids)}I", *gids), str(list(gids)))
        steps.append(Step("setgroups", (len(gids), packed), "set groups"))
    if user.gid:
        steps.append(Step("setgid", (user.gid,), f"set group {user.gid}"))
    if user.uid:
        steps.append(Step("setuid", (user.uid,), f"set user {user.uid}"))
    if isolated:
        # An ordinary user's sets are empty by now, but for what the launcher could inherit.
        steps.append(capabilities.set_capabilities(0 if user.uid else keep))
    if user != User():
        # A change of ids takes back the request to die with the launcher (prctl(2)).
        steps += _die_with_parent()[:1]
    if isolated and no_new_privileges:
        arguments = (abi.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        steps.append(Step("prctl", arguments, "forbid new privileges"))
    steps.append(Step("umask", (0o022,), "set the file mode mask"))
    return steps


def _execute(spec: ContainerSpec) -> list[Step]:
    environment = dict(spec.environment)
    argv = Strings(spec.command)
    envp = Strings(tuple(f"{name}={value}" for name, value in environment.items()))
    program = spec.command[0]
    empty = Packed(bytes(abi.SIGNAL_SET_BYTES), "[]")
    steps = [
        Step("close_range", (3, 0xFFFFFFFF, 0), "close what the steps above opened"),
        # Handlers are the default ones by now, so a signal that waited does what it should.
        Step("rt_sigprocmask", (abi.SIG_SETMASK, empty, None, abi.SIGNAL_SET_BYTES),
             "unblock signals"),
    ]  # fmt: skip
    if "/" in program:
        candidates = [program]
    else:
        folders = environment.get("PATH", DEFAULT_PATH).split(":")
        candidates = [posixpath.join(folder or ".", program) for folder in folders]
    for candidate in candidates:
        last = candidate is candidates[-1]
        accept = () if last else _NOT_HERE
        label = f"execute {program}"
        # The kernel follows magic links on exec, so an image could name /proc/self/exe, which is
        # the launcher itself (CVE-2019-5736); this check does not, and looks at #! lines too.
        steps.append(Step("check_executable", (candidate,), label, accept))
        steps.append(Step("execve", (candidate, argv, envp), label, accept))
    return steps
