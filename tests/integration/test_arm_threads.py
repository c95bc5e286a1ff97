"""An arm that several threads launch from at once, as a scale scenario does."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from harness.backends import get_backend
from harness.lab import Lab, LabError
from harness.lab.readiness import wait_ready
from harness.model import Arm, Readiness, ReadinessKind
from tests.support.scenarios import scenario

pytestmark = [pytest.mark.privileged, pytest.mark.usefixtures("leaves_nothing")]

THREADS = 8
SERVES = Readiness(ReadinessKind.TCP, port=8000)
COMMAND = ("sh", "-c", "exec busybox httpd -f -p 8000 -h /tmp")


def test_instances_launched_at_once_have_their_own_network_stamps_and_disk() -> None:
    """Every address answers, none is another's, and t0 is each one's own."""
    backend = get_backend("container")
    asked = scenario(Arm("arm", "container"), command=COMMAND, readiness=SERVES)
    try:
        lab = Lab()
    except LabError as error:
        pytest.skip(str(error))
    addresses: list[str | None] = []
    owned: list[str] = []
    pids: list[int] = []
    errors: list[BaseException] = []
    all_alive = threading.Barrier(THREADS)

    def live(number: int) -> None:
        begun_ns = time.monotonic_ns()
        try:
            instance = prepared.launch(f"together-{number}")
            try:
                assert begun_ns <= min(instance.milestones_ns.values())
                wait_ready(instance, SERVES, lab, time.monotonic_ns() + 20_000_000_000)
                accounting = instance.accounting()
                addresses.append(instance.address)
                owned.extend(accounting.owned)
                pids.append(accounting.pids[0])
                all_alive.wait(20)
            finally:
                instance.stop(1_000_000_000)
                instance.remove()
        except BaseException as error:  # shown by the main thread
            errors.append(error)
            all_alive.abort()

    with lab, closing(backend.prepare(asked, asked.arms[0], lab, lambda _: None)) as prepared:
        threads = [threading.Thread(target=live, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert len(set(addresses)) == len(set(owned)) == len(set(pids)) == THREADS
    assert None not in addresses
