"""Layouts as mountinfo describes them, and limits as each version writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import UnsupportedError
from runtime.launch.cgroups import CgroupManager, limit_files
from runtime.launch.spec import ResourceLimits
from runtime.linux.cgroup_mounts import CONTROLLERS, CgroupLayout, find_layout

_PLAIN = "23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
UNIFIED = _PLAIN + (
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
)
LEGACY = (
    _PLAIN
    + """\
31 23 0:28 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:3 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:4 - cgroup cgroup rw,memory
34 31 0:31 / /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,xattr,name=systemd
"""
)
HYBRID = (
    LEGACY
    + """\
35 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
38 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
)


@pytest.mark.parametrize(
    ("text", "name", "unified", "legacy"),
    [
        (UNIFIED, "unified", "/sys/fs/cgroup", {}),
        (
            LEGACY,
            "legacy",
            None,
            {"cpu": "/sys/fs/cgroup/cpu,cpuacct", "memory": "/sys/fs/cgroup/memory"},
        ),
        (
            HYBRID,
            "hybrid",
            "/sys/fs/cgroup/unified",
            {
                "cpu": "/sys/fs/cgroup/cpu,cpuacct",
                "memory": "/sys/fs/cgroup/memory",
                "pids": "/sys/fs/cgroup/pids",
            },
        ),
        (_PLAIN, "none", None, {}),
        ("", "none", None, {}),
        ("nonsense\n - \n1 2 3 4 5 - cgroup2\n", "none", None, {}),
        # A file name that looks like one is none.
        ("30 23 0:26 / /cgroup2 rw - tmpfs cgroup2 rw,memory\n", "none", None, {}),
    ],
)
def test_layouts(text: str, name: str, unified: str | None, legacy: dict[str, str]) -> None:
    layout = find_layout(text)
    assert (layout.name, layout.unified, dict(layout.legacy)) == (name, unified, legacy)


def test_the_first_mount_of_a_hierarchy_counts() -> None:
    again = UNIFIED + UNIFIED.replace("/sys/fs/cgroup ", "/mnt/again ")
    assert find_layout(again).unified == "/sys/fs/cgroup"


def test_odd_mount_points_are_read_and_others_do_no_harm() -> None:
    text = UNIFIED.replace("/sys/fs/cgroup ", "/my\\040cg\\134x\\011ü ")
    text += "9 23 0:9 / /m\udcff rw - tmpfs t rw\n"  # a byte that is no UTF-8
    assert find_layout(text).unified == "/my cg\\x\tü"


def test_the_layout_of_this_machine_is_real() -> None:
    layout = find_layout()
    if layout.unified:
        assert Path(layout.unified, "cgroup.procs").exists()
    for controller, mountpoint in layout.legacy.items():
        assert Path(mountpoint, "cgroup.procs").exists(), controller


LIMITS = ResourceLimits(64 << 20, 1.5, 50)


def test_settings_of_version_2() -> None:
    assert limit_files(LIMITS, ()) == {
        "memory": [("memory.max", "67108864")],
        "cpu": [("cpu.max", "150000 100000")],
        "pids": [("pids.max", "50")],
    }


def test_settings_of_version_1() -> None:
    assert limit_files(LIMITS, CONTROLLERS) == {
        "memory": [("memory.limit_in_bytes", "67108864")],
        "cpu": [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "150000")],
        "pids": [("pids.max", "50")],
    }


@pytest.mark.parametrize("legacy", [(), CONTROLLERS])
def test_no_limit_writes_nothing(legacy: tuple[str, ...]) -> None:
    assert limit_files(ResourceLimits(), legacy) == {}
    assert not ResourceLimits()
    assert ResourceLimits(pids=1)
    assert set(limit_files(ResourceLimits(cpus=0.01), legacy)) == {"cpu"}


def test_where_there_is_no_cgroup_filesystem() -> None:
    manager = CgroupManager(CgroupLayout(None, {}))
    assert manager.create("x", ResourceLimits()) is None
    assert manager.parents() == ()
    with pytest.raises(UnsupportedError, match="limit of memory: this host has no such cgroup"):
        manager.create("x", ResourceLimits(memory_bytes=1 << 20))


def test_a_controller_that_is_missing_is_said_so_and_nothing_is_left(tmp_path: Path) -> None:
    manager = CgroupManager(CgroupLayout(None, {"memory": str(tmp_path)}))
    with pytest.raises(UnsupportedError, match="limit of pids"):
        manager.create("x", ResourceLimits(1 << 20, pids=5))
    assert list(tmp_path.iterdir()) == []


def test_a_tree_that_is_not_writable(tmp_path: Path) -> None:
    # A plain folder: the files of a cgroup do not appear in it.
    manager = CgroupManager(CgroupLayout(str(tmp_path / "absent"), {}))
    assert manager.create("x", ResourceLimits()) is None
    with pytest.raises(UnsupportedError, match=r"cannot set resource limits: .*absent"):
        manager.create("x", ResourceLimits(pids=5))


def test_parents_are_named_once(tmp_path: Path) -> None:
    both = {"cpu": "/cg/cpu,memory", "memory": "/cg/cpu,memory"}
    manager = CgroupManager(CgroupLayout("/cg/unified", both))
    assert manager.parents() == ("/cg/unified/steelyard", "/cg/cpu,memory/steelyard")
