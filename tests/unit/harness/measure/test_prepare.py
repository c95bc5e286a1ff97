"""What preparing an arm takes out of the time of its trials."""

from __future__ import annotations

import pytest

from harness.backends import get_backend
from harness.lab.http import tls_context
from harness.measure.interruption import Interruption
from harness.measure.prepare import LocalArms
from harness.model import Readiness, ReadinessKind
from tests.support.scenarios import fake, scenario


@pytest.mark.parametrize("tls", [False, True])
def test_tls_is_loaded_before_the_first_trial_where_it_is_asked_for(tls: bool) -> None:
    tls_context.cache_clear()
    arm = fake()
    asked = scenario(arm, readiness=Readiness(ReadinessKind.HTTP, port=443, tls=tls))
    with Interruption() as interruption:
        LocalArms(get_backend).prepare(asked, arm, None, lambda _: None, interruption).close()
    assert tls_context.cache_info().currsize == (1 if tls else 0)
