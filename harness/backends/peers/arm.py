"""A prepared arm of a peer: launches its instances."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import runtime
from harness.backends.peers.argv import Start, oci_config, run_argv
from harness.backends.peers.command import (
    Command,
    remove_cgroups,
    remove_folder,
)
from harness.backends.peers.events import ProcessEvents, WorkloadWatch
from harness.backends.peers.instance import PeerInstance
from harness.meters.disk import measure
from harness.model import DiskPart, ReadinessKind, Scenario, Sharing
from harness.model.errors import HarnessError, LaunchFailedError
from runtime.linux.features import probe_features
from runtime.linux.mounts import MountNamespace, unmount
from runtime.linux.namespace_thread import NamespaceThread
from runtime.linux.syscalls import enter_network_namespace

if TYPE_CHECKING:
    from harness.backends.peers.engine import Engine
    from harness.backends.peers.table import Peer
    from harness.model.diagnostics import Diagnostic
    from harness.model.network import Lease, Network

INFO_FD = 3
"""The descriptor on which bwrap is asked to tell its pids."""
NAMES = "NAMES"
"""Stands for what differs between instances, in the command line that is kept with the records."""


@dataclass(frozen=True, slots=True)
class Tool:
    """Where and how a peer is run.

    Attributes:
        program: Absolute path.
        environment: All its variables.
        directory: The arm's folder.
        namespace: The mounts that it sees.
        unwatched: Why process events cannot be had; None if they can.
        hierarchies: Mount points of the control group hierarchies that it sees.
    """

    program: str
    environment: Mapping[str, str]
    directory: str
    namespace: MountNamespace
    unwatched: str | None
    hierarchies: tuple[str, ...]

    @property
    def state(self) -> str:
        """Where it keeps its state: in memory, as `/run` is, and gone with the namespace."""
        return f"{self.directory}/state"


@dataclass(frozen=True, slots=True)
class _Place:
    """An instance's place in the lab: its lease, and its network namespace."""

    lease: Lease
    namespace_fd: int


class PeerArm:
    """See `harness.model.backend.PreparedArm`."""

    def __init__(
        self,
        peer: Peer,
        tool: Tool,
        scenario: Scenario,
        lab: Network | None,
        image: runtime.Image,
        spec: runtime.ContainerSpec,
        engine: Engine | None,
    ) -> None:
        """Take over what was prepared.

        Args:
            peer: Which.
            tool: Where it runs.
            scenario: The question.
            lab: The network, if the scenario needs one.
            image: What runs, in our store.
            spec: The workload on it.
            engine: The peer's own storage with the image in it, if it has one.
        """
        self.peer = peer
        self.environment = tool.environment
        self.hierarchies = tool.hierarchies
        self.unwatched = (
            tool.unwatched if peer.is_seen else f"the workload is a child of {peer.name}'s daemon"
        )
        self.watches = self.unwatched is None
        self.waits_for_exit = scenario.readiness.kind is ReadinessKind.EXIT
        self.facts: Mapping[str, str] = {}
        self.diagnostics: tuple[Diagnostic, ...] = ()
        self._tool = tool
        self._lab = lab
        self._image = image
        self._spec = spec
        self._engine = engine
        self._hold = contextlib.ExitStack()

    def start_of(self, identifier: str, directory: str, network: str | None) -> Start:
        """What an instance of this arm is started with."""
        features = probe_features()
        return Start(
            program=self._tool.program,
            identifier=identifier,
            directory=directory,
            state=self._tool.state,
            spec=self._spec,
            network=network,
            image="" if self._engine is None else self._engine.image,
            info_fd=INFO_FD,
            hidden=(*features.masked_files, *features.masked_directories),
            read_only=features.read_only_paths,
        )

    def argv_for_records(self) -> list[str]:
        """The command line of an instance, with `NAMES` for what is the instance's own."""
        network = None if self._lab is None else NAMES
        return run_argv(self.peer, self.start_of(NAMES, NAMES, network))

    def launch(self, name: str) -> PeerInstance:
        """See `harness.model.backend.PreparedArm.launch`."""
        # All this is the harness's own, as are a VM's control channels: made before t0.
        with contextlib.ExitStack() as stack:
            output_fd, write_fd = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, output_fd)
            os.set_blocking(output_fd, False)
            events = ProcessEvents() if self.watches else None
            if events is not None:
                stack.callback(events.close)
            try:
                thread = NamespaceThread(self._tool.namespace.enter, name=f"peer {name}")
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
            place: _Place | None = None
            identifier = f"{session.identifier}-{name}"
            with contextlib.ExitStack() as half_made:
                half_made.callback(lambda: self._take_away(identifier, directory, place))
                place = self._find_place()
                network = None if place is None else _path_of(place.namespace_fd)
                start = self.start_of(identifier, directory, network)
                command = self._run(start, place, null_fd, write_fd)
                half_made.pop_all()
        peer = self.peer
        watch = WorkloadWatch(
            events,
            lambda: _read_pid(start.pid_file, is_json=peer.workload_is_child),
            is_child=peer.workload_is_child,
        )
        instance = PeerInstance(
            self,
            start,
            command,
            watch,
            thread,
            output_fd,
            requested_ns,
            None if place is None else place.lease.address,
            lambda: self._take_away(identifier, directory, place),
        )
        session.on_close.add(instance.remove)
        return instance

    def forget(self, instance: PeerInstance) -> None:
        """An instance has been removed."""
        runtime.Session.current().on_close.discard(instance.remove)

    def _run(self, start: Start, place: _Place | None, null_fd: int, write_fd: int) -> Command:
        """Make what the peer needs of us, and start it."""
        self.make_rootfs(start)
        info = None
        if self.peer.workload_is_child:
            info = (INFO_FD, start.pid_file)
            if place is not None:
                # The tool inherits this thread's network; the thread is this instance's alone.
                enter_network_namespace(place.namespace_fd)
        return Command(run_argv(self.peer, start), self.environment, (null_fd, write_fd), info)

    def make_rootfs(self, start: Start) -> None:
        """Mount the overlay and write the bundle, for a peer that does not do so itself."""
        if not self.peer.is_engine:
            lowerdirs = tuple(map(os.fspath, self._image.lowerdirs))
            runtime.mount_rootfs(start.directory, lowerdirs)
        if self.peer.has_bundle:
            with open(f"{start.directory}/config.json", "w", encoding="utf-8") as file:
                json.dump(oci_config(start), file)

    def _find_place(self) -> _Place | None:
        if self._lab is None:
            return None
        lease = self._lab.lease()
        try:
            return _Place(lease, self._lab.attach_container(lease))
        except BaseException:
            self._lab.release(lease)
            raise

    def _take_away(self, identifier: str, directory: str, place: _Place | None) -> None:
        """Remove what we made for an instance; in its thread."""
        if not self.peer.is_engine:
            unmount(f"{directory}/rootfs")
        remove_folder(directory)
        if self.peer.has_limits:
            remove_cgroups(f"/steelyard/{identifier}", self.hierarchies)
        if place is not None and self._lab is not None:
            with contextlib.suppress(OSError):
                os.close(place.namespace_fd)
            self._lab.release(place.lease)

    def disk_parts(self) -> tuple[DiskPart, ...]:
        """The layers, shared by all instances: ours, or an engine's own copy of them."""
        if self._engine is not None:
            return self._engine.image_parts
        return tuple(measure(path, "layer", Sharing.SHARED) for path in self._image.lowerdirs)

    def initial_disk_parts(self) -> tuple[DiskPart, ...]:
        """See `harness.model.backend.PreparedArm.initial_disk_parts`."""
        session = runtime.Session.current()
        name = session.next_name(f"{self.peer.name}-rehearsal")
        thread = NamespaceThread(self._tool.namespace.enter, name=name)
        directory = os.fspath(session.new_instance_directory(name))
        identifier = f"{session.identifier}-{name}"
        start = self.start_of(identifier, directory, None)
        try:
            if self._engine is not None:
                return thread.call(lambda: self._engine_rehearsal(start))
            thread.call(lambda: self.make_rootfs(start))
            return self.measure_instance(start)
        except OSError as error:
            message = f"{self.peer.name}: an instance cannot be made to be measured: {error}"
            raise HarnessError(message) from error
        finally:
            thread.call(lambda: self._take_away(identifier, directory, None))
            thread.close()

    def _engine_rehearsal(self, start: Start) -> tuple[DiskPart, ...]:
        assert self._engine is not None
        with self._engine.created(start):
            return self._engine.measure(start.identifier)

    def first_pid(self, start: Start) -> int | None:
        """The first process of a running box, asked of the engine."""
        return None if self._engine is None else self._engine.first_pid(start.identifier)

    def failure(self, start: Start) -> str | None:
        """Why a box never started, asked of the engine; None if it did, or nobody knows."""
        return None if self._engine is None else self._engine.failure(start.identifier)

    def measure_instance(self, start: Start) -> tuple[DiskPart, ...]:
        """What one instance owns on disk now."""
        own = measure(start.directory, "writable layer", Sharing.EXCLUSIVE)
        if self._engine is None:
            return (own,)
        return self._engine.measure(start.identifier)

    def image_paths(self) -> tuple[Path, ...]:
        """See `harness.model.backend.PreparedArm.image_paths`."""
        if self._engine is not None:
            return self._engine.image_paths
        return self._image.lowerdirs

    def keep(self, hold: contextlib.ExitStack) -> None:
        """Take over what was taken for the arm, to be given back when it is closed."""
        self._hold = hold

    def close(self) -> None:
        """Give back the mounts, the storage, the lease on the image. Idempotent."""
        self._hold.close()


def _path_of(fd: int) -> str:
    """A path by which another process can open what one of our descriptors is open on."""
    return f"/proc/{os.getpid()}/fd/{fd}"


def _read_pid(path: str, *, is_json: bool) -> int | None:
    """The pid that a tool wrote into a file; None while it has not."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        text = Path(path).read_text()
        return int(json.loads(text)["child-pid"] if is_json else text)
    return None
