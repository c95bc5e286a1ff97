"""`steelyard check --run --baseline`: the anchor that is taken along, pinned by its digest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from click.testing import CliRunner, Result

import runtime
from harness.cli.check import check as command
from harness.cli.run import run as run_command
from harness.experiment.anchors import anchored
from harness.experiment.check import earlier_runs
from harness.model import BASELINE, Arm, Budget, RunInfo, Scale, Scenario
from harness.model.errors import PrepareError, RecordError, ScenarioError
from harness.records import RunWriter, read_info, read_run
from tests.support.images import add_image, layer_tar
from tests.support.scenarios import fake, scenario
from tests.support.synthetic import synthetic_run

SCENARIO = """
question = "Is it as good as before?"
image = "busybox"
arms = ["container"]

[workload]
command = {command}

[readiness]
kind = "exit"
"""
QUICK = '["/bin/busybox", "true"]'
SLOW = '["/bin/busybox", "sh", "-c", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done"]'


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> runtime.ImageStore:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    return runtime.ImageStore.default()


def digest_of(store: runtime.ImageStore, name: str, number: int) -> str:
    return str(add_image(store, name, [layer_tar(number)]).digest)


def earlier(asked: Scenario, images: dict[str, str], started: str = "2026-01-01") -> RunInfo:
    """A run of a scenario, in which its arms ran these images."""
    info = synthetic_run(blocks=0, scenarios=("hello",), arms=("container",)).info
    records = tuple(
        replace(
            info.arms[0],
            scenario=asked.name,
            arm=arm,
            facts=MappingProxyType({"image": images[arm.name]}),
        )
        for arm in asked.arms
    )
    return replace(info, scenarios=(asked,), arms=records, started_at=started, run_id=started)


def quiet(_: str) -> None:
    """Hear nothing."""


def test_without_a_baseline_the_anchor_is_what_the_arm_starts_today(
    store: runtime.ImageStore,
) -> None:
    digest = digest_of(store, "app", 1)
    asked = scenario(Arm("container"), Arm("process"), fake(), image="app")
    (found,) = anchored([asked], [], quiet)
    assert found.arms[:3] == asked.arms
    assert [(arm.name, arm.backend, arm.anchors) for arm in found.arms[3:]] == [
        ("container-anchor", "container", "container"),
        ("process-anchor", "process", "process"),
    ]
    assert {(arm.image, arm.command) for arm in found.arms[3:]} == {(digest, ("echo", "hello"))}


def test_the_anchor_is_what_the_baseline_ran_and_stays_it(store: runtime.ImageStore) -> None:
    old, new = digest_of(store, "old", 1), digest_of(store, "app", 2)
    asked = scenario(Arm("container"), image="app")
    before = replace(asked, workload=replace(asked.workload, command=("before",)))
    first = earlier(before, {"container": old})
    (found,) = anchored([asked], [first], quiet)
    anchor = found.arms[-1]
    assert (anchor.image, anchor.command, anchor.anchors) == (old, ("before",), "container")
    # The run after it has another image, and the same anchor.
    second = earlier(found, {"container": new, "container-anchor": old}, "2026-01-02")
    (again,) = anchored([asked], [second, first], quiet)
    assert again.arms[-1] == anchor


def test_only_guarded_arms_have_anchors(store: runtime.ImageStore) -> None:
    digest_of(store, "app", 1)
    budget = Budget("process", "ready", 1.1, BASELINE)
    asked = scenario(Arm("container"), Arm("process"), image="app")
    (found,) = anchored([replace(asked, budgets=(budget,))], [], quiet)
    assert [arm.anchors for arm in found.arms] == [None, None, "process"]
    growing = replace(asked, scale=Scale((1, 2)))
    assert anchored([growing], [], quiet) == (growing,)
    # An arm that the baseline has not cannot be held against it.
    only = replace(asked, arms=asked.arms[:1])
    (found,) = anchored([asked], [earlier(only, {"container": digest_of(store, "b", 2)})], quiet)
    assert [arm.anchors for arm in found.arms] == [None, None, "container"]


def test_an_image_that_is_gone_and_a_name_that_is_taken(store: runtime.ImageStore) -> None:
    digest_of(store, "app", 1)
    gone = f"sha256:{'0' * 64}"
    asked = scenario(Arm("container"), image="app")
    sentence = f"held against, {gone} of run 2026-01-01, is not in the store any more; build or "
    with pytest.raises(PrepareError, match=sentence):
        anchored([asked], [earlier(asked, {"container": gone})], quiet)
    taken = scenario(Arm("container"), Arm("container-anchor", "container"), image="app")
    with pytest.raises(ScenarioError, match="would be called container-anchor, and an arm is"):
        anchored([taken], [], quiet)


def recorded(folder: Path, **changes: object) -> Path:
    made = synthetic_run(blocks=2, scenarios=("hello",), arms=("container",))
    info: RunInfo = replace(made.info, run_id=folder.name, **changes)  # type: ignore[arg-type]
    with RunWriter(folder) as writer:
        writer.write_info(info)
        for trial in made.trials:
            writer.append(trial)
    return folder


def test_a_folder_of_runs_stands_for_those_that_were_taken_to_their_end(tmp_path: Path) -> None:
    results = tmp_path / "results"
    whole = [recorded(results / name) for name in ("1", "2", "3")]
    recorded(results / "4", interrupted=True)
    recorded(results / "5", ended_at=None)
    recorded(results / "6", paired=True)
    (recorded(results / "7") / "run.json").write_text("{")
    said: list[str] = []

    def ids(*places: Path, judged: Path | None = None) -> list[str]:
        return [run.info.run_id for run in earlier_runs(places, judged, said.append)]

    assert ids(results) == ["1", "2", "3"]
    (sentence,) = said
    assert "not JSON" in sentence
    assert sentence.endswith("this run is passed over, the others count")
    assert ids(results, judged=results / "2") == ["1", "3"]
    assert ids(whole[1], results) == ["2", "1", "3"]  # each once
    assert ids(results / "4") == ["4"]  # named, and so meant
    empty = recorded(tmp_path / "others" / "1", paired=True).parent
    with pytest.raises(RecordError, match="holds no other run that was taken to its end"):
        ids(empty)
    with pytest.raises(RecordError, match="absent is no run"):
        ids(tmp_path / "absent")


def steelyard(*arguments: str | Path) -> Result:
    name, *others = map(str, arguments)
    told = CliRunner().invoke(
        run_command if name == "run" else command, others, standalone_mode=False
    )
    if told.exception is not None:
        raise told.exception
    return told


@pytest.mark.privileged
@pytest.mark.timeout(300)
def test_a_run_brings_the_anchor_of_its_baseline_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sample.toml"
    path.write_text(SCENARIO.format(command=QUICK))
    steelyard("run", path, "--blocks", "12", "--no-aa", "--output", "first")
    (old,) = read_info(tmp_path / "first").arms

    # Slower, and with the same image: what the baseline started is pinned, its command too.
    path.write_text(SCENARIO.format(command=SLOW))
    told = steelyard(
        "check", "--run", path, "--blocks", "12", "--baseline", "first", "--format", "json=out.json"
    )
    assert told.return_value == 1
    findings = {one["metric"]: one for one in json.loads(Path("out.json").read_text())["findings"]}
    assert findings["cpu"]["verdict"] == "worse"
    assert findings["disk-shared"]["verdict"] == "same"
    (second,) = (path for path in (tmp_path / "results").iterdir())
    by_name = {record.arm.name: record for record in read_info(second).arms}
    anchor = by_name["container-anchor"]
    assert anchor.arm.anchors == "container"
    assert anchor.facts["image"] == old.facts["image"] == anchor.arm.image
    assert anchor.arm.command == ("/bin/busybox", "true")

    # The records alone give the same verdict again, and the next run has the same anchor.
    assert steelyard("check", second, "--baseline", "first").return_value == 1
    told = steelyard("check", "--run", path, "--blocks", "6", "--baseline", second)
    assert told.return_value in (0, 3)
    third = max(path for path in (tmp_path / "results").iterdir())
    arms = {record.arm.name: record.arm for record in read_info(third).arms}
    assert arms["container-anchor"] == anchor.arm
    assert {trial.arm for trial in read_run(third).trials} == set(arms)


@pytest.mark.privileged
@pytest.mark.timeout(300)
def test_a_run_takes_an_anchor_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sample.toml"
    path.write_text(SCENARIO.format(command=QUICK))
    steelyard("run", path, "--blocks", "2", "--anchor", "--no-aa", "--output", "asked")
    arms = [record.arm for record in read_info(tmp_path / "asked").arms]
    assert [arm.anchors for arm in arms] == [None, "container"]
    steelyard("check", "--run", path, "--blocks", "2", "--baseline", "asked", "--no-anchor")
    (plain,) = (tmp_path / "results").iterdir()
    assert all(record.arm.anchors is None for record in read_info(plain).arms)
