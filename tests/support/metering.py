"""Known truths for the meters: fabricated /proc trees, and an image whose content is known."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

from harness.measure.interruption import Interruption
from harness.measure.trial import take_trial
from harness.model import (
    Arm,
    ArmRecord,
    CacheState,
    Limits,
    Outcome,
    Readiness,
    ReadinessKind,
    Slot,
    Trial,
)
from harness.model.backend import Backend
from tests.support.images import add_image
from tests.support.scenarios import ENDED, scenario
from tests.support.tars import DIR, SYM, make_tar, member

MIB = 1 << 20
KNOWN_BYTES = 8 * MIB
WAITING = Readiness(ReadinessKind.OUTPUT, output="^ready$")
LIMITS = Limits(memory_bytes=256 * MIB)

ROLLUP = """\
55f9cf898000-7ffd85843000 ---p 00000000 00:00 0                          [rollup]
Rss:                {rss} kB
Pss:                {pss} kB
Pss_Dirty:           108 kB
Shared_Clean:       1596 kB
Shared_Dirty:          0 kB
Private_Clean:       {clean} kB
Private_Dirty:       {dirty} kB
Private_Hugetlb:       0 kB
Locked:                0 kB
"""
# A name may contain everything that a parser could stumble over.
STAT = (
    "{pid} (a) b (c)) {state} 1 1 1 0 -1 4194560 100 0 0 0 {times} 20 0 1 0 {started} 2449408 64"
    " 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)
MEMINFO = "MemTotal:       24684092 kB\nMemFree:        1 kB\nMemAvailable:   {available} kB\n"


class Proc:
    """A /proc below a folder, with what the meters read of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "self").mkdir(parents=True)
        self.mounts()
        self.available(1000)

    @property
    def path(self) -> str:
        return str(self.root)

    def available(self, kib: int) -> None:
        (self.root / "meminfo").write_text(MEMINFO.format(available=kib))

    def mounts(self, *points: str) -> None:
        lines = [f"31 23 0:{i} / {point} rw - tmpfs tmpfs rw\n" for i, point in enumerate(points)]
        (self.root / "self/mountinfo").write_text("".join(lines))

    def process(
        self,
        pid: int,
        *,
        pss: int = 0,
        clean: int = 0,
        dirty: int = 0,
        times: tuple[int, int, int, int] = (0, 0, 0, 0),
        started: int = 500,
        state: str = "S",
    ) -> None:
        """Sizes in KiB, times in clock ticks: user, system, and the same of waited-for children."""
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        rollup = ROLLUP.format(rss=pss * 2, pss=pss, clean=clean, dirty=dirty)
        (folder / "smaps_rollup").write_text(rollup)
        line = STAT.format(pid=pid, state=state, times=" ".join(map(str, times)), started=started)
        (folder / "stat").write_text(line)
        (folder / "statm").write_text("598 64 60 1 0 50 0\n")


def add_known_image() -> str:
    """busybox, and `/known`: a file whose size is known and whose content nothing can compress."""
    from runtime import ImageStore

    busybox = Path("/bin/busybox").read_bytes()
    links = [member(f"bin/{name}", SYM, linkname="busybox") for name in ("sh", "cat", "true")]
    tar = make_tar(
        member("bin/", DIR, mode=0o755),
        member("bin/busybox", data=busybox, mode=0o755),
        *links,
        member("known", data=random.Random(4).randbytes(KNOWN_BYTES)),
        *(member(f"{name}/", DIR, mode=0o755) for name in ("dev", "proc", "sys", "tmp")),
    )
    add_image(ImageStore.default(), "known:latest", [tar], "plain")
    return "known"


def sh(line: str) -> tuple[str, ...]:
    return ("sh", "-c", line)


def measure(
    backend: Backend,
    command: tuple[str, ...],
    readiness: Readiness = ENDED,
    cache_state: CacheState = CacheState.WARM,
    image: str = "busybox",
    trials: int = 1,
    limits: Limits = LIMITS,
) -> tuple[Trial, ArmRecord]:
    """Take trials of one arm; the last, and the arm's record as the runner makes it."""
    arm = Arm("arm", backend.name, cache=cache_state)
    asked = scenario(arm, command=command, readiness=readiness, limits=limits, image=image)
    with (
        closing(backend.prepare(asked, arm, None, lambda _: None)) as prepared,
        Interruption() as interruption,
    ):
        record = ArmRecord(
            asked.name,
            arm,
            0,
            prepared.disk_parts(),
            prepared.facts,
            initial_disk=prepared.initial_disk_parts(),
        )
        for block in range(trials):
            slot = Slot(asked.name, arm.name, block, 0)
            trial = take_trial(slot, asked, prepared, None, interruption)
            assert (trial.outcome, trial.error) == (Outcome.OK, None)
    return trial, record
