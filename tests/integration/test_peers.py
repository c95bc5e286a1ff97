"""Peers as arms: that they run the same workload in the same surroundings, and leave nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from harness.backends import get_backend
from harness.backends.peers import backend as peer_backend
from harness.backends.peers.command import hierarchies
from harness.backends.peers.leftovers import docker_leftovers
from harness.backends.peers.table import PEERS
from harness.lab.readiness import wait_ready
from harness.measure.trial import STOP_PATIENCE_NS, WorksApart
from harness.model import Arm, Limits, Meter, Milestone, Readiness, ReadinessKind, Scenario
from harness.model.backend import PreparedArm
from harness.model.diagnostics import DiagnosticCode
from harness.model.errors import BackendUnavailableError, LaunchFailedError, PrepareError
from runtime.containers.leftovers import find_leftovers
from tests.support.host import traces_of
from tests.support.process_events import missing, need_process_events
from tests.support.scenarios import scenario

ENDED = Readiness(ReadinessKind.EXIT)
WAITING = Readiness(ReadinessKind.OUTPUT, output="^waiting$")
WAITS = ("sh", "-c", "echo waiting; exec sleep 1000")
OCI = ("runc", "crun")
SEEN = (*OCI, "bwrap", "podman")
"""Those whose workload the kernel tells of; docker's is its daemon's child."""
ALL = (*SEEN, "docker")

pytestmark = [
    pytest.mark.privileged, pytest.mark.timeout(180), pytest.mark.usefixtures("docker_daemon")
]  # fmt: skip


def prepare(asked: Scenario) -> PreparedArm:
    return get_backend(asked.arms[0].backend).prepare(asked, asked.arms[0], None, lambda _: None)


def need(name: str) -> None:
    verdict = get_backend(name).availability()
    if not verdict.usable:
        pytest.skip(f"{name}: {verdict.reason}")


def question(
    name: str, *command: str, readiness: Readiness = ENDED, limits: Limits | None = None
) -> Scenario:
    need(name)
    return scenario(Arm(name, name), command=command, readiness=readiness, limits=limits)


def output_of(asked: Scenario) -> str:
    """What the workload prints until it is ready."""
    with closing(prepare(asked)) as prepared:
        instance = prepared.launch("output")
        try:
            wait_ready(instance, asked.readiness, None, time.monotonic_ns() + 20 * 10**9)
            return instance.output.data.decode()
        finally:
            instance.stop(STOP_PATIENCE_NS)
            instance.remove()


LOOK = """
hostname
pwd
echo "$HOME:$PATH:$GREETING"
grep -E '^(CapEff|NoNewPrivs|Uid)' /proc/self/status
ls /sys/class/net
test -w /proc/sys/kernel/hostname && echo can write to /proc/sys
cat /proc/kcore 2>/dev/null | head -c 1 | wc -c
echo mine > /tmp/file && cat /tmp/file
"""


@pytest.mark.usefixtures("nothing_left")
def test_oci_runtimes_put_the_workload_into_the_same_surroundings_as_our_own() -> None:
    def look(name: str) -> str:
        asked = question(name, "sh", "-c", LOOK)
        workload = replace(
            asked.workload, environment={"GREETING": "a b"}, user="12:34", working_directory="/var"
        )
        return output_of(replace(asked, workload=workload))

    ours = look("container")
    assert "Uid:\t12" in ours
    assert "a b" in ours
    for name in OCI:
        assert look(name) == ours


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("name", ALL)
def test_every_peer_gives_the_environment_the_folder_and_no_network(name: str) -> None:
    line = 'hostname; pwd; echo "$HOME:$GREETING"; ls /sys/class/net; ls /proc | grep -c "^[0-9]"'
    asked = question(name, "sh", "-c", line)
    workload = replace(asked.workload, environment={"GREETING": "a 'b"}, working_directory="/var")
    said = output_of(replace(asked, workload=workload)).splitlines()
    assert said[:4] == ["steelyard", "/var", "/root:a 'b", "lo"] or name == "bwrap"
    # bwrap mounts no /sys of its own: the image's is empty.
    assert said[:3] == ["steelyard", "/var", "/root:a 'b"]
    assert int(said[-1]) < 8, "other processes of the host can be seen"


@pytest.mark.parametrize("name", [*OCI, "podman", "docker"])
def test_limits_are_applied(name: str) -> None:
    asked = question(name, *WAITS, readiness=WAITING, limits=Limits(64 << 20, 0.5, 32))
    with closing(prepare(asked)) as prepared:
        assert DiagnosticCode.NOT_LIMITED not in {one.code for one in prepared.diagnostics}
        instance = prepared.launch("limits")
        try:
            wait_ready(instance, WAITING, None, time.monotonic_ns() + 20 * 10**9)
            pid = instance.accounting().pids[-1]
            groups = Path(f"/proc/{pid}/cgroup").read_text()
            found = dict(limits_of(groups))
        finally:
            instance.stop(STOP_PATIENCE_NS)
            instance.remove()
    assert found["memory"] == 64 << 20
    assert found["cpu"] == pytest.approx(0.5)
    assert found["pids"] == 32


def limits_of(groups: str) -> Iterator[tuple[str, float]]:
    """Controller -> limit, read where the kernel keeps it."""
    for line in groups.splitlines():
        group = line.split(":", 2)[2]
        for mount in hierarchies():
            folder = Path(f"{mount}{group}")
            for controller, file in (
                ("memory", "memory.limit_in_bytes"), ("memory", "memory.max"),
                ("pids", "pids.max"),
            ):  # fmt: skip
                if group != "/" and (folder / file).is_file():
                    yield controller, int((folder / file).read_text())
            if group != "/" and (folder / "cpu.cfs_quota_us").is_file():
                quota = int((folder / "cpu.cfs_quota_us").read_text())
                yield "cpu", quota / int((folder / "cpu.cfs_period_us").read_text())
            if group != "/" and (folder / "cpu.max").is_file():
                quota_us, period_us = (folder / "cpu.max").read_text().split()
                yield "cpu", int(quota_us) / int(period_us)


def test_bwrap_says_that_it_has_no_limits_and_refuses_another_user() -> None:
    asked = question("bwrap", "true", limits=Limits(64 << 20))
    with closing(prepare(asked)) as prepared:
        codes = [one.code for one in prepared.diagnostics]
        assert codes == [DiagnosticCode.NOT_LIMITED] + [DiagnosticCode.MISSING] * bool(missing())
    other = replace(asked, workload=replace(asked.workload, user="12"))
    with pytest.raises(PrepareError, match="bwrap cannot run a workload as user 12"):
        prepare(other)


@pytest.mark.parametrize("name", ALL)
def test_versions_and_command_lines_are_kept(name: str) -> None:
    asked = question(name, "echo", "hello")
    with closing(prepare(asked)) as prepared:
        facts = prepared.facts
    said = subprocess.run(
        [facts["program"], "--version"], capture_output=True, text=True, check=False
    )
    assert facts["version"] == said.stdout.splitlines()[0]
    assert "NAMES" in facts["argv"]
    assert facts["argv"].startswith(facts["program"])


@pytest.mark.parametrize("name", SEEN)
def test_the_kernel_saw_the_workload_start_before_it_said_anything(name: str) -> None:
    need_process_events()
    asked = question(name, "echo", "hello")
    with closing(prepare(asked)) as prepared:
        assert prepared.facts["end_seen_by"] == "process events"
        instance = prepared.launch("started")
        try:
            ready = wait_ready(instance, ENDED, None, time.monotonic_ns() + 20 * 10**9)
            stamps = instance.milestones_ns
            assert stamps[Milestone.REQUESTED] < stamps[Milestone.STARTED] < ready.at_ns
            # The workload's own end, not that of the peer, which clears up after it.
            instance.accounting()
            assert ready.at_ns < time.monotonic_ns()
        finally:
            instance.stop(STOP_PATIENCE_NS)
            instance.remove()


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("name", ALL)
def test_without_process_events_the_commands_end_counts_and_that_is_told(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_backend, "_unwatched", lambda: "nobody tells")
    asked = question(name, "sh", "-c", "exit 3")
    with closing(prepare(asked)) as prepared:
        told = {one.code: one.detail for one in prepared.diagnostics}
        assert ("nobody tells" if name in SEEN else "docker's daemon") in told[
            DiagnosticCode.MISSING
        ]
        instance = prepared.launch("unseen")
        try:
            while instance.exit is None:
                instance.pump(time.monotonic_ns() + 10**9)
            assert instance.exit.code == 3
            assert Milestone.STARTED not in instance.milestones_ns
        finally:
            instance.stop(STOP_PATIENCE_NS)
            instance.remove()


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("name", ["crun", "docker"])
@pytest.mark.parametrize("place", ["address", "socket"])
def test_without_process_events_no_peer_that_needs_them_is_asked_from_inside(
    name: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_backend, "_unwatched", lambda: "nobody tells")
    inside = Readiness(ReadinessKind.HTTP, port=80, address="127.0.0.1")
    if place == "socket":
        inside = Readiness(ReadinessKind.HTTP, socket="/run/app.sock")
    asked = question(name, *WAITS, readiness=inside)
    if name == "docker":  # its daemon is asked for the process
        prepare(asked).close()
        return
    with pytest.raises(
        PrepareError, match=rf"readiness\.{place} is not .* with crun: .*nobody tells"
    ):
        prepare(asked)


@pytest.mark.parametrize("name", ALL)
def test_a_workload_that_cannot_be_found_is_a_failed_launch(name: str) -> None:
    if name in SEEN:  # else they cannot be told from a workload that ends with the same code
        need_process_events()
    asked = question(name, "/no/such/command")
    with closing(prepare(asked)) as prepared:
        instance = prepared.launch("missing")
        try:
            with pytest.raises(LaunchFailedError, match=r"did not start.*/no/such/command"):
                wait_ready(instance, ENDED, None, time.monotonic_ns() + 20 * 10**9)
        finally:
            instance.stop(STOP_PATIENCE_NS)
            instance.remove()


@pytest.mark.parametrize("name", ALL)
def test_what_cannot_be_metered_has_its_own_reason(name: str) -> None:
    asked = question(name, "echo", "hello")
    with closing(prepare(asked)) as prepared:
        instance = prepared.launch("meters")
        try:
            wait_ready(instance, ENDED, None, time.monotonic_ns() + 20 * 10**9)
            account = instance.accounting()
        finally:
            instance.stop(STOP_PATIENCE_NS)
            instance.remove()
    readings = {reading.meter: reading for reading in account.readings}
    if name == "podman":  # its outer group stays until we remove it
        assert "memory" in account.cgroups
        assert (readings[Meter.CPU_NS].value or 0) > 0
    else:
        reason = readings[Meter.CGROUP_PEAK_BYTES].missing
        assert reason is not None
        assert reason.startswith(f"where {name} " if name == "docker" else f"{name} ")
    assert sum(account.ended_cpu_ns) > 0
    # What an engine leaves to init is no child of ours, and yet not the work of others.
    assert isinstance(instance, WorksApart)
    assert (instance.apart_cpu_ns > 0) == (name == "podman")


def test_another_program_can_be_asked_for_by_its_path(tmp_path: Path) -> None:
    need("runc")
    program = shutil.which("runc", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None
    other = tmp_path / "other-runc"
    other.symlink_to(program)
    asked = scenario(Arm("other", "runc", {"path": str(other)}))
    with closing(prepare(asked)) as prepared:
        assert prepared.facts["program"] == str(other)
        assert prepared.facts["argv"].startswith(str(other))
    missing = scenario(Arm("other", "runc", {"path": str(tmp_path / "absent")}))
    with pytest.raises(BackendUnavailableError, match=r"there is no program .*absent"):
        prepare(missing)


def test_a_program_that_does_not_work_is_unavailable_with_its_own_words(tmp_path: Path) -> None:
    need("runc")
    broken = tmp_path / "runc"
    broken.write_text("#!/bin/sh\necho 'this kernel is too old' >&2\nexit 7\n")
    broken.chmod(0o755)
    asked = scenario(Arm("broken", "runc", {"path": str(broken)}))
    with pytest.raises(BackendUnavailableError, match=r"code 7.*this kernel is too old"):
        prepare(asked)


def test_options_are_explained() -> None:
    for name in PEERS:
        backend = get_backend(name)
        assert backend.check_options({"path": "/bin/true"}) == ()
        assert "absolute" in backend.check_options({"path": "runc"})[0]
        assert "did you mean 'path'?" in backend.check_options({"pat": "/x"})[0]
    assert get_backend("podman").check_options({"runtime": "crun"}) == ()
    assert "crun or runc" in get_backend("podman").check_options({"runtime": "lxc"})[0]


KILLED = """
import os, sys, time
import runtime
from harness.backends import get_backend
from harness.model import Arm, Limits, Readiness, ReadinessKind
from harness.lab.readiness import wait_ready
from tests.support.scenarios import scenario

ready = Readiness(ReadinessKind.OUTPUT, output="waiting")
asked = scenario(
    Arm("killed", sys.argv[1]), command=("sh", "-c", "echo waiting; exec sleep 1000"),
    readiness=ready, limits=Limits(64 << 20),
)
prepared = get_backend(sys.argv[1]).prepare(asked, asked.arms[0], None, lambda _: None)
instance = prepared.launch("killed")
wait_ready(instance, ready, None, time.monotonic_ns() + 20 * 10**9)
print(runtime.Session.current().identifier, flush=True)
if sys.argv[2] == "kill":
    os.kill(os.getpid(), 9)
# Else: it ends in an orderly way without having removed its instance.
"""


@pytest.mark.parametrize("how", ["kill", "exit"])
@pytest.mark.parametrize("name", ALL)
def test_a_harness_that_dies_leaves_nothing_that_cannot_be_found(
    name: str, how: str, checkout: Path
) -> None:
    need(name)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, name, how],
        cwd=checkout, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    session = done.stdout.strip()
    assert len(session) == 12, done.stderr
    if how == "kill":
        for left in (*docker_leftovers(), *find_leftovers()):
            if left.session == session:
                left.remove()
    assert traces(session) == []


def traces(session: str) -> list[str]:
    """Everything on this host that carries a session's name, docker's containers too."""
    found = traces_of(session)
    if "DOCKER_HOST" in os.environ:
        argv = ["docker", "ps", "--all", "--quiet", "--filter", f"name={session}"]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        found += [f"docker container {line}" for line in said.splitlines()]
    return found
