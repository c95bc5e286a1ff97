"""The meters of a guest: what it read of its disk, what it wrote, what QEMU takes for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.backends import get_backend
from harness.meters.host_activity import gauges
from harness.model import CacheState, Meter, Milestone, Readiness, Trial
from harness.model.backend import Backend
from harness.model.diagnostics import DiagnosticCode
from harness.model.metrics import trial_value
from tests.support.metering import KNOWN_BYTES, MIB, WAITING, add_known_image, measure, sh
from tests.support.scenarios import ENDED

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

WRITTEN = 10 * MIB
WORK = f"cat /known >/dev/null; dd if=/dev/zero of=/new bs=1M count={WRITTEN // MIB}"


@pytest.fixture(scope="module")
def vm() -> Backend:
    backend = get_backend("vm-micro")
    verdict = backend.availability()
    if not verdict.usable:
        pytest.skip(f"{verdict.reason}; {verdict.remedy}")
    gauges()
    return backend


@pytest.fixture(scope="module")
def idle_and_busy(vm: Backend) -> tuple[Trial, Trial, float, float]:
    image = add_known_image()
    idle, record = measure(vm, ("true",), image=image)
    growth = trial_value("disk-growth", idle, record)
    busy, record = measure(vm, sh(WORK), image=image, cache_state=CacheState.COLD)
    return idle, busy, growth, trial_value("disk-growth", busy, record)


def test_what_a_guest_reads_of_its_disk_is_known(
    idle_and_busy: tuple[Trial, Trial, float, float],
) -> None:
    idle, busy, _, _ = idle_and_busy
    read = trial_value("image-read", busy) - trial_value("image-read", idle)
    assert read == pytest.approx(KNOWN_BYTES, rel=0.05)
    total = next(r.value for r in busy.readings if r.meter is Meter.IMAGE_TOTAL_BYTES)
    assert total is not None
    assert KNOWN_BYTES < total < KNOWN_BYTES + 12 * MIB


def test_what_a_guest_writes_is_the_growth_of_its_overlay(
    idle_and_busy: tuple[Trial, Trial, float, float],
) -> None:
    _, _, idle_growth, busy_growth = idle_and_busy
    assert 0 <= idle_growth < 2 * MIB
    # ext4 and qcow2 write about their data, too.
    assert busy_growth - idle_growth == pytest.approx(WRITTEN, rel=0.05)


@pytest.mark.parametrize("readiness", [ENDED, WAITING], ids=["exit", "output"])
def test_what_a_guest_still_holds_in_memory_when_it_is_ready_counts(
    vm: Backend, readiness: Readiness
) -> None:
    """Nobody asks for it to be written: the guest would do so 5 to 30 s later."""
    write = "dd if=/dev/urandom of=/new bs=4k count={} 2>/dev/null; echo ready{}"
    rest = "" if readiness is ENDED else "; exec sleep 1000"
    growth = []
    for blocks in (1, 257):
        trial, record = measure(vm, sh(write.format(blocks, rest)), readiness)
        assert DiagnosticCode.NOT_FLUSHED not in [one.code for one in trial.diagnostics]
        growth.append(trial_value("disk-growth", trial, record))
    assert growth[0] < MIB // 4
    assert growth[1] - growth[0] == pytest.approx(MIB, rel=0.02)


def test_memory_and_cpu_time_are_those_of_qemu(
    idle_and_busy: tuple[Trial, Trial, float, float],
) -> None:
    idle, _, _, _ = idle_and_busy
    assert {r.scope for r in idle.readings if r.meter is Meter.PSS_BYTES} == {"QEMU"}
    # More than the guest's kernel, less than the guest's memory with all of QEMU.
    assert 32 * MIB < trial_value("uss", idle) <= trial_value("pss", idle) < 512 * MIB
    ready_ns = idle.milestones_ns[Milestone.READY]
    assert 0 < trial_value("cpu", idle) < 4 * ready_ns
    assert trial_value("left-behind", idle) == 0


@pytest.mark.alone
def test_cold_starts_evict_kernel_initramfs_and_backing_file(vm: Backend) -> None:
    from contextlib import closing

    from harness.meters import cache
    from harness.model import Arm
    from tests.support.scenarios import scenario

    asked = scenario(Arm("vm-micro", "vm-micro"))
    with closing(vm.prepare(asked, asked.arms[0], None, lambda _: None)) as prepared:
        paths = prepared.image_paths()
        assert len(paths) == 3
        assert all(isinstance(path, Path) and path.is_file() for path in paths)
        assert cache.evict(paths) == 0
        assert cache.resident_bytes(paths) == 0
