"""What is on the host, so that a test can see what it left behind.

Other programs use this machine meanwhile, other Steelyards among them: what carries the name of a
session that these tests did not make is not looked at.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.backends.peers.command import hierarchies
from runtime.containers.session import Session

_SETTLE_S = 3.0
_OURS = re.compile(r"steelyard\d|sy\d")
"""Names of the lab's bridge, veths and taps; engines that tests start make others here."""
_NAMELESS = re.compile(r"(socket|pipe):\[\d+\]$")


@dataclass(frozen=True)
class HostState:
    """Everything that a box can leave behind, as sets of lines for people."""

    mounts: frozenset[str]
    cgroups: frozenset[str]
    interfaces: frozenset[str]
    namespaces: frozenset[str]
    processes: frozenset[str]
    folders: frozenset[str]
    descriptors: frozenset[str]

    @classmethod
    def now(cls) -> Self:
        return cls(
            mounts=_mounts(),
            cgroups=_cgroups(),
            interfaces=frozenset(filter(_OURS.match, os.listdir("/sys/class/net"))),
            namespaces=_own_network_namespaces(),
            processes=_children(),
            folders=_instance_folders(),
            descriptors=_descriptors(),
        )

    @classmethod
    def settled(cls, before: HostState) -> Self:
        """The state once nothing is left any more, or after a few seconds: the kernel and zombies
        may need a moment."""
        deadline = time.monotonic() + _SETTLE_S
        while True:
            after = cls.now()
            if not after.not_in(before) or time.monotonic() > deadline:
                return after
            time.sleep(0.02)

    def not_in(self, before: HostState) -> list[str]:
        """What is here and was not before."""
        return [
            f"{kind}: {item}"
            for kind in self.__dataclass_fields__
            for item in sorted(getattr(self, kind) - getattr(before, kind))
        ]


def own_sessions() -> frozenset[str]:
    """Sessions of this process, and of those that it started with its data home."""
    instances = Path(os.environ["STEELYARD_HOME"]) / "instances"
    names = {path.name.lstrip(".") for path in instances.glob("*")}
    return frozenset({Session.current().identifier, *names})


def traces_of(session: str) -> list[str]:
    """Everything on this host that carries a session's name, once nothing does or after a while."""
    deadline = time.monotonic() + _SETTLE_S
    while (found := _traces_now(session)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def _traces_now(session: str) -> list[str]:
    found = [str(path) for path in Path(os.environ["STEELYARD_HOME"], "instances").glob(session)]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [line for line in mounts if session in line]
    for mount in hierarchies():
        for folder, _, _ in os.walk(f"{mount}/steelyard"):
            found += [folder] if session in folder else []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "stat").read_text().rpartition(") ")[2].startswith("Z"):
                continue  # dead already
            if session.encode() in (process / "cmdline").read_bytes():
                found.append(f"{process.name} {(process / 'comm').read_text()}")
            elif session in (process / "cgroup").read_text():
                found.append(f"{process.name} in a cgroup")
        except OSError:
            continue
    return found


def _mounts() -> frozenset[str]:
    own = {os.environ["STEELYARD_HOME"], *own_sessions()}
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return frozenset(line.split(" ", 4)[4] for line in lines if any(name in line for name in own))


def _cgroups() -> frozenset[str]:
    root = Path("/sys/fs/cgroup")
    own = own_sessions()
    return frozenset(
        str(path)
        for folder in (root, *root.iterdir())
        for place in (folder / "steelyard", *folder.glob("*/steelyard"))
        for path in place.glob("*/")
        if path.name.split("-")[0] in own
    )


def _own_network_namespaces() -> frozenset[str]:
    """Those that a thread of this process is in, or that it holds open."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.add(os.readlink(task / "ns/net"))
        except FileNotFoundError:
            continue
    return frozenset(found)


def _children() -> frozenset[str]:
    """Every process below this one."""
    parents: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            status = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if os.getpid() == 1 and status.rpartition(") ")[2].startswith("Z"):
            continue  # in a container without an init: an orphan, whose end nobody takes note of
        name = status[status.index("(") : status.rindex(")") + 1]
        pid, parent = int(entry.name), int(status.rsplit(") ", 1)[1].split()[1])
        parents.setdefault(parent, []).append(pid)
        names[pid] = f"{pid} {name}"
    pending, found = [os.getpid()], set()
    while pending:
        for child in parents.get(pending.pop(), []):
            found.add(names[child])
            pending.append(child)
    return frozenset(found)


def _instance_folders() -> frozenset[str]:
    """What lies below the folders of sessions and their places, but for their locks."""
    instances = Path(os.environ["STEELYARD_HOME"]) / "instances"
    found = [path for path in instances.glob("*/*") if not path.name.startswith(".")]
    return frozenset(map(str, (*found, *instances.glob("*/.[0-9]*/*"))))


def _descriptors() -> frozenset[str]:
    """Open file descriptors of this process, but for those that the interpreter opens by itself.

    What has no name (sockets, pipes) is told by its count: a lab that lives on keeps a spare socket
    and makes a new one for each that was used.
    """
    found = set()
    nameless: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        if match := _NAMELESS.match(target):
            nameless[match[1]] += 1
            found.add(f"{nameless[match[1]]} x {match[1]}")
        elif not target.startswith(("/proc/", "anon_inode:[eventpoll]")):
            found.add(f"{entry.name} -> {target}")
    return frozenset(found)
