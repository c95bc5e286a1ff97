"""A docker daemon of the tests' own: nobody else's containers, images and settings are in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.backends.peers import backend as peer_backend

_START_S = 60
_END_S = 30
_FIXED_PLACES = ("/etc/docker/key.json", "/run/docker", "/run/containerd")
"""What every dockerd makes, wherever its data is."""


@pytest.fixture(scope="module")
def docker_daemon() -> Iterator[str | None]:
    """Start dockerd and point docker's client at it; None where it is not installed.

    For a module, not the whole session: other tests count this process's children. The backend's
    verdict on docker is kept for a process, so it is forgotten at both ends.
    """
    program = shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or os.geteuid() != 0:
        yield None
        return
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        stack.callback(peer_backend._verdict.cache_clear)
        # Not in the folder of pytest: the names of the sockets below end after 108 bytes (unix(7)).
        folder = Path(tempfile.mkdtemp(prefix="steelyard-docker-"))
        stack.callback(shutil.rmtree, folder)
        host = stack.enter_context(_daemon(program, folder))
        patch.setenv("DOCKER_HOST", host)
        patch.setenv("PATH", f"{_client_folder(program, folder)}{os.pathsep}{os.environ['PATH']}")
        peer_backend._verdict.cache_clear()
        yield host


def _client_folder(program: str, folder: Path) -> Path:
    """A folder with the client that came with the daemon: one of another version may refuse it."""
    made = folder / "client"
    made.mkdir()
    for place in (Path(program).parent, Path(program).parent.parent / "bin"):
        if (place / "docker").exists():
            (made / "docker").symlink_to(place / "docker")
            break
    return made


@contextlib.contextmanager
def _daemon(program: str, folder: Path) -> Iterator[str]:
    """Run dockerd with all that it has in a folder; gives its address."""
    address = folder / "docker.sock"
    group = f"steelyard-docker-{os.getpid()}"
    made = [Path(place) for place in _FIXED_PLACES if not os.path.exists(place)]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                # It ends with this process, however that ends.
                "setpriv", "--pdeathsig", "TERM", program,
                "--data-root", folder / "data", "--exec-root", folder / "exec",
                "--pidfile", folder / "pid", "--host", f"unix://{address}",
                "--cgroup-parent", f"/{group}",
                # No bridge, and not a rule in the host's firewall.
                "--bridge=none", "--iptables=false", "--ip6tables=false",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        _wait_for(address, daemon, folder / "log")
        yield f"unix://{address}"
    finally:
        daemon.terminate()
        try:
            daemon.wait(_END_S)
        finally:
            daemon.kill()
            daemon.wait()
            _clear_up(folder, group, made)


def _wait_for(address: Path, daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        assert daemon.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(address))
            client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            if b"200 OK" in client.recv(64):
                return
        time.sleep(0.02)
    raise AssertionError(f"dockerd did not come up: {log.read_text()}")


def _clear_up(folder: Path, group: str, made: list[Path]) -> None:
    """Remove what dockerd leaves: mounts, control groups, and folders that were not there."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{folder}/"):
            subprocess.run(["umount", mount], check=True)
    for hierarchy in peer_backend.hierarchies():
        for place, _, _ in os.walk(f"{hierarchy}/{group}", topdown=False):
            os.rmdir(place)
    for path in made:
        if path.is_file():
            path.unlink()
        for place, _, _ in os.walk(path, topdown=False):
            # Whoever started a daemon meanwhile has something in it.
            with contextlib.suppress(OSError):
                os.rmdir(place)
