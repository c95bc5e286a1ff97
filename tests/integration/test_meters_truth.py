"""The meters on the real kernel, held against known truths: what was written, touched, read, used.

Two arms differ in one thing whose size is known, and the meters must say that size. Figures of
memory and disk are exact enough for single pairs; times are in tests/bench.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from harness.backends import get_backend
from harness.lab.readiness import wait_ready
from harness.meters import cache, cpu
from harness.meters.host_activity import gauges
from harness.model import Arm, CacheState, Limits, Meter, Readiness, ReadinessKind, Trial
from harness.model.backend import Backend
from harness.model.diagnostics import DiagnosticCode
from harness.model.metrics import trial_value
from runtime.linux.syscalls import resident_bytes as resident_of_file
from tests.support.metering import KNOWN_BYTES, MIB, WAITING, add_known_image, measure, sh
from tests.support.scenarios import scenario

pytestmark = [pytest.mark.privileged, pytest.mark.usefixtures("container", "leaves_nothing")]


@pytest.fixture(scope="module")
def known_image() -> str:
    return add_known_image()


@pytest.fixture(scope="module")
def container() -> Backend:
    backend = get_backend("container")
    verdict = backend.availability()
    if not verdict.usable:
        pytest.skip(f"{verdict.reason}; {verdict.remedy}")
    # Opened once and kept: not what a trial leaves behind.
    gauges()
    return backend


def missing(trial: Trial, meter: Meter) -> str | None:
    return next(reading.missing for reading in trial.readings if reading.meter is meter)


@pytest.mark.parametrize("written", [MIB, 10 * MIB])
def test_what_is_written_is_the_growth_of_the_disk(container: Backend, written: int) -> None:
    command = sh(f"dd if=/dev/zero of=/file bs=64k count={written >> 16} 2>/dev/null")
    trial, record = measure(container, command)
    assert trial_value("disk-growth", trial, record) == pytest.approx(written, rel=0.05)


def test_a_workload_that_writes_nothing_grows_by_nothing(container: Backend) -> None:
    trial, record = measure(container, ("true",))
    assert record.initial_disk
    assert record.initial_disk[0].allocated_bytes > 0
    assert trial_value("disk-growth", trial, record) == 0


def touching(mib: int) -> tuple[str, ...]:
    """A workload that has touched so many MiB when it says that it is ready, and keeps them.

    dd fills its buffer, then hangs on a pipe that nobody empties.
    """
    return sh(
        f"dd if=/dev/zero bs={mib}M count=1 2>/dev/null"
        " | { head -c 1 >/dev/null; echo ready; exec sleep 1000; }"
    )


def test_what_is_touched_is_in_pss_uss_and_the_cgroup(container: Backend) -> None:
    less, _ = measure(container, touching(1), WAITING)
    more, _ = measure(container, touching(17), WAITING)
    for metric in ("pss", "uss", "cgroup-current", "cgroup-peak"):
        difference = trial_value(metric, more) - trial_value(metric, less)
        assert difference == pytest.approx(16 * MIB, rel=0.05), metric
    assert trial_value("uss", more) <= trial_value("pss", more)
    # It is a part of what everybody on this host does: it can only be roughly so.
    assert abs(trial_value("available-delta", more)) < 8 << 30


def test_memory_of_a_workload_that_has_ended_is_missing_with_its_reason(
    container: Backend,
) -> None:
    trial, _ = measure(container, ("true",))
    assert "the workload has ended" in (missing(trial, Meter.PSS_BYTES) or "")
    # Its cgroup remembers.
    assert trial_value("cgroup-peak", trial) > 0
    without, _ = measure(container, ("true",), limits=Limits())
    assert "memory limit" in (missing(without, Meter.CGROUP_PEAK_BYTES) or "")


def test_cpu_time_is_what_the_workloads_own_shell_counts(container: Backend) -> None:
    """In a child of it, whose time only its cgroup and wait4 still know."""
    command = sh("sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; times; sleep 1000")
    times = Readiness(ReadinessKind.OUTPUT, output=r"s\n[^\n]*s\n")
    arm = Arm("arm", "container")
    asked = scenario(arm, command=command, readiness=times)
    with closing(container.prepare(asked, arm, None, lambda _: None)) as prepared:
        instance = prepared.launch("cpu")
        try:
            wait_ready(instance, times, None, time.monotonic_ns() + 30_000_000_000)
            total, *_ = cpu.read([instance.accounting()])
        finally:
            instance.stop(1_000_000_000)
            instance.remove()
    # "0m0.01s 0m0.00s" of the shell, the same of its children.
    minutes = re.findall(rb"(\d+)m([\d.]+)s", instance.output.data)
    counted_ns = sum(int(m) * 60e9 + float(s) * 1e9 for m, s in minutes)
    assert counted_ns > 0.1e9
    assert total.value is not None
    # Its own figures are rounded to clock ticks, and starting the container came before.
    assert total.value == pytest.approx(counted_ns, rel=0.05, abs=40e6)
    assert total.scope == "workload (cgroup)"


def test_what_a_cold_start_reads_of_the_image_is_known(
    container: Backend, known_image: str
) -> None:
    cold = CacheState.COLD
    nothing, _ = measure(container, ("true",), cache_state=cold, image=known_image, trials=2)
    everything, _ = measure(
        container, sh("cat /known >/dev/null"), cache_state=cold, image=known_image, trials=2
    )
    read = trial_value("image-read", everything) - trial_value("image-read", nothing)
    assert read == pytest.approx(KNOWN_BYTES, rel=0.05)
    # busybox itself, or the part of it that was needed, with what the kernel read ahead.
    assert 0 < trial_value("image-read", nothing) <= Path("/bin/busybox").stat().st_size + 4096
    total = next(r.value for r in nothing.readings if r.meter is Meter.IMAGE_TOTAL_BYTES)
    assert total is not None
    assert KNOWN_BYTES < total < KNOWN_BYTES + 4 * MIB
    assert not [d for d in everything.diagnostics if d.code is DiagnosticCode.CACHE_NOT_EVICTED]


def test_a_warm_start_says_that_nothing_counted_what_it_read(
    container: Backend, known_image: str
) -> None:
    trial, _ = measure(container, ("true",), image=known_image)
    assert "the page cache was warm" in (missing(trial, Meter.IMAGE_READ_BYTES) or "")


def test_an_evicted_file_is_gone_and_a_mapped_one_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "image"
    folder.mkdir()
    (folder / "one").write_bytes(random.Random(1).randbytes(MIB))
    (folder / "empty").touch()
    (folder / "link").symlink_to("one")
    os.link(folder / "one", folder / "same")
    alone = tmp_path / "two"
    alone.write_bytes(random.Random(2).randbytes(3 * MIB + 1))
    paths = (folder, alone)
    whole = 4 * MIB + 4096
    assert cache.total_bytes(paths) == cache.resident_bytes(paths) == whole
    assert cache.evict(paths) == 0
    assert cache.resident_bytes(paths) == 0
    with open(alone, "rb") as file:
        file.seek(MIB)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        file.read(4096)
        assert 4096 <= resident_of_file(file.fileno()) < MIB
    # A process that has it mapped keeps its pages.
    program = (
        "import mmap, sys; f = open(sys.argv[1], 'rb');"
        "m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); sum(m[::4096]);"
        "print('mapped', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(alone)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"mapped\n"
        assert cache.evict(paths) == 3 * MIB + 4096
        holder.communicate()
    assert cache.evict(paths) == 0


def test_an_image_in_use_makes_a_cold_start_doubtful(container: Backend, known_image: str) -> None:
    arm = Arm("holder", "container")
    command = sh("echo ready; exec busybox sleep 1000")
    asked = scenario(arm, command=command, readiness=WAITING, image=known_image)
    with closing(container.prepare(asked, arm, None, lambda _: None)) as prepared:
        holder = prepared.launch("holder")
        try:
            wait_ready(holder, WAITING, None, time.monotonic_ns() + 10_000_000_000)
            trial, _ = measure(container, sh("cat /known >/dev/null"),
                               cache_state=CacheState.COLD, image=known_image)  # fmt: skip
        finally:
            holder.stop(1_000_000_000)
            holder.remove()
    doubts = [d for d in trial.diagnostics if d.code is DiagnosticCode.CACHE_NOT_EVICTED]
    assert len(doubts) == 1
    kept = int(doubts[0].detail.split()[0])
    assert 0 < kept <= Path("/bin/busybox").stat().st_size + 4096
    # What was there all the time was not read; the rest of busybox was evicted and may have been.
    program_bytes = Path("/bin/busybox").stat().st_size + 4096
    assert KNOWN_BYTES <= trial_value("image-read", trial) <= KNOWN_BYTES + program_bytes - kept


def test_nothing_is_left_behind_and_that_is_counted(container: Backend) -> None:
    trial, _ = measure(container, touching(1), WAITING)
    assert trial_value("left-behind", trial) == 0
