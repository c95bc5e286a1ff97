"""What a run is given beside what was asked: a twin for the noise floor, where one is due."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.analysis import noise
from harness.environment import Environment
from harness.experiment.run import new_directory, noise_host, run_id_for, with_noise
from harness.measure.request import Request
from harness.model import Arm, NoiseFloor, comparability, units
from tests.support import scenarios as samples


@pytest.mark.parametrize(
    ("backend", "blocks", "aa", "has_twin"),
    [
        ("container", 30, None, True),
        ("container", 30, False, False),
        ("container", 5, None, False),  # too few to find a noise floor
        ("container", 5, True, True),
        ("fake", 30, None, False),  # of the host it shows nothing
        ("fake", 30, True, True),
    ],
)
def test_a_twin_is_taken_where_it_is_due(
    tmp_path: Path, backend: str, blocks: int, aa: bool | None, has_twin: bool
) -> None:
    asked = Request(
        scenarios=(samples.scenario(Arm("a", backend)),), blocks=blocks, warmup_blocks=1, seed=1,
        time_limit_ns=None, required_arms=frozenset(), command=(), run_id="x", steelyard="0",
    )  # fmt: skip
    found = with_noise(asked, aa, tmp_path / "noise", Environment({"cpus": 2}, {}))
    assert [arm.repeats for arm in found.scenarios[0].arms] == [None, *["a"] * has_twin]


@pytest.mark.parametrize(
    ("pairs", "blocks", "is_anew"), [(7, 30, True), (7, 7, False), (20, 30, False)]
)
def test_a_noise_floor_of_few_pairs_is_measured_anew_by_more_blocks(
    tmp_path: Path, pairs: int, blocks: int, is_anew: bool
) -> None:
    host = Environment({"cpus": 2}, {})
    asked = Request(
        scenarios=(samples.scenario(Arm("a", "container")),), blocks=blocks, warmup_blocks=1,
        seed=1, time_limit_ns=None, required_arms=frozenset(), command=(), run_id="x",
        steelyard="0",
    )  # fmt: skip
    floor = NoiseFloor("sample", "a", "ready", pairs, 0.2, 0.1, "earlier")
    noise.remember(tmp_path, comparability.host_class(host.facts), [floor])
    found = with_noise(asked, None, tmp_path, host)
    assert found.noise == (floor,)
    assert len(found.scenarios[0].arms) == 1 + is_anew


def test_a_noise_floor_holds_for_the_company_that_it_was_measured_in(tmp_path: Path) -> None:
    host = Environment({"cpus": 2}, {})
    light = samples.scenario(Arm("a", "container"))
    mixed = samples.scenario(Arm("a", "container"), Arm("vm-micro"))
    floor = NoiseFloor("sample", "a", "ready", 30, 0.2, 0.1, "earlier")
    noise.remember(tmp_path, noise_host(host.facts, mixed), [floor])
    for scenario, known in ((mixed, (floor,)), (light, ())):
        asked = Request(
            scenarios=(scenario,), blocks=30, warmup_blocks=1, seed=1, time_limit_ns=None,
            required_arms=frozenset(), command=(), run_id="x", steelyard="0",
        )  # fmt: skip
        assert with_noise(asked, False, tmp_path, host).noise == known


def test_a_folder_that_a_user_named_is_no_identifier() -> None:
    ours = new_directory()
    assert run_id_for(ours) == ours.name
    assert run_id_for(Path("results/ci")) != run_id_for(Path("results/ci")) != "ci"


@pytest.mark.parametrize(
    ("text", "cpus", "spelled"),
    [
        ("0", (0,), "0"),
        ("3,1-2,9", (1, 2, 3, 9), "1-3,9"),
        ("0-1, 4-6", (0, 1, 4, 5, 6), "0-1,4-6"),
    ],
)
def test_cpus_are_read_and_spelled_as_the_kernel_does(
    text: str, cpus: tuple[int, ...], spelled: str
) -> None:
    assert units.parse_cpu_list(text) == cpus
    assert units.cpu_list(cpus) == spelled


@pytest.mark.parametrize("text", ["", ",", "a", "1-", "-1", "2-1", "0-8192", "9" * 30, "1--2", "½"])
def test_what_is_no_list_of_cpus_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it like 0-3,8|they rise, up to 8191"):
        units.parse_cpu_list(text)


def test_a_run_that_is_kept_to_some_cpus_is_of_a_class_of_its_own() -> None:
    whole = {"cpus": 4, "cpus_online": 4, "cpu_model": "x"}
    assert comparability.host_class({**whole, "cpus_allowed": "0-3"}) == (
        comparability.host_class(whole)  # as of a run before this was recorded
    )
    some = [{**whole, "cpus": 2, "cpus_allowed": cpus} for cpus in ("0-1", "2-3")]
    assert len({*map(comparability.host_class, [whole, *some])}) == 3
