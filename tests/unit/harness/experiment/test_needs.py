"""What the machine must have: one table for the command and for the script."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.cli.doctor import _lines
from harness.experiment import doctor
from harness.experiment.needs import Need, install_line, missing_needs, read_needs


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with what the script itself calls, and without apt-get: nothing can be installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("dirname", "uname", "mktemp", "rm"):
        (folder / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_the_table_is_well_formed() -> None:
    needs = read_needs()
    assert {need.kind for need in needs} == {"run", "build", "test"}
    assert len({(need.kind, need.proof) for need in needs}) == len(needs)
    assert all(need.package and need.purpose for need in needs)


def test_what_is_in_path_or_at_its_place_is_not_missing(bare: Path) -> None:
    names = {need.proof for need in missing_needs(("run",))}
    assert {"qemu-img", "zstd", "setpriv"} <= names
    assert "gcc" not in names
    (bare / "zstd").symlink_to("/bin/true")
    assert {need.proof for need in missing_needs(("run",))} == names - {"zstd"}
    assert Need("run", str(bare / "zstd"), "zstd", "tests").is_met
    assert not Need("run", str(bare / "lz4"), "lz4", "tests").is_met


def test_one_line_installs_all_and_names_each_package_once(bare: Path) -> None:
    needs = [Need("run", proof, package, "x") for proof, package in
             (("mke2fs", "e2fsprogs"), ("debugfs", "e2fsprogs"), ("lz4", "lz4"))]  # fmt: skip
    assert install_line(needs) == "install what these Debian packages hold: e2fsprogs lz4"
    (bare / "apt-get").symlink_to("/bin/true")
    root = "" if os.geteuid() == 0 else "sudo "
    assert install_line(needs) == f"{root}apt-get install e2fsprogs lz4"
    assert install_line(()) == ""


def test_the_script_misses_what_the_table_says(bare: Path, checkout: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", checkout / "steelyard", "doctor"], capture_output=True, text=True, check=False
    )
    packages = " ".join(need.package for need in missing_needs(("run", "build")))
    assert done.returncode == 2
    assert done.stderr == (
        f"steelyard: this machine lacks what these Debian packages hold: {packages}; "
        "install their like here\n"
    )


def test_doctor_names_what_is_missing_and_how_to_install_it(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "BACKENDS", {"fake": ""})
    (bare / "apt-get").symlink_to("/bin/true")
    found = doctor.examine_host(clean=False)
    assert {"qemu-img", "mmdebstrap"} <= {need.proof for need in found.missing}
    text = "\n".join(_lines(found, clean=False))
    assert "\nMissing programs\n" in text
    for need in found.missing:
        assert f"  {need.proof:<20} for {need.purpose}\n" in text
        assert need.package in found.install.split()
    assert f"  install them with: {found.install}\n" in text


def test_doctor_asks_for_a_compiler_only_where_the_launcher_is_not_built(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "BACKENDS", {"fake": ""})
    monkeypatch.setenv("STEELYARD_LAUNCHER", "forked")
    assert "gcc" in {need.proof for need in doctor.examine_host(clean=False).missing}
