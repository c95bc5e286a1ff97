"""What root makes for a user is that user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.linux.caller import VARIABLE, caller, make_folders
from runtime.linux.output_file import output_file

OTHER = 4242


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"{OTHER}:{OTHER}")
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")


@pytest.mark.usefixtures("behind")
def test_new_folders_and_files_are_the_callers_and_others_stay_as_they_were(tmp_path: Path) -> None:
    make_folders(tmp_path / "a" / "b")
    for name in ("a/b/new", "old"):
        (tmp_path / "old").touch()
        with output_file(tmp_path / name) as file:
            file.write(b"x")
    owners = {name: (tmp_path / name).stat().st_uid for name in ("a", "a/b", "a/b/new", "old", ".")}
    assert owners == {"a": OTHER, "a/b": OTHER, "a/b/new": OTHER, "old": 0, ".": 0}


@pytest.mark.parametrize("text", ["", "root", "1", "1:2:3", "-1:0"])
def test_what_names_nobody_is_nobody(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    assert caller() is None
