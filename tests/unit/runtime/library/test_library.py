"""The library before it does anything: what it promises, and what it refuses."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import runtime
from runtime.library import containers


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which nothing may appear."""
    home = tmp_path / "home"
    monkeypatch.setenv("STEELYARD_HOME", str(home))
    return home


@pytest.mark.parametrize("name", runtime.__all__)
def test_every_public_name_is_documented_and_typed(name: str) -> None:
    value = getattr(runtime, name)
    assert inspect.getdoc(value)
    if inspect.isfunction(value):
        parameters = inspect.signature(value).parameters
        assert {*parameters, "return"} == set(value.__annotations__)
        # Every error that it names is one that a user can catch by name.
        errors = set(re.findall(r"^ *(\w+Error):", inspect.getdoc(value) or "", re.MULTILINE))
        known = {*runtime.__all__, "InvalidReferenceError", "StoreError", "OSError"}
        assert errors <= known, errors - known


def test_every_error_is_a_container_error() -> None:
    errors = [getattr(runtime, name) for name in runtime.__all__ if name.endswith("Error")]
    assert len(errors) == 10
    assert all(issubclass(error, runtime.ContainerError) for error in errors)


def test_what_is_kept_for_the_harness_is_not_public() -> None:
    assert not runtime.HARNESS_NAMES & set(runtime.__all__)


def test_a_program_cannot_name_what_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'runtime' has no attribute 'Containr'"):
        _ = runtime.Containr
    assert set(runtime.__all__) <= set(dir(runtime))


def test_the_calls_that_take_options_take_the_same() -> None:
    """`container_spec` says what may be asked for; the two others add streams and the like."""
    calls = (runtime.container_spec, runtime.start_container, runtime.run_container)
    spec, start, run = (inspect.signature(call).parameters for call in calls)
    assert spec["options"] == start["options"] == run["options"]
    assert spec["options"].kind is inspect.Parameter.VAR_KEYWORD
    assert spec["options"].annotation == "Unpack[ContainerOptions]"
    assert set(spec) - {"stdio"} <= set(start) <= set(run)
    for name in ("image", "command"):
        assert spec[name] == start[name] == run[name]
    taken = inspect.signature(containers._prepare).parameters.values()
    by_name = {each.name for each in taken if each.kind is inspect.Parameter.KEYWORD_ONLY}
    assert by_name == containers.ContainerOptions.__optional_keys__
    documented = inspect.getdoc(runtime.container_spec) or ""
    assert by_name <= set(re.findall(r"^    (\w+): ", documented, re.MULTILINE))


@pytest.mark.parametrize("call", ["container_spec", "start_container", "run_container"])
def test_an_option_that_is_none_is_refused(call: str, empty_home: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'entry_point'"):
        getattr(runtime, call)("busybox", entry_point=())
    assert not empty_home.exists()


@pytest.mark.parametrize(
    ("argument", "fields", "sentence"),
    [
        ("command", {"command": "echo hello"}, "'echo hello' is a string: give a list of words"),
        ("command", {"command": ("a\0b",)}, "holds a NUL"),
        ("name", {"name": "a/b"}, "'a/b' is no container name"),
        ("hostname", {"hostname": "x" * 65}, "a host name has 1 to 64 bytes"),
        ("working_directory", {"working_directory": "srv"}, "'srv' is not absolute"),
        ("network", {"network": "bridge"}, "'bridge' is no network: use 'none'"),
        ("volumes", {"volumes": ["/tmp"]}, "is not SOURCE:TARGET"),
        ("limits", {"limits": runtime.ResourceLimits(memory_bytes=4096)}, "nothing runs"),
        ("limits", {"limits": runtime.ResourceLimits(cpus=0.0)}, "use 0.01 to 8192"),
        ("limits", {"limits": runtime.ResourceLimits(pids=0)}, "0 processes is no limit"),
        ("stdout", {"stdout": 999_999}, "stdout is no open file"),
        ("input", {"input": b"", "stdin": 0}, "either stdin or input"),
        ("capture_output", {"capture_output": True, "stderr": 2}, "not both"),
    ],
)
def test_a_mistake_names_its_argument(
    argument: str, fields: dict[str, object], sentence: str, empty_home: Path
) -> None:
    command = fields.pop("command", ("true",))
    with pytest.raises(runtime.InvalidArgumentError, match=re.escape(sentence)) as caught:
        runtime.run_container("busybox", command, **fields)  # type: ignore[arg-type]
    assert caught.value.argument == argument
    assert isinstance(caught.value, ValueError)
    assert not empty_home.exists()
