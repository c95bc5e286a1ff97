"""Facts about the host: each is there, or says why not."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from harness.environment import (
    REGISTRY,
    Fact,
    MissingError,
    capture,
    filesystem_of,
    median_mkdir_ns,
    registry,
)
from harness.environment.settings import cgroup_mountpoint, limited_cgroups
from harness.model.diagnostics import DiagnosticCode


def test_every_fact_has_a_value_of_its_type_or_a_reason() -> None:
    captured = capture()
    assert captured.facts.keys() == REGISTRY.keys()
    for name, value in captured.facts.items():
        if value is None:
            assert captured.missing[name]
        else:
            assert type(value) is REGISTRY[name].kind
            assert name not in captured.missing
            assert value != ""


def test_what_any_linux_host_can_say_is_there() -> None:
    facts = capture().facts
    assert facts["kernel"] == os.uname().release
    assert facts["cpus"] == len(os.sched_getaffinity(0))
    memory = facts["memory_bytes"]
    assert isinstance(memory, int)
    assert memory == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert facts["cpu_model"]
    assert facts["distribution"]


def test_quantities_have_units_and_names_that_say_so() -> None:
    for fact in REGISTRY.values():
        assert (fact.unit == "bytes") == fact.name.endswith("_bytes"), fact
        assert (fact.unit == "ns") == fact.name.endswith("_ns"), fact
        assert (fact.unit == "MHz") == fact.name.endswith("_mhz"), fact


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MissingError("it is Tuesday"), "it is Tuesday"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "/x: no such file or directory"),
        (ValueError("x"), "unexpected content: x"),
    ],
)
def test_a_fact_that_cannot_be_had_says_why(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def read() -> str:
        raise error

    monkeypatch.setitem(REGISTRY, "odd", Fact("odd", str, "", read))
    captured = capture()
    assert captured.facts["odd"] is None
    assert captured.missing["odd"] == reason


@pytest.mark.parametrize(("load", "doubted"), [(0.1, False), (100.0, True)])
def test_a_busy_host_is_a_doubt(
    monkeypatch: pytest.MonkeyPatch, load: float, *, doubted: bool
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    codes = [diagnostic.code for diagnostic in capture().diagnostics]
    assert (DiagnosticCode.LOADED_HOST in codes) == doubted


def test_facts_by_way_of_psutil_are_those_of_the_kernel() -> None:
    """A record of before and one of after this library must mean the same."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    btime = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    assert btime is not None
    facts = capture().facts
    assert facts["memory_bytes"] == int(meminfo["MemTotal"].split()[0]) * 1024
    assert facts["cpus_online"] == os.sysconf("SC_NPROCESSORS_ONLN")
    status = Path("/proc/self/status").read_text()
    assert f"Cpus_allowed_list:\t{facts['cpus_allowed']}\n" in status
    available, cores, processes = (
        REGISTRY[name].read() for name in ("memory_available_bytes", "cpu_cores", "processes")
    )
    assert isinstance(available, int)
    assert isinstance(cores, int)
    assert isinstance(processes, int)
    # Two readings of what others change: not farther apart than a quarter of all there is.
    now = int(meminfo["MemAvailable"].split()[0]) * 1024
    assert abs(available - now) < int(meminfo["MemTotal"].split()[0]) * 1024 // 4
    assert 1 <= cores <= os.sysconf("SC_NPROCESSORS_CONF")
    assert processes >= 1
    booted = datetime.fromisoformat(str(facts["booted_at"]))
    assert abs(booted.timestamp() - int(btime[1])) <= 1


@pytest.mark.parametrize("path", ["/", "/proc/self", "/sys/kernel", "/dev/shm", "/usr/bin", "/dev"])
def test_the_filesystem_of_a_folder_is_what_df_says(path: str) -> None:
    done = subprocess.run(
        ["df", "--output=fstype", path], capture_output=True, text=True, check=True
    )
    assert filesystem_of(Path(path)) == done.stdout.split()[-1]


def test_another_proc_is_read_within_its_block_alone(tmp_path: Path) -> None:
    before = psutil.PROCFS_PATH
    with pytest.raises(FileNotFoundError), registry.procfs(str(tmp_path)):
        psutil.virtual_memory()
    assert before == psutil.PROCFS_PATH


def test_the_filesystem_of_a_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    assert filesystem_of(Path("/proc/self")) == "proc"
    assert filesystem_of(tmp_path / "not" / "yet") == filesystem_of(tmp_path)


# A host of files: what each fact makes of what the kernel may say.

CPUS = "sys/devices/system/cpu"
MEMINFO = """\
MemTotal: 100 kB
MemFree: 10 kB
MemAvailable: 60 kB
Buffers: 1 kB
Cached: 2 kB
Active: 3 kB
Inactive: 4 kB
Shmem: 5 kB
SwapTotal: 50 kB
SwapFree: 20 kB
"""
V2 = "22 1 0:20 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def mounted(kind: str, options: str) -> str:
    """The mounts of a host with one filesystem."""
    return f"/dev/sdz / {kind} {options} 0 0\n"


def heat(cpu: int, package: int, core_events: int, package_events: int) -> dict[str, str]:
    folder = f"{CPUS}/cpu{cpu}"
    return {
        f"{folder}/thermal_throttle/core_throttle_count": f"{core_events}\n",
        f"{folder}/thermal_throttle/package_throttle_count": f"{package_events}\n",
        f"{folder}/topology/physical_package_id": f"{package}\n",
    }


def frequency(file: str, *values: str) -> dict[str, str]:
    return {f"{CPUS}/cpu{cpu}/cpufreq/{file}": f"{word}\n" for cpu, word in enumerate(values)}


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        ("hypervisor", {"proc/cpuinfo": "flags\t\t: fpu vme\n"}, "none"),
        (
            "hypervisor",
            {"proc/cpuinfo": "flags\t: hypervisor\n", "sys/class/dmi/id/sys_vendor": "QEMU\n"},
            "QEMU",
        ),
        (
            "hypervisor",
            {"proc/cpuinfo": "flags\t: hypervisor\n"},
            "unknown: the CPU says there is one, and nothing says which",
        ),
        ("cpu_model", {"proc/cpuinfo": "model name\t: A CPU\nmodel name\t: B CPU\n"}, "A CPU"),
        ("smt", {f"{CPUS}/smt/active": "1\n"}, True),
        ("smt", {f"{CPUS}/smt/active": "0\n"}, False),
        (
            "cpu_governor",
            frequency("scaling_governor", "performance", "performance"),
            "performance",
        ),
        (
            "cpu_governor",
            frequency("scaling_governor", "schedutil", "performance"),
            "performance, schedutil",
        ),
        ("cpu_frequency_driver", frequency("scaling_driver", "intel_pstate"), "intel_pstate"),
        ("cpu_turbo", {f"{CPUS}/intel_pstate/no_turbo": "0\n"}, True),
        ("cpu_turbo", {f"{CPUS}/intel_pstate/no_turbo": "1\n"}, False),
        ("cpu_turbo", {f"{CPUS}/cpufreq/boost": "1\n"}, True),
        ("cpu_turbo", {f"{CPUS}/cpufreq/boost": "0\n"}, False),
        # Two packages of two cores: a package's count is shown by each of its CPUs, and is one.
        (
            "thermal_throttle_events",
            {**heat(0, 0, 1, 7), **heat(1, 0, 2, 7), **heat(2, 1, 0, 5), **heat(3, 1, 0, 5)},
            1 + 2 + 7 + 5,
        ),
        ("memory_bytes", {"proc/meminfo": MEMINFO}, 100 * 1024),
        ("memory_available_bytes", {"proc/meminfo": MEMINFO}, 60 * 1024),
        ("swap_bytes", {"proc/meminfo": MEMINFO}, 50 * 1024),
        ("booted_at", {"proc/stat": "cpu 1 2\nbtime 86400\n"}, "1970-01-02T00:00:00+00:00"),
        ("processes", {"proc/1/stat": "", "proc/22/stat": "", "proc/self/stat": ""}, 2),
        ("swap_used_bytes", {"proc/meminfo": MEMINFO}, 30 * 1024),
        (
            "transparent_huge_pages",
            {"sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n"},
            "madvise",
        ),
        ("same_page_merging", {"sys/kernel/mm/ksm/run": "1\n"}, True),
        ("same_page_merging", {"sys/kernel/mm/ksm/run": "2\n"}, False),
        ("pressure_stall_information", {"proc/pressure/cpu": "some avg10=0.00 total=1\n"}, True),
        ("pressure_stall_information", {}, False),
        ("cpu_quota", {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2}, "none"),
        ("cgroup_favordynmods", {"proc/self/mountinfo": V2}, False),
        (
            "cgroup_favordynmods",
            {"proc/self/mountinfo": V2.replace("rw\n", "rw,nsdelegate,favordynmods\n")},
            True,
        ),
        ("rcu_expedited", {"sys/kernel/rcu_expedited": "0\n"}, False),
        ("rcu_expedited", {"sys/kernel/rcu_expedited": "1\n"}, True),
        ("rcu_normal", {"sys/kernel/rcu_normal": "1\n"}, True),
        ("rcu_boot_parameters", {"proc/cmdline": "root=/dev/vda rcu_x=1 quiet\n"}, "none"),
        (
            "rcu_boot_parameters",
            {"proc/cmdline": "ro rcupdate.rcu_expedited=1 rcu_nocbs=0-3 quiet\n"},
            "rcupdate.rcu_expedited=1 rcu_nocbs=0-3",
        ),
        ("data_home_filesystem", {"proc/self/mounts": mounted("xfs", "rw")}, "xfs"),
        ("data_home_journal", {"proc/self/mounts": mounted("xfs", "rw")}, "not applicable: xfs"),
        ("data_home_discard", {"proc/self/mounts": mounted("ext4", "rw,discard")}, True),
        ("data_home_discard", {"proc/self/mounts": mounted("btrfs", "rw,discard=async")}, True),
        ("data_home_discard", {"proc/self/mounts": mounted("ext4", "rw,nodiscard")}, False),
        (
            "cpu_quota",
            {
                "proc/self/cgroup": "0::/a/b\n",
                "proc/self/mountinfo": V2,
                "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "200000 100000\n",
            },
            "1.5 CPUs",
        ),
    ],
)
def test_a_fact_of_a_made_up_host(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    files: dict[str, str],
    expected: str | float | bool,
) -> None:
    put(tmp_path, files)
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    value = REGISTRY[name].read()
    assert value == expected
    assert type(value) is type(expected)


def put(root: Path, files: dict[str, str]) -> None:
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


@pytest.mark.parametrize(
    ("name", "files", "reason"),
    [
        ("cpu_governor", {}, "this kernel does not set the CPUs' frequency (no cpufreq)"),
        ("cpu_turbo", {}, "this kernel does not say (no intel_pstate, no cpufreq boost)"),
        ("thermal_throttle_events", {}, "this kernel does not count it (no thermal_throttle)"),
        ("swap_bytes", {"proc/meminfo": "MemTotal: 1 kB\n"}, "/proc/meminfo has no 'SwapTotal'"),
        ("booted_at", {}, "/proc/stat: no such file or directory"),
        ("memory_bytes", {"proc/meminfo": "MemFree: 1 kB\n"}, "unexpected content: b'MemTotal:'"),
        ("smt", {}, f"/{CPUS}/smt/active: no such file or directory"),
        ("cgroup_favordynmods", {"proc/self/mountinfo": ""}, "no cgroup hierarchy is mounted"),
        (
            "data_home_journal",
            {"proc/self/mounts": mounted("ext4", "rw")},
            "/sys/fs/ext4 has no journal_task of its device",
        ),
        (
            "transparent_huge_pages",
            {"sys/kernel/mm/transparent_hugepage/enabled": "never\n"},
            "/sys/kernel/mm/transparent_hugepage/enabled marks no choice",
        ),
    ],
)
def test_a_made_up_host_that_does_not_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, files: dict[str, str], reason: str
) -> None:
    put(tmp_path, files)
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    captured = capture()
    assert captured.facts[name] is None
    assert captured.missing[name].replace(str(tmp_path), "") == reason


def test_the_groups_around_us_in_a_container_that_shows_only_its_own_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Version 1 without a cgroup namespace: the mount's root is our own group."""
    mounts = "22 1 0:20 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
    folder = "/sys/fs/cgroup/cpu,cpuacct"
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n",
        "proc/self/mountinfo": mounts,
        f"{folder[1:]}/cpu.cfs_quota_us": "50000\n",
        f"{folder[1:]}/cpu.cfs_period_us": "100000\n",
    }
    put(tmp_path, files)
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    assert limited_cgroups() == {folder: 0.5}
    # And the whole of the hierarchy is nowhere to be seen.
    assert cgroup_mountpoint("cgroup", "cpuacct") == ""
    put(tmp_path, {"proc/self/cgroup": "4:cpu,cpuacct:/../elsewhere\n"})
    assert limited_cgroups() == {}


def test_a_mount_point_is_spelled_as_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mounts = "22 1 0:20 / /sys/fs/größe\\040zwei rw - cgroup2 cgroup2 rw\n"
    put(tmp_path, {"proc/self/mountinfo": mounts})
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    assert cgroup_mountpoint("cgroup2") == "/sys/fs/größe zwei"


@pytest.mark.parametrize(("task", "journal"), [("<none>\n", "none"), ("77\n", "yes")])
def test_a_journal_is_that_of_the_data_homes_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task: str, journal: str
) -> None:
    number = tmp_path.stat().st_dev
    blocks = tmp_path / "sys/dev/block"
    blocks.mkdir(parents=True)
    (blocks / f"{os.major(number)}:{os.minor(number)}").symlink_to("../../devices/sdz")
    put(
        tmp_path,
        {"proc/self/mounts": mounted("ext4", "rw"), "sys/fs/ext4/sdz/journal_task": task},
    )
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "not/made/yet"))
    assert REGISTRY["data_home_journal"].read() == journal


def test_a_new_folder_costs_something_and_nothing_is_left(tmp_path: Path) -> None:
    assert median_mkdir_ns(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        median_mkdir_ns(tmp_path / "absent")


def test_reading_the_clock_has_a_price() -> None:
    cost = REGISTRY["clock_read_ns"].read()
    assert isinstance(cost, int)
    assert 1 < cost < 100_000
