"""Fixtures for all tests: a home of their own, and proof that nothing is left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports the runtime: images, instances and sessions of the tests live in a folder
# that goes with them. The cache (kernels, VM disks, verdicts) stays the user's: what is in it is
# named by its content and can be used by everybody. STEELYARD_TEST_HOME keeps the images.
_HOME = os.environ.get("STEELYARD_TEST_HOME") or tempfile.mkdtemp(prefix="steelyard-test-")
os.environ["STEELYARD_HOME"] = _HOME

from tests.support.docker import docker_daemon  # noqa: E402 - the home must be set first
from tests.support.host import HostState  # noqa: E402 - as above

__all__ = ["checkout", "docker_daemon", "nothing_left"]

# A shell without job control starts what it puts in the background with SIGINT ignored, nohup(1)
# ignores SIGHUP, and that is inherited: then neither a test nor the program that it interrupts
# would ever hear of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_sessionfinish() -> None:
    if "STEELYARD_TEST_HOME" not in os.environ:
        from runtime import Session

        Session.current().close()
        shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fail if the test leaves a mount, cgroup, network interface, process or folder behind."""
    before = HostState.now()
    yield
    after = HostState.settled(before)
    assert after.not_in(before) == []


@pytest.fixture(autouse=True)
def machines_take_turns(request: pytest.FixtureRequest) -> Iterator[None]:
    """Machines of all workers share kernels and disks; a test that needs them unused waits."""
    if request.node.get_closest_marker("vm") is None:
        yield
        return
    alone = request.node.get_closest_marker("alone") is not None
    with open(Path(tempfile.gettempdir(), "steelyard-test-machines.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


@pytest.fixture
def checkout() -> Path:
    """The root of the clone."""
    return Path(__file__).resolve().parent.parent
