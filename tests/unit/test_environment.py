"""Facts about the host: each is there, or says why not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import environment
from harness.diagnostics import DiagnosticCode
from harness.environment import REGISTRY, Fact, MissingError, capture, filesystem_of


def test_every_fact_has_a_value_of_its_type_or_a_reason() -> None:
    captured = capture()
    assert captured.facts.keys() == REGISTRY.keys()
    for name, value in captured.facts.items():
        if value is None:
            assert captured.missing[name]
        else:
            assert type(value) is REGISTRY[name].kind
            assert name not in captured.missing
            assert value != ""


def test_what_any_linux_host_can_say_is_there() -> None:
    facts = capture().facts
    assert facts["kernel"] == os.uname().release
    assert facts["cpus"] == len(os.sched_getaffinity(0))
    memory = facts["memory_bytes"]
    assert isinstance(memory, int)
    assert memory == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert facts["cpu_model"]
    assert facts["distribution"]


def test_quantities_have_units_and_names_that_say_so() -> None:
    for fact in REGISTRY.values():
        assert (fact.unit == "bytes") == fact.name.endswith("_bytes"), fact


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MissingError("it is Tuesday"), "it is Tuesday"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "/x: no such file or directory"),
        (ValueError("x"), "unexpected content: x"),
    ],
)
def test_a_fact_that_cannot_be_had_says_why(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def read() -> str:
        raise error

    monkeypatch.setitem(REGISTRY, "odd", Fact("odd", str, "", read))
    captured = capture()
    assert captured.facts["odd"] is None
    assert captured.missing["odd"] == reason


@pytest.mark.parametrize(("load", "doubted"), [(0.1, False), (100.0, True)])
def test_a_busy_host_is_a_doubt(
    monkeypatch: pytest.MonkeyPatch, load: float, *, doubted: bool
) -> None:
    monkeypatch.setattr(environment.os, "getloadavg", lambda: (load, 0.0, 0.0))
    codes = [diagnostic.code for diagnostic in capture().diagnostics]
    assert (DiagnosticCode.LOADED_HOST in codes) == doubted


def test_the_filesystem_of_a_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    assert filesystem_of(Path("/proc/self")) == "proc"
    assert filesystem_of(tmp_path / "not" / "yet") == filesystem_of(tmp_path)
