"""What was asked for: a container as a frozen value, with every name already resolved.

A spec says what, never how: it holds no system call and no order. `runtime.launch.lower` turns it
into a plan. Ids are numbers here: user names are looked up in the image before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH where neither the image nor the user sets one; docker's."""

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_NET_RAW", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT",
    "CAP_KILL", "CAP_AUDIT_WRITE",
)  # fmt: skip
"""Docker's default set without CAP_MKNOD: docker also has a device cgroup, which says no to the
disks of the host; here nothing but this keeps a root workload from making and using such a node."""


class Namespace(StrEnum):
    """A kind of namespace (namespaces(7))."""

    MOUNT = "mount"
    PID = "pid"
    UTS = "uts"
    IPC = "ipc"
    NET = "net"
    CGROUP = "cgroup"


ALL_NAMESPACES = frozenset(Namespace)


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Which network the container sees.

    Attributes:
        kind: `none`: a new namespace with only loopback, up. `host`: the caller's. `join`: the
            namespace behind `namespace_fd`, as it is.
        namespace_fd: For `join`.
    """

    kind: str = "none"
    namespace_fd: int | None = None


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """Limits for all processes of the container together; None is no limit.

    Attributes:
        memory_bytes: memory.max (cgroup v2), memory.limit_in_bytes (v1).
        cpus: CPU time per wall time: cpu.max, cpu.cfs_quota_us.
        pids: Processes and threads: pids.max.
    """

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None

    def __bool__(self) -> bool:
        return not (self.memory_bytes is None and self.cpus is None and self.pids is None)


@dataclass(frozen=True, slots=True)
class Volume:
    """A folder or file of the host that appears in the container (`-v source:target[:ro]`).

    Attributes:
        source: On the host; absolute where a spec is launched.
        target: Absolute, in the container; made if it is missing.
        read_only: Whether the container cannot write to it (mount_setattr(2)).
        is_directory: What `target` is made as; `container_spec` looks at the source.
    """

    source: str
    target: str
    read_only: bool = False
    is_directory: bool = True


@dataclass(frozen=True, slots=True)
class OverlayRoot:
    """A rootfs of read-only layers with one writable layer above (overlayfs, kernel docs).

    Attributes:
        lowerdirs: Absolute paths, topmost first.
        upperdir: The writable layer.
        workdir: Empty folder on the same filesystem as upperdir, for overlay's own use.
        mountpoint: Where it is mounted inside the new mount namespace; nobody else sees it there.
        volatile: Skip the sync on unmount: right for a layer that is thrown away.
    """

    lowerdirs: tuple[str, ...]
    upperdir: str
    workdir: str
    mountpoint: str
    volatile: bool = True


@dataclass(frozen=True, slots=True)
class DirectoryRoot:
    """A folder used as rootfs as it is, entered by chroot(2): no isolation, the floor."""

    path: str


@dataclass(frozen=True, slots=True)
class User:
    """Whom the workload runs as, in numbers."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container, completely.

    Attributes:
        root: The rootfs.
        command: argv; the first word is looked up in the environment's PATH, inside the container.
        environment: All variables; nothing is inherited.
        hostname: Set when the uts namespace is new.
        working_directory: Absolute, inside the container; made if it is missing.
        user: Whom to run as.
        namespaces: Which are new; `net` as `network` says.
        network: See `NetworkSpec`.
        limits: See `ResourceLimits`.
        volumes: In the order in which they are mounted.
        capabilities: Names of the capabilities a root workload keeps, and the bounding set.
        no_new_privileges: Whether execve may not gain privileges (PR_SET_NO_NEW_PRIVS).
        read_only_root: Whether the rootfs is mounted read-only.
        stdio: The host's descriptors that become 0, 1 and 2.
        new_session: Whether the workload loses the controlling terminal (setsid(2)).
    """

    root: OverlayRoot | DirectoryRoot
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    hostname: str = "steelyard"
    working_directory: str = "/"
    user: User = User()
    namespaces: frozenset[Namespace] = ALL_NAMESPACES
    network: NetworkSpec = NetworkSpec()
    limits: ResourceLimits = ResourceLimits()
    volumes: tuple[Volume, ...] = ()
    capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES
    no_new_privileges: bool = True
    read_only_root: bool = False
    stdio: tuple[int, int, int] = (0, 1, 2)
    new_session: bool = True
