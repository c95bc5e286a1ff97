"""The backend `container`: Steelyard's own runtime, through its public interface alone."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import runtime
from harness.backends import preparation
from harness.backends.child_command import ChildCommand
from harness.backends.kernel_stamps import LOST_END, kernel_stamps
from harness.backends.stream_instance import StreamInstance
from harness.meters.disk import measure
from harness.model import Arm, DiskPart, Meter, Milestone, Reading, Scenario, Sharing
from harness.model.backend import (
    Accounting,
    Availability,
    Exit,
    InsideCommand,
    Instance,
    PreparedArm,
    Progress,
)
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import LaunchFailedError, PrepareError
from harness.model.network import Lease, Network
from runtime.linux.cgroup_mounts import find_layout
from runtime.linux.features import probe_features
from runtime.linux.perf_events import ProcessStamps


def _writable_layer(directory: str | None) -> tuple[DiskPart, ...]:
    if directory is None:
        return ()
    return (measure(directory, "writable layer", Sharing.EXCLUSIVE),)


class ContainerInstance(StreamInstance):
    """One container of the runtime, driven by the descriptors it has: its output and its pidfd.

    `started` and the end of the workload are the kernel's stamps where `stamps` has them, else when
    this process woke up. The kernel's are looked up outside the measured time.

    Implements `harness.model.backend.Instance`.
    """

    def __init__(
        self,
        container: runtime.Container,
        output_fd: int,
        requested_ns: int,
        place: Place,
        lab: Network | None,
        stamps: ProcessStamps | None,
    ) -> None:
        launched = container.launched
        milestones_ns = {
            Milestone.REQUESTED: requested_ns,
            Milestone.ISOLATED: launched.isolated_ns,
            Milestone.STARTED: launched.started_ns,
        }
        super().__init__(output_fd, milestones_ns, place.address)
        if container.cgroup is None:
            self.diagnostics.append(Diagnostic(DiagnosticCode.NO_CGROUP))
        self._container = container
        self._place = place
        self._lab = lab
        self._stamps = stamps
        self._entrance: runtime.Entrance | None = None

    @property
    def box_pid(self) -> int | None:
        """The workload's first process, until it has ended."""
        return None if self.exit is not None else self._container.pid

    def _register(self, poll: select.poll) -> None:
        if self.exit is None:
            poll.register(self._container.pidfd, select.POLLIN)

    def _take(self, ready: set[int], now: int) -> None:
        if self.exit is None and self._container.pidfd in ready:
            status = self._container.wait()
            assert status is not None
            self._end(Exit(status.code, status.signal, self._ended_ns(now)), now)

    def _look_up_start(self) -> None:
        """Replace the launcher's stamp of the exec, once, by the kernel's."""
        stamps, self._stamps = self._stamps, None
        if stamps is None:
            return
        launched = self._container.launched
        started_ns = stamps.executed_ns(launched.pid, launched.isolated_ns)
        if started_ns is None:
            detail = "the kernel's stamp of the workload's exec was lost: the launcher's stands"
            self.diagnostics.append(Diagnostic(DiagnosticCode.LATE_STAMPS, detail))
        else:
            self.milestones_ns[Milestone.STARTED] = started_ns

    def _ended_ns(self, now: int) -> int:
        """When the workload began to end, by the kernel; `now` where that is not known."""
        stamps = self._stamps
        self._look_up_start()
        if stamps is None:
            return now
        started_ns = self.milestones_ns[Milestone.STARTED]
        ended_ns = stamps.ended_ns(self._container.pid, started_ns)
        if ended_ns is None:
            self.diagnostics.append(Diagnostic(DiagnosticCode.LATE_STAMPS, LOST_END))
            return now
        return ended_ns

    def run_inside(self, command: tuple[str, ...]) -> InsideCommand | None:
        """See `harness.model.backend.Instance.run_inside`; needs the native launcher."""
        try:
            entrance = self._entrance = self._entrance or runtime.Entrance(self._container)
            return ChildCommand(lambda stdio: entrance.start(command, stdio).pidfd)
        except runtime.ContainerError as error:
            raise LaunchFailedError(str(error)) from error

    def _leave(self) -> None:
        if self._entrance is not None:
            self._entrance.close()
            self._entrance = None

    def disk_parts(self) -> tuple[DiskPart, ...]:
        """The writable layer with all that overlay needs beside it, if there is one."""
        return _writable_layer(self._container.directory)

    def accounting(self) -> Accounting:
        """The workload's processes, and the control groups that only they are in."""
        self._look_up_start()
        if Milestone.READY in self.milestones_ns:
            self._leave()  # it would keep a thread for each instance that lives
        container = self._container
        ended = container.exit_status
        return Accounting(
            pids=container.processes(),
            scope="workload",
            cgroups={} if container.cgroup is None else container.cgroup.accounting_folders(),
            ended_cpu_ns=(0, 0) if ended is None else (ended.user_ns, ended.system_ns),
            readings=self._file_system(),
            owned=() if container.directory is None else (container.directory,),
        )

    def _file_system(self) -> tuple[Reading, ...]:
        if self._container.directory is None:
            return ()
        spent_ns = self._container.layer_ns + self._container.overlay_mount_ns
        return (Reading(Meter.FILE_SYSTEM_NS, spent_ns, "writable layer"),)

    def stop(self, timeout_ns: int) -> None:
        """SIGKILL to the whole pid namespace: nothing of a measured box needs to end in order."""
        del timeout_ns  # the kernel does not keep us waiting
        if Milestone.STOPPED in self.milestones_ns:
            return
        self._look_up_start()
        self._leave()
        status = self._container.kill()
        now = time.monotonic_ns()
        self.milestones_ns[Milestone.STOPPED] = now
        if self.exit is None:
            self._end(Exit(status.code, status.signal, status.at_ns), now)

    def remove(self) -> None:
        """Writable layer, cgroup and network gone."""
        if Milestone.REMOVED in self.milestones_ns:
            return
        self._container.remove()
        self._close_output()
        if self._place.lease is not None and self._lab is not None:
            self._lab.release(self._place.lease)
        self.milestones_ns[Milestone.REMOVED] = time.monotonic_ns()


@dataclass(frozen=True, slots=True)
class Place:
    """One instance's place in the network.

    Attributes:
        address: Where the instance can be reached, if anywhere.
        lease: What is given back to the lab when it is removed.
        namespace_fd: Closed as soon as the instance has joined.
    """

    network: runtime.NetworkSpec
    address: str | None = None
    lease: Lease | None = None
    namespace_fd: int | None = None


@dataclass(eq=False)
class LaunchedArm:
    """What the arms `container` and `process` have in common: spec in, instance out.

    Nothing of a launch is kept here: several threads may be launching at once.
    """

    lab: Network | None
    image: runtime.Image
    template: runtime.ContainerSpec
    facts: Mapping[str, str] = field(default_factory=dict)
    diagnostics: tuple[Diagnostic, ...] = ()
    stamps: ProcessStamps | None = None
    hold: ExitStack = field(default_factory=ExitStack)
    """What was taken for the arm, given back when it is closed."""

    def listen(self) -> None:
        """Have instances stamped by the kernel where it can; a diagnostic where it cannot."""
        self.stamps, found = self.hold.enter_context(kernel_stamps())
        self.diagnostics += found

    def launch(self, name: str) -> Instance:
        """See `harness.model.backend.PreparedArm.launch`."""
        # The pipe is the harness's own, as a VM's control channels are: made before t0.
        output_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(output_fd, False)
        null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        if self.stamps is not None:
            self.stamps.make_room()
        place: Place | None = None
        requested_ns = time.monotonic_ns()
        try:
            place = self.find_place()
            stdio = (null_fd, write_fd, write_fd)
            spec = replace(self.template, stdio=stdio, network=place.network)
            container = runtime.launch_container(spec, name=name)
        except BaseException as error:
            os.close(output_fd)
            if place is not None and place.lease is not None and self.lab is not None:
                self.lab.release(place.lease)
            if isinstance(error, runtime.ContainerError | OSError):
                raise LaunchFailedError(str(error)) from error
            raise
        finally:
            os.close(write_fd)
            os.close(null_fd)
            if place is not None and place.namespace_fd is not None:
                os.close(place.namespace_fd)
        return ContainerInstance(container, output_fd, requested_ns, place, self.lab, self.stamps)

    def find_place(self) -> Place:
        """The network of the instance that is about to be launched."""
        raise NotImplementedError

    def disk_parts(self) -> tuple[DiskPart, ...]:
        """The image's layers, shared by every container above them."""
        return tuple(measure(path, "layer", Sharing.SHARED) for path in self.image.lowerdirs)

    def initial_disk_parts(self) -> tuple[DiskPart, ...]:
        """See `harness.model.backend.PreparedArm.initial_disk_parts`."""
        raise NotImplementedError

    def image_paths(self) -> tuple[Path, ...]:
        """The unpacked layers: overlay keeps no page of its own, but reads through them."""
        return self.image.lowerdirs

    def close(self) -> None:
        """Give back what was held for the run. Idempotent."""
        self.hold.close()


class _ContainerArm(LaunchedArm):
    def find_place(self) -> Place:
        if self.lab is None:
            return Place(runtime.NetworkSpec())
        lease, namespace_fd = preparation.join_lab(self.lab)
        network = runtime.NetworkSpec("join", namespace_fd)
        return Place(network, lease.address, lease, namespace_fd)

    def initial_disk_parts(self) -> tuple[DiskPart, ...]:
        """The writable layer after every step of a launch but the last, the workload's exec."""
        try:
            return runtime.rehearse_container(self.template, _writable_layer)
        except runtime.ContainerError as error:
            raise PrepareError(f"a container cannot be set up: {error}") from error


class ContainerBackend:
    """Six namespaces, an overlay and a cgroup an instance."""

    name = "container"
    options: Mapping[str, str] = MappingProxyType({})

    def check_options(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """It has none: limits, user and image are the scenario's."""
        return preparation.unknown_options(self, options)

    def availability(self) -> Availability:
        """Launch the smallest container there is and see."""
        found = probe_features()
        if not found.mount_namespaces:
            return Availability(False, "this user may not make namespaces", "run as root")
        if not found.overlay:
            return Availability(
                False, "this kernel has no overlay filesystem", "load the module: modprobe overlay"
            )
        launcher = runtime.default_launcher()
        layout = find_layout().name
        return Availability(True, f"{launcher} launcher, overlay, cgroups: {layout}")

    def prepare(
        self, scenario: Scenario, arm: Arm, lab: Network | None, progress: Progress
    ) -> PreparedArm:
        """See `harness.model.backend.Backend.prepare`."""
        del arm
        preparation.require_usable(self.name, self.availability())
        if runtime.default_launcher() != "native":
            preparation.refuse_command(self.name, scenario, "the native launcher is not built")
        image, store = preparation.prepare_image(scenario, progress)
        prepared = _ContainerArm(lab, image, preparation.image_spec(scenario, image, store))
        prepared.hold.enter_context(store.lease(image))
        plan = runtime.plan_container(prepared.template)
        launcher = runtime.default_launcher()
        prepared.facts = MappingProxyType(
            {
                "image": image.digest,
                # What can be shared with other images, and stops being so when it changes.
                "layers": " ".join(
                    f"{layer.diff_id}={layer.allocated_bytes}" for layer in image.layers
                ),
                "launcher": launcher,
                "cgroups": find_layout().name,
                "plan_sha256": plan.sha256(),
                "plan_steps": str(len(plan.steps)),
            }
        )
        if launcher != "native":
            prepared.diagnostics = (Diagnostic(DiagnosticCode.NO_NATIVE_LAUNCH),)
        prepared.listen()
        return prepared
