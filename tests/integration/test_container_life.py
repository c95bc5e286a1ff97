"""How a container starts, ends and fails; each outcome told from the others."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import runtime.containers.container
from runtime.containers.container import Container, launch_container, rehearse_container
from runtime.errors import (
    CommandNotExecutableError,
    CommandNotFoundError,
    ContainerError,
    LaunchError,
)
from runtime.launch.launcher import Launcher
from runtime.launch.lower import lower
from runtime.launch.plan import Plan, Step
from runtime.launch.spec import (
    ContainerSpec,
    NetworkSpec,
    OverlayRoot,
    ResourceLimits,
    User,
    Volume,
)
from runtime.linux.features import Features
from tests.support.containers import Run, overlay_root
from tests.support.host import HostState

pytestmark = [pytest.mark.privileged, pytest.mark.usefixtures("leaves_nothing")]

_TRUE_ENVIRONMENT = {"PATH": "/bin"}
PR_GET_DUMPABLE = 3  # linux/prctl.h


def _dumpable() -> int:
    return int(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0))


# --- ends ---


@pytest.mark.parametrize("code", [0, 1, 7, 127, 255])
def test_exit_code(run: Run, launcher: Launcher, code: int) -> None:
    result = run("sh", "-c", f"exit {code}", launcher=launcher)
    assert (result.code, result.signal) == (code, None)


def test_signal_from_outside(run: Run, launcher: Launcher) -> None:
    result = run(
        "sleep", "1000", launcher=launcher, while_running=lambda c: c.send_signal(signal.SIGKILL)
    )
    assert (result.code, result.signal) == (None, signal.SIGKILL)
    assert result.container.exit_status is not None
    assert result.container.exit_status.shell_code == 137


def test_signal_from_within(run: Run, launcher: Launcher) -> None:
    # An ordinary child, since the first process of a pid namespace is safe from its own signals.
    result = run("sh", "-c", "sh -c 'kill -SEGV $$'; echo $?", launcher=launcher)
    assert result.output.split()[-1] == str(128 + signal.SIGSEGV)


def test_wait_gives_up_at_its_deadline_and_can_go_on(run: Run, launcher: Launcher) -> None:
    def check(container: Container) -> None:
        assert container.wait(time.monotonic_ns()) is None
        assert container.wait(time.monotonic_ns() + 1_000_000) is None
        container.send_signal(signal.SIGKILL)
        status = container.wait()
        assert status is not None
        assert status.signal == signal.SIGKILL
        assert container.wait() is status
        container.send_signal(signal.SIGTERM)  # nothing happens any more

    run("sleep", "1000", launcher=launcher, while_running=check)


def test_kill_ends_every_process(run: Run, launcher: Launcher) -> None:
    def check(container: Container) -> None:
        assert container.cgroup is not None
        path = container.cgroup.unified or container.cgroup.legacy[0]
        while len(Path(path, "cgroup.procs").read_text().split()) < 3:
            time.sleep(0.01)
        assert container.kill().signal == signal.SIGKILL
        assert Path(path, "cgroup.procs").read_text() == ""

    run(
        "sh", "-c", "sleep 1000 & sleep 1000 & wait", launcher=launcher, while_running=check,
        limits=ResourceLimits(pids=100),
    )  # fmt: skip


def test_processes_that_outlive_the_workload_go_with_it(run: Run, launcher: Launcher) -> None:
    # Without a pid namespace it takes the cgroup to find them.
    result = run(
        "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo started",
        namespaces=frozenset(runtime.launch.spec.ALL_NAMESPACES -
        {runtime.launch.spec.Namespace.PID}), limits=ResourceLimits(pids=100), launcher=launcher,
    )  # fmt: skip
    assert result.output == "started\n"


def test_remove_can_be_called_at_any_time_and_again(
    can_run: None, rootfs: Path, launcher: Launcher
) -> None:
    spec = ContainerSpec(overlay_root(rootfs), ("sleep", "1000"), _TRUE_ENVIRONMENT)
    container = launch_container(spec, launcher=launcher)
    container.remove()
    container.remove()
    assert container.exit_status is not None
    assert container.exit_status.signal == signal.SIGKILL


def test_what_the_writable_layer_took_is_part_of_the_start(run: Run, launcher: Launcher) -> None:
    container = run("true", launcher=launcher).container
    until_isolated_ns = container.launched.isolated_ns - container.requested_ns
    assert container.layer_ns > 0
    assert container.overlay_mount_ns > 0
    assert container.layer_ns + container.overlay_mount_ns < until_isolated_ns


def test_stamps_are_in_order(run: Run, launcher: Launcher) -> None:
    container = run("true", launcher=launcher).container
    launched, status = container.launched, container.exit_status
    steps = [stamp for stamp in launched.step_ns if stamp]
    assert steps == sorted(steps)
    assert status is not None
    assert container.requested_ns < steps[0]
    assert steps[0] < launched.isolated_ns <= steps[-1] <= launched.started_ns <= status.at_ns
    assert launched.launcher is launcher
    # The step that executed the program never returned.
    assert len(container.plan.steps) > len(steps)


# --- standard streams ---


def test_streams_can_be_crossed(can_run: None, rootfs: Path, tmp_path: Path) -> None:
    # In a process of its own, whose descriptors 1 and 2 are two files.
    program = f"""
import os, sys
from runtime.containers.container import launch_container
from runtime.launch.launcher import Launcher
from runtime.launch.spec import ContainerSpec, OverlayRoot
for launcher in Launcher:
    spec = ContainerSpec(OverlayRoot(({str(rootfs)!r},), "", "", ""),
                         ("sh", "-c", "echo to 1; echo to 2 >&2; cat"), {{"PATH": "/bin"}},
                         stdio=(0, 2, 1))
    container = launch_container(spec, launcher=launcher)
    assert container.wait().code == 0
    container.remove()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], input=b"to 0\n", capture_output=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, b"to 2\n" * 2), result.stderr
    assert result.stderr == b"to 1\nto 0\nto 1\n"


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_a_closed_stream_becomes_dev_null(
    can_run: None, rootfs: Path, tmp_path: Path, closed: tuple[int, ...]
) -> None:
    report = tmp_path / "report"
    report.mkdir()
    program = f"""
import os, sys
from runtime.containers.container import launch_container
from runtime.launch.launcher import Launcher
from runtime.launch.spec import ContainerSpec, OverlayRoot, Volume
for launcher in Launcher:
    spec = ContainerSpec(OverlayRoot(({str(rootfs)!r},), "", "", ""),
                         ("sh", "-c", "(ls -l /proc/1/fd > /report/$LAUNCHER); true"),
                         {{"PATH": "/bin", "LAUNCHER": launcher}},
                         volumes=(Volume({str(report)!r}, "/report"),))
    container = launch_container(spec, launcher=launcher)
    assert container.wait().code == 0
    container.remove()
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    closing = " ".join(f"{fd}>&-" for fd in closed)
    subprocess.run(
        ["sh", "-c", f'exec "$0" "$1" {closing}', sys.executable, script],
        stdin=subprocess.PIPE, capture_output=True, check=True,
    )  # fmt: skip
    for launcher in Launcher:
        links = dict(
            line.split()[-3::2]
            for line in (report / launcher).read_text().splitlines()
            if ">" in line
        )
        for fd in closed:
            assert links[str(fd)] == "/dev/null"
        assert set(links) == {"0", "1", "2"}


# --- commands that cannot be executed ---


def _file(rootfs: Path, tmp_path: Path, content: bytes, mode: int) -> OverlayRoot:
    """The rootfs with a layer above that has /bin/thing."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/thing").write_bytes(content)
    (tmp_path / "bin/thing").chmod(mode)
    return overlay_root(tmp_path, rootfs)


@pytest.mark.parametrize("command", ["nothing", "/bin/nothing", "/etc/passwd/nothing", ""])
def test_command_not_found(run: Run, launcher: Launcher, command: str) -> None:
    with pytest.raises(LaunchError) as caught:
        run(command, launcher=launcher)
    if command:
        assert isinstance(caught.value, CommandNotFoundError)
        assert caught.value.exit_code == 127
    assert command in str(caught.value)


@pytest.mark.parametrize(
    ("content", "mode", "number"),
    [
        (b"#!/bin/sh\n", 0o644, errno.EACCES),
        (b"neither program nor script", 0o755, errno.ENOEXEC),
        (b"", 0o755, errno.ENOEXEC),
        (b"\x7fELF\x02\x01\x01", 0o755, errno.ENOEXEC),
    ],
)
@pytest.mark.parametrize("command", ["thing", "/bin/thing"])
def test_command_not_executable(
    run: Run, rootfs: Path, tmp_path: Path, launcher: Launcher,
    command: str, content: bytes, mode: int, number: int,
) -> None:  # fmt: skip
    root = _file(rootfs, tmp_path, content, mode)
    with pytest.raises(CommandNotExecutableError) as caught:
        run(command, root=root, launcher=launcher)
    assert caught.value.exit_code == 126
    assert caught.value.errno == number


def test_a_folder_or_a_fifo_is_no_command(
    run: Run, rootfs: Path, tmp_path: Path, launcher: Launcher
) -> None:
    (tmp_path / "bin").mkdir()
    os.mkfifo(tmp_path / "bin/pipe", 0o755)
    root = overlay_root(tmp_path, rootfs)
    for command in ("/bin", "/bin/pipe", "pipe"):
        with pytest.raises(CommandNotExecutableError):
            run(command, root=root, launcher=launcher)


def test_a_script_whose_interpreter_is_missing(
    run: Run, rootfs: Path, tmp_path: Path, launcher: Launcher
) -> None:
    root = _file(rootfs, tmp_path, b"#!/bin/absent -x\n", 0o755)
    with pytest.raises(CommandNotFoundError):
        run("thing", root=root, launcher=launcher)


def test_scripts_run(run: Run, rootfs: Path, tmp_path: Path, launcher: Launcher) -> None:
    root = _file(rootfs, tmp_path, b"#! \t /bin/sh -e\necho ran $0 $1\n", 0o755)
    assert run("thing", "x", root=root, launcher=launcher).output == "ran /bin/thing x\n"


def test_path_is_searched_in_order(
    run: Run, rootfs: Path, tmp_path: Path, launcher: Launcher
) -> None:
    for folder, mode in (("one", 0o644), ("two", 0o755), ("three", 0o755)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "thing").write_text(f"#!/bin/sh\necho {folder}\n")
        (tmp_path / folder / "thing").chmod(mode)
    root = overlay_root(tmp_path, rootfs)
    path = {"PATH": "/absent:/one:/two:/three"}
    assert run("thing", root=root, environment=path, launcher=launcher).output == "two\n"


def test_a_nul_byte_is_refused(run: Run, launcher: Launcher) -> None:
    with pytest.raises(ContainerError, match="NUL"):
        run("echo", "a\0b", launcher=launcher)


# --- failures of the set-up ---


def _spec_with_everything(rootfs: Path, folder: Path) -> ContainerSpec:
    (folder / "file").write_text("x")
    return ContainerSpec(
        overlay_root(rootfs),
        ("true",),
        _TRUE_ENVIRONMENT,
        working_directory="/a/b",
        user=User(1000, 1000, (1000, 1001)),
        limits=ResourceLimits(64 << 20, 0.5, 50),
        volumes=(
            Volume(str(folder), "/data/in", read_only=True),
            Volume(str(folder / "file"), "/etc/file", is_directory=False),
        ),
        read_only_root=True,
    )


def test_a_fault_at_every_step_names_it_and_leaves_nothing(
    can_run: None,
    rootfs: Path,
    tmp_path: Path,
    launcher: Launcher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = _spec_with_everything(rootfs, tmp_path)
    plans: list[Plan] = []
    broken = -1

    def lower_with_a_fault(spec: ContainerSpec, features: Features, entry: tuple[int, ...]) -> Plan:
        plan = lower(spec, features, entry)
        plans.append(plan)
        # A close of no descriptor: a real system call that fails for real.
        fault = Step("close", (-1,), plan.steps[broken].label)
        return replace(plan, steps=(*plan.steps[:broken], fault, *plan.steps[broken + 1 :]))

    monkeypatch.setattr(runtime.containers.container, "lower", lower_with_a_fault)
    before = HostState.now()
    with pytest.raises(LaunchError):
        launch_container(spec, launcher=launcher)  # finds out how many steps there are
    # PATH has one folder, so that every step is reached.
    for broken in range(len(plans[0].steps)):
        with pytest.raises(LaunchError) as caught:
            launch_container(spec, launcher=launcher)
        step = plans[-1].steps[broken]
        error = caught.value
        assert (error.step, error.syscall, error.errno) == (step.label, "close", errno.EBADF)
        assert step.label in str(error)
        assert "EBADF" in str(error)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        assert _dumpable() == 1
    assert len(plans) > 100
    assert HostState.now().not_in(before) == []


def test_an_interrupt_during_the_launch_leaves_nothing(
    can_run: None, rootfs: Path, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while the launching thread is suspended: its handler runs right after the exec."""
    # Only from the same pid namespace can a signal reach us (pidfd_send_signal(2)).
    shared = runtime.launch.spec.ALL_NAMESPACES - {runtime.launch.spec.Namespace.PID}
    spec = ContainerSpec(
        overlay_root(rootfs), ("sleep", "1000"), _TRUE_ENVIRONMENT, namespaces=shared
    )
    ourselves = os.pidfd_open(os.getpid())
    interrupt = Step("pidfd_send_signal", (ourselves, signal.SIGINT, None, 0), "interrupt")

    def lower_with_an_interrupt(
        spec: ContainerSpec, features: Features, entry: tuple[int, ...]
    ) -> Plan:
        plan = lower(spec, features, entry)
        return replace(plan, steps=(interrupt, *plan.steps), isolated_step=plan.isolated_step + 1)

    monkeypatch.setattr(runtime.containers.container, "lower", lower_with_an_interrupt)
    before = HostState.now()
    with pytest.raises(KeyboardInterrupt):
        launch_container(spec, launcher=launcher)
    os.close(ourselves)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert HostState.now().not_in(before) == []


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"root": ("/absent/layer",)}, "mount overlay"),
        ({"volumes": (Volume("/absent/source", "/x"),)}, "take hold of /absent/source"),
        ({"volumes": (Volume("/tmp", "/etc/passwd/x"),)}, "make folder /etc/passwd/x"),
        ({"volumes": (Volume("/tmp", "/etc/passwd"),)}, "mount /tmp on /etc/passwd"),
        ({"working_directory": "/etc/passwd/x"}, "make folder /etc/passwd/x"),
        ({"working_directory": "/etc/passwd"}, "enter working directory /etc/passwd"),
        ({"hostname": "h" * 65}, "set hostname"),
        ({"network": NetworkSpec("join", 999)}, "join the network namespace"),
        ({"stdio": (0, 999, 2)}, "connect stdout"),
    ],
)
def test_real_failures_name_the_step(
    can_run: None, rootfs: Path, launcher: Launcher, change: dict[str, object], label: str
) -> None:
    change = dict(change)
    if "root" in change:
        change["root"] = overlay_root("/absent/layer", rootfs)
    spec = ContainerSpec(overlay_root(rootfs), ("true",), _TRUE_ENVIRONMENT)
    spec = replace(spec, **change)  # type: ignore[arg-type]
    with pytest.raises(LaunchError) as caught:
        launch_container(spec, launcher=launcher)
    assert label in caught.value.step
    assert label in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_taken(run: Run, can_run: None, rootfs: Path) -> None:
    spec = ContainerSpec(overlay_root(rootfs), ("sleep", "100"), _TRUE_ENVIRONMENT)
    first = launch_container(spec, name="twice")
    with pytest.raises(ContainerError, match="twice"):
        launch_container(spec, name="twice")
    assert first.wait(time.monotonic_ns()) is None  # the first is none the worse
    assert Path(first.directory or "").is_dir()
    first.remove()


# --- what a launch does to its own process ---


@pytest.mark.parametrize("command", ["true", "absent"])
def test_our_own_process_stays_dumpable(run: Run, launcher: Launcher, command: str) -> None:
    try:
        run(command, user=User(1000, 1000), launcher=launcher)
    except CommandNotFoundError:
        assert command == "absent"
    assert _dumpable() == 1
    assert os.stat("/proc/self/mem").st_uid == os.geteuid()


def test_launch_from_a_large_process(run: Run, launcher: Launcher) -> None:
    ballast = bytearray(os.urandom(1 << 20) * 300)
    assert run("echo", "light", launcher=launcher).output == "light\n"
    assert len(ballast) == 300 << 20


_note_of_fork: Path | None = None


def _write_note() -> None:
    if _note_of_fork is not None:
        _note_of_fork.write_text(str(gc.isenabled()))


os.register_at_fork(after_in_child=_write_note)


@pytest.mark.parametrize("collects", [True, False])
def test_a_forked_child_finalises_nothing_of_ours(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collects: bool
) -> None:
    # A collection in the child would run finalizers there as well: those that remove folders.
    monkeypatch.setattr(sys.modules[__name__], "_note_of_fork", tmp_path / "note")
    if not collects:
        gc.disable()
    try:
        run("true", launcher=Launcher.FORKED)
        assert gc.isenabled() == collects
    finally:
        gc.enable()
    assert (tmp_path / "note").read_text() == "False"


def test_the_workload_dies_with_the_thread_that_launched_it(
    can_run: None, rootfs: Path, launcher: Launcher
) -> None:
    spec = ContainerSpec(overlay_root(rootfs), ("sleep", "1000"), _TRUE_ENVIRONMENT)
    launched: list[Container] = []
    thread = threading.Thread(
        target=lambda: launched.append(launch_container(spec, launcher=launcher))
    )
    thread.start()
    thread.join()
    status = launched[0].wait()
    assert status is not None
    assert status.signal == signal.SIGKILL
    launched[0].remove()


def test_launch_while_other_threads_work(run: Run, launcher: Launcher) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(5):
            assert run("echo", str(number), launcher=launcher).output == f"{number}\n"
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_descriptors_of_the_launch_do_not_pile_up(run: Run, launcher: Launcher) -> None:
    run("true", launcher=launcher)
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run("true", launcher=launcher, limits=ResourceLimits(64 << 20, 1, 50))
    assert sorted(os.listdir("/proc/self/fd")) == before


# --- rehearsals ---


def test_a_rehearsal_shows_what_a_workload_would_find_and_leaves_nothing(rootfs: Path) -> None:
    """The command is not run, so it need not be there; mount points that lack are made."""
    spec = ContainerSpec(overlay_root(rootfs), ("/no/such/command",), _TRUE_ENVIRONMENT)

    def look(directory: str | None) -> tuple[str, list[str]]:
        assert directory is not None
        return directory, sorted(os.listdir(f"{directory}/upper"))

    directory, made = rehearse_container(spec, look)
    assert "proc" in made
    assert not os.path.exists(directory)


def test_a_rehearsal_that_fails_names_the_step_and_leaves_nothing(rootfs: Path) -> None:
    spec = ContainerSpec(
        overlay_root(rootfs),
        ("true",),
        _TRUE_ENVIRONMENT,
        volumes=(Volume("/no/such/source", "/tmp"),),
    )
    seen: list[str | None] = []
    with pytest.raises(LaunchError, match="/no/such/source"):
        rehearse_container(spec, seen.append)
    assert seen == []
