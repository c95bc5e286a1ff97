"""An installation: built from a copy of the clone, put into an empty environment, used elsewhere.

The dependencies are installed by pip as a user's would be, so that one that is not declared is
missed here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import harness
from harness.records import read_run

pytestmark = pytest.mark.timeout(600)  # dependencies may have to be downloaded first

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("harness", "runtime", "scenarios")
FILES = ("LICENSE", "README.md", "pyproject.toml", "setup.py")
# Folder of the clone -> folder of the installation; the longest that fits decides.
PLACES = {
    "harness/_steelyard/": "steelyard/",
    "scenarios/images/": "runtime/shipped_images/",
    "scenarios/": "harness/shipped_scenarios/",
}
SHIPPED = """
from pathlib import Path
from harness.scenario import shipped_scenarios
from runtime import SHIPPED_IMAGES
print(*shipped_scenarios(), *(image.folder for image in SHIPPED_IMAGES.values()), sep="\\n")
"""
Installed = Callable[..., subprocess.CompletedProcess[str]]


def run(
    command: Sequence[str | Path], cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    left_out = ("PYTHONPATH", "STEELYARD_COMMAND", "STEELYARD_LAUNCHER")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    return subprocess.run(
        command, cwd=cwd, env=environment | variables, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def make_wheel(source: Path, target: Path, **variables: str) -> Path:
    """A wheel by pip, with the setuptools of this environment."""
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", target)
    done = run([sys.executable, "-m", "pip", "wheel", *options, source], target.parent, **variables)
    assert done.returncode == 0, done.stderr
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: the clone gets no folder `build`, and nothing old comes out of one."""
    folder = tmp_path_factory.mktemp("sdist")
    copy = folder / "copy"
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    program = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    done = run([sys.executable, "-c", program, folder], copy)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(copy)
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(sdist, tmp_path_factory.mktemp("wheel") / "out")


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that has the wheel and what it depends on, and nothing else."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    done = run([sys.executable, "-m", "venv", "--without-pip", folder], folder.parent)
    assert done.returncode == 0, done.stderr
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    done = run([*pip, "install", "--quiet", "--no-compile", wheel], folder.parent)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty when the first test begins; what is made there stays for the others."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def installed(environment: Path, home: Path, tmp_path: Path) -> Installed:
    """Run a program of the environment in a folder that is empty at first."""

    def run_installed(
        program: str, *arguments: str | Path, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        programs = environment / "bin"
        path = f"{programs}:{os.environ['PATH']}"
        command = [programs / program, *arguments]
        return run(command, tmp_path, PATH=path, STEELYARD_HOME=str(home), **variables)

    return run_installed


def place(name: str) -> str:
    """Where a file of the clone is in an installation."""
    for folder in sorted(PLACES, key=len, reverse=True):
        if name.startswith(folder):
            return PLACES[folder] + name.removeprefix(folder)
    return name


def test_the_wheel_holds_each_file_of_the_clone_once_and_nothing_else(wheel: Path) -> None:
    wanted = {
        place(str(path.relative_to(ROOT))): path.read_bytes()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so")
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {
            name: archive.read(name)
            for name in archive.namelist()
            if ".dist-info/" not in name and not name.endswith(".so")
        }
    assert sorted(found) == sorted(wanted)
    assert found == wanted
    for name in ("harness/shipped_scenarios/hello.toml", "steelyard/py.typed",
                 "runtime/shipped_images/busybox/Containerfile"):  # fmt: skip
        assert name in found


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_the_wheel_has_the_native_launcher(wheel: Path, installed: Installed) -> None:
    program = "from runtime import default_launcher; print(default_launcher())"
    assert installed("python", "-c", program).stdout == "native\n"
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.endswith(".so")]


def test_without_a_compiler_there_is_a_wheel_without_the_launcher(
    sdist: Path, tmp_path: Path
) -> None:
    wheel = make_wheel(sdist, tmp_path / "out", CC=str(tmp_path / "no-such-compiler"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "runtime/__init__.py" in names
    assert [name for name in names if name.endswith(".so")] == []


def test_nothing_of_the_clone_is_read(installed: Installed, environment: Path) -> None:
    done = installed(
        "python", "-c", SHIPPED + "import sys, steelyard, harness, runtime\n"
        "print(steelyard.__file__, harness.__file__, runtime.__file__, *sys.path, sep='\\n')"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    paths = done.stdout.split()
    scenarios = [Path(path).name for path in paths if path.endswith(".toml")]
    assert scenarios == sorted(path.name for path in (ROOT / "scenarios").glob("*.toml"))
    recipes = [Path(path) for path in paths if "shipped_images" in path]
    assert {path.name for path in recipes} == set(os.listdir(ROOT / "scenarios" / "images"))
    assert all((path / "Containerfile").is_file() for path in recipes)
    inside = str(environment.resolve())
    base = [path for path in paths if not path.startswith(inside)]
    assert [path for path in base if Path(path).is_relative_to(ROOT)] == []
    assert [path for path in base if path.endswith((".toml", ".py")) or "shipped" in path] == []


def test_a_clone_that_is_not_installed_reads_its_own_folder(installed: Installed) -> None:
    """As a worker does that takes the trials of another revision."""
    done = installed("python", "-c", SHIPPED, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert {Path(line).parent for line in done.stdout.split()} == {
        ROOT / "scenarios", ROOT / "scenarios" / "images",
    }  # fmt: skip


@pytest.mark.privileged
@pytest.mark.usefixtures("can_run")
def test_a_run_from_an_empty_folder_leaves_its_results_there(
    installed: Installed, tmp_path: Path
) -> None:
    done = installed(
        "steelyard", "run", "hello", "--arm", "process", "--arm", "container", "--blocks", "3"
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "results").iterdir()
    assert {"run.json", "trials.jsonl", "summary.md", "report.html"} <= set(os.listdir(folder))
    assert os.listdir(tmp_path) == ["results"]


@pytest.mark.privileged
@pytest.mark.usefixtures("can_run")
def test_containers_and_images(installed: Installed, tmp_path: Path) -> None:
    done = installed("steelyard", "container", "run", "--rm", "busybox", "echo", "hi")
    assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr
    (tmp_path / "Containerfile").write_text("FROM busybox\nRUN echo built > /made\n")
    done = installed("steelyard", "image", "build", "--tag", "mine", ".")
    assert done.returncode == 0, done.stderr
    done = installed("steelyard", "container", "run", "--rm", "mine", "cat", "/made")
    assert (done.returncode, done.stdout) == (0, "built\n"), done.stderr


@pytest.mark.privileged
@pytest.mark.usefixtures("can_run")
def test_the_example_in_the_readme_runs(installed: Installed, home: Path, tmp_path: Path) -> None:
    example = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    done = installed("python", "-c", *example)
    assert (done.returncode, done.stderr) == (0, "")
    medians, code, findings = re.split(r"^([0-3])$", done.stdout, maxsplit=1, flags=re.MULTILINE)
    assert {"process", "container"} <= {line.split(" ")[0] for line in medians.splitlines()}
    assert code == "0"  # of the budgets of hello.toml, only exact disk is about these arms
    assert "time until ready" in findings
    assert "disk of each instance" in findings

    runs = [read_run(path) for path in (tmp_path / "results").iterdir()]
    asked, compared = sorted(runs, key=lambda run: run.info.paired)
    assert (asked.info.paired, compared.info.paired) == (False, True)
    assert {"process", "container"} <= {record.arm.name for record in asked.info.arms}
    assert asked.directory is not None
    assert (asked.directory / "report.html").is_file()
    assert list((home / "instances").iterdir()) == []


def test_doctor(installed: Installed) -> None:
    done = installed("steelyard", "doctor")
    assert done.stderr == ""
    assert "\nMissing programs\n" in done.stdout
    # Something dead on this machine may be none of ours.
    assert done.returncode == int("steelyard doctor --clean" in done.stdout)


def test_the_module_and_the_library(installed: Installed) -> None:
    done = installed("python", "-m", "harness", "--version")
    assert (done.returncode, done.stdout) == (0, f"steelyard {harness.__version__}\n")
    done = installed("python", "-c", "import steelyard; print(steelyard.ImageStore.__module__)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("runtime.")


def test_revisions_of_an_installation_are_refused_in_a_sentence(installed: Installed) -> None:
    done = installed("steelyard", "compare", "--revision", "HEAD~1", "HEAD", "--arm", "container")
    assert done.returncode == 2
    assert done.stderr == (
        "steelyard: Steelyard is installed here without its git repository, which has its "
        "revisions; compare them with ./steelyard in a clone\n"
    )


def test_a_scenario_that_is_not_there_is_told_with_those_that_are(installed: Installed) -> None:
    done = installed("steelyard", "run", "helo")
    assert done.returncode == 2
    assert "hello" in done.stderr
