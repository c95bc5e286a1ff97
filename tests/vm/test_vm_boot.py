"""Guests that really boot: what a workload sees, how it ends, and what is left of it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from harness.backends import get_backend
from harness.backends.vm.accelerator import try_accelerator
from harness.backends.vm.guest.kernel import find_kernel
from harness.backends.vm.instance import VmInstance
from harness.lab import Lab
from harness.lab.readiness import ReadyEvent, wait_ready
from harness.model import Arm, Milestone, Readiness, ReadinessKind, Sharing, Workload
from harness.model.diagnostics import DiagnosticCode
from harness.model.errors import (
    BackendUnavailableError,
    InstanceError,
    LaunchFailedError,
    PrepareError,
    ReadinessTimeoutError,
    UnexpectedExitError,
)
from runtime import Session
from tests.support.scenarios import ENDED, scenario

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

PATIENCE_S = 90.0
ORDER = (
    *(Milestone.REQUESTED, Milestone.ISOLATED, Milestone.KERNEL, Milestone.USERSPACE),
    *(Milestone.STARTED, Milestone.READY, Milestone.STOPPED, Milestone.REMOVED),
)


@pytest.fixture(scope="module", autouse=True)
def usable() -> None:
    """Skip where no guest can run; make what all share before anything is counted."""
    verdict = get_backend("vm-micro").availability()
    if not verdict.usable:
        pytest.skip(f"vm-micro: {verdict.reason}; {verdict.remedy}")
    Session.current()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@dataclass
class Boot:
    """One guest, taken through its life."""

    instance: VmInstance
    ready: ReadyEvent | None
    error: InstanceError | None
    parts: tuple[Any, ...]

    @property
    def output(self) -> str:
        return self.instance.output.data.decode("utf-8", "surrogateescape")


def boot(
    *command: str,
    arm: str = "vm-micro",
    options: dict[str, Any] | None = None,
    readiness: Readiness = ENDED,
    lab: Lab | None = None,
    timeout_s: float = PATIENCE_S,
    **workload: Any,
) -> Boot:
    asked = scenario(Arm(arm, arm, options or {}), readiness=readiness, timeout_s=timeout_s)
    asked = replace(asked, workload=Workload(command, **workload))
    with closing(get_backend(arm).prepare(asked, asked.arms[0], lab, lambda _: None)) as prepared:
        instance = prepared.launch("guest")
        assert isinstance(instance, VmInstance)
        ready = error = None
        parts: tuple[Any, ...] = ()
        try:
            deadline = instance.milestones_ns[Milestone.REQUESTED] + asked.timeout_ns
            ready = wait_ready(instance, readiness, lab, deadline)
            parts = instance.disk_parts()
        except InstanceError as caught:
            error = caught
        finally:
            instance.stop(10_000_000_000)
            instance.remove()
    return Boot(instance, ready, error, parts)


def test_a_workload_sees_what_the_image_and_the_scenario_say(nothing_left: None) -> None:
    look = (
        'printf "<%s>\\n" "$@"; env; echo $(id -u) $(id -g) $(pwd); echo again >/dev/stdout;'
        "hostname; ls -d /proc/1 /sys/class /dev/null /dev/pts /dev/shm; touch /tmp/written; exit 7"
    )
    words = ("sh", "a b", "", "it's", '"$HOME"', "new\nline", "\udcff\x01")
    result = boot(
        *("sh", "-c", look, *words),
        environment={"WITH": "a b\n'c'"},
        user="1234:77",
        working_directory="/made/for/it",
        readiness=Readiness(ReadinessKind.EXIT, exit_code=7),
    )
    assert result.error is None
    printed = result.output
    assert printed.startswith("".join(f"<{word}>\n" for word in words[1:]))
    assert "\nWITH=a b\n'c'\n" in printed
    assert "\n1234 77 /made/for/it\nagain\nsteelyard\n" in printed
    assert printed.endswith("/dev/null\n/dev/pts\n/dev/shm\n/proc/1\n/sys/class\n")
    assert "STEELYARD" not in printed
    stamps = result.instance.milestones_ns
    assert tuple(sorted(stamps, key=stamps.__getitem__)) == ORDER
    (overlay,) = result.parts
    assert (overlay.name, overlay.sharing) == ("overlay", Sharing.EXCLUSIVE)
    assert 100_000 < overlay.allocated_bytes < 4 << 20


def test_the_classic_machine_runs_the_same(nothing_left: None) -> None:
    result = boot("sh", "-c", "echo hello; echo world >&2", arm="vm-classic")
    assert result.error is None
    assert result.output == "hello\nworld\n"
    stamps = result.instance.milestones_ns
    assert tuple(sorted(stamps, key=stamps.__getitem__)) == ORDER
    (copy,) = result.parts
    assert copy.name == "disk copy"
    assert copy.allocated_bytes > 1 << 20


def test_a_signal_is_told_apart_from_an_exit_code(nothing_left: None) -> None:
    result = boot("sh", "-c", "kill -9 $$")
    assert result.instance.exit is not None
    assert (result.instance.exit.code, result.instance.exit.signal) == (None, 9)
    assert result.error is not None
    assert "SIGKILL" in str(result.error)


def test_a_workload_that_kills_all_the_others_has_not_succeeded(nothing_left: None) -> None:
    # That includes the process that waits for it in the guest.
    result = boot("sh", "-c", "echo a; kill -9 -1; sleep 1; exit 7")
    assert isinstance(result.error, UnexpectedExitError)
    assert "does not know how the workload ended: the process that waited" in str(result.error)
    assert result.ready is None
    assert result.instance.exit is not None
    assert result.instance.exit.code is None


def test_a_command_that_is_not_there(nothing_left: None) -> None:
    result = boot("nosuch")
    assert isinstance(result.error, LaunchFailedError)
    assert "there is no command nosuch in the image" in str(result.error)
    assert Milestone.STARTED not in result.instance.milestones_ns


SERVE = ("sh", "-c", "mkdir /www; echo page >/www/index.html; exec httpd -f -p 8000 -h /www")
ANSWERS = Readiness(ReadinessKind.HTTP, port=8000, path="/")


@pytest.mark.parametrize("network", ["tap", "user"])
def test_a_server_is_reached_from_the_lab(lab: Lab, network: str) -> None:
    result = boot(*SERVE, readiness=ANSWERS, lab=lab, options={"network": network})
    assert result.error is None
    assert result.ready is not None
    assert result.ready.body == b"page\n"
    codes = [doubt.code for doubt in result.instance.diagnostics]
    assert codes == ([] if network == "tap" else [DiagnosticCode.USER_NETWORK])


def test_a_guest_that_never_comes_up_ends_at_its_timeout(nothing_left: None) -> None:
    # No init, and no reboot after the panic that this is: the guest hangs.
    options = {"kernel_arguments": ["rdinit=/no/such/init", "panic=0"]}
    result = boot("true", options=options, timeout_s=10)
    assert isinstance(result.error, ReadinessTimeoutError)
    assert "Kernel panic" in result.error.console
    stamps = result.instance.milestones_ns
    waited = stamps[Milestone.STOPPED] - stamps[Milestone.REQUESTED]
    assert 10e9 <= waited < 20e9
    assert result.instance.diagnostics == []


def test_a_guest_that_panics_is_not_waited_for(nothing_left: None) -> None:
    result = boot("true", options={"kernel_arguments": ["rdinit=/no/such/init"]})
    assert isinstance(result.error, LaunchFailedError)
    assert "Kernel panic" in str(result.error)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"devices": ["no-such-device"]}, "no-such-device"),
        ({"machine": "nonsense"}, "unsupported machine type"),
    ],
)
def test_what_qemu_refuses_is_told_in_its_words_before_any_trial(
    nothing_left: None, options: dict[str, object], complaint: str
) -> None:
    asked = scenario(Arm("odd", "vm-micro", options))
    with pytest.raises(PrepareError, match=rf"arm odd: QEMU did not start: .*{complaint}"):
        get_backend("vm-micro").prepare(asked, asked.arms[0], None, lambda _: None)


def test_an_arm_says_what_runs() -> None:
    asked = scenario(Arm("vm-micro", "vm-micro", {"accelerator": "tcg"}))
    backend = get_backend("vm-micro")
    with closing(backend.prepare(asked, asked.arms[0], None, lambda _: None)) as prepared:
        facts = prepared.facts
        assert facts["accelerator"] == "tcg"
        assert facts["kernel_format"] == "elf"
        assert facts["machine"] == "microvm"
        assert facts["argv"].startswith("qemu-system-x86_64 ")
        assert DiagnosticCode.TCG in [doubt.code for doubt in prepared.diagnostics]
        parts = {part.name: part for part in prepared.disk_parts()}
        assert {"kernel", "initramfs", "backing file"} <= parts.keys()
        assert all(part.sharing is Sharing.SHARED for part in parts.values())
        assert parts["initramfs"].apparent_bytes > 1 << 20


def test_kvm_is_given_only_where_a_guest_has_booted_on_it() -> None:
    backend = get_backend("vm-micro")
    asked = scenario(Arm("forced", "vm-micro", {"accelerator": "kvm"}))
    if backend.availability().reason.startswith("kvm"):
        with closing(backend.prepare(asked, asked.arms[0], None, lambda _: None)) as prepared:
            assert prepared.facts["accelerator"] == "kvm"
    else:
        with pytest.raises(BackendUnavailableError, match=r"no KVM: .*kvm"):
            backend.prepare(asked, asked.arms[0], None, lambda _: None)


@pytest.mark.parametrize(("timeout_s", "works"), [(60.0, True), (0.05, False)])
def test_an_accelerator_is_judged_by_a_guest(
    nothing_left: None, timeout_s: float, works: bool
) -> None:
    kernel = find_kernel(None, None, lambda _: None)
    assert try_accelerator(kernel, "tcg", timeout_s)[0] is works


HARNESS = """
import sys, time
from harness.backends import get_backend
from harness.model import Arm
from tests.support.scenarios import scenario
asked = scenario(Arm("vm-micro", "vm-micro"), command=("sleep", "1000"))
prepared = get_backend("vm-micro").prepare(asked, asked.arms[0], None, lambda _: None)
instance = prepared.launch("guest")
print(instance._machine.process.pid, flush=True)
instance.pump(time.monotonic_ns() + 10**12)
time.sleep(1000)
"""


def test_qemu_dies_with_a_killed_harness(checkout: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(checkout), "STEELYARD_HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", HARNESS], stdout=subprocess.PIPE, text=True, env=environment
    ) as harness:
        assert harness.stdout is not None
        pid = int(harness.stdout.readline())
        assert b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes()
        pidfd = os.pidfd_open(pid)
        harness.send_signal(signal.SIGKILL)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    gone = poller.poll(5000)
    os.close(pidfd)
    assert gone
