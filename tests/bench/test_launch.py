"""The launch of a container against the floor and the peers: one run, interleaved, as ratios.

Every contender starts a static `true` in the same rootfs and is checked to have succeeded. Run it
on a quiet machine: pytest -m bench tests/bench/test_launch.py -s
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from runtime import Session, launch_container
from runtime.launch.cgroups import PARENT, cgroup_manager
from runtime.launch.launcher import Launcher
from runtime.launch.lower import lower
from runtime.launch.spec import ContainerSpec, OverlayRoot
from runtime.linux.features import probe_features
from runtime.linux.syscalls import unshare
from tests.bench.floor import build_floor

LAUNCHES = int(os.environ.get("STEELYARD_BENCH_LAUNCHES", "120"))
WARM_UP = 10

pytestmark = [pytest.mark.bench, pytest.mark.timeout(580)]

Sample = dict[str, int]
Contender = Callable[[], Sample]


def _spawn(argv: list[str]) -> Sample:
    """Run a peer's command from request to removed; its exit code proves that it worked."""
    requested = time.monotonic_ns()
    pid = os.posix_spawn(argv[0], argv, os.environ)
    _, status = os.waitpid(pid, 0)
    removed = time.monotonic_ns()
    assert status == 0, f"{argv[0]} ended with status {status}"
    return {"removed": removed - requested}


def _ours(spec: ContainerSpec, launcher: Launcher, session: Session) -> Sample:
    container = launch_container(spec, launcher=launcher, session=session)
    status = container.wait()
    container.remove()
    removed = time.monotonic_ns()
    assert status is not None
    assert status.code == 0
    t0 = container.requested_ns
    return {"started": container.launched.started_ns - t0, "removed": removed - t0}


def _floor(program: Path) -> Sample:
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    started, _, removed = map(int, output.split())
    return {"started": started, "removed": removed}


def _bundle(folder: Path, rootfs: Path) -> Path:
    bundle = folder / "bundle"
    bundle.mkdir()
    subprocess.run(["runc", "spec", "--bundle", bundle], check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = ["/bin/true"]
    config["process"]["terminal"] = False
    # Raising a hard limit needs CAP_SYS_RESOURCE, which not every root has.
    config["process"].pop("rlimits", None)
    config["root"] = {"path": str(rootfs), "readonly": True}
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


class _WithoutUnified:
    """Runs calls on a thread whose mount namespace lacks the v2 tree: crun 1.8 refuses hybrid."""

    def __init__(self) -> None:
        self._call: Contender | None = None
        self._answer: Sample | BaseException = {}
        self._go, self._done = threading.Event(), threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        from runtime.linux import abi
        from runtime.linux.syscalls import mount, umount

        unshare(abi.CLONE_NEWNS)
        mount(None, "/", None, abi.MS_REC | abi.MS_PRIVATE)
        layout = cgroup_manager().layout
        if layout.name == "hybrid" and layout.unified:
            umount(layout.unified)
            # Else crun makes its groups as folders in the tmpfs below, which is the host's.
            mount("tmpfs", layout.unified, "tmpfs", 0)
        while True:
            self._go.wait()
            self._go.clear()
            try:
                assert self._call is not None
                self._answer = self._call()
            except BaseException as error:  # handed to the caller
                self._answer = error
            self._done.set()

    def __call__(self, call: Contender) -> Sample:
        self._call = call
        self._go.set()
        self._done.wait()
        self._done.clear()
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A rootfs with a static `true` and the usual folders."""
    root = tmp_path / "rootfs"
    for folder in ("bin", "proc", "sys", "dev", "etc", "tmp"):
        (root / folder).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    (root / "bin/true").symlink_to("busybox")
    return root


@pytest.fixture
def session() -> Iterator[Session]:
    """A session where a user's containers are, not in /tmp as for other tests.

    What a folder costs depends on where in an ext4 filesystem it lies: in a /tmp that much was made
    and removed in, the floor itself took twice as long.
    """
    home = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local/share")) / "steelyard"
    session = Session(home)
    yield session
    session.close()


@pytest.fixture
def contenders(tmp_path: Path, rootfs: Path, session: Session) -> dict[str, Contender]:
    """Everything that is measured against each other on this machine."""
    spec = ContainerSpec(OverlayRoot((str(rootfs),), "", "", ""), ("/bin/true",), {"PATH": "/bin"})
    mountpoint = session.directory / ".rootfs"
    mountpoint.mkdir(exist_ok=True)
    instance = str(session.directory / "floor")
    root = OverlayRoot((str(rootfs),), f"{instance}/upper", f"{instance}/work", str(mountpoint))
    plan = lower(replace(spec, root=root), probe_features(), ())
    unified = cgroup_manager().layout.unified
    cgroup = f"{unified}/{PARENT}/{session.identifier}-floor" if unified else None
    if cgroup:
        Path(cgroup).parent.mkdir(exist_ok=True)
    program = build_floor(plan, instance, cgroup, tmp_path)
    calls: dict[str, Contender] = {
        "floor": lambda: _floor(program),
        "steelyard": lambda: _ours(spec, Launcher.NATIVE, session),
        "steelyard forked": lambda: _ours(spec, Launcher.FORKED, session),
        "true": lambda: _spawn([str(rootfs / "bin/true")]),
    }
    if bwrap := shutil.which("bwrap"):
        argv = [bwrap, "--bind", str(rootfs), "/", "--unshare-pid", "--unshare-net",
                "--unshare-ipc", "--unshare-uts", "--unshare-cgroup", "--proc", "/proc", "--dev",
                "/dev", "--die-with-parent", "/bin/true"]  # fmt: skip
        calls["bwrap"] = partial(_spawn, argv)
    if shutil.which("runc"):
        bundle = _bundle(tmp_path, rootfs)
        without_unified = _WithoutUnified()
        for name in ("crun", "runc"):
            if path := shutil.which(name):
                argv = [path, "run", "--bundle", str(bundle), f"bench-{os.getpid()}"]
                calls[name] = partial(without_unified, partial(_spawn, argv))
    return calls


def test_launch_against_floor_and_peers(contenders: dict[str, Contender]) -> None:
    order = random.Random(1)
    gc.disable()  # as the runner does while it takes a trial
    samples: dict[str, dict[str, list[int]]] = {name: {} for name in contenders}
    for block in range(-WARM_UP, LAUNCHES):
        names = list(contenders)
        order.shuffle(names)
        for name in names:
            gc.collect(0)
            for milestone, value in contenders[name]().items():
                if block >= 0:
                    samples[name].setdefault(milestone, []).append(value)
    gc.enable()
    medians = {
        name: {milestone: statistics.median(values) for milestone, values in by.items()}
        for name, by in samples.items()
    }
    print(f"\np50 of {LAUNCHES} interleaved launches each, milliseconds from request")
    for name, by in medians.items():
        print(f"  {name:18}" + "".join(f"{m:>10} {v / 1e6:7.2f}" for m, v in by.items()))
    ours, floor = medians["steelyard"], medians["floor"]
    print(f"  started / floor: {ours['started'] / floor['started']:.2f}")
    for peer in ("bwrap", "crun", "runc"):
        if peer in medians:
            print(f"  removed / {peer}: {ours['removed'] / medians[peer]['removed']:.2f}")
    assert ours["started"] <= 1.5 * floor["started"]
    if "bwrap" in medians:
        assert ours["removed"] <= 1.0 * medians["bwrap"]["removed"]
    if "crun" in medians:
        assert ours["removed"] <= 0.5 * medians["crun"]["removed"]
