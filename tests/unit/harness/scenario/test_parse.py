"""Scenario files: what a good one means, and every way a bad one is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.backends import BACKENDS, get_backend
from harness.model import Arm, CacheState, Hooks, Limits, Readiness, ReadinessKind, Scale
from harness.model.errors import ScenarioError
from harness.model.metrics import METRICS
from harness.model.toml_positions import KeyLines
from harness.model.units import format_duration, parse_duration, parse_size
from harness.scenario import (
    find_scenario,
    load_scenario,
    parse_scenario,
    shipped_scenarios,
)

GOOD = """
question = "Why?"
image = "busybox"
timeout = "1.5s"
arms = ["process", "container"]

[workload]
command = ["echo", "hello"]
environment = { A = "b" }
user = "1000:1000"
working_directory = "/tmp"

[readiness]
kind = "exit"
exit_code = 3
output = "hello"

[limits]
memory = "256M"
cpus = 1
pids = 10
"""


def problems(source: str, name: str = "good.toml") -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(source, Path(name))
    return list(caught.value.problems)


def test_a_good_file_says_what_it_means() -> None:
    scenario = parse_scenario(GOOD, Path("somewhere/good.toml"))
    assert scenario.name == "good"
    assert scenario.question == "Why?"
    assert scenario.timeout_ns == 1_500_000_000
    assert scenario.workload.command == ("echo", "hello")
    assert scenario.workload.environment == {"A": "b"}
    assert scenario.workload.user == "1000:1000"
    assert scenario.workload.working_directory == "/tmp"
    assert scenario.readiness == Readiness(ReadinessKind.EXIT, output="hello", exit_code=3)
    assert scenario.limits == Limits(256 << 20, 1.0, 10)
    assert scenario.arms == (Arm("process", "process"), Arm("container", "container"))
    assert scenario.source == GOOD
    assert scenario.path == "somewhere/good.toml"


def test_arms_as_tables_carry_options_and_default_to_the_backend_of_their_name() -> None:
    source = GOOD.replace('arms = ["process", "container"]', "") + (
        "[arms.container]\n[arms.other]\nbackend = 'fake'\nwork_ms = 1.5\n"
    )
    assert parse_scenario(source, Path("a.toml")).arms == (
        Arm("container", "container"),
        Arm("other", "fake", {"work_ms": 1.5}),
    )


def test_the_shipped_scenarios_are_good_and_have_all_four_arms() -> None:
    scenarios = {path.stem: load_scenario(path) for path in shipped_scenarios()}
    assert {"hello", "python-http"} <= scenarios.keys()
    for scenario in (scenarios["hello"], scenarios["python-http"]):
        assert [arm.backend for arm in scenario.arms] == [
            "process", "container", "vm-micro", "vm-classic",
        ]  # fmt: skip
        assert scenario.limits.memory_bytes
        assert scenario.question.endswith("?")


def test_every_error_of_a_file_is_told_at_once_with_line_and_field() -> None:
    source = """\
question = ""
imag = "busybox"
timeout = "30"
arms = ["process", "contaner", "process", 3]

[workload]
command = "echo hello"
environment = { A = 1 }

[readiness]
kind = "http"
exit_code = 3
path = "index.html"

[limits]
memory = "256XB"
cpus = 0
pid = 3
"""
    told = problems(source, "bad.toml")
    expected = [
        ("bad.toml:1: image: is missing", "add it"),
        ("bad.toml:1: question: is empty", "write something"),
        ("bad.toml:2: imag: unknown key", "did you mean 'image'?"),
        ("bad.toml:3: timeout: '30' is not a duration", "unit"),
        ("bad.toml:4: arms.2: the arm 'process' comes twice", "once"),
        ("bad.toml:4: arms.3: should be the name of a backend, is 3", ""),
        ("bad.toml:4: arms.contaner: no backend is called 'contaner'", "mean 'container'?"),
        ("bad.toml:7: workload.command: should be a list, is 'echo hello'", ""),
        ("bad.toml:8: workload.environment.A: should be a string, is 1", ""),
        ("bad.toml:10: readiness.port: is missing", "'http' needs it"),
        ("bad.toml:12: readiness.exit_code: does nothing for readiness 'http'", "take it out"),
        ("bad.toml:13: readiness.path: 'index.html' is not an absolute path", "/"),
        ("bad.toml:16: limits.memory: '256XB' is not a size", "512m"),
        ("bad.toml:17: limits.cpus: 0.0 CPUs is no limit", "use 0.01 to 8192"),
        ("bad.toml:18: limits.pid: unknown key", "did you mean 'pids'?"),
    ]
    assert len(told) == len(expected)
    for line, (beginning, remedy) in zip(told, expected, strict=True):
        assert line.startswith(beginning)
        assert remedy in line


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ('kind = "exit"', 'kind = "htpp"', "14: readiness.kind", "did you mean 'http'?"),
        ('kind = "exit"', "", "13: readiness.kind", "is missing"),
        ('output = "hello"', 'output = "("', "16: readiness.output", "not a regular expression"),
        ("exit_code = 3", "exit_code = 300", "15: readiness.exit_code", "is 300"),
        ("exit_code = 3", "exit_code = true", "15: readiness.exit_code", "should be"),
        ('"/tmp"', '"tmp"', "11: workload.working_directory", "absolute"),
        ('"256M"', "0", "19: limits.memory", "is 0"),
        ('"256M"', '"lots"', "19: limits.memory", "not a size"),
        ('"256M"', '"1"', "19: limits.memory", "less than 1m"),
        ("cpus = 1", "cpus = inf", "20: limits.cpus", "inf CPUs is no limit"),
        ("cpus = 1", "cpus = nan", "20: limits.cpus", "nan CPUs is no limit"),
        ("cpus = 1", "cpus = 1e-9", "20: limits.cpus", "1e-09 CPUs is no limit"),
        ("pids = 10", "pids = 5_000_000", "21: limits.pids", "use 1 to 4194304"),
        ("pids = 10", "pids = 1.5", "21: limits.pids", "whole number"),
        ('arms = ["process", "container"]', "arms = []", "5: arms", "holds no arm"),
        ('arms = ["process", "container"]', "arms = 3", "5: arms", "should be a table"),
        ('arms = ["process", "container"]', "", "1: arms", "is missing"),
        ("[workload]", "[workloads]", "7: workloads", "did you mean 'workload'?"),
    ],
)
def test_each_mistake_is_told_where_it_is(old: str, new: str, where: str, what: str) -> None:
    assert old in GOOD
    told = problems(GOOD.replace(old, new, 1))
    assert any(line.startswith(f"good.toml:{where}") and what in line for line in told), told


@pytest.mark.parametrize(
    ("source", "line"), [("a = [1,\n", 1), ("x\n", 1), ('a = 1\nb = "', 2), ("a = 1\na = 2\n", 2)]
)
def test_what_is_not_toml_is_told_with_its_line(source: str, line: int) -> None:
    (told,) = problems(source)
    assert re.match(rf"good\.toml:{line}: not TOML: ", told), told


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ('"/tmp"', '"/t\\u0000mp"', "11: workload.working_directory", "NUL"),
        ("A = ", '"A=B" = ', "9: workload.environment", "a name ends at '='"),
        ("A = ", '"" = ', "9: workload.environment", "has no name"),
        ('A = "', 'A = "\\u0000', "9: workload.environment", "holds a NUL"),
        ('command = ["', 'command = ["\\u0000', "8: workload.command.0", "holds a NUL"),
    ],
)
def test_what_no_program_can_be_started_with_is_refused(
    old: str, new: str, where: str, what: str
) -> None:
    assert old in GOOD
    told = problems(GOOD.replace(old, new, 1))
    assert len(told) == 1
    assert told[0].startswith(f"good.toml:{where}")
    assert what in told[0]


def test_a_question_that_nobody_asked_is_what_the_box_costs() -> None:
    line = next(line for line in GOOD.splitlines() if line.startswith("question"))
    scenario = parse_scenario(GOOD.replace(line, ""), Path("good.toml"))
    assert scenario.question == "what does a box around busybox cost?"


def test_what_editors_and_git_do_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_scenario(path).workload == parse_scenario(GOOD, path).workload
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(ScenarioError, match=r"good\.toml:1: is a pointer of Git LFS.*git lfs pull"):
        load_scenario(path)
    path.write_text(GOOD + "<<<<<<< HEAD\nx = 1\n=======\nx = 2\n>>>>>>> other\n")
    line = GOOD.count("\n") + 1
    with pytest.raises(ScenarioError, match=rf"good\.toml:{line}: holds an unresolved merge"):
        load_scenario(path)


def test_a_file_name_that_cannot_name_a_scenario() -> None:
    (told,) = problems(GOOD, "Not Good.toml")
    assert "file's name" in told


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="no such file or directory"):
        load_scenario(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b'question = "\xe9"\n')
    with pytest.raises(ScenarioError, match="not UTF-8"):
        load_scenario(tmp_path / "latin.toml")


def test_a_scenario_is_found_by_name_here_and_among_the_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_scenario("hello").name == "hello.toml"
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios/hello.toml").write_text(GOOD)
    assert find_scenario("hello") == Path("scenarios/hello.toml")
    with pytest.raises(ScenarioError, match="did you mean 'hello'"):
        find_scenario("helo")
    with pytest.raises(ScenarioError, match="check the path"):
        find_scenario("./hello.toml")


ARMS = (
    GOOD.replace('arms = ["process", "container"]', "")
    + """
[arms.process]

[arms.cold]
backend = "container"
cache = "cold"
image = "other:2"
command = ["other", "words"]

[arms.fake]
work_ms = 2
"""
)


def test_an_arm_may_have_its_own_cache_image_and_command() -> None:
    scenario = parse_scenario(ARMS, Path("good.toml"))
    assert scenario.arms == (
        Arm("process", "process"),
        Arm("cold", "container", {}, CacheState.COLD, image="other:2", command=("other", "words")),
        Arm("fake", "fake", {"work_ms": 2}),
    )
    plain, cold, _ = (scenario.for_arm(arm) for arm in scenario.arms)
    assert plain == scenario
    assert (cold.image, cold.workload.command) == ("other:2", ("other", "words"))
    assert cold.workload.environment == scenario.workload.environment
    assert cold.limits == scenario.limits


def test_hooks_and_scale() -> None:
    source = (
        ARMS
        + """
[hooks]
setup = "make"
cleanup = "rm -f it"

[scale]
instances = [1, 2, 4]
together = [1, 3]
most = { cold = 2 }
"""
    )
    scenario = parse_scenario(source, Path("good.toml"))
    assert scenario.hooks == Hooks(setup="make", cleanup="rm -f it")
    assert scenario.scale == Scale((1, 2, 4), (1, 3), {"cold": 2})
    bare = parse_scenario(ARMS + "[scale]\ninstances = [5]\n", Path("good.toml"))
    assert bare.scale == Scale((5,))
    assert parse_scenario(GOOD, Path("good.toml")).scale is None


@pytest.mark.parametrize(
    ("added", "where", "what"),
    [
        ("[arms.b]\nbackend = 'fake'\ncache = 'clod'", "3: arms.b.cache", "mean 'cold'?"),
        ("[arms.b]\nbackend = 'fake'\ncommand = []", "3: arms.b.command", "is empty"),
        ("[arms.b]\nbackend = 'fake'\nimage = ''", "3: arms.b.image", "is empty"),
        ("[arms.b]\nbackend = 'fake'\nwrok_ms = 1", "3: arms.b.wrok_ms", "mean 'work_ms'?"),
        ("[arms.b]\nbackend = 'fake'\nfail = 'at'", "3: arms.b.fail", "unknown failure"),
        ("[arms.b]\nbackend = 'process'\nsize = 3", "3: arms.b.size", "unknown option 'size'"),
        ("[arms.container]\nsize = 3", "2: arms.container.size", "unknown option 'size'"),
        ("[arms.vm-micro]\nvcpus = 0", "2: arms.vm-micro.vcpus", "positive"),
        ("[arms.vm-micro]\nbus = 'isa'", "2: arms.vm-micro.bus", "none of"),
        ("[arms.vm-micro]\nbuss = 'pci'", "2: arms.vm-micro.buss", "mean 'bus'?"),
        ("[hooks]\nsetup = 3", "2: hooks.setup", "should be a string"),
        ("[hooks]\nsteup = 'x'", "2: hooks.steup", "mean 'setup'?"),
        ("[hooks]\nprepare = ''", "2: hooks.prepare", "is empty"),
        ("[scale]\ntogether = [1]", "1: scale.instances", "is missing"),
        ("[scale]\ninstances = []", "2: scale.instances", "is empty"),
        ("[scale]\ninstances = [1, 1]", "2: scale.instances", "should rise"),
        ("[scale]\ninstances = [0, 1]", "2: scale.instances", "from 1 up"),
        ("[scale]\ninstances = [1]\ntogether = [3, 2]", "3: scale.together", "should rise"),
        ("[scale]\ninstances = [1]\nmost = { cld = 2 }", "3: scale.most.cld", "mean 'cold'?"),
        ("[scale]\ninstances = [1]\nmost = { cold = 0 }", "3: scale.most.cold", "is 0"),
    ],
)
def test_each_mistake_of_an_arm_a_hook_or_the_scale_is_told_where_it_is(
    added: str, where: str, what: str
) -> None:
    line, _, rest = where.partition(":")
    place = f"{ARMS.count(chr(10)) + int(line)}:{rest}"
    told = problems(ARMS + added + "\n")
    assert len(told) == 1, told
    assert told[0].startswith(f"good.toml:{place}"), told
    assert what in told[0]


def test_options_are_checked_also_when_something_else_is_wrong() -> None:
    told = problems(ARMS.replace('image = "busybox"', "") + "[arms.b]\nbackend='fake'\nx=1\n")
    assert [line.split(": ")[1] for line in told] == ["image", "arms.b.x"]


def test_lines_are_found_through_every_kind_of_toml() -> None:
    source = '''# a comment with key = 1
a = 1
"quoted key" = """
b = 2 # not a key
[c]   # not a table
"""
d.e.f = [
  1, # ]
  "]", [2,
  3],
]
lit = '\\'
raw = \'\'\'
x = 1\'\'\'
[ table . sub ]
g = { h = 1, i = [2] }
[[many]]
j = 1
[[many]]
j = 2
[many.below]
k = 3
'''
    lines = KeyLines(source)
    found = {
        path: lines.find(path)
        for path in [
            ("a",), ("quoted key",), ("d", "e", "f"), ("lit",), ("raw",), ("table", "sub"),
            ("table", "sub", "g"), ("table", "sub", "g", "h"), ("many",), ("many", 0, "j"),
            ("many", 1, "j"), ("many", 1, "below", "k"), ("absent",),
        ]
    }  # fmt: skip
    assert list(found.values()) == [2, 3, 7, 12, 13, 15, 16, 16, 17, 18, 20, 22, 1]


@given(st.integers(1, 10**6), st.sampled_from(["", "K", "m", "MB", "Gi", "TiB"]))
def test_sizes_are_binary(number: int, unit: str) -> None:
    if unit and unit[-1] in "iI":
        unit += "B"
    exponent = " KMGT".index(unit[:1].upper()) if unit else 0
    assert parse_size(f"{number}{unit}") == number * 1024**exponent


@pytest.mark.parametrize("text", ["", "M", "-1", "1 2", "1X", "0", "5mm", "1iB", "1e3"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|nothing"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "ns"), [("500ms", 5e8), ("1.5m", 9e10), ("2h", 7.2e12), ("7us", 7e3), ("3 s", 3e9)]
)
def test_durations(text: str, ns: float) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize("text", ["", "5", "0s", "s", "-1s", "1 day", "1.s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|nothing"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (950, "1 us"),
        (12_340_000, "12.3 ms"),
        (4_210_000_000, "4.21 s"),
        (200 * 10**9, "3 min 20 s"),
    ],
)
def test_durations_for_people(ns: int, text: str) -> None:
    assert format_duration(ns) == text


def told_options() -> dict[str, dict[str, str]]:
    """Backend -> option -> meaning, as the table in scenarios/README.md has them."""
    text = (Path(__file__).parents[4] / "scenarios/README.md").read_text()
    table = text.split("| backend | option | meaning |\n|---|---|---|\n")[1].split("\n\n")[0]
    told: dict[str, dict[str, str]] = {}
    for row in table.splitlines():
        backends, option, meaning = (cell.strip() for cell in row.strip("|").split("|"))
        for backend in re.findall(r"`([^`]+)`", backends):
            options = told.setdefault(backend, {})
            if option != "none":
                options[option.strip("`")] = meaning
    return told


def test_the_readme_tells_every_option_of_every_backend() -> None:
    there = {name: dict(get_backend(name).options) for name in BACKENDS if name != "fake"}
    assert told_options() == there


def test_the_readme_tells_every_key_of_a_file() -> None:
    text = (Path(__file__).parents[4] / "scenarios/README.md").read_text()
    keys = [*Hooks.__slots__, *Scale.__slots__, "backend", "cache", "image", "command", *METRICS]
    assert [key for key in keys if f"`{key}`" not in text] == []
