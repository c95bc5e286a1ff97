"""Fixtures that start real containers, and what a test wants to know about them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime.containers.container import Container, launch_container
from runtime.errors import ContainerError
from runtime.launch.launcher import Launcher, native_library
from runtime.launch.spec import ContainerSpec, DirectoryRoot, OverlayRoot
from runtime.linux.features import Features
from tests.support.host import HostState

BUSYBOX = "/bin/busybox"
FEATURES = Features(
    effective_capabilities=0x1FFFEFFFFFF,
    last_capability=40,
    masked_files=("/proc/kcore", "/proc/keys"),
    masked_directories=("/proc/acpi", "/sys/firmware"),
    read_only_paths=("/proc/bus", "/proc/sys", "/proc/sysrq-trigger"),
    overlay=True,
    mount_namespaces=True,
)
"""A kernel like many, for plans that do not depend on where the test runs."""


@dataclass(frozen=True)
class Result:
    """How a container ended and what it printed (stdout and stderr in one stream)."""

    code: int | None
    signal: int | None
    output: str
    container: Container


Run = Callable[..., Result]


def overlay_root(*lowerdirs: Path | str) -> OverlayRoot:
    """A root whose writable layer is made at the launch."""
    return OverlayRoot(tuple(map(str, lowerdirs)), "", "", "")


def make_rootfs(folder: Path) -> Path:
    """A root filesystem with nothing but busybox and its applets."""
    for name in ("bin", "etc", "tmp", "root"):
        (folder / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "bin/busybox")
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True)
    for applet in set(applets.stdout.split()) - {"busybox"}:
        (folder / "bin" / applet).symlink_to("busybox")
    (folder / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    return folder


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A busybox rootfs, shared: containers write to layers of their own."""
    if not os.path.exists(BUSYBOX):
        pytest.skip("busybox-static is not installed")
    return make_rootfs(tmp_path_factory.mktemp("rootfs") / "busybox")


@pytest.fixture(scope="session")
def can_run(rootfs: Path) -> None:
    """Skip where no container can be started, with the reason; found out by starting one."""
    spec = ContainerSpec(overlay_root(rootfs), ("true",), {"PATH": "/bin"})
    try:
        container = launch_container(spec)
        container.wait()
        container.remove()
    except ContainerError as error:
        pytest.skip(f"no container can be started here: {error}")


@pytest.fixture(params=list(Launcher))
def launcher(request: pytest.FixtureRequest) -> Launcher:
    """Each of the two launchers."""
    chosen: Launcher = request.param
    if chosen is Launcher.NATIVE and native_library() is None:
        pytest.skip("the native launcher is not built here")
    return chosen


@pytest.fixture
def run(can_run: None, rootfs: Path) -> Run:
    """Run a command to its end and take everything away again."""

    def run(
        *command: str,
        root: OverlayRoot | DirectoryRoot | None = None,
        environment: dict[str, str] | None = None,
        stdin: int = -1,
        launcher: Launcher | None = None,
        while_running: Callable[[Container], None] | None = None,
        **fields: Any,
    ) -> Result:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            spec = ContainerSpec(
                root or overlay_root(rootfs),
                command,
                {"PATH": "/bin"} if environment is None else environment,
                stdio=(stdin if stdin >= 0 else null, writer, writer),
                **fields,
            )
            container = launch_container(spec, launcher=launcher)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
            os.close(null)
        with contextlib.closing(open(reader, "rb")) as stream:
            try:
                if while_running is not None:
                    while_running(container)
                output = stream.read()
                status = container.wait()
            finally:
                container.remove()
        assert status is not None
        return Result(
            status.code, status.signal, output.decode(errors="surrogateescape"), container
        )

    return run


@pytest.fixture
def leaves_nothing(can_run: None) -> Iterator[None]:
    """Fail if the test leaves anything of its containers on the host."""
    before = HostState.now()
    threads = threading.active_count()
    yield
    left = HostState.settled(before).not_in(before)
    assert left == [], f"left behind: {left}"
    assert threading.active_count() == threads
