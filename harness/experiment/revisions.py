"""Two states of a git repository as folders: what `steelyard compare --revision A B` compares.

A revision is exported with git-archive(1), never checked out: the user's working tree, index and
list of worktrees stay as they are. `.` is the working tree as it is now, without what git ignores.
"""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import subprocess
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path

from harness.model.errors import PrepareError
from harness.records import RUN_FILE, TRIALS_FILE

WORKING_TREE = "."


@dataclass(frozen=True, slots=True)
class Revision:
    """A state of a repository.

    Attributes:
        repository: Its top folder.
        typed: As the user named it.
        commit: Forty hexadecimal digits; empty for the working tree.
        subject: First line of the commit's message.
    """

    repository: Path
    typed: str
    commit: str
    subject: str

    @property
    def title(self) -> str:
        """Name it in a judgement: `HEAD~1 (3f2a91c0b7de, Pull and push)`."""
        if not self.commit:
            return "the working tree"
        return f"{self.typed} ({self.commit[:12]}, {self.subject})"


def repository_of(folder: Path) -> Path:
    """The top folder of the git repository that a folder is in.

    Raises:
        PrepareError: It is in none, or there is no git.
    """
    return Path(_git(folder, "rev-parse", "--show-toplevel").strip())


def find_revision(repository: Path, typed: str) -> Revision:
    """What a name means in a repository.

    Raises:
        PrepareError: There is no such commit.
    """
    if typed == WORKING_TREE:
        return Revision(repository, typed, "", "")
    quiet = ("--verify", "--quiet", "--end-of-options")
    commit = _git(repository, "rev-parse", *quiet, f"{typed}^{{commit}}").strip()
    subject = _git(repository, "show", "--no-patch", "--format=%s", commit).strip()
    return Revision(repository, typed, commit, subject)


def export(revision: Revision, folder: Path, target: Path) -> None:
    """Copy what a folder of the repository held at a revision.

    Args:
        revision: When.
        folder: Which; the repository's top folder, or one below it.
        target: Where to; is there, and empty.

    Raises:
        PrepareError: The folder was not there then, or something cannot be copied.
    """
    inside = folder.resolve().relative_to(revision.repository.resolve())
    if not revision.commit:
        _copy_working_tree(folder, target)
        return
    what = revision.commit if inside == Path() else f"{revision.commit}:{inside}"
    modes = ("-c", "tar.umask=0022")  # git's own default makes what is written group-writable
    command = ["git", "-C", str(revision.repository), *modes, "archive", "--format=tar", what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as git:
        assert git.stdout is not None
        assert git.stderr is not None
        unpacked = subprocess.run(
            ["tar", "-x", "--preserve-permissions", "-C", str(target)],
            stdin=git.stdout,
            capture_output=True,
            text=True,
            check=False,
        )
        complaint = git.stderr.read().decode(errors="replace").strip()
    if git.returncode or unpacked.returncode:
        said = (complaint or unpacked.stderr.strip()).splitlines()
        reason = said[-1] if said else "without a word"
        raise PrepareError(f"{inside or '.'} cannot be had at revision {revision.typed}: {reason}")


def compile_extensions(tree: Path) -> None:
    """Compile the native launcher of a copy of Steelyard, as its own project file says.

    Raises:
        PrepareError: There is no compiler, or it refuses.
    """
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))
    suffix = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
    for extension in project.get("tool", {}).get("setuptools", {}).get("ext-modules", []):
        output = tree / (extension["name"].replace(".", "/") + suffix)
        flags = extension.get("extra-compile-args", [])
        command = ["cc", "-shared", "-fPIC", *flags, *extension["sources"], "-o", str(output)]
        try:
            result = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            message = "there is no C compiler (cc) for the launcher of a revision; install gcc"
            raise PrepareError(message) from None
        if result.returncode:
            message = f"the launcher of {tree.name} cannot be compiled: {_last(result.stderr)}"
            raise PrepareError(message)


def _copy_working_tree(folder: Path, target: Path) -> None:
    """Copy what git would commit, with the modes that it would give it back with.

    But for runs that it does not know: Steelyard records them where its user stands, and so perhaps
    in the folder whose image it compares.
    """
    listed = _git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    known = set(_git(folder, "ls-files", "-z", "--cached").split("\0"))
    for name in filter(None, listed.split("\0")):
        source, copy = folder / name, target / name
        if not source.exists() and not source.is_symlink():
            continue  # deleted, and not yet committed
        if name not in known and _is_in_a_run(source, folder):
            continue
        if source.is_dir() and not source.is_symlink():
            # A repository of its own: git-archive(1) gives back no more than its folder.
            (target / name).mkdir(parents=True, exist_ok=True)
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy, follow_symlinks=False)
        if not copy.is_symlink():
            copy.chmod(0o755 if copy.stat().st_mode & stat.S_IXUSR else 0o644)
    for directory, _, _ in os.walk(target):
        os.chmod(directory, 0o755)  # noqa: S103 - what git gives back, whatever the umask here


def _is_in_a_run(source: Path, folder: Path) -> bool:
    below = itertools.takewhile(lambda up: up != folder, source.parents)
    return any((up / RUN_FILE).exists() and (up / TRIALS_FILE).exists() for up in below)


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        message = "there is no git, which knows the revisions; install the package git"
        raise PrepareError(message) from None
    if result.returncode == 0:
        return result.stdout
    if arguments[0] == "rev-parse" and "--verify" in arguments:
        typed = arguments[-1].removesuffix("^{commit}")
        advice = "see git log"
        if _git(folder, "rev-parse", "--is-shallow-repository").strip() == "true":
            advice = (
                "this clone is shallow and lacks most of the history: git fetch --unshallow, or "
                "fetch-depth: 0 for actions/checkout"
            )
        raise PrepareError(f"{folder} has no revision {typed!r}; {advice}")
    message = f"git in {folder}: {_last(result.stderr).removeprefix('fatal: ')}"
    raise PrepareError(f"{message}; only a git repository has revisions")


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "without a word"
