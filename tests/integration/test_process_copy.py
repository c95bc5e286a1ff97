"""The copy that `process` runs in: the next run has it again, but never what a trial wrote."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from harness.backends import get_backend
from harness.lab.readiness import wait_ready
from harness.model import Arm, Milestone
from harness.model.backend import PreparedArm
from tests.support.scenarios import ENDED, scenario

pytestmark = pytest.mark.privileged

ARM = Arm("process", "process")


def prepare(said: list[str], command: str) -> PreparedArm:
    backend = get_backend("process")
    if not (found := backend.availability()).usable:
        pytest.skip(f"{found.reason}; {found.remedy}")
    asked = scenario(ARM, command=("sh", "-c", command), timeout_s=10)
    return backend.prepare(asked, ARM, None, said.append)


def run(prepared: PreparedArm) -> tuple[Path, bytes]:
    """Take one instance through its life: where it ran, and what it printed."""
    instance = prepared.launch("one")
    try:
        begun_ns = instance.milestones_ns[Milestone.REQUESTED]
        wait_ready(instance, ENDED, None, begun_ns + 10_000_000_000)
        return prepared.image_paths()[0], instance.output.data
    finally:
        instance.stop(10_000_000_000)
        instance.remove()


def test_a_copy_is_kept_until_a_trial_writes_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    said: list[str] = []
    with closing(prepare(said, "echo quiet > /dev/null; ls /; cat /etc/passwd")) as prepared:
        first = run(prepared)
        assert run(prepared) == first
    del said[:]
    with closing(prepare(said, "cat /mark; echo > /mark; echo done")) as prepared:
        assert said == []  # nothing was copied
        place, output = run(prepared)
        assert place == first[0]
        # Within an arm, as ever, a trial finds what the one before wrote.
        assert output.endswith(b"done\n")
        assert run(prepared)[1] == b"\ndone\n"
        with closing(prepare(said, "ls /")) as other:
            assert run(other)[0] != place
    del said[:]
    with closing(prepare(said, "ls /")) as prepared:
        assert said == ["copying the rootfs"]
        assert run(prepared)[0] == place
        assert b"mark" not in run(prepared)[1]
