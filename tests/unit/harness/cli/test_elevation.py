"""Who goes on as root, and what goes along."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path

import pytest

from harness.cli.elevation import go_on_as_root, needs_root

# A sudo that asks for nothing, and says what it was asked for: its own options end at `--`.
SUDO = """#!/bin/sh
[ "$*" = "-n true" ] && exit 0
[ "$*" = "-n --preserve-env=HTTPS_PROXY,http_proxy true" ] && exit 0
exit 1
"""


SECRETS = (
    "GITHUB_TOKEN", "GITHUB_PAT", "CI_JOB_TOKEN", "CI_JOB_JWT_V2", "CI_REPOSITORY_URL",
    "CI_REGISTRY_PASSWORD", "AWS_SECRET_ACCESS_KEY", "STEELYARD_SECRET", "http_proxy",
    "HTTPS_PROXY",
)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "needs"),
    [
        (["run", "hello"], True),
        (["run", "--help"], False),
        (["compare", "a", "b"], True),
        (["check", "results/x", "--baseline", "results/y"], False),
        (["check", "--run", "hello"], True),
        (["check", "--run=hello"], True),
        (["container", "run", "busybox", "ls", "-h"], True),
        (["image", "ls"], True),
        (["doctor"], True),
        (["history", "results"], False),
        (["report"], False),
        ([], False),
        (["--version"], False),
    ],
)
def test_what_measures_needs_root_and_what_reads_does_not(
    arguments: list[str], needs: bool
) -> None:
    assert needs_root(arguments) is needs


@pytest.fixture
def sudo_of(tmp_path: Path) -> Path:
    path = tmp_path / "bin" / "sudo"
    path.parent.mkdir()
    path.write_text(SUDO)
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return path.parent


class _GoneError(Exception):
    """This process would be another program now."""


def words_of_sudo(
    monkeypatch: pytest.MonkeyPatch, sudo: Path, *arguments: str, **environment: str
) -> list[str]:
    """What sudo would be called with by somebody who is not root; empty if it is not."""
    found: list[str] = []

    def take_over(_program: str, words: list[str]) -> None:
        found.extend(words)
        raise _GoneError

    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(os, "execvp", take_over)
    monkeypatch.setenv("PATH", f"{sudo}:{os.environ['PATH']}")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with contextlib.suppress(_GoneError):
        go_on_as_root(arguments)
    return found


def test_the_script_goes_on_by_sudo_without_the_callers_secrets(
    sudo_of: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of_sudo(
        monkeypatch,
        sudo_of,
        *("run", "hello"),
        STEELYARD_MAY_USE_SUDO="1",
        **dict.fromkeys(SECRETS, "secret"),
        GITHUB_WORKSPACE="/w",
        TERM="xterm",
    )
    assert capsys.readouterr().err == "steelyard: run needs root: going on by sudo\n"
    preserve = "--preserve-env=HTTPS_PROXY,http_proxy"
    assert words[:6] == ["sudo", "-n", "-H", preserve, "--", "env"]
    assert f"STEELYARD_CALLER_PATH={os.environ['PATH']}" in words
    assert words[-4:] == [sys.executable, sys.argv[0], "run", "hello"]
    assert f"STEELYARD_CALLER={os.getuid()}:{os.getgid()}" in words
    assert {"GITHUB_WORKSPACE=/w", "TERM=xterm"} <= set(words)
    assert not any("secret" in word for word in words)


def test_proxies_are_left_out_where_sudo_does_not_preserve_them(
    sudo_of: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (sudo_of / "sudo").write_text('#!/bin/sh\n[ "$*" = "-n true" ]\n')
    words = words_of_sudo(
        monkeypatch, sudo_of, "run", STEELYARD_MAY_USE_SUDO="1", http_proxy="http://me:secret@here"
    )
    assert words[:5] == ["sudo", "-n", "-H", "--", "env"]
    assert not any("secret" in word for word in words)
    assert "steelyard: sudo does not pass on http_proxy: " in capsys.readouterr().err


def test_the_command_stays_who_it_is(sudo_of: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert words_of_sudo(monkeypatch, sudo_of, "run", "hello") == []
    assert words_of_sudo(monkeypatch, sudo_of, "version", STEELYARD_MAY_USE_SUDO="1") == []


def test_where_sudo_asks_for_a_password_nothing_changes(
    sudo_of: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sudo_of / "sudo").write_text("#!/bin/sh\nexit 1\n")
    assert words_of_sudo(monkeypatch, sudo_of, "run", STEELYARD_MAY_USE_SUDO="1") == []
