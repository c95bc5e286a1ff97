"""The common backend of all peers: from a scenario to a prepared arm."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import runtime
from harness.backends import preparation
from harness.backends.kernel_stamps import kernel_stamps
from harness.backends.peers.argv import oci_config, run_argv
from harness.backends.peers.arm import NAMES, PeerArm
from harness.backends.peers.command import Tool, hierarchies, remove_cgroup_parents
from harness.backends.peers.engine import (
    PRIVATE_MEMORY,
    SHORT_NAME,
    Docker,
    Engine,
    Podman,
    podman_environment,
    saved,
)
from harness.backends.peers.events import why_no_events
from harness.backends.peers.table import BWRAP, CRUN, DOCKER, PEERS, PODMAN, RUNC, Peer
from harness.backends.peers.trying import find_program, try_out, version_of
from harness.model import Arm, Scenario
from harness.model.backend import Availability, PreparedArm, Progress
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import HarnessError, PrepareError
from runtime.linux.cgroup_mounts import find_layout
from runtime.linux.files import remove_tree
from runtime.linux.mounts import MountNamespace, mount_folder, mount_tmpfs
from runtime.linux.namespace_thread import NamespaceThread

if TYPE_CHECKING:
    from harness.model.network import Network

_OCI_RUNTIMES = ("crun", "runc")


class PeerBackend:
    """A backend that runs somebody else's tool. See `harness.model.backend.Backend`."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.name = peer.name
        self.options = peer.options

    def check_options(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """See `harness.model.backend.Backend.check_options`."""
        problems = list(preparation.unknown_options(self, options))
        for name, value in options.items():
            if name not in self.options:
                continue
            if name == "path" and not (isinstance(value, str) and os.path.isabs(value)):
                problems.append(f"path should be an absolute path, is {value!r}")
            elif name == "runtime" and value not in _OCI_RUNTIMES:
                known = " or ".join(_OCI_RUNTIMES)
                problems.append(f"runtime should be {known}, is {value!r}")
        return tuple(problems)

    def availability(self) -> Availability:
        """Run a container with it."""
        return _verdict(self.name, None, None)

    def prepare(
        self, scenario: Scenario, arm: Arm, lab: Network | None, progress: Progress
    ) -> PreparedArm:
        """See `harness.model.backend.Backend.prepare`."""
        peer = self.peer
        if problems := self.check_options(arm.options):
            raise PrepareError(f"arm {arm.name}: {'; '.join(problems)}")
        path, oci_runtime = arm.options.get("path"), arm.options.get("runtime")
        preparation.require_usable(peer.name, _verdict(peer.name, path, oci_runtime))
        if lab is not None and not peer.joins_network:
            raise PrepareError(
                f"{peer.name} cannot be put into the private network, which readiness "
                f"{scenario.readiness.kind} needs: it joins no network namespace that it is given"
            )
        if not peer.execute:
            why = "the tool runs no further command in its boxes"
            preparation.refuse_command(peer.name, scenario, why)
        if peer.is_seen and (unwatched := _unwatched()) is not None:
            why = f"when there is a process in the box cannot be seen: {unwatched}"
            preparation.refuse_inside(peer.name, scenario, why)
        image, store = preparation.prepare_image(scenario, progress)
        spec = preparation.image_spec(scenario, image, store)
        if spec.user.uid != 0 and not peer.can_switch_user:
            raise PrepareError(f"{peer.name} cannot run a workload as user {spec.user.uid}")
        with ExitStack() as hold:
            hold.enter_context(store.lease(image))
            tool = hold.enter_context(tool_for(peer, path, oci_runtime))
            engine = None
            extra: dict[str, str] = {}
            if peer.is_engine:
                progress(f"loading the image into {peer.name}")
                engine = _load(peer, tool, image, store)
                hold.callback(engine.close)
                extra = engine.facts()
            prepared = PeerArm(peer, tool, scenario, lab, image, spec, engine)
            prepared.facts = MappingProxyType(_facts(prepared, oci_runtime) | extra)
            prepared.diagnostics = _diagnostics(prepared)
            if prepared.watches and prepared.waits_for_exit:
                prepared.stamps, found = hold.enter_context(kernel_stamps())
                prepared.diagnostics += found
            prepared.hold = hold.pop_all()
        return prepared


@cache
def _verdict(name: str, path: str | None, oci_runtime: str | None) -> Availability:
    """Tried once in a process: a host does not change its mind between two arms."""
    peer = PEERS[name]
    if find_program(peer, path) is None:
        missing = f"there is no program {path}" if path else f"{name} is not installed"
        return Availability(False, missing, f"install {peer.package}")
    if os.geteuid() != 0:
        return Availability(False, "this user may not mount an overlay for it", "run as root")
    if peer.is_engine and peer.is_seen and _oci_runtime(oci_runtime) is None:
        missing = oci_runtime or " or ".join(_OCI_RUNTIMES)
        return Availability(False, f"it calls {missing}, which is not installed", "install it")
    try:
        with tool_for(peer, path, oci_runtime) as tool:
            return try_out(peer, tool)
    except (OSError, HarnessError) as error:
        return Availability(False, f"it cannot be tried: {error}")


def _oci_runtime(asked: str | None) -> str | None:
    """What podman calls: its own first choice, unless asked otherwise."""
    return next(filter(shutil.which, (asked,) if asked else _OCI_RUNTIMES), None)


@contextmanager
def tool_for(peer: Peer, path: str | None, oci_runtime: str | None) -> Iterator[Tool]:
    """A folder, mounts and variables for a peer to work with; gone at the end.

    Raises:
        OSError: The mounts cannot be made.
    """
    program = find_program(peer, path)
    assert program is not None
    session = runtime.Session.current()
    directory = os.fspath(session.directory / session.next_name(peer.name))
    with ExitStack() as stack:
        os.mkdir(directory, 0o700)
        stack.callback(remove_tree, Path(directory))
        layout = find_layout()
        hidden: tuple[str, ...] = ()
        if peer.refuses_hybrid and layout.name == "hybrid" and layout.unified:
            hidden = (layout.unified,)
        seen = tuple(path for path in hierarchies() if path not in hidden)
        stack.callback(remove_cgroup_parents, seen)
        namespace = MountNamespace(hidden)
        stack.callback(namespace.close)
        environment: Mapping[str, str] = dict(os.environ)
        if peer.is_engine and peer.is_seen:
            called = _oci_runtime(oci_runtime)
            assert called is not None
            environment = podman_environment(directory, called, environment)
        tool = Tool(
            program, MappingProxyType(environment), directory, namespace, _unwatched(), seen
        )
        os.mkdir(tool.state, 0o700)
        with closing(NamespaceThread(namespace.enter, name=f"mounts of {peer.name}")) as thread:
            thread.call(lambda: _furnish(peer, tool))
        yield tool


def _furnish(peer: Peer, tool: Tool) -> None:
    mount_tmpfs(tool.state)
    if peer.is_engine and peer.is_seen:
        mount_tmpfs(PRIVATE_MEMORY)
        os.mkdir(SHORT_NAME)
        mount_folder(tool.directory, SHORT_NAME)


@cache
def _unwatched() -> str | None:
    """Why the kernel does not report other processes to this one; None if it does."""
    return why_no_events()


def _load(peer: Peer, tool: Tool, image: runtime.Image, store: runtime.ImageStore) -> Engine:
    archive = saved(image, store, tool.directory)

    def load() -> Engine:
        if peer.is_seen:
            return Podman(peer, tool, archive)
        return Docker(peer, tool, archive, (image.config_digest, image.digest))

    name = f"loading into {peer.name}"
    try:
        with closing(NamespaceThread(tool.namespace.enter, name=name)) as thread:
            return thread.call(load)
    finally:
        archive.unlink(missing_ok=True)


def _facts(prepared: PeerArm, oci_runtime: str | None) -> dict[str, str]:
    peer, tool = prepared.peer, prepared.tool
    network = None if prepared.lab is None else NAMES
    argv = run_argv(peer, prepared.start_of(NAMES, NAMES, network))
    facts = {
        "image": prepared.image.digest,
        "program": tool.program,
        "version": version_of(tool.program, tool.environment),
        "argv": shlex.join(argv),
        "end_seen_by": "process events" if prepared.watches else f"the end of {peer.name}",
        "cgroups": str(find_layout().name),
    }
    if peer.has_bundle:
        config = json.dumps(oci_config(prepared.start_of(NAMES, NAMES, None)), sort_keys=True)
        facts["config_sha256"] = hashlib.sha256(config.encode()).hexdigest()
    if peer.is_engine and peer.is_seen and (called := _oci_runtime(oci_runtime)):
        path = shutil.which(called)
        assert path is not None
        facts["oci_runtime"] = version_of(path, tool.environment)
    return facts


def _diagnostics(prepared: PeerArm) -> tuple[Diagnostic, ...]:
    peer, found = prepared.peer, list[Diagnostic]()
    if not peer.has_limits:
        found += preparation.without_limits(prepared.scenario, f"{peer.name} sets no limits")
    if not prepared.watches:
        detail = (
            f"when the workload of {peer.name} starts cannot be seen, and its end is that of the "
            f"command: {prepared.unwatched}"
        )
        found.append(Diagnostic(DiagnosticCode.MISSING, detail))
    return tuple(found)


RuncBackend = partial(PeerBackend, RUNC)
CrunBackend = partial(PeerBackend, CRUN)
BwrapBackend = partial(PeerBackend, BWRAP)
PodmanBackend = partial(PeerBackend, PODMAN)
DockerBackend = partial(PeerBackend, DOCKER)
