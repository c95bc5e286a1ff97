"""The backend `process`: the image's rootfs by chroot, no namespaces, no limits: the floor.

The same launch loop as a container's, with almost nothing in it, so that the difference between the
two arms is the isolation and not the tool. The rootfs is a private copy, since a chrooted workload
would write into the layers themselves. All trials of an arm in a run share it, so that a trial sees
what those before it wrote; the first one never does: the copy is kept with the image for the next
run, and made anew if anything in it was changed (`ImageStore.private_copy`). No two arms and no two
runs have the same copy at a time.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import runtime
from harness.backends import preparation
from harness.backends.container import LaunchedArm, Place
from harness.meters.disk import measure
from harness.model import Arm, DiskPart, Scenario, Sharing
from harness.model.backend import Availability, PreparedArm, Progress
from harness.model.errors import PrepareError
from harness.model.network import Network
from runtime.linux.features import probe_features

_DEVICES = {"null": (1, 3), "zero": (1, 5), "random": (1, 8), "urandom": (1, 9)}


class _ProcessArm(LaunchedArm):
    @property
    def rootfs(self) -> Path:
        assert isinstance(self.template.root, runtime.DirectoryRoot)
        return Path(self.template.root.path)

    def find_place(self) -> Place:
        if self.lab is None:
            return Place(runtime.NetworkSpec("host"))
        # No namespace of its own: it runs in the lab's, next to the prober.
        network = runtime.NetworkSpec("join", self.lab.namespace_fd)
        return Place(network, self.lab.gateway)

    def disk_parts(self) -> tuple[DiskPart, ...]:
        return (measure(self.rootfs, "rootfs copy", Sharing.SHARED),)

    def initial_disk_parts(self) -> tuple[DiskPart, ...]:
        """Nothing: what it writes goes into the copy that all share."""
        return ()

    def image_paths(self) -> tuple[Path, ...]:
        return (self.rootfs,)


class ProcessBackend:
    """A plain process of the host with another root folder."""

    name = "process"
    options: Mapping[str, str] = MappingProxyType({})

    def check_options(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """It has none: what could be set is the isolation that it does not have."""
        return preparation.unknown_options(self, options)

    def availability(self) -> Availability:
        """chroot(2) needs CAP_SYS_CHROOT; a new process that may do it can also make devices."""
        if not probe_features().effective_capabilities >> 18 & 1:
            return Availability(False, "this user may not chroot", "run as root")
        return Availability(True, f"chroot, {runtime.default_launcher()} launcher")

    def prepare(
        self, scenario: Scenario, arm: Arm, lab: Network | None, progress: Progress
    ) -> PreparedArm:
        """See `harness.model.backend.Backend.prepare`."""
        del arm
        preparation.require_usable(self.name, self.availability())
        if runtime.default_launcher() != "native":
            preparation.refuse_command(self.name, scenario, "the native launcher is not built")
        image, store = preparation.prepare_image(scenario, progress)
        with ExitStack() as stack:
            copy = store.private_copy(image, _make_devices, lambda: progress("copying the rootfs"))
            try:
                rootfs = stack.enter_context(copy)
            except (OSError, runtime.ContainerError) as error:
                raise PrepareError(f"cannot copy image {image.reference}: {error}") from error
            prepared = self._arm(scenario, lab, image, store, rootfs)
            prepared.listen()
            prepared.hold.push(stack.pop_all())
        return prepared

    def _arm(
        self,
        scenario: Scenario,
        lab: Network | None,
        image: runtime.Image,
        store: runtime.ImageStore,
        rootfs: Path,
    ) -> _ProcessArm:
        template = replace(
            preparation.image_spec(scenario, image, store, directory_root=os.fspath(rootfs)),
            namespaces=frozenset(),
            limits=runtime.ResourceLimits(),
        )
        prepared = _ProcessArm(lab, image, template)
        prepared.facts = MappingProxyType(
            {
                "image": image.digest,
                "launcher": runtime.default_launcher(),
                "plan_sha256": runtime.plan_container(template).sha256(),
            }
        )
        prepared.diagnostics = preparation.without_limits(scenario, "a plain process has no limits")
        return prepared


def _make_devices(rootfs: Path) -> None:
    """What programs take for granted; a container gets these from its launch plan."""
    folder = rootfs / "dev"
    folder.mkdir(exist_ok=True)
    for name, (major, minor) in _DEVICES.items():
        path = folder / name
        if not path.exists():
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
            path.chmod(0o666)
