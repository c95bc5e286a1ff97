"""The two images that come with Steelyard, made on this machine when first used.

    busybox         Debian's busybox-static and nothing else: a shell and its tools
    debian-python   Debian with python3, by mmdebstrap's `extract` variant; busybox is its shell

Both are reproducible: times end at a fixed instant, owners are root, what the host or the hour
would bring in is left out. debian-python changes when Debian publishes newer packages, and only
then.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from runtime.errors import ImageError, ImageNotFoundError
from runtime.images.config import ImageConfig
from runtime.images.image import Image
from runtime.images.store import ImageStore

Progress = Callable[[str], None]

_EPOCH_S = 1735689600
"""2025-01-01T00:00:00Z: no file is newer, so that the hour of making is not in the image."""
_BUSYBOX_PATHS = (Path("/bin/busybox"), Path("/usr/bin/busybox"))
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SUITE = "bookworm"
_PACKAGES = "python3,busybox-static"
_FOLDERS = {
    "dev": 0o755, "home": 0o755, "proc": 0o755, "root": 0o700, "run": 0o755, "srv": 0o755,
    "sys": 0o755, "tmp": 0o1777, "var": 0o755,
}  # fmt: skip
_FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
    ),
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
}
# Left by mmdebstrap: the host's name and resolver, the mirror, device nodes, caches, logs.
_HOST_FILES = (
    "dev", "etc/apt", "etc/fstab", "etc/hostname", "etc/resolv.conf", "tmp", "run",
    "etc/dpkg/dpkg.cfg.d", "var/cache", "var/lib/apt", "var/lib/dpkg", "var/log",
)  # fmt: skip
_NOT_UNPACKED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")
# Debian's merged /usr, made before anything is unpacked; mmdebstrap's own hook for it does other
# things on hosts that have debootstrap.
_MERGE_USR = 'cd "$1" && for d in bin sbin lib lib64; do mkdir -p usr/$d && ln -s usr/$d $d; done'


@dataclass(frozen=True, slots=True)
class ShippedImage:
    """How to make an image.

    Attributes:
        name: Its reference, without tag.
        summary: What is in it, in a few words.
        config: How to run it.
        build: Fills an empty folder with its root filesystem.
    """

    name: str
    summary: str
    config: ImageConfig
    build: Callable[[Path, Progress], None]


def ensure_image(store: ImageStore, name: str, progress: Progress) -> Image:
    """The image of that name; one that comes with Steelyard is made if it is not there yet.

    Args:
        store: Where.
        name: Any reference.
        progress: Told what is happening, while something is.

    Raises:
        ImageNotFoundError: It is not there and does not come with Steelyard.
        ImageError: It could not be made: a tool is missing, packages could not be fetched.
    """
    try:
        return store.get(name)
    except ImageNotFoundError:
        shipped = SHIPPED_IMAGES.get(name.removesuffix(":latest"))
        if shipped is None:
            raise
    with store.temporary_folder() as folder:
        rootfs = folder / "rootfs"
        rootfs.mkdir(mode=0o755)
        shipped.build(rootfs, lambda message: progress(f"{shipped.name}: {message}"))
        _clamp_times(rootfs)
        progress(f"{shipped.name}: storing the image")
        moment = datetime.fromtimestamp(_EPOCH_S, UTC)
        return store.import_rootfs(rootfs, shipped.name, shipped.config, moment, owner=(0, 0))


def _build_busybox(rootfs: Path, progress: Progress) -> None:
    progress("installing the applets of busybox-static")
    program = _host_busybox()
    (rootfs / "bin").mkdir()
    shutil.copy(program, rootfs / "bin" / "busybox")
    (rootfs / "bin" / "busybox").chmod(0o755)
    _add_applets(rootfs, program)
    _add_skeleton(rootfs)


def _build_debian_python(rootfs: Path, progress: Progress) -> None:
    if shutil.which("mmdebstrap") is None:
        raise ImageError("debian-python is made by mmdebstrap; install the package mmdebstrap")
    _run_mmdebstrap(rootfs, progress)
    for name in _HOST_FILES:
        path = rootfs / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    _add_applets(rootfs, rootfs / "usr/bin/busybox")
    _add_skeleton(rootfs)
    # Packages' scripts would have compiled the library, but none ran. The compiled files carry
    # their sources' times, so those must be final.
    _clamp_times(rootfs)
    progress("compiling python's library")
    _compile_library(rootfs)


SHIPPED_IMAGES: MappingProxyType[str, ShippedImage] = MappingProxyType(
    {
        "busybox": ShippedImage(
            "busybox",
            "a shell and 269 tools in one static program",
            ImageConfig(environment={"PATH": _PATH}, command=("sh",)),
            _build_busybox,
        ),
        "debian-python": ShippedImage(
            "debian-python",
            f"Debian {_SUITE} with python3, and busybox as its shell",
            ImageConfig(environment={"PATH": _PATH, "LANG": "C.UTF-8"}, command=("python3",)),
            _build_debian_python,
        ),
    }
)


def _host_busybox() -> Path:
    """A static busybox of this machine."""
    for path in _BUSYBOX_PATHS:
        if path.is_file() and not _has_interpreter(path):
            return path
    raise ImageError(
        "the image busybox needs a static /bin/busybox; install the package busybox-static"
    )


def _has_interpreter(program: Path) -> bool:
    """Whether an ELF file asks for a dynamic linker (PT_INTERP), that is, is not static."""
    head = program.read_bytes()[: 64 * 1024]
    return b"/ld-linux" in head or b"/ld-musl" in head


def _add_applets(rootfs: Path, program: Path) -> None:
    """Links to busybox for each of its applets, where no program of that name is."""
    command = [str(program), "--list-full"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ImageError(f"cannot ask {program} for its applets: {error}") from error
    # All but `linuxrc`, which is for initial RAM disks, are in some folder.
    for applet in (name for name in result.stdout.split() if "/" in name):
        link = rootfs / applet
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists() and not link.is_symlink():
            link.symlink_to("/bin/busybox")


def _add_skeleton(rootfs: Path) -> None:
    """The folders and files that every program expects."""
    for name, mode in _FOLDERS.items():
        (rootfs / name).mkdir(parents=True, exist_ok=True)
        (rootfs / name).chmod(mode)
    (rootfs / "etc").mkdir(exist_ok=True)
    for name, text in _FILES.items():
        (rootfs / name).write_text(text, encoding="ascii")
        (rootfs / name).chmod(0o644)


def _clamp_times(rootfs: Path) -> None:
    """Make nothing newer than the fixed instant."""
    latest = _EPOCH_S * 1_000_000_000
    for path in (rootfs, *rootfs.rglob("*")):
        modified = path.lstat().st_mtime_ns
        if modified > latest:
            os.utime(path, ns=(latest, latest), follow_symlinks=False)


def _mmdebstrap_command(rootfs: Path) -> list[str]:
    """The whole command line; the mirror is mmdebstrap's own choice."""
    # In a pid namespace, everything that mmdebstrap started dies with it; and it dies with us.
    command = ["setpriv", "--pdeathsig", "KILL"]
    command += ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"]
    mode = "root"
    if os.geteuid() != 0:
        command.append("--map-root-user")
        mode = "chrootless"
    command += ["mmdebstrap", f"--mode={mode}", "--variant=extract", "--format=directory"]
    command += [f"--include={_PACKAGES}", f"--setup-hook={_MERGE_USR}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _NOT_UNPACKED]
    # What needs mounts or device nodes is not needed here.
    command += ["--skip=chroot/mount,output/dev,output/mknod", _SUITE, str(rootfs)]
    return command


def _run_mmdebstrap(rootfs: Path, progress: Progress) -> None:
    environment = {
        **os.environ,
        "LC_ALL": "C.UTF-8",
        "SOURCE_DATE_EPOCH": str(_EPOCH_S),
        # Its temporary folders then go when ours does.
        "TMPDIR": str(rootfs.parent),
    }
    progress(f"fetching Debian {_SUITE} packages with mmdebstrap")
    lines: list[str] = []
    with _killed_at_exit(_mmdebstrap_command(rootfs), environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.strip())
            if line.startswith("I: ") and line.rstrip().endswith("..."):
                progress(line[3:].strip().removesuffix("..."))
    if process.returncode:
        reasons = [line for line in lines if line.startswith("E: ")] or lines or ["it said nothing"]
        raise ImageError(
            f"mmdebstrap could not make debian-python (exit {process.returncode}): "
            f"{reasons[0].removeprefix('E: ')}; "
            "it needs a Debian mirror it can reach and debian-archive-keyring"
        )


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


def _compile_library(rootfs: Path) -> None:
    """Compile the image's library with the image's python, without entering the image."""
    linkers = sorted(rootfs.glob("usr/lib/*-linux-*/ld-linux*.so.*"))
    library = sorted(rootfs.glob("usr/lib/python3.*"))
    if not linkers or not library:
        raise ImageError(f"debian-python: no python3 for {platform.machine()} in what was unpacked")
    name = library[-1].name
    command = [
        str(linkers[0]), "--library-path", str(linkers[0].parent), str(rootfs / "usr/bin" / name),
        "-S", "-m", "compileall", "-q", "-j", "1",
        "--invalidation-mode", "timestamp", "-s", str(rootfs), "-p", "/", str(library[-1]),
    ]  # fmt: skip
    # Nothing is written by mere importing, which would record where this folder is; and sets are
    # stored in an order that does not change from run to run.
    environment = {
        "PYTHONHOME": str(rootfs / "usr"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }
    result = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        said = (result.stdout + result.stderr).strip().splitlines()[-1:] or ["it said nothing"]
        raise ImageError(f"debian-python: compiling python's library failed: {said[0]}")
