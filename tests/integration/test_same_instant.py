"""`started` and the workload's end are the same instants in every arm, by a third clock reader.

The workload is a static program that reads the clock first and last and prints both: what lies
between exec and the first reading, and between the last and the end, is the program's own.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from harness.backends import container as container_backend
from harness.backends import get_backend
from harness.backends.kernel_stamps import LOST_END
from harness.lab.readiness import wait_ready
from harness.measure.trial import STOP_PATIENCE_NS
from harness.model import Arm, Milestone, Scenario
from harness.model.backend import PreparedArm
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from runtime import ImageStore
from runtime.linux.perf_events import ProcessStamps
from tests.support.images import add_image
from tests.support.scenarios import ENDED, scenario
from tests.support.tars import DIR, make_tar, member

PROGRAM = r"""
#include <stdint.h>
#include <stdio.h>
#include <time.h>

static unsigned long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (unsigned long long)t.tv_sec * 1000000000u + (unsigned long long)t.tv_nsec;
}

int main(void)
{
    unsigned long long first = now();
    printf("%llu ", first);
    printf("%llu\n", now());
    return 0;
}
"""
LAUNCHED = ("container", "process")
PEERS = ("runc", "crun", "bwrap")

pytestmark = [pytest.mark.privileged, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def clock_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of that program alone."""
    folder = tmp_path_factory.mktemp("clock")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (folder / "clock.c").write_text(PROGRAM)
    command = [compiler, "-O2", "-static", "-o", folder / "clock", folder / "clock.c"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("the C compiler makes no static programs")
    tar = make_tar(
        member("clock", data=Path(folder / "clock").read_bytes(), mode=0o755),
        *(member(f"{name}/", DIR, mode=0o755) for name in ("dev", "proc", "sys", "tmp")),
    )
    add_image(ImageStore.default(), "clock:latest", [tar], "plain")
    return "clock"


@contextmanager
def prepared(name: str, image: str) -> Iterator[tuple[Scenario, PreparedArm]]:
    backend = get_backend(name)
    verdict = backend.availability()
    if not verdict.usable:
        pytest.skip(f"{name}: {verdict.reason}")
    asked = scenario(Arm(name, name), image=image, command=("/clock",))
    with closing(backend.prepare(asked, asked.arms[0], None, lambda _: None)) as arm:
        yield asked, arm


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("name", [*LAUNCHED, *PEERS])
def test_stamps_lie_around_what_the_workload_read(name: str, clock_image: str) -> None:
    with prepared(name, clock_image) as (asked, arm):
        if DiagnosticCode.LATE_STAMPS in [one.code for one in arm.diagnostics]:
            pytest.skip("no tracepoints")
        for number in range(5):
            instance = arm.launch(f"clock-{number}")
            try:
                ready = wait_ready(instance, asked.readiness, None, time.monotonic_ns() + 10**10)
                woken_ns = time.monotonic_ns()
                instance.accounting()
            finally:
                instance.stop(STOP_PATIENCE_NS)
                instance.remove()
            if name in PEERS and Milestone.STARTED not in instance.milestones_ns:
                pytest.skip("no process events")
            stamps = instance.milestones_ns
            first_ns, last_ns = map(int, instance.output.data.split())
            assert stamps.get(Milestone.ISOLATED, 0) < stamps[Milestone.STARTED] < first_ns
            assert last_ns < ready.at_ns < woken_ns
            assert instance.diagnostics == []


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("name", [*LAUNCHED, *PEERS])
def test_a_trial_of_which_the_end_is_lost_says_so(
    name: str, clock_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProcessStamps, "ended_ns", lambda *_: None)
    with prepared(name, clock_image) as (_, arm):
        if DiagnosticCode.LATE_STAMPS in [one.code for one in arm.diagnostics]:
            pytest.skip("no tracepoints")
        instance = arm.launch("lost")
        try:
            wait_ready(instance, ENDED, None, time.monotonic_ns() + 10**10)
        finally:
            instance.stop(STOP_PATIENCE_NS)
            instance.remove()
    if name in PEERS and Milestone.STARTED not in instance.milestones_ns:
        pytest.skip("no process events")
    assert instance.diagnostics == [Diagnostic(DiagnosticCode.LATE_STAMPS, LOST_END)]


@pytest.mark.parametrize("name", LAUNCHED)
def test_without_tracepoints_the_arm_says_so_once_and_works_on(
    name: str, clock_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Diagnostic(DiagnosticCode.LATE_STAMPS, "none here")

    @contextmanager
    def nothing() -> Iterator[tuple[None, tuple[Diagnostic, ...]]]:
        yield None, (late,)

    monkeypatch.setattr(container_backend, "kernel_stamps", nothing)
    with prepared(name, clock_image) as (_, arm):
        assert late in arm.diagnostics
        instance = arm.launch("late")
        try:
            ready = wait_ready(instance, ENDED, None, time.monotonic_ns() + 10**10)
        finally:
            instance.stop(STOP_PATIENCE_NS)
            instance.remove()
    stamps = instance.milestones_ns
    assert stamps[Milestone.ISOLATED] < stamps[Milestone.STARTED] <= ready.at_ns
    assert instance.diagnostics == []
