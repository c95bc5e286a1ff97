"""Spec and features in, plan out: the one owner of the order in which a container is made.

A pure function: it makes no system call, so every order and every flag can be tested without
privilege. Each section is a function that returns steps; `lower` lists the sections, with the
reason wherever the order is forced. Sections that are the same for every container are cached: a
launch is timed, and so is this.
"""

from __future__ import annotations

import os
import posixpath
import struct
from collections.abc import Iterator
from errno import EACCES, EISDIR, ENOENT, ENOTDIR
from functools import cache

from runtime.launch import capabilities, lower_mounts
from runtime.launch.plan import SLOTS, PackedBytes, Plan, ResultSlot, Step, Strings
from runtime.launch.spec import DEFAULT_PATH, ContainerSpec, Namespace, OverlayRoot, User
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


def lower(spec: ContainerSpec, features: Features, tasks_fds: tuple[int, ...] = ()) -> Plan:
    """Write the launch of `spec` on a kernel with `features` as a plan.

    `tasks_fds` are open `tasks` files, one a v1 hierarchy that the child joins (v2 is entered by
    clone3 itself).
    """
    new = spec.namespaces
    slots = iter(range(SLOTS))
    steps = [
        # First, so that from here on the child cannot outlive the launcher.
        *_die_with_parent(),
        *_own_signals(),
        # Before the cgroup namespace is made: its root is the cgroup that its maker is in.
        *_join_cgroups(spec, tasks_fds),
        *_join_network(spec),
        # As soon as no descriptor of the launcher is needed: an image could name one, as
        # /proc/self/fd/7, in its working directory or behind a symlink, and a step that went
        # through it would be outside the rootfs (CVE-2024-21626).
        *_standard_streams(spec.stdio),
        Step("close_range", (3, 0xFFFFFFFF, 0), "close all other descriptors"),
    ]
    if isinstance(spec.root, OverlayRoot):
        # Sources of volumes are paths of the host: taken hold of before the host's tree is gone.
        volume_steps, trees = lower_mounts.open_volumes(spec.volumes, slots)
        steps += [
            *_private_mounts(),
            *volume_steps,
            *lower_mounts.overlay_root(spec.root),
            *lower_mounts.enter_root(spec.root),
            # From here on every path is the container's own. Mounting only now means that no
            # symlink of the image can lead a mount out of its rootfs.
            *lower_mounts.system_mounts(),
            *lower_mounts.devices(),
            # After /dev is filled: a hidden file is a bind mount of the container's /dev/null.
            *lower_mounts.hide_kernel_files(features),
            *lower_mounts.mount_volumes(spec.volumes, trees, slots),
        ]
    else:
        steps += lower_mounts.chroot(spec.root)
    if Namespace.NET in new and spec.network.kind == "none":
        steps += _loopback(slots)
    if Namespace.UTS in new:
        steps.append(_set_hostname(spec.hostname))
    if isinstance(spec.root, OverlayRoot):
        steps += _working_directory(spec.working_directory, slots, make=True)
        if spec.read_only_root:
            # Last of the mounts, since the mount points above were made in it.
            steps.append(lower_mounts.read_only_root())
    else:
        steps += _working_directory(spec.working_directory, slots, make=False)
    steps += _give_up(spec, features)
    isolated = len(steps) - 1
    steps += _execute(spec)
    flags = 0
    for namespace, flag in _CLONE_FLAGS.items():
        if namespace in new and not (namespace is Namespace.NET and spec.network.kind != "none"):
            flags |= flag
    return Plan(flags, tuple(steps), isolated)


def lower_entry(
    spec: ContainerSpec, features: Features, pidfd: int, tasks_fds: tuple[int, ...] = ()
) -> Plan:
    """Write as a plan how `spec.command` joins the running container that `spec` describes.

    `pidfd` is the container's first process; `tasks_fds` as for `lower`. The caller sees to it that
    the child is born in the pid namespace: a process never enters one itself.
    """
    inside = _CLONE_FLAGS[Namespace.NET] if spec.network.kind == "join" else 0
    for namespace in spec.namespaces - {Namespace.PID}:
        inside |= _CLONE_FLAGS.get(namespace, abi.CLONE_NEWCGROUP)
    slots = iter(range(SLOTS))
    steps = [
        *_die_with_parent(),
        *_own_signals(),
        # The container's processes see it from its birth on: they must not look into memory that
        # is still the launcher's, nor into its descriptors (CVE-2016-9962).
        Step("prctl", (abi.PR_SET_DUMPABLE, 0, 0, 0, 0), "keep the container from looking in"),
        *(Step("write", (fd, "0", 1), "join a version 1 cgroup") for fd in tasks_fds),
        *_standard_streams(spec.stdio),
    ]
    if inside:
        # One call: the kernel checks all of them before it changes any.
        steps.append(Step("setns", (pidfd, inside), "enter the container's namespaces"))
    steps.append(Step("close_range", (3, 0xFFFFFFFF, 0), "close all other descriptors"))
    if not isinstance(spec.root, OverlayRoot):
        steps += lower_mounts.chroot(spec.root)
    steps += _working_directory(spec.working_directory, slots, make=False)
    steps += _give_up(spec, features)
    isolated = len(steps) - 1
    return Plan(0, (*steps, *_execute(spec)), isolated)


def _give_up(spec: ContainerSpec, features: Features) -> list[Step]:
    """Leave the caller's session and privileges.

    Last of the set-up: what comes before needs the privileges that this gives up.
    """
    steps = []
    if spec.new_session:
        steps.append(Step("setsid", (), "leave the caller's session and terminal"))
    steps += _identity(
        spec.user, spec.capabilities, spec.no_new_privileges,
        isinstance(spec.root, OverlayRoot), features,
    )  # fmt: skip
    return steps


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
    default = PackedBytes(abi.kernel_sigaction.pack(abi.SIG_DFL, 0, 0, 0), "{SIG_DFL}")
    return [
        Step("rt_sigaction", (number, default, None, abi.SIGNAL_SET_BYTES), f"reset {name}")
        for number, name in _OFTEN_IGNORED.items()
    ]


def _join_cgroups(spec: ContainerSpec, tasks_fds: tuple[int, ...]) -> list[Step]:
    steps = [Step("write", (fd, "0", 1), "join a version 1 cgroup") for fd in tasks_fds]
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


def _loopback(slots: Iterator[int]) -> list[Step]:
    socket = next(slots)
    up = PackedBytes(abi.ifreq_flags.pack(b"lo", abi.IFF_UP), '{"lo", IFF_UP}')
    kind = abi.SOCK_DGRAM | abi.SOCK_CLOEXEC
    return [
        Step("socket", (abi.AF_INET, kind, 0), "bring loopback up", (), socket),
        Step("ioctl", (ResultSlot(socket), abi.SIOCSIFFLAGS, up), "bring loopback up"),
    ]


def _set_hostname(hostname: str) -> Step:
    return Step("sethostname", (hostname, len(os.fsencode(hostname))), f"set hostname {hostname}")


def _working_directory(path: str, slots: Iterator[int], *, make: bool) -> list[Step]:
    slot, label = next(slots), f"enter working directory {path}"
    return [
        *lower_mounts.reach(path, slot, label, make="folder" if make else "nothing"),
        Step("fchdir", (ResultSlot(slot),), label),
    ]


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
        packed = PackedBytes(struct.pack(f"@{len(gids)}I", *gids), str(list(gids)))
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
    empty = PackedBytes(bytes(abi.SIGNAL_SET_BYTES), "[]")
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
