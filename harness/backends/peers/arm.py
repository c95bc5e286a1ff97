"""A prepared arm of a peer: launches its instances."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import runtime
from harness.backends.peers.argv import Start, oci_config, run_argv
from harness.backends.peers.command import PeerProcess, Tool, remove_cgroups
from harness.backends.peers.engine import Engine
from harness.backends.peers.events import ProcessEvents, WorkloadWatch
from harness.backends.peers.instance import PeerInstance, writable_parts
from harness.backends.peers.table import Peer
from harness.backends.preparation import join_lab
from harness.meters.disk import measure
from harness.model import DiskPart, ReadinessKind, Scenario, Sharing
from harness.model.diagnostics import Diagnostic
from harness.model.errors import HarnessError, LaunchFailedError
from harness.model.network import Lease, Network
from runtime.linux.features import probe_features
from runtime.linux.files import remove_tree
from runtime.linux.mounts import unmount
from runtime.linux.namespace_thread import NamespaceThread
from runtime.linux.perf_events import ProcessStamps
from runtime.linux.syscalls import enter_network_namespace

INFO_FD = 3
"""The descriptor on which bwrap is asked to report its pids."""
NAMES = "NAMES"
"""Stands for what differs between instances, in the command line that is kept with the records."""


_Place = tuple[Lease, int]
"""An instance's lease in the lab, and its network namespace."""


@dataclass(eq=False)
class PeerArm:
    """See `harness.model.backend.PreparedArm`.

    Attributes:
        image: What runs, in our store.
        engine: The peer's own storage with the image in it, if it has one.
        stamps: When workloads ended, if the kernel tells.
        hold: What was taken for the arm, to be given back when it is closed.
    """

    peer: Peer
    tool: Tool
    scenario: Scenario
    lab: Network | None
    image: runtime.Image
    spec: runtime.ContainerSpec
    engine: Engine | None
    facts: Mapping[str, str] = field(default_factory=dict)
    diagnostics: tuple[Diagnostic, ...] = ()
    hold: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    stamps: ProcessStamps | None = None

    def __post_init__(self) -> None:
        """Derive what instances ask for."""
        self.unwatched = self.tool.unwatched
        if not self.peer.is_seen:
            self.unwatched = f"the workload is a child of {self.peer.name}'s daemon"
        self.watches = self.unwatched is None
        self.waits_for_exit = self.scenario.readiness.kind is ReadinessKind.EXIT

    def start_of(self, identifier: str, directory: str, network: str | None) -> Start:
        """What an instance of this arm is started with."""
        features = probe_features()
        return Start(
            program=self.tool.program,
            identifier=identifier,
            directory=directory,
            state=self.tool.state,
            spec=self.spec,
            network=network,
            image="" if self.engine is None else self.engine.image,
            info_fd=INFO_FD,
            hidden=(*features.masked_files, *features.masked_directories),
            read_only=features.read_only_paths,
        )

    def launch(self, name: str) -> PeerInstance:
        """See `harness.model.backend.PreparedArm.launch`."""
        # All this is the harness's own, as are a VM's control channels: made before t0.
        with contextlib.ExitStack() as stack:
            output_fd, write_fd = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, output_fd)
            os.set_blocking(output_fd, False)
            events = ProcessEvents() if self.watches else None
            if self.stamps is not None:
                self.stamps.make_room()
            if events is not None:
                stack.callback(events.close)
            try:
                thread = NamespaceThread(self.tool.namespace.enter, name=f"peer {name}")
                stack.callback(thread.close)
                instance = thread.call(
                    lambda: self._launch_here(name, thread, output_fd, write_fd, events)
                )
            except (OSError, runtime.ContainerError) as error:
                raise LaunchFailedError(
                    f"{self.peer.name}: cannot start {name}: {error}"
                ) from error
            finally:
                os.close(write_fd)
            stack.pop_all()
        return instance

    def _launch_here(
        self,
        name: str,
        thread: NamespaceThread,
        output_fd: int,
        write_fd: int,
        events: ProcessEvents | None,
    ) -> PeerInstance:
        """In the instance's thread: everything from t0 on."""
        session = runtime.Session.current()
        null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, null_fd)
            requested_ns = time.monotonic_ns()
            directory = os.fspath(session.new_instance_directory(name))
            file_system_ns = time.monotonic_ns() - requested_ns
            place: _Place | None = None
            identifier = f"{session.identifier}-{name}"
            with contextlib.ExitStack() as half_made:
                half_made.callback(lambda: self._take_away(identifier, directory, place))
                place = None if self.lab is None else join_lab(self.lab)
                # A path by which another process can open what our descriptor is open on.
                network = None if place is None else f"/proc/{os.getpid()}/fd/{place[1]}"
                start = self.start_of(identifier, directory, network)
                file_system_ns += self.make_rootfs(start)
                command = self._run(start, place, null_fd, write_fd)
                half_made.pop_all()
        peer = self.peer
        watch = WorkloadWatch(
            events,
            lambda: _read_pid(start.pid_file, is_json=peer.workload_is_child),
            is_child=peer.workload_is_child,
            stamps=self.stamps,
        )
        instance = PeerInstance(
            self,
            start,
            command,
            watch,
            thread,
            output_fd,
            requested_ns,
            None if place is None else place[0].address,
            lambda: self._take_away(identifier, directory, place),
        )
        if not peer.is_engine:
            instance.file_system_ns = file_system_ns
        session.on_close.add(instance.remove)
        return instance

    def _run(self, start: Start, place: _Place | None, null_fd: int, write_fd: int) -> PeerProcess:
        """Start the peer."""
        info = None
        if self.peer.workload_is_child:
            info = (INFO_FD, start.pid_file)
            if place is not None:
                # The tool inherits this thread's network; the thread is this instance's alone.
                enter_network_namespace(place[1])
        argv = run_argv(self.peer, start)
        return PeerProcess(argv, self.tool.environment, (null_fd, write_fd), info)

    def make_rootfs(self, start: Start) -> int:
        """Mount the overlay and write the bundle, for a peer that does not do so itself.

        Returns:
            What the writable layer and its mount took, in nanoseconds.
        """
        begun_ns = time.monotonic_ns()
        if not self.peer.is_engine:
            lowerdirs = tuple(map(os.fspath, self.image.lowerdirs))
            runtime.mount_rootfs(start.directory, lowerdirs)
        took_ns = time.monotonic_ns() - begun_ns
        if self.peer.has_bundle:
            with open(f"{start.directory}/config.json", "w", encoding="utf-8") as file:
                json.dump(oci_config(start), file)
        return took_ns

    def _take_away(self, identifier: str, directory: str, place: _Place | None) -> None:
        """Remove what we made for an instance; in its thread."""
        if not self.peer.is_engine:
            unmount(f"{directory}/rootfs")
        remove_tree(Path(directory))
        if self.peer.has_limits:
            remove_cgroups(f"/steelyard/{identifier}", self.tool.hierarchies)
        if place is not None and self.lab is not None:
            lease, namespace_fd = place
            with contextlib.suppress(OSError):
                os.close(namespace_fd)
            self.lab.release(lease)

    def disk_parts(self) -> tuple[DiskPart, ...]:
        """The layers, shared by all instances: ours, or an engine's own copy of them."""
        if self.engine is not None:
            return self.engine.image_parts
        return tuple(measure(path, "layer", Sharing.SHARED) for path in self.image.lowerdirs)

    def initial_disk_parts(self) -> tuple[DiskPart, ...]:
        """See `harness.model.backend.PreparedArm.initial_disk_parts`."""
        session = runtime.Session.current()
        name = session.next_name(f"{self.peer.name}-rehearsal")
        directory = os.fspath(session.new_instance_directory(name))
        start = self.start_of(f"{session.identifier}-{name}", directory, None)
        with contextlib.closing(NamespaceThread(self.tool.namespace.enter, name=name)) as thread:
            try:
                if self.engine is not None:
                    return thread.call(lambda: self._engine_rehearsal(start))
                thread.call(lambda: self.make_rootfs(start))
                # From here the merged tree, which is no part of the layer, is not seen.
                return writable_parts(start, None)
            except OSError as error:
                message = f"{self.peer.name}: an instance cannot be made to be measured: {error}"
                raise HarnessError(message) from error
            finally:
                thread.call(lambda: self._take_away(start.identifier, directory, None))

    def _engine_rehearsal(self, start: Start) -> tuple[DiskPart, ...]:
        assert self.engine is not None
        with self.engine.created(start):
            return self.engine.measure(start.identifier)

    def image_paths(self) -> tuple[Path, ...]:
        """See `harness.model.backend.PreparedArm.image_paths`."""
        if self.engine is not None:
            return self.engine.image_paths
        return self.image.lowerdirs

    def close(self) -> None:
        """Give back the mounts, the storage, the lease on the image. Idempotent."""
        self.hold.close()


def _read_pid(path: str, *, is_json: bool) -> int | None:
    """The pid that a tool wrote into a file; None while it has not."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        text = Path(path).read_text()
        return int(json.loads(text)["child-pid"] if is_json else text)
    return None
