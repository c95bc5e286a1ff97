"""The empty measuring path: it goes through everything that a box's trial goes through."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from harness.backends import BACKENDS, get_backend, known_names
from harness.lab import Lab, LabError
from harness.lab.readiness import wait_ready
from harness.measure.interruption import Interruption
from harness.measure.trial import out_of_order, take_trial
from harness.model import Arm, Milestone, Outcome, Readiness, ReadinessKind, Slot
from harness.model.backend import Backend, Instance, PreparedArm
from harness.model.errors import HarnessError, PrepareError, UnexpectedExitError
from tests.support.scenarios import scenario

ENDED = Readiness(ReadinessKind.EXIT, output="^hello$")
NULL = Arm("null", "null")


@pytest.mark.parametrize("kind", [ReadinessKind.EXIT, ReadinessKind.OUTPUT])
@pytest.mark.usefixtures("nothing_left")
def test_it_is_ready_at_once_and_every_step_is_gone_through(kind: ReadinessKind) -> None:
    asked = scenario(NULL, readiness=Readiness(kind, output="^hello$"))
    backend = get_backend("null")
    assert isinstance(backend, Backend)
    with closing(backend.prepare(asked, NULL, None, lambda _: None)) as prepared:
        assert isinstance(prepared, PreparedArm)
        instance = prepared.launch("null")
        assert isinstance(instance, Instance)
        try:
            wait_ready(instance, asked.readiness, None, time.monotonic_ns() + 10**9)
            assert instance.output.data == b"hello\n"
        finally:
            instance.stop(1)
            instance.remove()
        stamps = dict(instance.milestones_ns)
        assert set(stamps) == set(Milestone) - {
            Milestone.KERNEL,
            Milestone.USERSPACE,
            Milestone.STOPPING,
        }
        assert out_of_order(stamps) is None
        instance.stop(1)
        instance.remove()
        assert instance.milestones_ns == stamps


def test_a_trial_of_it_is_like_any_other() -> None:
    asked = scenario(NULL, readiness=ENDED)
    with (
        closing(get_backend("null").prepare(asked, NULL, None, lambda _: None)) as prepared,
        Interruption() as interruption,
    ):
        trial = take_trial(Slot("sample", "null", 0, 0), asked, prepared, None, interruption)
    assert (trial.outcome, trial.error, trial.exit_code) == (Outcome.OK, None, 0)


@pytest.mark.privileged
@pytest.mark.parametrize("kind", [ReadinessKind.TCP, ReadinessKind.HTTP])
def test_a_server_that_listens_already_is_found_by_the_prober(kind: ReadinessKind) -> None:
    try:
        lab = Lab()
    except LabError as error:
        pytest.skip(str(error))
    ready = Readiness(kind, port=8000)
    arm = Arm("null", "null", {"body": "served\n"})
    asked = scenario(arm, readiness=ready)
    with lab, closing(get_backend("null").prepare(asked, arm, lab, lambda _: None)) as prepared:
        for _ in range(2):  # the port is free again
            instance = prepared.launch("null")
            try:
                answer = wait_ready(instance, ready, lab, time.monotonic_ns() + 10**9)
            finally:
                instance.stop(1)
                instance.remove()
            assert answer.body == (b"served\n" if kind is ReadinessKind.HTTP else None)


def test_its_output_can_be_given_and_is_judged_as_any_other() -> None:
    arm = Arm("null", "null", {"output": "something else\n"})
    asked = scenario(arm, readiness=ENDED)
    with closing(get_backend("null").prepare(asked, arm, None, lambda _: None)) as prepared:
        instance = prepared.launch("null")
        try:
            with pytest.raises(UnexpectedExitError, match="something else"):
                wait_ready(instance, ENDED, None, time.monotonic_ns() + 10**9)
        finally:
            instance.stop(1)
            instance.remove()


def test_options_that_it_does_not_have_are_told() -> None:
    arm = Arm("null", "null", {"outptu": "x"})
    with pytest.raises(PrepareError, match="did you mean 'output'"):
        get_backend("null").prepare(scenario(arm), arm, None, lambda _: None)


def test_what_is_no_box_works_by_name_and_is_never_proposed() -> None:
    assert {"null", "fake"} <= set(BACKENDS)
    assert not {"null", "fake"} & set(known_names())
    with pytest.raises(HarnessError) as caught:
        get_backend("nul")
    assert "runc" in str(caught.value)
    assert "null" not in str(caught.value)
    assert "fake" not in str(caught.value)
