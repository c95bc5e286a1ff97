"""From a workload to a peer's command line and OCI configuration: pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.backends.peers.table import WORKLOAD, Peer

if TYPE_CHECKING:
    import runtime

CGROUP_PARENT = "steelyard"
"""As for containers of the runtime, so that what a dead run left is found below it."""
_CPU_PERIOD_US = 100_000


@dataclass(frozen=True, slots=True)
class Start:
    """One instance to be started; what a command line is made from.

    Attributes:
        identifier: The instance's name on this host: `<session>-<name>`.
        directory: The instance's folder, and its bundle.
        state: Where the tool keeps its own state.
        network: Path of the network namespace to join; None is a new one without interfaces.
        image: What an engine calls the image.
        info_fd: Descriptor on which bwrap reports the pid of the box's first process.
        hidden: Paths in the box; so are `read_only`.
    """

    program: str
    identifier: str
    directory: str
    state: str
    spec: runtime.ContainerSpec
    network: str | None = None
    image: str = ""
    info_fd: int = 3
    hidden: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()

    @property
    def rootfs(self) -> str:
        """The merged tree."""
        return f"{self.directory}/rootfs"

    @property
    def pid_file(self) -> str:
        """Where the tool writes the pid of the box's first process."""
        return f"{self.directory}/pid"

    @property
    def cgroup(self) -> str:
        """Path of the instance's control group in every hierarchy."""
        return f"/{CGROUP_PARENT}/{self.identifier}"


def run_argv(peer: Peer, start: Start) -> list[str]:
    """The command line that starts the box."""
    workload = _engine_workload if peer.is_engine else _bwrap_workload
    argv: list[str] = []
    for word in peer.run:
        argv += workload(start) if word is WORKLOAD else filled((word,), start)
    return argv


def filled(words: tuple[str, ...], start: Start) -> list[str]:
    """A command line of the table without a workload."""
    return [str(getattr(start, word[1:-1])) if word[0] == "{" else word for word in words]


def _bwrap_workload(start: Start) -> Iterator[str]:
    spec = start.spec
    if start.network is None:
        yield "--unshare-net"
    yield from ("--hostname", spec.hostname, "--chdir", spec.working_directory)
    yield from ("--tmpfs", "/dev/shm")  # noqa: S108 - a path in the box
    if spec.read_only_root:
        yield from ("--remount-ro", "/")
    yield from ("--cap-drop", "ALL")
    for capability in spec.capabilities:
        yield from ("--cap-add", capability)
    yield "--clearenv"
    for name, value in spec.environment.items():
        yield from ("--setenv", name, value)
    yield "--"
    yield from spec.command


def _engine_workload(start: Start) -> Iterator[str]:
    spec, limits = start.spec, start.spec.limits
    # docker gets none: it joins no namespace.
    yield from ("--network", "none" if start.network is None else f"ns:{start.network}")
    yield from ("--hostname", spec.hostname, "--workdir", spec.working_directory)
    yield from ("--user", f"{spec.user.uid}:{spec.user.gid}")
    for group in spec.user.additional_gids:
        yield from ("--group-add", str(group))
    if limits.memory_bytes is not None:
        yield from ("--memory", f"{limits.memory_bytes}b")
    if limits.cpus is not None:
        yield from ("--cpus", f"{limits.cpus:g}")
    if limits.pids is not None:
        yield from ("--pids-limit", str(limits.pids))
    if spec.read_only_root:
        yield "--read-only"
    for name, value in spec.environment.items():
        yield from ("--env", f"{name}={value}")
    # The command is complete: an entry point of the image would come before it.
    yield from ("--entrypoint", "", start.image, *spec.command)


_MOUNTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("proc", "/proc", ("nosuid", "noexec", "nodev")),
    ("sysfs", "/sys", ("nosuid", "noexec", "nodev", "ro")),
    ("tmpfs", "/dev", ("nosuid", "noexec", "mode=755", "size=64k")),
    ("devpts", "/dev/pts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620",
                            "gid=5")),
    ("tmpfs", "/dev/shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=64m")),  # noqa: S108
    ("mqueue", "/dev/mqueue", ("nosuid", "noexec", "nodev")),
)  # fmt: skip
"""The same as a container of the runtime has (runtime/launch/lower.py)."""


def oci_config(start: Start) -> dict[str, Any]:
    """The bundle's config.json (OCI runtime specification), with the container arm's hardening."""
    spec = start.spec
    capabilities = list(spec.capabilities)
    network = {"type": "network"} | ({"path": start.network} if start.network else {})
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": spec.user.uid, "gid": spec.user.gid,
                     "additionalGids": list(spec.user.additional_gids)},
            "args": list(spec.command),
            "env": [f"{name}={value}" for name, value in spec.environment.items()],
            "cwd": spec.working_directory,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "noNewPrivileges": spec.no_new_privileges,
        },
        "root": {"path": start.rootfs, "readonly": spec.read_only_root},
        "hostname": spec.hostname,
        "mounts": [
            {"destination": target, "type": kind, "source": kind, "options": list(options)}
            for kind, target, options in _MOUNTS
        ],
        "linux": {
            "cgroupsPath": start.cgroup,
            "resources": _resources(spec),
            "namespaces": [
                {"type": "pid"}, network, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"},
            ],
            "maskedPaths": list(start.hidden),
            "readonlyPaths": list(start.read_only),
        },
    }  # fmt: skip


def _resources(spec: runtime.ContainerSpec) -> dict[str, Any]:
    limits = spec.limits
    resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    if limits.memory_bytes is not None:
        resources["memory"] = {"limit": limits.memory_bytes}
    if limits.cpus is not None:
        quota_us = round(limits.cpus * _CPU_PERIOD_US)
        resources["cpu"] = {"quota": quota_us, "period": _CPU_PERIOD_US}
    if limits.pids is not None:
        resources["pids"] = {"limit": limits.pids}
    return resources
