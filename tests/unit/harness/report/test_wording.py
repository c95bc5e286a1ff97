"""How quantities and circumstances are spelt."""

from __future__ import annotations

import dataclasses
import math
from types import MappingProxyType

import pytest

from harness.backends.vm.arms import CLASSIC, MICRO
from harness.model import (
    Limits,
    Milestone,
    Readiness,
    ReadinessKind,
    units,
)
from harness.report.text import circumstances, wording
from harness.stats import Comparison, Estimate, Interval, Method
from tests.support.synthetic import MS, synthetic_run

# -- The words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"), (7, "7 ns"), (999, "999 ns"), (1000, "1.00 µs"), (840_000, "840 µs"),
        (999_499, "999 µs"), (999_600, "1.00 ms"), (3_049_999, "3.05 ms"), (212 * MS, "212 ms"),
        (999.4 * MS, "999 ms"), (999.7 * MS, "1.00 s"), (9.999e9, "10.0 s"), (63.2e9, "63.2 s"),
        (312e9, "312 s"), (-115_000, "-115 µs"),
    ],
)  # fmt: skip
def test_durations_have_three_digits_and_a_unit(ns: float, text: str) -> None:
    assert wording.duration(ns) == text


def test_sizes_are_decimal() -> None:
    assert [wording.size(value) for value in (0, 512, 12_288, 52_629_504, 3e9)] == [
        "0 B", "512 B", "12.3 kB", "52.6 MB", "3.00 GB",
    ]  # fmt: skip


def test_intervals_share_their_medians_unit_and_decimals() -> None:
    interval = Interval(900 * MS, 1_236 * MS, 0.95, Method.INTERPOLATED)
    assert wording.duration_estimate(Estimate(1_100 * MS, interval, 50)) == "1.10 s [0.90–1.24]"
    open_end = Interval(900 * MS, math.inf, 0.96, Method.ORDER_STATISTICS)
    assert wording.duration_estimate(Estimate(1_100 * MS, open_end, 9)) == "1.10 s [0.90–?]"
    assert wording.duration_estimate(Estimate(math.inf, open_end, 9, 5)) == "not reached"
    assert wording.duration_estimate(None) == "–"
    factor = Interval(39.21, 47.04, 0.95, Method.INTERPOLATED)
    assert wording.ratio(Comparison(Estimate(43.12, factor, 50))) == "43.1 × [39.2–47.0]"
    below = Interval(-2.0 * MS, -1.5 * MS, 0.95, Method.INTERPOLATED)
    sooner = Comparison(Estimate(-1.7 * MS, below, 50))
    assert wording.difference(sooner) == "1.70 ms [1.50–2.00]"


def test_lists_and_counts_read_as_sentences_do() -> None:
    assert [wording.listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "", "a", "a and b", "a, b and c",
    ]  # fmt: skip
    assert [units.count(number, "block") for number in (0, 1, 2)] == [
        "0 blocks", "1 block", "2 blocks",
    ]  # fmt: skip


def test_every_milestone_and_backend_is_explained() -> None:
    assert set(wording.MEANING) == set(Milestone)
    assert {"process", "container", "vm-micro", "vm-classic", "fake"} <= set(wording.BACKENDS)


@pytest.mark.parametrize(
    ("typed", "repeated"),
    [
        (("./steelyard", "run"), "./steelyard run --blocks 4 --seed 7"),
        (("steelyard", "run", "--seed", "7"), "steelyard run --seed 7 --blocks 4"),
        (("steelyard", "run", "--seed=7", "--blocks=4"), "steelyard run --seed=7 --blocks=4"),
        (("steelyard", "run", "my file.toml"), "steelyard run 'my file.toml' --blocks 4 --seed 7"),
        ((), "steelyard run --blocks 4 --seed 7"),
    ],
)
def test_the_repeating_command_fixes_seed_and_blocks(typed: tuple[str, ...], repeated: str) -> None:
    info = dataclasses.replace(synthetic_run(blocks=4, seed=7).info, command=typed)
    assert circumstances.repeat_command(info) == repeated


def test_machines_are_described_with_the_firmware_that_they_have() -> None:
    # qboot does little, but it is what the machine starts with.
    assert MICRO.firmware == "qboot.rom"
    assert "minimal firmware" in wording.BACKENDS["vm-micro"]
    assert CLASSIC.firmware == "bios-256k.bin"
    assert "with firmware" in wording.BACKENDS["vm-classic"]


def test_facts_are_shown_in_units_and_missing_ones_with_their_reason() -> None:
    info = dataclasses.replace(
        synthetic_run(blocks=1).info,
        environment=MappingProxyType(
            {"memory_bytes": 8_000_000_000, "tick_ns": 4 * MS, "smt": False, "cpu_governor": None}
        ),
        environment_missing=MappingProxyType({"cpu_governor": "no cpufreq", "ksm": "no sysfs"}),
    )
    assert circumstances.environment(info) == [
        ("Memory", "8.00 GB"),
        ("Tick", "4.00 ms"),
        ("SMT", "no"),
        ("CPU governor", "not known: no cpufreq"),
        ("KSM", "not known: no sysfs"),
    ]


@pytest.mark.parametrize("kind", ReadinessKind)
def test_every_readiness_is_a_sentence(kind: ReadinessKind) -> None:
    told = circumstances.readiness(Readiness(kind, output="up", port=8000, path="/x", status=204))
    assert told.startswith("Ready when ")
    assert told.endswith(".")


def test_a_readiness_inside_the_box_says_where() -> None:
    inside = Readiness(ReadinessKind.HTTP, port=80, address="::1", tls=True)
    told = circumstances.readiness(inside)
    assert "GET / on port 80 of ::1 over TLS first answers 200; asked from inside" in told
    told = circumstances.readiness(Readiness(ReadinessKind.TCP, socket="/run/app.sock"))
    assert "the socket /run/app.sock first accepts a connection; asked from inside" in told


def test_limits_are_told() -> None:
    assert circumstances.limits(Limits()) == "no limits"
    assert circumstances.limits(Limits(256 << 20, 1.0, 1)) == (
        "256 MiB of memory, 1 CPU and 1 process"
    )
    assert circumstances.limits(Limits(cpus=1.5, pids=64)) == "1.5 CPUs and 64 processes"
