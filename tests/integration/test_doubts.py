"""Doubts that only a real box raises."""

from __future__ import annotations

from contextlib import closing

import pytest

from harness.backends import get_backend
from harness.measure.interruption import Interruption
from harness.measure.trial import take_trial
from harness.model import Arm, Outcome, Slot
from harness.model.diagnostics import DiagnosticCode
from runtime.launch.cgroups import CgroupManager
from tests.support.scenarios import scenario

pytestmark = pytest.mark.privileged


@pytest.mark.parametrize("can_have_cgroups", [True, False])
def test_a_container_without_a_cgroup_says_so(
    monkeypatch: pytest.MonkeyPatch, *, can_have_cgroups: bool
) -> None:
    backend = get_backend("container")
    verdict = backend.availability()
    if not verdict.usable:
        pytest.skip(verdict.reason)
    if not can_have_cgroups:
        # What `create` answers to a user to whom no cgroup is delegated.
        monkeypatch.setattr(CgroupManager, "create", lambda *_: None)
    asked = scenario(Arm("container", "container"))
    with closing(backend.prepare(asked, asked.arms[0], None, lambda _: None)) as prepared:
        trial = take_trial(Slot("sample", "container", 0, 0), asked, prepared, None, Interruption())
    assert trial.outcome is Outcome.OK, trial.error
    codes = [diagnostic.code for diagnostic in trial.diagnostics]
    assert (DiagnosticCode.NO_CGROUP in codes) == (not can_have_cgroups)
