"""Doctor: what is well, what is a leftover, and what must never be touched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.experiment import doctor
from harness.experiment.doctor import ArmFinding, Examination, LeftoverFinding, stale_files
from harness.model.backend import Availability

USABLE = ArmFinding("container", Availability(True, "fine"))
UNUSABLE = ArmFinding("vm-micro", Availability(False, "no QEMU", "install it"))


@pytest.mark.parametrize(
    ("arms", "leftovers", "well"),
    [
        ((USABLE, UNUSABLE), (), True),
        ((UNUSABLE,), (), False),
        ((USABLE,), (LeftoverFinding("mount", "/m"),), False),
        ((USABLE,), (LeftoverFinding("mount", "/m", removed=True),), True),
        ((USABLE,), (LeftoverFinding("mount", "/m", problem="device busy"),), False),
    ],
)
def test_when_all_is_well(
    arms: tuple[ArmFinding, ...], leftovers: tuple[LeftoverFinding, ...], *, well: bool
) -> None:
    assert Examination(arms, (), leftovers).is_well == well


def test_only_old_files_that_were_never_renamed_are_stale(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    for name in (".aside", "disk.tmp", "kernel/k.deb.part", "kernel/vmlinux", "young.tmp"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".folder").mkdir()
    (tmp_path / ".folder/inner.tmp").write_text("x")
    now = time.time()
    old = now - doctor.STALE_AFTER_S - 1
    for path in tmp_path.rglob("*"):
        if path.name != "young.tmp":
            os.utime(path, (old, old))
    found = [str(path.relative_to(tmp_path)) for path in stale_files(tmp_path, now)]
    assert found == [".aside", ".folder", "disk.tmp", "kernel/k.deb.part"]


def test_a_cache_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert stale_files(tmp_path / "absent", time.time()) == []


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "BACKENDS", {"fake": ""})
    return tmp_path


def session_in_another_process(*, dies: bool) -> tuple[subprocess.Popen[str], Path]:
    program = (
        "import os, sys, runtime\n"
        "session = runtime.Session.current()\n"
        "(session.new_instance_directory('box') / 'upper').mkdir()\n"
        "print(session.directory, flush=True)\n"
        "sys.stdin.read(1)\n" + ("os.kill(os.getpid(), 9)\n" if dies else "")
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("x", timeout=30)


def names(examination: Examination) -> list[tuple[str, str]]:
    return [(leftover.kind, leftover.name) for leftover in examination.leftovers]


def test_a_dead_sessions_folder_is_a_leftover_and_clean_removes_it(homes: Path) -> None:
    living, kept = session_in_another_process(dies=False)
    dying, lost = session_in_another_process(dies=True)
    try:
        end(dying)
        assert ("folder", str(lost)) in names(doctor.examine_host(clean=False))
        assert lost.exists()
        cleaned = doctor.examine_host(clean=True)
        assert [item.removed for item in cleaned.leftovers if item.name == str(lost)] == [True]
        assert not lost.exists()
        assert (kept / "box/upper").is_dir()
        assert str(kept) not in dict(names(cleaned)).values()
        assert names(doctor.examine_host(clean=False)) == []
    finally:
        end(living)


def test_what_cannot_be_removed_says_why(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = homes / "cache"
    cache.mkdir()
    stale = cache / ".aside"
    stale.write_text("x")
    os.utime(stale, (0, 0))

    def refuse(self: Path, *, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    (finding,) = doctor.examine_host(clean=True).leftovers
    assert finding.problem == "operation not permitted"
    assert not finding.removed
    monkeypatch.undo()


def test_looking_changes_nothing(homes: Path) -> None:
    cache = homes / "cache"
    cache.mkdir()
    (cache / "old.tmp").write_text("x")
    os.utime(cache / "old.tmp", (0, 0))
    found = doctor.examine_host(clean=False)
    assert names(found) == [("temporary file", str(cache / "old.tmp"))]
    assert (cache / "old.tmp").exists()
