"""What two readings of the host around a trial say, and that they are cheap and true."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.environment import registry
from harness.meters import host_activity
from harness.meters.host_activity import Gauges, Snapshot, Watch, disturbances, share_of_others
from harness.model.diagnostics import Diagnostic, DiagnosticCode

MS = 1_000_000
MIB = 1 << 20

BEFORE = Snapshot(
    at_ns=10**12,
    suspended_ns=5 * 10**9,
    busy_ns=10**13,
    self_ns=10**9,
    children_ns=10**9,
    group_ns=10**9,
    stolen_ns=10**9,
    cpu_wait_ns=10**10,
    disk_wait_ns=10**10,
    memory_wait_ns=10**8,
    swapped_pages=1000,
    disk_bytes=10**10,
    own_disk_bytes=10**8,
    throttled_ns=10**8,
    hot_events=10,
)


def after(took_ms: int = 100, **grown: int) -> Snapshot:
    """A reading so much later, in which some things have grown."""
    values = {name: getattr(BEFORE, name) + more for name, more in grown.items()}
    return replace(BEFORE, at_ns=BEFORE.at_ns + took_ms * MS, **values)


QUIET = {
    # All CPU time is ours, though we waited for ourselves all the time.
    "all ours": after(busy_ns=151 * MS, self_ns=10 * MS, children_ns=138 * MS, cpu_wait_ns=90 * MS),
    "ours by the cgroup": after(busy_ns=151 * MS, self_ns=10 * MS, group_ns=138 * MS),
    "in both counts": after(
        busy_ns=78 * MS, self_ns=10 * MS, children_ns=65 * MS, group_ns=66 * MS
    ),
    "an engine's monitor": after(
        busy_ns=160 * MS, children_ns=90 * MS, group_ns=60 * MS, apart_ns=60 * MS
    ),
    "short and little": after(took_ms=5, busy_ns=4 * MS, self_ns=2 * MS, children_ns=1 * MS),
    "long and little": after(took_ms=4000, busy_ns=4300 * MS, children_ns=4000 * MS),
    # A cold start waits for the disk, and reads what it waits for.
    "our reading": after(
        disk_wait_ns=60 * MS, disk_bytes=30 * MIB, own_disk_bytes=29 * MIB, busy_ns=0
    ),
    "waited for next to nothing": after(disk_wait_ns=60 * MS, disk_bytes=MIB // 2),
    "disks busy, nobody waits": after(disk_bytes=90 * MIB),
    "one tick stolen": after(stolen_ns=10 * MS),
    "little stolen in a long time": after(took_ms=10_000, stolen_ns=400 * MS),
    "waited for memory by a hair": after(memory_wait_ns=MS // 2),
    "clocks read apart": after(suspended_ns=2 * MS),
}
DISTURBED = {
    "others": (
        after(busy_ns=160 * MS, self_ns=10 * MS, children_ns=90 * MS),
        (DiagnosticCode.LOADED_HOST, "other processes used about 60 % of one CPU meanwhile"),
    ),
    "others in a short trial": (
        after(took_ms=2, busy_ns=3 * MS, children_ns=2 * MS),
        (DiagnosticCode.LOADED_HOST, "other processes used about 50 % of one CPU meanwhile"),
    ),
    "others in a long trial": (
        after(took_ms=4000, busy_ns=5000 * MS, children_ns=4000 * MS),
        (DiagnosticCode.LOADED_HOST, "other processes used about 20 % of one CPU meanwhile"),
    ),
    "others, and waiting": (
        after(took_ms=20, busy_ns=39 * MS, children_ns=19 * MS, cpu_wait_ns=15 * MS),
        (
            DiagnosticCode.LOADED_HOST,
            "other processes used about 100 % of one CPU meanwhile, and tasks waited for a CPU",
        ),
    ),
    "disks": (
        after(disk_wait_ns=42 * MS, disk_bytes=30 * MIB, own_disk_bytes=2 * MIB),
        (
            DiagnosticCode.LOADED_HOST,
            (
                "tasks waited for disks about 40 % of the time, while the disks moved mostly what "
                "this trial did not ask for"
            ),
        ),
    ),
    "stolen": (after(stolen_ns=30 * MS), (DiagnosticCode.CPU_STOLEN, "about 30 % of one CPU")),
    "throttled": (
        after(throttled_ns=20 * MS),
        (DiagnosticCode.CGROUP_THROTTLED, "held back for about 20 % of the time"),
    ),
    "memory": (
        after(memory_wait_ns=5 * MS),
        (DiagnosticCode.MEMORY_PRESSURE, "waited about 5 % of the time"),
    ),
    "swap": (after(swapped_pages=1), (DiagnosticCode.SWAPPING, "in the middle of the trial")),
    "heat": (after(hot_events=1), (DiagnosticCode.THERMAL, "in the middle of the trial")),
    "sleep": (after(suspended_ns=90 * 10**9), (DiagnosticCode.SUSPENDED, "for 90.0 s")),
}


@pytest.mark.parametrize("reading", QUIET.values(), ids=QUIET)
def test_what_is_ours_or_too_little_raises_no_doubt(reading: Snapshot) -> None:
    assert disturbances(BEFORE, reading) == ()


@pytest.mark.parametrize(("reading", "expected"), DISTURBED.values(), ids=DISTURBED)
def test_what_disturbs_a_trial(reading: Snapshot, expected: tuple[DiagnosticCode, str]) -> None:
    assert disturbances(BEFORE, reading) == (Diagnostic(*expected),)


def test_counted_in_ticks_it_takes_two_of_them_to_tell() -> None:
    ticks = replace(BEFORE, busy_step_ns=10 * MS)
    one, three = (
        replace(after(busy_ns=number * 10 * MS), busy_step_ns=10 * MS) for number in (1, 3)
    )
    assert disturbances(ticks, one) == ()
    assert [found.code for found in disturbances(ticks, three)] == [DiagnosticCode.LOADED_HOST]


def test_a_host_that_says_nothing_raises_no_doubt() -> None:
    assert disturbances(Snapshot(at_ns=0), Snapshot(at_ns=MS)) == ()
    assert disturbances(Snapshot(at_ns=0, suspended_ns=BEFORE.suspended_ns), after()) == ()
    assert disturbances(BEFORE, Snapshot(BEFORE.at_ns + MS, BEFORE.suspended_ns)) == ()


# A host of files.

MOUNTS_V1 = """\
22 1 0:20 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
23 1 0:21 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct
24 1 0:22 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
MOUNTS_V2 = "22 1 0:20 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty host; what is put there is what the gauges find."""
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    write(tmp_path, "proc/self/mountinfo", "")
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    (tmp_path / "proc/self/ns").mkdir()
    (tmp_path / "proc/self/ns/cgroup").symlink_to("cgroup:[4026531835]")
    return tmp_path


def write(host: Path, path: str, text: str) -> None:
    file = host / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_an_empty_host_says_nothing(host: Path) -> None:
    (host / "proc/self/ns/cgroup").unlink()
    reading = Gauges().read()
    silent = Snapshot(
        at_ns=reading.at_ns,
        suspended_ns=reading.suspended_ns,
        self_ns=reading.self_ns,
        children_ns=reading.children_ns,
        busy_step_ns=reading.busy_step_ns,
    )
    assert reading == silent


def test_what_the_files_of_proc_say(host: Path) -> None:
    write(host, "proc/stat", "cpu  1 2 3 1000 2000 4 5 6 7 8\ncpu0 9 9 9 9 9 9 9 9 9 9\n")
    for name, total in (("cpu", 11), ("io", 22), ("memory", 33)):
        line = "avg10=0.00 avg60=0.00 avg300=0.00 total="
        write(host, f"proc/pressure/{name}", f"some {line}{total}\nfull {line}7\n")
    write(host, "proc/vmstat", "nr_pgpgin 1\npgpgin 100\npgpgout 20\npswpin 3\npswpout 4\nx 1\n")
    write(
        host,
        "proc/self/io",
        "rchar: 9\nread_bytes: 500\nwrite_bytes: 60\ncancelled_write_bytes: 1\n",
    )
    cpu = min(os.sched_getaffinity(0))
    heat = f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle"
    write(host, f"{heat}/core_throttle_count", "3\n")
    write(host, f"{heat}/package_throttle_count", "4\n")
    reading = Gauges().read()
    tick_ns = 10 * MS
    assert os.sysconf("SC_CLK_TCK") == 100
    assert reading.busy_ns == (1 + 2 + 3 + 4 + 5) * tick_ns
    assert reading.busy_step_ns == tick_ns
    assert reading.stolen_ns == 6 * tick_ns
    assert reading.cpu_wait_ns == 11_000
    assert reading.disk_wait_ns == 22_000
    assert reading.memory_wait_ns == 33_000
    assert reading.disk_bytes == 120 * 1024
    assert reading.own_disk_bytes == 560
    assert reading.swapped_pages == 7
    assert reading.hot_events == 7


def test_cpu_time_by_cgroups_of_version_1(host: Path) -> None:
    write(host, "proc/self/mountinfo", MOUNTS_V1)
    write(host, "sys/fs/cgroup/cpuacct/cpuacct.usage", "123456789\n")
    gauges = Gauges()
    assert gauges.read().busy_ns == 123456789
    assert gauges.read().busy_step_ns == 0
    assert gauges.read().group_ns == 0
    # Our own groups come and go; the larger count is the more complete one.
    write(host, "sys/fs/cgroup/unified/steelyard/cpu.stat", "usage_usec 50\nuser_usec 40\n")
    assert gauges.read().group_ns == 50_000
    write(host, "sys/fs/cgroup/cpuacct/steelyard/cpuacct.usage", "60000\n")
    assert gauges.read().group_ns == 60_000
    assert gauges.read().busy_ns == 123456789


def test_cpu_time_by_cgroups_of_version_2(host: Path) -> None:
    write(host, "proc/self/mountinfo", MOUNTS_V2)
    write(host, "sys/fs/cgroup/cpu.stat", "usage_usec 999999\n")
    write(host, "sys/fs/cgroup/user.slice/cpu.stat", "usage_usec 100\n")
    write(host, "sys/fs/cgroup/system.slice/cpu.stat", "usage_usec 20\n")
    gauges = Gauges()
    assert gauges.read().busy_ns == 120_000
    write(host, "sys/fs/cgroup/steelyard/cpu.stat", "usage_usec 3\n")
    assert gauges.read().busy_ns == 123_000
    assert gauges.read().group_ns == 3_000


def test_in_a_namespace_of_cgroups_only_ticks_tell(host: Path) -> None:
    write(host, "proc/self/mountinfo", MOUNTS_V1)
    write(host, "proc/stat", "cpu  1 0 0 0 0 0 0 0 0 0\n")
    write(host, "sys/fs/cgroup/cpuacct/cpuacct.usage", "123456789\n")
    (host / "proc/self/ns/cgroup").unlink()
    (host / "proc/self/ns/cgroup").symlink_to("cgroup:[4026532000]")
    assert Gauges().read().busy_ns == 10 * MS


@pytest.mark.parametrize(
    ("mounts", "own", "files", "expected"),
    [
        (
            MOUNTS_V2,
            "0::/jobs/one\n",
            {
                # The quota is the outer group's, and so is the count.
                "sys/fs/cgroup/jobs/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/jobs/cpu.stat": "usage_usec 1\nnr_throttled 2\nthrottled_usec 30\n",
                "sys/fs/cgroup/jobs/one/cpu.max": "max 100000\n",
                "sys/fs/cgroup/jobs/one/cpu.stat": "usage_usec 1\nthrottled_usec 0\n",
            },
            30_000,
        ),
        (
            MOUNTS_V1,
            "1:cpu:/one\n0::/\n",
            {
                "sys/fs/cgroup/cpu/one/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/one/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/one/cpu.stat": "nr_throttled 2\nthrottled_time 777\n",
            },
            777,
        ),
        (
            MOUNTS_V1,
            "1:cpu:/one\n0::/\n",
            {
                "sys/fs/cgroup/cpu/one/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/one/cpu.stat": "nr_throttled 0\nthrottled_time 0\n",
            },
            None,
        ),
    ],
)
def test_the_quota_of_the_groups_around_us(
    host: Path, mounts: str, own: str, files: dict[str, str], expected: int | None
) -> None:
    write(host, "proc/self/mountinfo", mounts)
    write(host, "proc/self/cgroup", own)
    for path, text in files.items():
        write(host, path, text)
    assert Gauges().read().throttled_ns == expected


# The real host.


def test_the_host_says_what_a_trial_needs() -> None:
    """What any Linux with /proc/stat has; and it only ever grows."""
    gauges = Gauges()
    first, second = gauges.read(), gauges.read()
    assert first.busy_ns is not None
    assert second.busy_ns is not None
    assert 0 < first.busy_ns <= second.busy_ns
    assert first.disk_bytes is not None
    assert first.at_ns < second.at_ns
    assert abs(second.suspended_ns - first.suspended_ns) < host_activity.SUSPENDED_NS


def test_our_own_work_is_not_taken_for_that_of_others(tmp_path: Path) -> None:
    """0.3 s of a busy child and 0.2 s of our own are accounted for, whatever else goes on here."""
    program = "import time\nwhile time.process_time() < 0.3: pass"
    gauges = Gauges()
    before = gauges.read()
    subprocess.run([sys.executable, "-c", program], check=True)
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    reading = gauges.read()
    assert reading.children_ns - before.children_ns >= 300 * MS
    assert reading.self_ns - before.self_ns >= 200 * MS
    assert before.busy_ns is not None
    assert reading.busy_ns is not None
    own = reading.children_ns - before.children_ns + reading.self_ns - before.self_ns
    # Two clocks of the kernel, and in ticks where there are no cgroups.
    assert reading.busy_ns - before.busy_ns > 0.9 * own - 2 * reading.busy_step_ns


def wait_for_work(pid: int, seconds: float) -> None:
    """Until a process has used more CPU time than now, by some seconds."""

    def used() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    begun = used()
    while used() <= begun + seconds:
        time.sleep(0.01)


def test_the_work_of_others_is_seen() -> None:
    """A child that goes on living does not count as ours: it stands for a stranger here."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as stranger:
        try:
            wait_for_work(stranger.pid, 0.0)
            watch = Watch.begin()
            wait_for_work(stranger.pid, 0.3)
            found = watch.end()
        finally:
            stranger.kill()
    codes = [diagnostic.code for diagnostic in found]
    assert DiagnosticCode.LOADED_HOST in codes


def test_what_instances_of_ours_used_apart_is_no_work_of_others() -> None:
    """A second that was used, in the eyes of a fresh process: by an engine's own group."""
    seen = Gauges()
    before = seen.read()
    seen.add_apart(600 * MS)
    seen.add_apart(400 * MS)
    after = seen.read()
    assert after.apart_ns - before.apart_ns == 1000 * MS
    assert before.busy_ns is not None
    used = replace(
        before, at_ns=before.at_ns + 1000 * MS, busy_ns=before.busy_ns + 1000 * MS,
        apart_ns=after.apart_ns,
    )  # fmt: skip
    assert share_of_others(before, used) == 0.0
    assert share_of_others(before, replace(used, apart_ns=0)) == 1 / os.sysconf(
        "SC_NPROCESSORS_ONLN"
    )


def test_a_watch_that_cannot_begin_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Gauges) -> Snapshot:
        raise OSError

    monkeypatch.setattr(Gauges, "read", fail)
    before = threading.enumerate()
    with pytest.raises(OSError):  # noqa: PT011 - the one from above
        Watch.begin()
    assert threading.enumerate() == before


def test_a_watch_costs_next_to_nothing() -> None:
    """CPU time, since the host is not ours; the best of several, with room for slow hosts."""
    gauges = Gauges()
    gauges.read()
    costs = []
    for _ in range(5):
        begun_ns = time.thread_time_ns()
        for _ in range(20):
            gauges.read()
        costs.append((time.thread_time_ns() - begun_ns) // 20)
    assert min(costs) < 1 * MS
