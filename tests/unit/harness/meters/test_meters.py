"""Meters on fabricated /proc trees and cgroups: what is added up, and what is missing and why."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from harness.meters import cpu, instance, leaks, memory
from harness.model import Meter, Reading
from harness.model.backend import Accounting
from tests.support.metering import Proc

MIB = 1 << 20


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path / "proc")


def accounting(*pids: int, **changes: object) -> Accounting:
    values: dict[str, object] = {"pids": pids, "scope": "workload", "cgroups": {}, **changes}
    return Accounting(**values)  # type: ignore[arg-type]


def group(path: Path, **files: str) -> str:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name.replace("__", ".", 1)).write_text(content)
    return str(path)


def values(readings: Iterable[Reading]) -> dict[Meter, int | None]:
    return {reading.meter: reading.value for reading in readings}


def reasons(readings: Iterable[Reading]) -> dict[Meter, str]:
    return {r.meter: r.missing for r in readings if r.missing is not None}


def test_memory_is_summed_over_the_processes_of_an_instance(proc: Proc) -> None:
    proc.process(7, pss=300, clean=56, dirty=108)
    proc.process(9, pss=100, clean=4, dirty=20)
    found = values(memory.read([accounting(7, 9)], None, proc.path))
    assert found[Meter.PSS_BYTES] == 400 * 1024
    assert found[Meter.USS_BYTES] == (56 + 108 + 4 + 20) * 1024


def test_a_process_that_ends_meanwhile_takes_its_memory_with_it(proc: Proc) -> None:
    proc.process(7, pss=300, dirty=100)
    found = values(memory.read([accounting(7, 8)], None, proc.path))
    assert found[Meter.PSS_BYTES] == 300 * 1024


def test_without_a_process_memory_is_missing_and_not_zero(proc: Proc) -> None:
    for pids in ((), (8,)):
        readings = memory.read([accounting(*pids)], None, proc.path)
        assert values(readings)[Meter.PSS_BYTES] is None
        assert values(readings)[Meter.USS_BYTES] is None
        assert "the workload has ended" in reasons(readings)[Meter.PSS_BYTES]


def test_a_process_of_which_only_the_exit_status_is_left_has_no_memory() -> None:
    """A real one: what the kernel says of it, empty files and ESRCH, is the point."""
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        readings = memory.read([accounting(child.pid)], None)
        assert values(readings)[Meter.USS_BYTES] is None
        assert "the workload has ended" in reasons(readings)[Meter.PSS_BYTES]
        assert leaks.left_behind(leaks.traces(accounting(child.pid))) == ()


def test_pss_and_uss_are_what_the_kernel_says_of_a_process() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        try:
            # Stopped, so that it is the same at both readings.
            child.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, child.pid, os.WSTOPPED)
            found = values(memory.read([accounting(child.pid)], None))
            rollup = Path(f"/proc/{child.pid}/smaps_rollup").read_text()
            pss = re.findall(r"^Pss: +(\d+) kB$", rollup, re.MULTILINE)
            private = re.findall(r"^Private_\w+: +(\d+) kB$", rollup, re.MULTILINE)
        finally:
            child.kill()
    assert found[Meter.PSS_BYTES] == pytest.approx(int(pss[0]) * 1024, rel=0.2)
    assert found[Meter.USS_BYTES] == sum(map(int, private)) * 1024


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")
def test_memory_of_a_process_that_may_not_be_looked_at_says_so() -> None:
    os.seteuid(65534)
    try:
        readings = memory.read([accounting(1)], None)
    finally:
        os.seteuid(0)
    assert reasons(readings)[Meter.PSS_BYTES] == "/proc/1/smaps_rollup: Permission denied"


@pytest.mark.parametrize(
    "files",
    [
        {"memory__usage_in_bytes": "5000\n", "memory__max_usage_in_bytes": "9000\n"},
        {"memory__current": "5000\n", "memory__peak": "9000\n"},
    ],
    ids=["v1", "v2"],
)
def test_what_the_cgroup_charges_comes_from_either_version(
    proc: Proc, tmp_path: Path, files: dict[str, str]
) -> None:
    folder = group(tmp_path / "group", **files)
    readings = memory.read([accounting(cgroups={"memory": folder})], None, proc.path)
    assert values(readings)[Meter.CGROUP_CURRENT_BYTES] == 5000
    assert values(readings)[Meter.CGROUP_PEAK_BYTES] == 9000
    assert {r.scope for r in readings if r.meter is Meter.CGROUP_PEAK_BYTES} == {
        "workload (cgroup)"
    }


def test_a_kernel_without_memory_peak_says_so(proc: Proc, tmp_path: Path) -> None:
    folder = group(tmp_path / "group", memory__current="5000\n")
    readings = memory.read([accounting(cgroups={"memory": folder})], None, proc.path)
    assert values(readings)[Meter.CGROUP_CURRENT_BYTES] == 5000
    assert (
        "memory.peak: this kernel does not count it" in reasons(readings)[Meter.CGROUP_PEAK_BYTES]
    )
    without = reasons(memory.read([accounting()], None, proc.path))
    assert "no memory cgroup of its own" in without[Meter.CGROUP_CURRENT_BYTES]


def test_the_fall_of_available_memory_may_be_a_rise(proc: Proc) -> None:
    proc.available(1000)
    before = memory.available_bytes(proc.path)
    for now, fell in ((900, 100), (1200, -200)):
        proc.available(now)
        readings = memory.read([accounting()], before, proc.path)
        assert values(readings)[Meter.AVAILABLE_DELTA_BYTES] == fell * 1024
    (proc.root / "meminfo").write_text("MemTotal: 1 kB\n")
    readings = memory.read([accounting()], before, proc.path)
    assert "has no MemAvailable" in reasons(readings)[Meter.AVAILABLE_DELTA_BYTES]


def test_several_instances_are_summed(proc: Proc, tmp_path: Path) -> None:
    folders = [
        group(tmp_path / name, memory__current="100\n", memory__peak="200\n") for name in "ab"
    ]
    proc.process(7, pss=300)
    proc.process(9, pss=100)
    both = [
        accounting(pid, cgroups={"memory": folder})
        for pid, folder in zip((7, 9), folders, strict=True)
    ]
    found = values(memory.read(both, None, proc.path))
    assert found[Meter.PSS_BYTES] == 400 * 1024
    assert found[Meter.CGROUP_PEAK_BYTES] == 400
    # One of them without: the sum would be a figure of something else.
    assert values(memory.read([both[0], accounting(9)], None, proc.path))[
        Meter.CGROUP_PEAK_BYTES
    ] is None  # fmt: skip


CPU_STAT = "usage_usec 900000\nuser_usec 300000\nsystem_usec 600000\nnr_periods 1\n"


@pytest.mark.parametrize(
    ("controller", "files"),
    [
        ("cpuacct", {"cpu__stat": CPU_STAT}),
        ("cpu", {"cpu__stat": CPU_STAT}),
        ("cpuacct", {"cpuacct__usage_user": "300000000\n", "cpuacct__usage_sys": "600000000\n"}),
        # Version 1: both controllers in one folder, whose cpu.stat only tells of throttling.
        (
            "cpu",
            {
                "cpu__stat": "nr_periods 0\nnr_throttled 0\n",
                "cpuacct__usage_user": "300000000\n",
                "cpuacct__usage_sys": "600000000\n",
            },
        ),
    ],
    ids=["v2", "v2-controller", "v1", "v1-shared"],
)
def test_cpu_time_of_a_cgroup_has_all_that_was_ever_in_it(
    proc: Proc, tmp_path: Path, controller: str, files: dict[str, str]
) -> None:
    folder = group(tmp_path / "group", **files)
    # What has ended is in the cgroup's figure already and must not be added to it.
    readings = cpu.read(
        [accounting(7, cgroups={controller: folder}, ended_cpu_ns=(5, 5))], proc.path
    )
    assert values(readings) == {
        Meter.CPU_NS: 900_000_000,
        Meter.CPU_USER_NS: 300_000_000,
        Meter.CPU_SYSTEM_NS: 600_000_000,
    }
    assert {reading.scope for reading in readings} == {"workload (cgroup)"}


def test_cpu_time_of_processes_is_exact_in_sum_and_split_as_the_kernel_splits_it(
    proc: Proc,
) -> None:
    proc.process(7, times=(30, 10, 2, 1))
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    clocks = {7: 404_000_000}
    readings = cpu.read([accounting(7, scope="QEMU")], proc.path, clocks.__getitem__)
    assert values(readings) == {
        Meter.CPU_NS: 404_000_000 + 3 * tick_ns,
        Meter.CPU_USER_NS: 303_000_000 + 2 * tick_ns,
        Meter.CPU_SYSTEM_NS: 101_000_000 + tick_ns,
    }
    assert {reading.scope for reading in readings} == {"QEMU"}


def test_cpu_time_of_few_ticks_is_exact_and_its_division_missing(proc: Proc) -> None:
    proc.process(7)
    readings = cpu.read([accounting(7)], proc.path, lambda _: 123_456)
    assert values(readings) == {
        Meter.CPU_NS: 123_456,
        Meter.CPU_USER_NS: None,
        Meter.CPU_SYSTEM_NS: None,
    }
    assert "below 10 clock ticks" in reasons(readings)[Meter.CPU_USER_NS]


def test_cpu_time_of_what_has_ended_comes_from_wait4_and_else_is_missing(proc: Proc) -> None:
    ended = cpu.read([accounting(ended_cpu_ns=(3, 4))], proc.path)
    assert values(ended)[Meter.CPU_NS] == 7
    for gone in (accounting(), accounting(8)):
        readings = cpu.read([gone], proc.path)
        assert set(values(readings).values()) == {None}
        assert "nothing counted" in reasons(readings)[Meter.CPU_USER_NS]


def test_the_clock_of_a_process_is_its_cpu_time() -> None:
    before = cpu.process_clock_ns(os.getpid())
    total = sum(range(200_000))
    spent = cpu.process_clock_ns(os.getpid()) - before
    assert total
    assert 0 < spent < 10_000_000_000
    with pytest.raises(OSError):  # noqa: PT011 - EINVAL, and that is all there is to it
        cpu.process_clock_ns(2**22 + 1)


def test_what_is_left_is_named_and_counted(proc: Proc, tmp_path: Path) -> None:
    folder = tmp_path / "bóx with a space"
    folder.mkdir()
    groups = {"cpuacct": group(tmp_path / "group"), "cpu": str(tmp_path / "group")}
    proc.process(7, started=500)
    proc.process(8, started=600)
    proc.process(9, started=700)
    seen = leaks.traces(accounting(7, 8, 9, cgroups=groups, owned=(str(folder),)), proc.path)
    proc.mounts(f"{tmp_path}/bóx\\040with\\040a\\040space/merged", f"{folder}-other", "/proc")
    proc.process(8, started=900)  # another one, which has got the pid
    proc.process(9, started=700, state="Z")  # ended: whose child it is has not looked yet
    assert leaks.left_behind(seen, proc.path) == (
        "process 7",
        f"cgroup {tmp_path}/group",
        f"mount {folder}/merged",
        f"folder {folder}",
    )


def test_nothing_is_left_of_what_is_gone(proc: Proc, tmp_path: Path) -> None:
    proc.process(7)
    owned = (f"{tmp_path}/gone",)
    seen = leaks.traces(accounting(7, cgroups={"cpu": f"{tmp_path}/group"}, owned=owned), proc.path)
    proc.process(7, started=501)
    assert leaks.left_behind(seen, proc.path) == ()


def test_readings_of_the_instances_own_go_before_those_of_the_meters() -> None:
    before = instance.look_before((), cold=False)
    own = Reading(Meter.PSS_BYTES, 42, "itself")
    readings = instance.read(accounting(os.getpid(), readings=(own,)), before)
    assert [reading for reading in readings if reading.meter is Meter.PSS_BYTES] == [own]
    # Every meter speaks once, with a value or with a reason, but for the one that looks for what is
    # left and those that only some instances have.
    assert len({reading.meter for reading in readings}) == len(readings) == len(Meter) - 3
    assert all((r.value is None) == (r.missing is not None) for r in readings)


def test_what_no_meter_reads_is_added_to_the_readings() -> None:
    own = Reading(Meter.FILE_SYSTEM_NS, 700_000, "writable layer")
    before = instance.look_before((), cold=False)
    without = instance.read(accounting(), before)
    assert Meter.FILE_SYSTEM_NS not in values(without)
    found = instance.read(accounting(readings=(own,)), before)
    assert found[-1] is own
    assert [reading.meter for reading in found[:-1]] == [reading.meter for reading in without]


def test_a_warm_image_says_why_nothing_was_counted(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 5000)
    before = instance.look_before((tmp_path,), cold=False)
    readings = instance.read(accounting(os.getpid()), before)
    assert "the page cache was warm" in reasons(readings)[Meter.IMAGE_READ_BYTES]
    assert values(readings)[Meter.IMAGE_TOTAL_BYTES] == 8192
    counted = instance.read(accounting(os.getpid(), image_read_bytes=77), before)
    assert values(counted)[Meter.IMAGE_READ_BYTES] == 77
