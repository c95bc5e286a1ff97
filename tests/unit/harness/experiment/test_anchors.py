"""Which arms have no anchor, and that it is said."""

from __future__ import annotations

from dataclasses import replace

from harness.experiment.anchors import anchored
from harness.model import Arm, Scale
from tests.support.scenarios import fake, scenario


def test_what_has_no_anchor_is_said() -> None:
    without = scenario(fake(), Arm("null"), image="app")
    growing = replace(scenario(Arm("container"), image="app"), scale=Scale((1, 2)))
    told: list[str] = []
    assert anchored([without, growing], [], told.append) == (without, growing)
    names = ", ".join(arm.name for arm in without.arms)
    assert told == [
        f"{without.name}: no anchor is taken of {names}, as no image is started there",
        f"{growing.name}: no anchor is taken, as instances grow in number there",
    ]
