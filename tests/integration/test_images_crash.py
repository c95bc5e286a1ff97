"""Kills at any moment, several processes, and a full disk: the store is whole afterwards."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from runtime.cli.image import image as image_group
from runtime.errors import ContainerError
from runtime.images import ImageStore
from tests.support.images import add_image, assert_whole, layer_tar
from tests.support.registry import docker_registry, missing
from tests.support.tars import make_tar, member

PROJECT = Path(__file__).parents[2]
KILLS = int(os.environ.get("STEELYARD_KILLS", "9"))
"""How many in the ordinary suite."""
SOAK_KILLS = int(os.environ.get("STEELYARD_SOAK_KILLS", "200"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where possible: what a kill leaves is the same there, and all of it is quicker."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="steelyard-test-") as name:
        yield Path(name)


@pytest.fixture
def store(folder: Path) -> ImageStore:
    """With one image that must survive everything."""
    store = ImageStore(folder / "images")
    add_image(store, "keep", [layer_tar(0), layer_tar(1)])
    return store


@pytest.fixture
def tars(folder: Path) -> list[Path]:
    """Layers of which the first is part of `keep` as well, the last with thousands of files."""
    paths = [folder / f"{number}.tar" for number in range(3)]
    paths[0].write_bytes(layer_tar(0))
    paths[1].write_bytes(layer_tar(2, 3_000_000))
    chance = random.Random(1)
    members = [member(f"d{n % 40}/f{n}", data=chance.randbytes(3000)) for n in range(1200)]
    paths[2].write_bytes(make_tar(*members))
    return paths


class Worker:
    """A process that does one thing to the store."""

    def __init__(self, store: ImageStore, operation: str, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "tests.support.images_worker", store.root, operation]
        self._process = subprocess.Popen(
            [*command, *arguments],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._ready = self._process.stdout.readline()

    def kill_after(self, seconds: float) -> bool:
        """Whether it was still at work then."""
        if self._ready:
            time.sleep(seconds)
        self._process.kill()
        _, said = self._process.communicate()
        assert "Traceback" not in said, said
        return self._process.returncode == -signal.SIGKILL

    def finish(self) -> None:
        """Let it come to its end, which must be good."""
        _, said = self._process.communicate()
        assert self._process.returncode == 0, said


def duration_of(store: ImageStore, operation: str, *arguments: str | Path) -> float:
    """How long the operation takes if nobody kills it."""
    worker = Worker(store, operation, *arguments)
    started = time.monotonic()
    worker.finish()
    return time.monotonic() - started


def assert_survived(store: ImageStore, complete: set[str]) -> None:
    """Valid, `keep` is there, and so is every layer that was complete before."""
    problems = "\n".join(map(str, store.verify()))
    assert problems == ""
    assert store.get("keep").layers
    assert complete <= {path.name for path in (store.root / "layers/sha256").glob("*[!.json]")}


def kill_often(store: ImageStore, operations: dict[str, tuple[str | Path, ...]], times: int) -> int:
    """Kill the operations, in turn, at random moments, so many times while they are at work.

    Returns:
        How many had to be started for that: some ended first.
    """
    chance = random.Random(times)
    durations = {name: duration_of(store, name, *rest) for name, rest in operations.items()}
    started = killed = 0
    while killed < times and started < 4 * times:
        name = list(operations)[started % len(operations)]
        started += 1
        before = set()
        if name not in ("remove", "collect"):
            before = {path.name for path in (store.root / "layers/sha256").iterdir()
                      if path.is_dir()}  # fmt: skip
        worker = Worker(store, name, *operations[name])
        killed += worker.kill_after(chance.uniform(0, durations[name]))
        assert_survived(store, before)
    assert killed == times
    return started


def check_kills(store: ImageStore, tars: list[Path], times: int) -> None:
    operations: dict[str, tuple[str | Path, ...]] = {
        "add": tuple(tars),
        "remove": (),
        "import": (tars[2], "1"),
        "collect": (),
        "tag": (),
        "verify": (),
    }
    print(f"\n{times} killed at work, of {kill_often(store, operations, times)} started")
    assert_no_more_than(store, "keep:latest")


def assert_no_more_than(store: ImageStore, name: str) -> None:
    """Remove all other images; then nothing else is left."""
    for image in store.images():
        if image.reference != name:
            store.remove(image.reference, keep=set)
    store.collect(keep=set)
    assert_whole(store)
    assert store.usage().unneeded_bytes == 0
    assert len(list((store.root / "layers/sha256").glob("*.json"))) == 2


def test_kill_at_any_moment(store: ImageStore, tars: list[Path]) -> None:
    check_kills(store, tars, KILLS)


@pytest.mark.soak
@pytest.mark.timeout(590)
def test_kill_at_any_moment_often(store: ImageStore, tars: list[Path]) -> None:
    check_kills(store, tars, SOAK_KILLS)


def check_kills_of_pull(store: ImageStore, tars: list[Path], folder: Path, times: int) -> None:
    if reason := missing("docker-registry"):
        pytest.skip(reason)
    source = ImageStore(folder / "source/images")
    add_image(source, "new", [path.read_bytes() for path in tars])
    (folder / "registry").mkdir()
    with docker_registry(folder / "registry") as host:
        name = f"{host}/new:1"
        result = CliRunner().invoke(
            image_group, ["push", "new", name], env={"STEELYARD_HOME": str(source.root.parent)}
        )
        assert result.exit_code == 0, result.output
        started = kill_often(store, {"pull": (name,), "remove": ()}, times)
        print(f"\n{times} killed at work, of {started} started")
        # And after all that, a pull brings it.
        Worker(store, "pull", name).finish()
        pulled = store.get(name)
        assert [layer.diff_id for layer in pulled.layers] == [
            layer.diff_id for layer in source.get("new").layers
        ]
        assert pulled.digest == source.get("new").digest
        assert_no_more_than(store, "keep:latest")


def test_kill_a_pull_at_any_moment(store: ImageStore, tars: list[Path], folder: Path) -> None:
    check_kills_of_pull(store, tars, folder, max(2, KILLS // 3))


@pytest.mark.soak
@pytest.mark.timeout(590)
def test_kill_a_pull_at_any_moment_often(store: ImageStore, tars: list[Path], folder: Path) -> None:
    check_kills_of_pull(store, tars, folder, SOAK_KILLS)


def test_two_processes_pull_the_same(store: ImageStore, tars: list[Path], folder: Path) -> None:
    if reason := missing("docker-registry"):
        pytest.skip(reason)
    (folder / "registry").mkdir()
    with docker_registry(folder / "registry") as host:
        name = f"{host}/new:1"
        add_image(store, "new", [path.read_bytes() for path in tars])
        home = {"STEELYARD_HOME": str(store.root.parent)}
        assert CliRunner().invoke(image_group, ["push", "new", name], env=home).exit_code == 0
        store.remove("new", keep=set)
        for worker in [Worker(store, "pull", name) for _ in range(3)]:
            worker.finish()
        assert len(store.get(name).layers) == 3
        assert_no_more_than(store, "keep:latest")


def test_several_processes_and_one_is_killed(store: ImageStore, tars: list[Path]) -> None:
    duration = duration_of(store, "add", *tars)
    for fraction in (0.2, 0.7):
        store.remove("new", keep=set)
        victim = Worker(store, "add", *tars)
        others = [
            Worker(store, "add", *tars),
            Worker(store, "import", tars[2], "2"),
            Worker(store, "collect"),
        ]
        victim.kill_after(fraction * duration)
        for other in others:
            other.finish()
        assert_survived(store, set())
        assert store.get("new").layers
    store.collect(keep=set)
    assert_whole(store)


# A full disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 filesystem of 48 MiB of its own."""
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is not installed")
    disk, mountpoint = tmp_path / "disk", tmp_path / "mnt"
    with disk.open("wb") as file:
        file.truncate(48 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F", "-m", "0", disk], check=True)
    mountpoint.mkdir()
    done = subprocess.run(
        ["mount", "-o", "loop", disk, mountpoint], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a loop device cannot be mounted here: {done.stderr.strip()}")
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", mountpoint], check=True)
        yield mountpoint


def fill(ballast: Path, free_bytes: int) -> None:
    """Leave so much room on the disk of this file, about."""
    with ballast.open("wb") as file:
        end, step = 0, 32 << 20
        while step >= 4096:
            room = os.statvfs(ballast.parent)
            if room.f_bavail * room.f_frsize - step >= free_bytes:
                try:
                    os.posix_fallocate(file.fileno(), end, step)
                    end += step
                    continue
                except OSError:
                    os.ftruncate(file.fileno(), end)
            step //= 2


@pytest.mark.privileged
def test_a_full_disk(small_disk: Path, tars: list[Path]) -> None:
    store = ImageStore(small_disk / "images")
    add_image(store, "keep", [layer_tar(0), layer_tar(1)])
    data = [path.read_bytes() for path in tars]
    ballast = small_disk / "ballast"
    failed = 0
    # From no room at all to just enough: it fails at another place each time.
    for free_kib in (0, 4, 16, 256, 1024, 3 << 10, 6 << 10, 9 << 10, 12 << 10, 30 << 10):
        fill(ballast, free_kib << 10)
        try:
            add_image(store, "new", data)
            said = ""
        except ContainerError as error:
            said = str(error)
        if said:
            failed += 1
            assert "No space left" in said
            assert "\n" not in said
            assert [image.reference for image in store.images()] == ["keep:latest"]
            # Even now what is there can be looked at, and with some room verified.
            assert store.get("keep").layers
        ballast.unlink()
        problems = "\n".join(map(str, store.verify()))
        assert problems == ""
    assert failed >= 6
    assert store.get("new").layers
    assert_whole(store)
    store.remove("new", keep=set)
    assert store.usage().unneeded_bytes == 0


@pytest.mark.privileged
def test_a_full_disk_can_be_emptied(small_disk: Path) -> None:
    """`rm` must write to remove; that may not need room that only `rm` can make."""
    store = ImageStore(small_disk / "images")
    for number in range(6):
        add_image(store, f"app:{number}", [layer_tar(number, 200_000)])
    records = sorted((store.root / "layers/sha256").glob("*.json"))
    fill(small_disk / "ballast", 0)
    with (small_disk / "rest").open("wb", 0) as rest, suppress(OSError):
        while True:
            rest.write(bytes(512))
    assert os.statvfs(small_disk).f_bavail == 0
    removed = store.get("app:3").layers[0].diff_id[7:]
    assert store.remove("app:3", keep=set).freed_bytes > 200_000
    assert len(store.images()) == 5
    left = [path for path in records if path.stem != removed]
    assert sorted((store.root / "layers/sha256").glob("*.json")) == left
    assert_whole(store)


@pytest.mark.privileged
def test_no_inodes_left(small_disk: Path) -> None:
    store = ImageStore(small_disk / "images")
    add_image(store, "keep", [layer_tar(0)])
    many = make_tar(*[member(f"f{n}") for n in range(os.statvfs(small_disk).f_ffree + 10)])
    with pytest.raises(ContainerError, match="No space left"):
        add_image(store, "new", [many])
    assert_whole(store)
    assert os.statvfs(small_disk).f_ffree > 1000
