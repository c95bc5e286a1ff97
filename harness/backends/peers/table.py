"""The peers as data: their command lines, and how each differs from the others.

In a command line, `{…}` is a field of `Start`; `…` alone marks where the options that depend on the
workload go (`argv.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

_PATH_OPTION = "the program to run instead of the one on PATH: an absolute path"


@dataclass(frozen=True, slots=True)
class Peer:
    """One tool.

    Attributes:
        name: Of the backend, and of the program.
        run: Starts the box in the foreground.
        kill: Ends it by force; empty: SIGKILL to the box's first process does.
        execute: Runs a command in a living box, with the workload's user and variables; its words
            follow. Empty: the tool has none for that.
        delete: Takes away what is left of it; always run by an engine, by the others only after
            they were killed.
        is_engine: It has storage of its own: gets the image once, and mounts it itself.
        has_bundle: It reads an OCI bundle.
        has_limits: It can limit memory, CPU time and processes.
        can_switch_user: It can run a workload as another user than root.
        refuses_hybrid: It does not work where cgroup v1 and v2 are mounted side by side.
        workload_is_child: The box's first process is the tool's own, the workload its child.
        relays_output: What the workload prints passes through the tool, and may come after its end.
        is_seen: It says which process of this host is the box's first.
        joins_network: It can be given a network namespace, or inherits it.
    """

    name: str
    run: tuple[str, ...]
    kill: tuple[str, ...] = ()
    execute: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()
    options: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({"path": _PATH_OPTION})
    )
    package: str = ""
    is_engine: bool = False
    has_bundle: bool = False
    has_limits: bool = True
    can_switch_user: bool = True
    refuses_hybrid: bool = False
    workload_is_child: bool = False
    relays_output: bool = False
    is_seen: bool = True
    joins_network: bool = True


WORKLOAD = "…"
"""Where the options of the workload go."""

_OCI_ROOT = ("{program}", "--root", "{state}")

RUNC = Peer(
    name="runc",
    run=(*_OCI_ROOT, "run", "--bundle", "{directory}", "--pid-file", "{pid_file}", "{identifier}"),
    kill=(*_OCI_ROOT, "kill", "{identifier}", "KILL"),
    execute=(*_OCI_ROOT, "exec", "{identifier}"),
    delete=(*_OCI_ROOT, "delete", "--force", "{identifier}"),
    package="runc",
    has_bundle=True,
    relays_output=True,
)
CRUN = replace(RUNC, name="crun", package="crun", relays_output=False, refuses_hybrid=True)
_BWRAP_RUN = (
    "{program}", "--bind", "{rootfs}", "/", "--proc", "/proc", "--dev", "/dev", "--unshare-pid",
    "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent",
    "--new-session", "--info-fd", "{info_fd}", WORKLOAD,
)  # fmt: skip
_PODMAN_RUN = (
    "{program}", "run", "--name", "{identifier}", "--pull", "never", "--pidfile", "{pid_file}",
    "--cgroup-parent", "{cgroup}", WORKLOAD,
)  # fmt: skip
_DOCKER_RUN = (
    "{program}", "run", "--name", "{identifier}", "--pull", "never", "--label", "steelyard",
    WORKLOAD,
)  # fmt: skip

BWRAP = Peer(
    name="bwrap",
    run=_BWRAP_RUN,
    package="bubblewrap",
    has_limits=False,
    can_switch_user=False,
    workload_is_child=True,
)
PODMAN = Peer(
    name="podman",
    run=_PODMAN_RUN,
    kill=("{program}", "kill", "{identifier}"),
    execute=("{program}", "exec", "{identifier}"),
    delete=("{program}", "rm", "--force", "--time", "0", "--ignore", "{identifier}"),
    options=MappingProxyType(
        {"path": _PATH_OPTION, "runtime": "the OCI runtime that podman calls: crun or runc"}
    ),
    package="podman",
    is_engine=True,
    refuses_hybrid=True,
    relays_output=True,
)
DOCKER = Peer(
    name="docker",
    run=_DOCKER_RUN,
    kill=("{program}", "kill", "{identifier}"),
    execute=("{program}", "exec", "{identifier}"),
    delete=("{program}", "rm", "--force", "{identifier}"),
    package="docker.io, and start its daemon",
    is_engine=True,
    relays_output=True,
    is_seen=False,
    joins_network=False,
)
PEERS: Mapping[str, Peer] = MappingProxyType(
    {peer.name: peer for peer in (RUNC, CRUN, BWRAP, PODMAN, DOCKER)}
)
