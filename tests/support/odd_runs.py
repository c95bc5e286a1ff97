"""Runs that a report must get along with: odd in their shape, or written to break out of a page."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

from harness.records import Run
from tests.support.synthetic import synthetic_run

ODD = {
    "ordinary": {"blocks": 7, "scenarios": ("hello", "python-http")},
    "no trials": {"blocks": 0, "warmup_blocks": 0},
    "warm-up only": {"blocks": 0, "warmup_blocks": 2},
    "one block": {"blocks": 1},
    "one arm": {"blocks": 3, "arms": ("container",)},
    "no container": {"blocks": 6, "arms": ("vm-micro", "vm-classic")},
    "only failures": {"blocks": 3, "failure_rate": 1.0},
    "interrupted": {"blocks": 4, "interrupted": True},
    "no scenario": {"scenarios": ()},
    "cold, again": {
        "blocks": 3,
        "arms": ("container", "vm-micro"),
        "cold": True,
        "again": "container",
    },
}

HOSTILE = "<script>alert(1)</script>\"'&<b>|`{{ 7*7 }}{% raw %}](x)\n# head"


def hostile() -> Run:
    """A run in which whatever a user or a guest can write is meant to break out."""
    run = synthetic_run(blocks=3, scenarios=("hello",), arms=("container", "vm-micro"), seed=3)
    scenario = dataclasses.replace(
        run.info.scenarios[0], question=HOSTILE, image=HOSTILE, source=HOSTILE, path=HOSTILE
    )
    info = dataclasses.replace(
        run.info,
        scenarios=(scenario,),
        command=("steelyard", "run", HOSTILE),
        environment=MappingProxyType({"cpu_model": HOSTILE}),
        arms=tuple(
            dataclasses.replace(record, facts=MappingProxyType({"argv": HOSTILE}))
            for record in run.info.arms
        ),
    )
    trials = synthetic_run(
        blocks=3, scenarios=("hello",), arms=("container", "vm-micro"), failure_rate=0.6, seed=3
    ).trials
    changed = tuple(
        dataclasses.replace(t, error=HOSTILE, console=HOSTILE) if t.error else t for t in trials
    )
    assert any(trial.error for trial in changed)
    return Run(info, changed)
