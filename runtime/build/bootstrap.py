"""A Debian from its packages, by mmdebstrap: something to start FROM without a registry.

What comes out depends on the packages alone: no time is later than a fixed instant, and what comes
from the host, the hour or the mirror is taken out again.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runtime.errors import ImageError
from runtime.images.formats.config import ImageConfig
from runtime.images.formats.image import Image
from runtime.images.formats.reference import parse_reference
from runtime.images.formats.tar_writer import source_date_epoch_ns
from runtime.images.store.store import ImageStore
from runtime.launch.spec import DEFAULT_PATH

Progress = Callable[[str], None]

EPOCH_S = 1735689600
"""2025-01-01T00:00:00Z: no file is newer, so that the hour of making is not in the image."""
VARIANTS = ("minbase", "apt", "essential", "buildd", "standard", "extract")
"""Of mmdebstrap(1). `extract` only unpacks: no script of a package runs, no user rights needed."""
_DISTRIBUTIONS = ("debian", "ubuntu")
_WORD = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_NOT_UNPACKED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")
# Debian's merged /usr, made before anything is unpacked; mmdebstrap's own hook for it does other
# things on hosts that have debootstrap.
_MERGE_USR = 'cd "$1" && for d in bin sbin lib lib64; do mkdir -p usr/$d && ln -s usr/$d $d; done'
# Left by mmdebstrap: the host's name and resolver, device nodes, caches, logs, older copies.
_TRACES = (
    "dev/*", "etc/hostname", "etc/resolv.conf", "run/*", "tmp/*", "var/cache/apt/*",
    "var/cache/debconf/*-old", "var/cache/ldconfig/*", "var/lib/apt/lists/*", "var/lib/dpkg/*-old",
    "var/log/*.log", "var/log/apt/*", "etc/.pwd.lock", "etc/*-",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Packages:
    """What to take from Debian.

    Attributes:
        suite: `bookworm` and the like.
        variant: One of `VARIANTS`.
        include: Packages besides those of the variant.
        mirror: Where from; empty is mmdebstrap's own choice.
    """

    suite: str
    variant: str = "minbase"
    include: tuple[str, ...] = ()
    mirror: str = ""


def bootstrap_image(
    store: ImageStore,
    base: str,
    progress: Progress,
    *,
    reference: str = "",
    variant: str = "minbase",
    include: tuple[str, ...] = (),
    mirror: str = "",
) -> Image:
    """Make an image of one layer from the packages of a distribution.

    Args:
        store: Where.
        base: `debian:SUITE`, or only the suite.
        progress: Called with each message.
        reference: The image's name; by default `base`.
        variant: As in `Packages`, and so are the two that follow.
        include: Further packages.
        mirror: Where from.

    Raises:
        ImageError: It could not be made: a tool is missing, packages could not be fetched.
    """
    distribution, colon, suite = base.rpartition(":")
    if (colon and distribution not in _DISTRIBUTIONS) or not _WORD.fullmatch(suite):
        raise ImageError(f"{base!r} is nothing to start from; write debian:bookworm or the like")
    if wrong := [name for name in include if not _WORD.fullmatch(name)]:
        raise ImageError(f"{wrong[0]!r} is no name of a package")
    name = str(parse_reference(reference or base))
    moment_ns = source_date_epoch_ns()
    moment_s = EPOCH_S if moment_ns is None else moment_ns // 1_000_000_000
    config = ImageConfig(
        environment={"PATH": DEFAULT_PATH},
        command=("sh",) if variant == "extract" else ("bash",),
    )
    with store.temporary_folder() as folder:
        rootfs = folder / "rootfs"
        rootfs.mkdir(mode=0o755)
        unpack_packages(rootfs, Packages(suite, variant, include, mirror), progress)
        remove_traces(rootfs)
        clamp_times(rootfs, moment_s)
        progress("storing the image")
        # An ordinary user may not give files away, and could not keep their owners either.
        owner = None if os.geteuid() == 0 else (0, 0)
        created = datetime.fromtimestamp(moment_s, UTC)
        return store.import_rootfs(rootfs, name, config, created, owner=owner)


def unpack_packages(rootfs: Path, packages: Packages, progress: Progress) -> None:
    """Fill an empty folder with a distribution.

    Raises:
        ImageError: A tool is missing, or packages could not be fetched or installed.
    """
    if shutil.which("mmdebstrap") is None:
        raise ImageError("this is made by mmdebstrap; install the package mmdebstrap")
    environment = {
        **os.environ,
        "LC_ALL": "C.UTF-8",
        "SOURCE_DATE_EPOCH": str(EPOCH_S),
        # Its temporary folders then go when ours does.
        "TMPDIR": str(rootfs.parent),
    }
    if os.geteuid() != 0 and packages.variant == "extract":
        # With one user alone in its namespace, tar could give nothing to anyone else.
        environment["TAR_OPTIONS"] = "--no-same-owner"
    progress(f"fetching Debian {packages.suite} packages with mmdebstrap")
    lines: list[str] = []
    with _killed_at_exit(mmdebstrap_command(rootfs, packages), environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.strip())
            if line.startswith("I: ") and line.rstrip().endswith("..."):
                progress(line[3:].strip().removesuffix("..."))
    if process.returncode:
        reasons = [line for line in lines if line.startswith("E: ")] or lines or ["it said nothing"]
        raise ImageError(
            f"mmdebstrap could not unpack Debian {packages.suite} (exit {process.returncode}): "
            f"{reasons[0].removeprefix('E: ')}; "
            "it needs a Debian mirror it can reach and debian-archive-keyring"
        )


def mmdebstrap_command(rootfs: Path, packages: Packages, *, root: bool | None = None) -> list[str]:
    """The whole command line.

    `root` is whether it runs as root; None means as who we are.
    """
    root = os.geteuid() == 0 if root is None else root
    extracts = packages.variant == "extract"
    # In a pid namespace, everything that mmdebstrap started dies with it; and it dies with us.
    command = ["setpriv", "--pdeathsig", "KILL"]
    command += ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"]
    mode = "root"
    if not root and extracts:
        command.append("--map-root-user")
        mode = "chrootless"
    elif not root:
        # Scripts of packages want many users: mmdebstrap makes its own namespace with subuids.
        command.append("--map-current-user")
        mode = "unshare"
    command += ["mmdebstrap", f"--mode={mode}", f"--variant={packages.variant}"]
    command.append("--format=directory")
    if packages.include:
        command.append(f"--include={','.join(packages.include)}")
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _NOT_UNPACKED]
    if extracts:
        command.append(f"--setup-hook={_MERGE_USR}")
        # What needs mounts or device nodes is not needed here.
        command.append("--skip=chroot/mount,output/dev,output/mknod")
    command += [packages.suite, str(rootfs)]
    if packages.mirror:
        command.append(packages.mirror)
    return command


@contextmanager
def _killed_at_exit(
    command: list[str], environment: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """A child whose stderr is read; whatever happens here, it does not outlive this block."""
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise ImageError(f"{error.filename} is missing; install the package util-linux") from None
    with process:
        try:
            yield process
        except BaseException:
            process.send_signal(signal.SIGKILL)
            raise


def remove_traces(rootfs: Path) -> None:
    """Take out what shows the host and the hour; folders that programs expect stay."""
    for trace in _TRACES:
        folder, _, pattern = trace.rpartition("/")
        # Not Path.glob, which finds no symlink that leads nowhere.
        there = os.listdir(rootfs / folder) if (rootfs / folder).is_dir() else []
        for path in (rootfs / folder / name for name in fnmatch.filter(there, pattern)):
            remove_path(path)
    machine = rootfs / "etc/machine-id"
    if machine.is_file() and not machine.is_symlink():
        # Empty: made anew when it is booted (machine-id(5)).
        machine.write_bytes(b"")


def remove_path(path: Path) -> None:
    """Remove a file, a symlink or a folder with all that is in it; absent is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def clamp_times(rootfs: Path, latest_s: int = EPOCH_S) -> None:
    """Make nothing newer than an instant, given in seconds since the epoch."""
    latest = latest_s * 1_000_000_000
    for path in (rootfs, *rootfs.rglob("*")):
        modified = path.lstat().st_mtime_ns
        if modified > latest:
            os.utime(path, ns=(latest, latest), follow_symlinks=False)
