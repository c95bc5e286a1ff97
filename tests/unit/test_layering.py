"""Who may import whom, and what must not be imported on the way to a launch."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the top down; a module may import from its own row and from those below it.
HARNESS_ROWS = (
    ("cli", "__main__"),
    (
        "run_command",
        "run_options",
        "paired",
        "against",
        "report_command",
        "check_command",
        "compare_command",
        "history_command",
        "doctor_command",
    ),
    ("doctor", "progress"),
    ("runner", "preparing", "hooks", "request", "resume", "remote", "worker"),
    (
        "report",
        "outputs",
        "events",
        "trial",
        "growth",
        "together",
        "footprint",
        "room",
        "history",
        "gathering",
        "acknowledged",
        "trends",
        "parquet",
    ),
    (
        "scenario",
        "scenario_shape",
        "choices",
        "records",
        "noise",
        "environment",
        "disturbance",
        "doubts",
        "readiness",
        "check",
        "compare",
        "rules",
        "evidence",
        "sides",
        "revisions",
        "margins",
    ),
    ("backends", "meters", "lab", "prober", "netlink"),
    ("budget", "judgement", "sequential", "changes"),
    ("schedule", "scale", "stats", "interruption", "metrics", "spelling"),
    ("backend",),
    ("model", "diagnostics", "errors", "json_form", "quantities", "toml_lines", "words"),
)
MAY_IMPORT_RUNTIME = ("harness.backends", "harness.lab", "harness.experiment.doctor")
MAY_IMPORT_CTYPES = ("runtime.linux.syscalls", "runtime.linux.abi", "runtime.launch.launcher")
HEAVY = frozenset(
    {"pandas", "matplotlib", "numpy", "scipy", "pydantic", "rich", "pyroute2", "jinja2", "qemu"}
)


def modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text())


def imported(tree: ast.Module, *, at_run_time: bool = False) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, also inside functions; `name` is empty for `import m`."""
    skipped: set[ast.AST] = set()
    if at_run_time:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                skipped.update(inner for part in node.body for inner in ast.walk(part))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            yield from ((node.module or "", alias.name) for alias in node.names)


def top_level_imports(tree: ast.Module) -> set[str]:
    """First parts of what a module imports when it is itself imported."""
    found = set()
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            pending += [*node.body, *node.orelse]
        elif isinstance(node, ast.Try):
            pending += [*node.body, *node.orelse, *node.finalbody]
    return found


def row_of(module: str) -> int:
    part = module.split(".")[1] if "." in module else ""
    for number, row in enumerate(HARNESS_ROWS):
        if part in row:
            return number
    message = f"{module} is in no row of HARNESS_ROWS: give it a place"
    raise AssertionError(message)


def test_the_harness_imports_only_downwards() -> None:
    wrong = []
    for name, tree in modules("harness"):
        if name == "harness":
            continue
        # What only the type checker reads may point upwards: the protocols name the lab.
        for module, what in imported(tree, at_run_time=True):
            target = f"harness.{what}" if module == "harness" and what else module
            if not target.startswith("harness.") or what == "__version__":
                continue
            if row_of(target) < row_of(name):
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_only_a_few_modules_of_the_harness_know_the_runtime_and_only_what_it_exports() -> None:
    import runtime

    wrong = []
    for name, tree in modules("harness"):
        for module, what in imported(tree):
            if module.split(".")[0] != "runtime":
                continue
            if not name.startswith(MAY_IMPORT_RUNTIME):
                wrong.append(f"{name} imports {module}")
            if module != "runtime" or (what and what not in runtime.__all__):
                wrong.append(f"{name} imports {what or module}, which is not exported")
        wrong += [
            f"{name} uses runtime.{node.attr}, which is not exported"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "runtime"
            and node.attr not in runtime.__all__
        ]
    assert wrong == []


def test_what_the_runtime_exports_is_there() -> None:
    import runtime

    for name in runtime.__all__:
        assert getattr(runtime, name) is not None


def test_the_runtime_stands_alone() -> None:
    wrong = [
        f"{name} imports {module}"
        for name, tree in modules("runtime")
        for module, _ in imported(tree)
        if module.split(".")[0] == "harness"
    ]
    assert wrong == []


def test_ctypes_is_used_only_where_libc_is_called() -> None:
    wrong = [
        name
        for package in ("harness", "runtime")
        for name, tree in modules(package)
        for module, _ in imported(tree)
        if module.split(".")[0] == "ctypes" and not name.startswith(MAY_IMPORT_CTYPES)
    ]
    assert wrong == []


def test_heavy_things_are_imported_where_they_are_needed() -> None:
    """Outside the report and the shape of scenario files, which are themselves imported late."""
    wrong = [
        f"{name} imports {sorted(heavy)}"
        for package in ("harness", "runtime")
        for name, tree in modules(package)
        if not name.startswith(("harness.report.", "harness.scenario.schema"))
        and not name.startswith("harness.backends.vm")
        if (heavy := top_level_imports(tree) & HEAVY)
    ]
    assert wrong == []


def loaded_by(code: str) -> set[str]:
    """First parts of all modules that a fresh interpreter has loaded after running `code`."""
    program = (
        f"{code}\nimport sys; print(' '.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


HELP = """
import sys
from harness import cli
sys.argv = ["steelyard", "--help"]
try:
    cli.main()
except SystemExit as end:
    assert end.code == 0
"""
# Everything that `container run` loads before it launches: the command, spec, plan and launcher.
CONTAINER = """
import runtime.cli.container
from runtime import ImageStore, default_launcher, launch_container, plan_container, spec_for_image
"""
BACKEND = "from harness.backends import get_backend; get_backend('container').availability()"


@pytest.mark.parametrize("code", [HELP, CONTAINER, BACKEND], ids=["help", "container", "backend"])
def test_the_way_to_help_and_to_a_launch_loads_nothing_heavy(code: str) -> None:
    assert loaded_by(code) & HEAVY == set()


def test_help_is_quick() -> None:
    """0.15 s of CPU, interpreter included; the best of five, since the host is not ours."""
    times = []
    for _ in range(5):
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", HELP],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        )
        _, status, usage = os.wait4(pid, 0)
        assert status == 0
        times.append(usage.ru_utime + usage.ru_stime)
    assert min(times) < 0.15, times


def test_the_rules_catch_what_they_should() -> None:
    tree = ast.parse("def f():\n    from runtime.linux.syscalls import mount\nimport ctypes\n")
    assert set(imported(tree)) == {("runtime.linux.syscalls", "mount"), ("ctypes", "")}
    assert top_level_imports(tree) == {"ctypes"}
    guarded = ast.parse(
        "if TYPE_CHECKING:\n    import pandas\ntry:\n    import rich\nfinally: pass"
    )
    assert top_level_imports(guarded) == {"rich"}
    assert row_of("harness.cli.main") < row_of("harness.model")
