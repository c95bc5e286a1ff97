"""Who may import whom, and what must not be imported on the way to a launch.

The house is one table, `FLOORS`: a package imports from lower floors only, and packages of one
floor do not know each other. Every import counts: those inside functions, and those that only the
type checker reads.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLOORS = {
    # Top: what starts the program. Then the rooms of measuring, from the commands down.
    "harness.__main__": 17,
    "harness.worker": 16,
    "harness.cli": 16,
    "harness": 15,
    "harness.experiment": 14,
    "harness.scenario": 13,
    "harness.report": 12,
    "harness.measure": 12,
    "harness.backends": 12,
    "harness.analysis": 11,
    "harness.meters": 11,
    "harness.environment": 10,
    "harness.lab": 10,
    "harness.records": 10,
    "harness.stats": 9,
    "harness.model": 9,
    # The runtime stands below, and alone.
    "runtime.cli": 16,
    "runtime": 8,
    "runtime.library": 7,
    "runtime.build": 6,
    "runtime.containers": 5,
    "runtime.images": 4,
    "runtime.images.archive": 4,
    "runtime.images.registry": 3,
    "runtime.images.store": 2,
    "runtime.images.layer": 1,
    "runtime.images.formats": 0,
    "runtime.launch": 0,
    "runtime.linux": -1,
    "runtime.errors": -2,
    "runtime.paths": -2,
    "runtime.units": -2,
}
"""Package -> its floor. The longest name that a module begins with is its room."""

ONLY = {
    "ctypes": ("runtime.linux", "runtime.launch"),
    "click": ("harness.cli", "runtime.cli"),
    "rich": ("harness.cli", "runtime.cli"),
    "pandas": ("harness.records", "harness.analysis", "harness.report"),
    "matplotlib": ("harness.report.charts",),
    "urllib3": ("runtime.images.registry",),
    "pydantic": ("harness.scenario",),
    "jinja2": ("harness.report",),
    "qemu": ("harness.backends.vm",),
    "psutil": ("harness.environment", "harness.meters"),
}
"""Third-party package, or part of the standard library -> the rooms that may import it."""

TOP = {
    "harness": {"__init__", "__main__", "worker"},
    "runtime": {"__init__", "errors", "paths", "units"},
}
"""What stands in the two top folders beside their packages."""

MOST_MODULES = 16
"""In one folder, `__init__` included: more do not fit into one view."""

HEAVY = frozenset(
    {
        "pandas",
        "matplotlib",
        "numpy",
        "scipy",
        "pydantic",
        "msgspec",
        "rich",
        "jinja2",
        "qemu",
        "psutil",
        "urllib3",
    }
)

LATE = (
    "harness.report.",
    "harness.records.codec",
    "harness.scenario.schema",
    "harness.backends.vm",
    "harness.cli.terminal",
    "harness.environment",
    "harness.meters.leaks",
    "harness.meters.memory",
)
"""Rooms that are themselves imported late, so that what is heavy may stand at their top."""


def modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    """The modules of a package that are named like the package they are imported as."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        if name != "harness._steelyard":  # installed as `steelyard`, above everything
            yield name, ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, also inside functions; `name` is empty for `import m`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            yield from ((node.module or "", alias.name) for alias in node.names)


def own_imports() -> dict[str, set[str]]:
    """Module -> the modules of this project that it imports, in whatever place."""
    trees = {name: tree for package in ("harness", "runtime") for name, tree in modules(package)}
    found: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        for module, what in imported(tree):
            full = f"{module}.{what}"
            target = full if full in trees else module
            if target in trees and target != name:
                found[name].add(target)
    return found


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


def room_of(module: str) -> str:
    """The package of `FLOORS` that a module belongs to."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (room := ".".join(parts[:length])) in FLOORS:
            return room
    message = f"{module} is in no room of FLOORS: give it a place"
    raise AssertionError(message)


def climbing(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """Every import that does not point down, as a sentence."""
    return [
        f"{name} (floor {FLOORS[room]}) imports {target} (floor {FLOORS[other]})"
        for name, targets in sorted(imports.items())
        for target in sorted(targets)
        if (room := room_of(name)) != (other := room_of(target)) and FLOORS[other] >= FLOORS[room]
    ]


def circles(imports: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of modules that import each other in a ring (Tarjan's strong components)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in imports[node]:
            # A package's `__init__` and its own modules are one thing, whoever names whom.
            if other not in number:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], number[other])
        if low[node] == number[node]:
            ring = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(ring) > 1:
                found.append(sorted(ring))

    for node in imports:
        if node not in number:
            visit(node)
    return found


def test_every_import_points_down() -> None:
    assert climbing(own_imports()) == []


def test_no_modules_import_each_other_in_a_ring() -> None:
    assert circles(own_imports()) == []


def test_every_folder_can_be_taken_in_at_a_glance() -> None:
    crowded = {}
    for package in ("harness", "runtime"):
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
            if (number := len(list(folder.glob("*.py")))) > MOST_MODULES:
                crowded[str(folder.relative_to(ROOT))] = number
    assert crowded == {}
    for package, names in TOP.items():
        assert {path.stem for path in (ROOT / package).glob("*.py")} == names


def test_the_harness_knows_the_runtime_by_what_it_exports() -> None:
    """Two doors: the names of `runtime`, and the thin system calls of `runtime.linux`."""
    import runtime

    exported = {*runtime.__all__, *runtime.HARNESS_NAMES}
    wrong = []
    for name, tree in modules("harness"):
        for module, what in imported(tree):
            if module.split(".")[0] != "runtime" or module.startswith("runtime.linux"):
                continue
            if f"{module}.{what}" == "runtime.linux":
                continue
            if module != "runtime" or (what and what not in exported):
                wrong.append(f"{name} imports {what or module}, which is not exported")
        wrong += [
            f"{name} uses runtime.{node.attr}, which is not exported"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "runtime"
            and node.attr not in exported
        ]
    assert wrong == []


@pytest.mark.parametrize("package", ["harness", "runtime"])
def test_what_a_package_exports_is_there(package: str) -> None:
    door = __import__(package)
    for name in {*door.__all__, *getattr(door, "HARNESS_NAMES", ())}:
        assert getattr(door, name) is not None


def test_the_runtime_stands_alone() -> None:
    wrong = [
        f"{name} imports {module}"
        for name, tree in modules("runtime")
        for module, _ in imported(tree)
        if module.split(".")[0] == "harness"
    ]
    assert wrong == []


def test_each_library_is_used_in_its_own_rooms() -> None:
    wrong = [
        f"{name} imports {module}"
        for package in ("harness", "runtime")
        for name, tree in modules(package)
        for module, _ in imported(tree)
        if (rooms := ONLY.get(module.split(".")[0])) is not None
        and not any(name == room or name.startswith(f"{room}.") for room in rooms)
    ]
    assert wrong == []


def test_heavy_things_are_imported_where_they_are_needed() -> None:
    """Everywhere but in `LATE`."""
    wrong = [
        f"{name} imports {sorted(heavy)}"
        for package in ("harness", "runtime")
        for name, tree in modules(package)
        if not name.startswith(LATE)
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
from harness.cli import main
sys.argv = ["steelyard", "--help"]
try:
    main.main()
except SystemExit as end:
    assert end.code == 0
"""
# Everything that `container run` loads before it launches: the command, spec, plan and launcher.
CONTAINER = """
import runtime.cli.container
import runtime.library.containers
from runtime import ImageStore, default_launcher, ensure_image, plan_container, run_container
"""
FRONT_DOOR = "import steelyard; steelyard.ImageStore; dir(steelyard)"
BACKEND = "from harness.backends import get_backend; get_backend('container').availability()"


@pytest.mark.parametrize(
    "code",
    [HELP, CONTAINER, BACKEND, FRONT_DOOR],
    ids=["help", "container", "backend", "front door"],
)
def test_the_way_to_help_and_to_a_launch_loads_nothing_heavy(code: str) -> None:
    assert loaded_by(code) & HEAVY == set()


def test_help_is_quick() -> None:
    """It costs little more than click itself, interpreter included; the best of five each."""
    costs = [(cpu_seconds("import click"), cpu_seconds(HELP)) for _ in range(5)]
    click, all_of_it = map(min, zip(*costs, strict=True))
    assert all_of_it < 2.2 * click, costs


def cpu_seconds(code: str) -> float:
    """CPU time of a new interpreter that runs this."""
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", code],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


def test_the_rules_catch_what_they_should() -> None:
    tree = ast.parse("def f():\n    from runtime.linux.syscalls import mount\nimport ctypes\n")
    assert set(imported(tree)) == {("runtime.linux.syscalls", "mount"), ("ctypes", "")}
    assert top_level_imports(tree) == {"ctypes"}
    guarded = ast.parse(
        "if TYPE_CHECKING:\n    import pandas\ntry:\n    import rich\nfinally: pass"
    )
    assert top_level_imports(guarded) == {"rich"}
    assert ("pandas", "") in set(imported(guarded))  # type-only imports count among the floors
    assert room_of("runtime.images.store.gc") == "runtime.images.store"
    with pytest.raises(AssertionError, match="give it a place"):
        room_of("harness_of_another")
    assert climbing({"harness.model.units": ["harness.stats.lines"]}) != []
    assert climbing({"harness.cli.run": ["harness.model.units"]}) == []
    ring = {"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}
    assert circles(ring) == [["a", "b", "c"]]


def test_the_unit_tests_stand_where_the_packages_stand() -> None:
    """`tests/unit/harness/stats` is about `harness/stats`: where a test stands is no question."""
    folders = {
        path.parent.relative_to(ROOT / "tests" / "unit")
        for path in (ROOT / "tests" / "unit").rglob("test_*.py")
    }
    assert {folder for folder in folders if not (ROOT / folder).is_dir()} == set()
