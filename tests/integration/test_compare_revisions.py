"""Two revisions compared: of Steelyard itself by workers, of a Containerfile's folder by images."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.experiment.remote import Worker
from harness.experiment.revisions import export, find_revision, repository_of
from harness.model import Outcome
from harness.model.errors import HarnessError, PrepareError
from harness.records import read_run
from harness.records.codec import encode
from tests.support.scenarios import fake, scenario

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = """
question = "Does comparing revisions work?"
image = "busybox"

[workload]
command = ["echo", "hello"]

[readiness]
kind = "exit"

[arms.quick]
backend = "fake"
work_ms = 1.0

[arms.container]
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A repository with Steelyard in it, whose second revision is 4 ms slower in its fake boxes."""
    folder = tmp_path / "copy"
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("harness", "runtime", "scenarios"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / ".gitignore").write_text("__pycache__\n*.so\n")
    git(folder, "init", "--quiet")
    commit(folder, "first")
    source = folder / "harness" / "backends" / "fake.py"
    text = source.read_text()
    assert '"isolated_ms": (1.0,' in text
    source.write_text(text.replace('"isolated_ms": (1.0,', '"isolated_ms": (5.0,'))
    commit(folder, "second, slower")
    return folder


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample.toml"
    path.write_text(SCENARIO)
    return path


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A folder of an image in a repository, with a file that has grown by 1 MiB since."""
    folder = tmp_path / "repository" / "image"
    folder.mkdir(parents=True)
    (folder / "Containerfile").write_text("FROM scratch\nCOPY file /\n")
    (folder / "file").write_bytes(b"1" * 4096)
    git(folder.parent, "init", "--quiet")
    commit(folder.parent, "first")
    (folder / "file").write_bytes(b"2" * (4096 + (1 << 20)))
    return folder


def options(home: Path, tree: Path = ROOT) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    return {"cwd": home, "env": environment, "text": True}


def command(*arguments: str | Path, word: str = "compare") -> list[str]:
    program = "from harness.cli.main import main; main()"
    return [sys.executable, "-P", "-c", program, word, *map(str, arguments)]


def compare(
    home: Path, *arguments: str | Path, tree: Path = ROOT, word: str = "compare"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, word=word),
        capture_output=True,
        check=False,
        timeout=200,
        **options(home, tree),
    )


@pytest.mark.privileged
def test_a_slower_revision_is_worse_and_nothing_is_left(
    copy: Path, sample: Path, tmp_path: Path, nothing_left: None
) -> None:
    before = git(copy, "status", "--porcelain", "--ignored"), git(copy, "rev-parse", "HEAD")
    told = compare(
        tmp_path, "--revision", "HEAD~1", "HEAD", "--scenario", sample, "--arm", "quick",
        "--metric", "ready", "--blocks", "40", "--format", "json", "--output", "run", tree=copy,
    )  # fmt: skip
    assert told.returncode == 1, told.stderr
    document = json.loads(told.stdout)
    (finding,) = document["findings"]
    assert finding["verdict"] == "worse"
    assert finding["value"] - finding["reference"] == pytest.approx(4e6, rel=0.7)
    run = read_run(tmp_path / "run")
    revisions = [record.facts["revision"] for record in run.info.arms]
    commits = [git(copy, "rev-parse", name)[:12] for name in ("HEAD~1", "HEAD")]
    assert [name.split("(")[1][:12] for name in revisions] == commits
    assert [trial.position for trial in run.trials[:2]] == [0, 1]  # interleaved, by one runner
    # Another's worktrees, index and files are as they were.
    assert (git(copy, "status", "--porcelain"), git(copy, "rev-parse", "HEAD")) == ("", before[1])
    assert len(git(copy, "worktree", "list").splitlines()) == 1


@pytest.mark.privileged
def test_both_revisions_launch_containers_with_their_own_launcher(
    copy: Path, sample: Path, tmp_path: Path, nothing_left: None
) -> None:
    told = compare(
        tmp_path, "--revision", "HEAD~1", ".", "--scenario", sample, "--arm", "container",
        "--blocks", "3", "--metric", "ready", "--output", "run", tree=copy,
    )  # fmt: skip
    assert told.returncode == 3, told.stderr
    run = read_run(tmp_path / "run")
    assert len(run.trials) == 8
    assert not [trial for trial in run.trials if trial.error]
    assert {record.facts["launcher"] for record in run.info.arms} == {"native"}


@pytest.mark.privileged
def test_ctrl_c_while_a_worker_works_leaves_nothing(
    copy: Path, sample: Path, tmp_path: Path, nothing_left: None
) -> None:
    arguments = command(
        "--revision", "HEAD", "HEAD", "--scenario", sample, "--arm", "slow=fake,work_ms=300",
        "--output", "run",
    )  # fmt: skip
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options(tmp_path, copy)
    ) as process:
        trials = tmp_path / "run" / "trials.jsonl"
        while not trials.exists() or not trials.stat().st_size:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert output == ""
    assert "there is no verdict" in errors


def test_a_revision_without_a_worker_is_told(copy: Path, tmp_path: Path) -> None:
    (copy / "harness" / "worker.py").unlink()
    commit(copy, "before there was a worker")
    told = compare(
        tmp_path, "--revision", "HEAD", "HEAD~1", "--arm", "fake", "--blocks", "1", tree=copy
    )
    assert told.returncode == 2
    assert "older than harness.worker" in told.stderr
    assert "name a later one" in told.stderr
    assert not (tmp_path / "results").exists()


def test_a_launcher_that_does_not_compile_is_told(copy: Path, tmp_path: Path) -> None:
    (copy / "runtime" / "launch" / "_launch.c").write_text("int main(void) { return missing; }\n")
    told = compare(tmp_path, "--revision", "HEAD", ".", "--arm", "fake", "--blocks", "1", tree=copy)
    assert told.returncode == 2
    assert "cannot be compiled" in told.stderr


@pytest.mark.privileged
def test_a_mebibyte_in_a_folders_image_is_found_exactly_and_the_images_are_gone(
    tmp_path: Path, sample: Path, context: Path
) -> None:
    import runtime

    commit(context.parent, "second")
    before = [image.digest for image in runtime.ImageStore.default().images()]
    arguments = (
        "--context", context, "--scenario", sample, "--arm", "container", "--metric",
        "disk-shared", "--format", "json",
    )  # fmt: skip
    told = compare(tmp_path, *arguments, "--revision", "HEAD~1", "HEAD")
    (finding,) = json.loads(told.stdout)["findings"]
    assert (told.returncode, finding["verdict"]) == (1, "worse")
    assert finding["value"] - finding["reference"] == 1 << 20
    # The working tree is a revision too, and equal files make equal layers whatever their times.
    same = compare(tmp_path, *arguments, "--revision", "HEAD", ".")
    (finding,) = json.loads(same.stdout)["findings"]
    assert finding["verdict"] == "same"
    assert "layer" not in finding["sentence"]
    missing = compare(tmp_path, *arguments, "--revision", "nosuch", "HEAD")
    assert missing.returncode == 2
    assert "no revision 'nosuch'" in missing.stderr
    assert [image.digest for image in runtime.ImageStore.default().images()] == before


@pytest.mark.privileged
def test_check_against_a_revision_names_the_layer_that_is_shared_no_longer(
    tmp_path: Path, sample: Path, context: Path, nothing_left: None
) -> None:
    import runtime

    budget = '[budget.container]\ndisk-shared = { times = 1.0, of = "baseline" }\n'
    sample.write_text(f"{SCENARIO}{budget}")
    before = [image.digest for image in runtime.ImageStore.default().images()]
    arguments = ["--run", sample, "--context", context, "--against", "HEAD", "--format", "json"]
    told = compare(tmp_path, *arguments, "--blocks", "2", word="check")
    assert told.returncode == 1, told.stderr
    (finding,) = json.loads(told.stdout)["findings"]
    assert (finding["arm"], finding["verdict"]) == ("container", "worse")
    assert finding["value"] - finding["reference"] == 1 << 20
    assert "1,048,576 bytes (1.05 MB) more than with the image before" in finding["sentence"]
    assert "only the image before has layer" in finding["sentence"]
    run = read_run(next((tmp_path / "results").iterdir()))
    layers = [record.facts["layers"].split("=")[0] for record in run.info.arms]
    for layer in layers:
        assert layer.removeprefix("sha256:")[:12] in finding["sentence"]
    # What is allowed exactly is not worse, and the images are gone.
    times = (4096 + (1 << 20)) / 4096
    sample.write_text(f"{SCENARIO}{budget.replace('1.0', f'{times}')}")
    told = compare(tmp_path, *arguments, "--blocks", "2", word="check")
    assert told.returncode == 0, told.stderr
    assert [image.digest for image in runtime.ImageStore.default().images()] == before


# The parts.


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "file").write_text("old")
    (folder / "part" / "gone").write_text("")
    (folder / ".gitignore").write_text("ignored\n")
    git(folder, "init", "--quiet")
    commit(folder, "first")
    git(folder, "rm", "--quiet", "part/gone")
    (folder / "part" / "file").write_text("new")
    (folder / "part" / "link").symlink_to("file")
    commit(folder, "second")
    (folder / "part" / "file").write_text("newest")
    (folder / "part" / "ignored").write_text("")
    (folder / "part" / "untracked").write_text("")
    return folder


@pytest.mark.parametrize(
    ("name", "content", "files"),
    [
        ("HEAD~1", "old", {"file", "gone"}),
        ("HEAD", "new", {"file", "link"}),
        (".", "newest", {"file", "link", "untracked"}),
    ],
)
def test_a_folder_is_exported_as_it_was(
    repository: Path, tmp_path: Path, name: str, content: str, files: set[str]
) -> None:
    part = repository / "part"
    assert repository_of(part) == repository
    (tmp_path / "target").mkdir()
    export(find_revision(repository, name), part, tmp_path / "target")
    assert {path.name for path in (tmp_path / "target").iterdir()} == files
    assert (tmp_path / "target" / "file").read_text() == content
    assert (repository / "part" / "file").read_text() == "newest"


def test_the_working_tree_has_the_modes_of_git_and_no_runs_of_ours(
    repository: Path, tmp_path: Path
) -> None:
    part = repository / "part"
    git(repository, "stash", "--quiet", "--include-untracked")
    (part / "file").chmod(0o600)
    run = part / "results" / "20261128T101114Z-064bb6"
    (run / "charts").mkdir(parents=True)
    for name in ("run.json", "trials.jsonl", "charts/start.svg"):
        (run / name).write_text("{}")
    trees = {}
    for name in ("HEAD", "."):
        tree = tmp_path / f"tree{name}"
        tree.mkdir(mode=0o700)
        export(find_revision(repository, name), part, tree)
        trees[name] = {
            path.relative_to(tree): path.lstat().st_mode for path in sorted(tree.rglob("*"))
        }
    assert trees["HEAD"] == trees["."]
    assert {oct(mode) for mode in trees["."].values() if stat.S_ISREG(mode)} == {"0o100644"}


def test_a_shallow_clone_is_named_where_a_revision_is_missing(
    repository: Path, tmp_path: Path
) -> None:
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository}", str(shallow))
    with pytest.raises(PrepareError, match=r"shallow.*git fetch --unshallow.*fetch-depth: 0"):
        find_revision(shallow, "HEAD~1")
    with pytest.raises(PrepareError, match="see git log"):
        find_revision(repository, "HEAD~1000")


def test_a_folder_that_was_not_there_then_is_told(repository: Path, tmp_path: Path) -> None:
    later = repository / "later"
    later.mkdir()
    (tmp_path / "target").mkdir()
    with pytest.raises(PrepareError, match="later cannot be had at revision HEAD"):
        export(find_revision(repository, "HEAD"), later, tmp_path / "target")
    with pytest.raises(PrepareError, match="only a git repository has revisions"):
        repository_of(Path("/proc"))
    with pytest.raises(PrepareError, match="no revision '--help'"):
        find_revision(repository, "--help")


def test_a_worker_answers_errors_and_its_end_is_noticed() -> None:
    worker = Worker(ROOT, "here")
    try:
        asked = scenario(fake(), fake("broken", fail="prepare"))
        document = encode(asked, "")
        with pytest.raises(HarnessError, match=r"revision here: .+"):
            worker.ask({"do": "prepare", "scenario": document, "arm": "broken"})
        said: list[str] = []
        answer = worker.ask({"do": "prepare", "scenario": document, "arm": "fake"}, said.append)
        assert answer["record"]["arm"]["name"] == "fake"
        slot = {"scenario": "sample", "arm": "fake", "block": 2, "position": 1}
        trial = worker.ask({"do": "trial", **slot})["trial"]
        assert (trial["outcome"], trial["block"], trial["position"]) == ("ok", 2, 1)
        with pytest.raises(PrepareError, match=r"worker of revision here has ended: .*KeyError"):
            worker.ask({"do": "trial", **slot, "arm": "nobody"})
    finally:
        worker.close()
        worker.close()


BEFORE_THE_PACKAGES = "9ec5ed77e4699f362e8df2d71394e613edde019f"
"""The last commit whose modules lay flat in harness/ and runtime/."""


@pytest.mark.privileged
@pytest.mark.parametrize("command_of", ["then", "now"])
def test_revisions_compare_across_the_move_into_packages(
    command_of: str, sample: Path, tmp_path: Path, nothing_left: None
) -> None:
    """Whichever revision's command is typed, the worker and what it is asked are understood."""
    known = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", BEFORE_THE_PACKAGES]
    if subprocess.run(known, capture_output=True, check=False).returncode:
        pytest.skip("this clone does not reach back to before the packages")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(ROOT), str(clone))
    now = git(clone, "rev-parse", "HEAD")
    program = "from harness.cli.main import main; main()"
    if command_of == "then":
        git(clone, "checkout", "--quiet", BEFORE_THE_PACKAGES)
        program = "from harness.cli import main; main()"
    for arm in ("quick", "container"):
        arguments = [
            "--revision",
            BEFORE_THE_PACKAGES,
            now,
            "--scenario",
            str(sample),
            "--arm",
            arm,
        ]
        told = subprocess.run(
            [sys.executable, "-P", "-c", program, "compare", *arguments, "--blocks", "3"],
            capture_output=True, check=False, timeout=200, **options(tmp_path, clone),
        )  # fmt: skip
        if command_of == "then" and told.returncode == 2 and arm == "container":
            # What was measured since is no word of an older harness, which says so.
            assert "records what this Steelyard does not know" in told.stderr
            continue
        assert told.returncode in (0, 3), told.stderr  # three blocks need not decide anything
        assert f"{arm}-a" in told.stdout
    taken = len(list((tmp_path / "results").iterdir()))
    assert taken == 2 or (taken == 1 and command_of == "then")
    for folder in (tmp_path / "results").iterdir():
        run = read_run(folder)
        assert {trial.outcome for trial in run.trials} == {Outcome.OK}
        # With a warm-up block; an older harness ends at the first word that it does not know.
        is_whole = command_of == "now" or run.trials[0].arm.startswith("quick")
        assert len(run.trials) == 8 or not is_whole
