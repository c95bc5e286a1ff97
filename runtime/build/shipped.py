"""The images that come with Steelyard, made on this machine when first used.

    busybox         Debian's busybox-static and nothing else: a shell and its tools
    debian-base     the C library and its like from Debian, and busybox as shell
    debian-python   debian-base with python3

Each is a Containerfile below `scenarios/images/`, and a folder `rootfs` that is filled here and
that the Containerfile copies. All are reproducible: times end at a fixed instant, owners are root,
and those of Debian change only when it publishes newer packages. Making them needs no privilege.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from runtime.build.bootstrap import EPOCH_S, Packages, clamp_times, remove_path, unpack_packages
from runtime.errors import ImageError, ImageNotFoundError
from runtime.images.formats.image import Image
from runtime.images.store.store import ImageStore

Progress = Callable[[str], None]

_BUSYBOX_PATHS = (Path("/bin/busybox"), Path("/usr/bin/busybox"))
_SUITE = "bookworm"
_BASE_PACKAGES = ("base-files", "busybox-static", "libc6", "libssl3", "zlib1g")
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
# The host's name and resolver, the mirror, device nodes, caches, logs, the package database.
_NOT_NEEDED = (
    "dev", "etc/apt", "etc/fstab", "etc/hostname", "etc/resolv.conf", "tmp", "run",
    "etc/dpkg/dpkg.cfg.d", "var/cache", "var/lib/apt", "var/lib/dpkg", "var/log",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ShippedImage:
    """How to make an image.

    Attributes:
        name: Its reference, without tag.
        summary: What is in it, in a few words.
        fill: Fills the empty folder that its Containerfile knows as `rootfs`.
        base: The shipped image that it is made from, if any.
    """

    name: str
    summary: str
    fill: Callable[[Path, Progress], None]
    base: str = ""

    @property
    def folder(self) -> Path:
        """Where its Containerfile is."""
        return _recipes() / self.name


def _recipes() -> Path:
    """Package data of an installation; in a clone, the folder that these are made from."""
    from importlib.resources import files

    package = Path(str(files("runtime")))
    installed = package / "shipped_images"
    return installed if installed.is_dir() else package.parent / "scenarios" / "images"


def ensure_image(
    reference: str, *, store: ImageStore | None = None, progress: Progress | None = None
) -> Image:
    """The image of that name; one that comes with Steelyard is made if it is not there yet.

    Args:
        reference: A name, a digest, or the unambiguous beginning of one.
        store: Where; by default the user's.
        progress: Called with each message about the making.

    Raises:
        ImageNotFoundError: It is not there and does not come with Steelyard.
        ImageError: It could not be made: a tool is missing, packages could not be fetched.
    """
    store = store or ImageStore.default()
    try:
        return store.get(reference)
    except ImageNotFoundError:
        shipped = SHIPPED_IMAGES.get(reference.removesuffix(":latest"))
        if shipped is None:
            raise
    return _make(shipped, store, progress or (lambda _: None))


def _make(shipped: ShippedImage, store: ImageStore, progress: Progress) -> Image:
    from runtime.build.build import build
    from runtime.build.plan import BuildRequest

    find_image = partial(ensure_image, store=store, progress=progress)
    if shipped.base:
        find_image(shipped.base)
    with store.temporary_folder() as folder:
        rootfs = folder / "rootfs"
        rootfs.mkdir(mode=0o755)
        shipped.fill(rootfs, lambda message: progress(f"{shipped.name}: {message}"))
        clamp_times(rootfs)
        progress(f"{shipped.name}: storing the image")
        request = BuildRequest(
            shipped.folder, tags=(shipped.name,), contexts={"rootfs": rootfs}, epoch_s=EPOCH_S
        )
        return build(store, request, lambda _: None, find_image)


def _fill_busybox(rootfs: Path, progress: Progress) -> None:
    progress("installing the applets of busybox-static")
    program = _host_busybox()
    (rootfs / "bin").mkdir()
    shutil.copy(program, rootfs / "bin" / "busybox")
    (rootfs / "bin" / "busybox").chmod(0o755)
    _add_applets(rootfs, program)
    _add_skeleton(rootfs)


def _fill_debian_python(rootfs: Path, progress: Progress) -> None:
    _fill_debian(rootfs, progress, (*_BASE_PACKAGES, "python3"))
    # Packages' scripts would have compiled the library, but none ran. The compiled files carry
    # their sources' times, so those must be final.
    clamp_times(rootfs)
    progress("compiling python's library")
    _compile_library(rootfs)


def _fill_debian(
    rootfs: Path, progress: Progress, packages: tuple[str, ...] = _BASE_PACKAGES
) -> None:
    """Packages unpacked, without what only installing more of them would need."""
    unpack_packages(rootfs, Packages(_SUITE, "extract", packages), progress)
    for name in _NOT_NEEDED:
        remove_path(rootfs / name)
    _add_applets(rootfs, rootfs / "usr/bin/busybox")
    _add_skeleton(rootfs)


SHIPPED_IMAGES: MappingProxyType[str, ShippedImage] = MappingProxyType(
    {
        "busybox": ShippedImage(
            "busybox", "a shell and 269 tools in one static program", _fill_busybox
        ),
        "debian-base": ShippedImage(
            "debian-base",
            f"the C library and its like from Debian {_SUITE}, and busybox as shell",
            _fill_debian,
        ),
        "debian-python": ShippedImage(
            "debian-python",
            f"Debian {_SUITE} with python3, and busybox as its shell",
            _fill_debian_python,
            base="debian-base",
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
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if result.returncode:
        said = (result.stdout + result.stderr).strip().splitlines()[-1:] or ["it said nothing"]
        raise ImageError(f"debian-python: compiling python's library failed: {said[0]}")
