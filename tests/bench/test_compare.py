"""Known truths: an image whose start is 10 % slower is called worse, an equal one is not.

Real containers of real images; the other core is loaded at random meanwhile. The delay is worked
out anew for each run, as a tenth of what the undelayed image took in the run before, so that it
stays a tenth whatever else the host does. `STEELYARD_BENCH_RUNS` sets the number of runs.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import pytest

import runtime
from harness.analysis.compare import DEFAULT_MOST_BLOCKS, Comparer, questions_on
from harness.analysis.judgement import Verdict
from harness.analysis.limits import Margin
from harness.backends import get_backend
from harness.environment import Environment
from harness.experiment.assessment import assess
from harness.measure.prepare import LocalArms
from harness.measure.request import Request
from harness.measure.runner import Runner
from harness.measure.stopping import Decided, rule_of
from harness.model.metrics import trial_value
from harness.records import RunWriter, read_run
from harness.scenario import find_scenario, load_scenario
from harness.scenario.pairing import with_sides

pytestmark = [pytest.mark.bench, pytest.mark.privileged, pytest.mark.timeout(4 * 3600)]

RUNS = int(os.environ.get("STEELYARD_BENCH_RUNS", "100"))
PROGRAM = r"""
#include <stdio.h>
#include <time.h>
static long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000L + t.tv_nsec;
}
int main(void) {
  long begun = now(), delay_us = 0;
  FILE *file = fopen("/delay", "r");
  if (!file || fscanf(file, "%ld", &delay_us) != 1) return 1;
  while (now() - begun < delay_us * 1000) {}
  puts("hello from inside");
  return 0;
}
"""


@dataclass(frozen=True)
class Result:
    verdict: Verdict
    blocks: int
    seconds: float
    reference_us: float


class Bench:
    """Images in a store of their own, and one comparison after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = runtime.ImageStore.default()
        (folder / "hello.c").write_text(PROGRAM)
        (folder / "context").mkdir()
        program = str(folder / "context" / "hello")
        command = ["cc", "-O2", "-static", "-o", program, str(folder / "hello.c")]
        subprocess.run(command, check=True)
        (folder / "context" / "Containerfile").write_text("FROM scratch\nCOPY hello delay /\n")
        scenario = load_scenario(find_scenario("hello"))
        workload = replace(scenario.workload, command=("/hello",))
        self.scenario = replace(scenario, workload=workload)
        self.number = 0

    def image(self, delay_us: float) -> str:
        (self.folder / "context" / "delay").write_text(f"{delay_us:.0f}\n")
        request = runtime.BuildRequest(self.folder / "context", epoch_s=0)
        return runtime.build_image(request, store=self.store).digest

    def compare(self, delay_us: float, most: int = DEFAULT_MOST_BLOCKS) -> Result:
        self.number += 1
        images = self.image(0), self.image(delay_us)
        paired = with_sides(self.scenario, "container", *(f"image={name}" for name in images))
        comparer = Comparer(questions_on(paired.pairs, ["ready"], Margin(1.05)), most)
        request = Request(
            scenarios=(paired.scenario,), blocks=most, warmup_blocks=1, seed=self.number,
            time_limit_ns=None, required_arms=frozenset(arm.name for arm in paired.scenario.arms),
            command=("bench",), run_id=f"bench-{self.number}", steelyard="0",
            pairs=paired.pairs,
        )  # fmt: skip
        begun = time.monotonic()
        directory = self.folder / f"run-{self.number}"
        with RunWriter(directory) as writer:
            Runner(
                request,
                LocalArms(get_backend),
                Environment({}, {}),
                writer,
                lambda _: None,
                lambda *_: None,
                rule=rule_of(request, Decided(comparer.is_decided)),
                assess=assess,
            ).run()
        took = time.monotonic() - begun
        run = read_run(directory)
        judgement = comparer.judgement("bench", run.trials, run.info.arms, {})
        (finding,) = judgement.findings
        reference = [
            trial_value("ready", trial)
            for trial in run.trials
            if trial.arm == paired.scenario.arms[0].name and trial.block >= 0
        ]
        middle = statistics.median(reference) / 1e3
        return Result(finding.verdict, run.info.blocks, took, middle)


def burn(seed: int, cpu: int) -> None:
    """Load one core at random: busy and idle for 1 to 200 ms each."""
    os.sched_setaffinity(0, {cpu})
    draw, parent = random.Random(seed), os.getppid()
    while os.getppid() == parent:
        end = time.monotonic() + draw.uniform(0.001, 0.2)
        while time.monotonic() < end:
            pass
        time.sleep(draw.uniform(0.001, 0.2))


@contextlib.contextmanager
def loaded() -> Iterator[None]:
    cpu = max(os.sched_getaffinity(0))
    process = get_context("fork").Process(target=burn, args=(1, cpu), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def test_a_tenth_slower_is_worse_and_an_equal_is_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    found: dict[str, list[Result]] = {"a tenth slower": [], "no change": []}
    with loaded():
        reference_us = bench.compare(0, most=40).reference_us
        for _ in range(RUNS):
            for name, share in (("a tenth slower", 0.1), ("no change", 0.0)):
                result = bench.compare(reference_us * share)
                reference_us = result.reference_us
                found[name].append(result)
                told = f"{name}: {result.verdict} after {result.blocks} blocks"
                print(f"{told}, {result.seconds:.1f} s, A {reference_us:.0f} us", flush=True)
    for name, results in found.items():
        counts = {
            str(verdict): sum(result.verdict is verdict for result in results)
            for verdict in Verdict
        }
        blocks = statistics.mean(result.blocks for result in results)
        seconds = statistics.mean(result.seconds for result in results)
        middle = statistics.median(result.reference_us for result in results)
        print(
            f"{name}: {counts} of {len(results)} runs; {blocks:.0f} blocks and {seconds:.1f} s on "
            f"average; the undelayed image is ready after {middle:.0f} us"
        )
    worse = {
        name: sum(result.verdict is Verdict.WORSE for result in results) / RUNS
        for name, results in found.items()
    }
    assert worse["a tenth slower"] >= 0.95
    assert worse["no change"] <= 0.02
