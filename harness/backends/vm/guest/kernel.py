"""The guest's kernel: found, fetched and unpacked, never installed.

In order: what the arm's options name; the distribution's kernel for virtual machines, downloaded
and verified by apt and unpacked into the cache; the one unpacked last time; the host's own in
`/boot`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.backends.vm.guest.bzimage import extract_elf, has_pvh_entry
from harness.model.backend import Progress
from harness.model.errors import PrepareError
from runtime import cache_home
from runtime.linux.files import directory_lock, fsync_directory
from runtime.linux.output_file import output_file

META_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "debian": ("linux-image-cloud-amd64", "linux-image-amd64"),
    "ubuntu": ("linux-image-virtual", "linux-image-kvm", "linux-image-generic"),
}
"""Distribution (ID or ID_LIKE of os-release(5)) -> packages that depend on its current kernel."""

# The packages that hold files: Debian has kernel and modules in one, Ubuntu in two.
_REAL_PACKAGE = re.compile(r"linux-(?:image|modules|binary)(?:-unsigned)?-\d[^ ,|(]*")
_MANIFEST = "kernel.json"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that guests can boot.

    Attributes:
        release: As `uname -r` will say in the guest.
        version: The package's version, or how it was come by.
        bzimage: The compressed image, as firmware boots it.
        elf: The uncompressed kernel, entered by PVH.
        modules: `lib/modules/<release>`.
        digest: SHA-256 of the bzImage.
    """

    release: str
    version: str
    bzimage: Path
    elf: Path
    modules: Path
    digest: str


def find_kernel(image: Path | None, modules: Path | None, progress: Progress) -> Kernel:
    """Find the kernel to use, fetching it on first use.

    A bzImage that the user named comes first; its `lib/modules/<release>` is by default the one of
    that release on this host.

    Raises:
        PrepareError: There is none, with what to do.
    """
    if image is not None:
        return _own_kernel(image, modules, "given by the user")
    try:
        return _packaged_kernel(progress)
    except PrepareError as error:
        reason = str(error)
    if cached := _newest_cached():
        return cached
    release = os.uname().release
    host = Path(f"/boot/vmlinuz-{release}")
    if os.access(host, os.R_OK):
        return _own_kernel(host, modules, "the host's own")
    raise PrepareError(
        f"no kernel for guests: {reason}; the host's own kernel {host} is not there or not "
        "readable; name one by the arm's options kernel and modules"
    )


def _own_kernel(image: Path, modules: Path | None, origin: str) -> Kernel:
    """A kernel that is on this host already; only its ELF form goes to the cache."""
    try:
        data = image.read_bytes()
    except OSError as error:
        raise PrepareError(f"kernel {image}: {error.strerror}") from None
    digest = hashlib.sha256(data).hexdigest()
    release = _release(data, image)
    tree = modules or Path("/lib/modules") / release
    if not (tree / "kernel").is_dir():
        raise PrepareError(
            f"kernel {image}: its modules are not at {tree}; give the option modules"
        )
    directory = _kernels() / digest[:16]
    directory.mkdir(parents=True, exist_ok=True)
    elf = directory / "vmlinux"
    if not elf.exists():
        content = _elf_of(data, image)
        with output_file(elf) as file:
            file.write(content)
    return Kernel(release, origin, image, elf, tree, digest)


def _packaged_kernel(progress: Progress) -> Kernel:
    """The distribution's kernel, out of the cache or by apt."""
    packages = _current_packages()
    name, version = packages[0]
    directory = _kernels() / f"{name}_{version.replace(':', '%3a')}"
    with directory_lock(_kernels()):
        if not (directory / _MANIFEST).exists():
            # The lock is ours alone: what is unfinished was left by a killed process.
            for unfinished in _kernels().glob(".fetch-*"):
                shutil.rmtree(unfinished)
            progress(f"downloading kernel {version}")
            _fetch(packages, directory, progress)
    return _read_manifest(directory)


@functools.cache  # apt takes half a second or more to answer, and a run should keep its kernel
def _current_packages() -> list[tuple[str, str]]:
    """Names and versions of the packages that make up the distribution's kernel, image first.

    Raises:
        PrepareError: This is no distribution we know, or apt knows no such package.
    """
    distributions = [name for name in _os_release() if name in META_PACKAGES]
    if not distributions or not shutil.which("apt-cache"):
        raise PrepareError("kernels are fetched by apt on Debian and Ubuntu only")
    for meta in META_PACKAGES[distributions[0]]:
        found: list[tuple[str, str]] = []
        queue = [meta]
        for name in queue:  # grows on the way
            record = _apt_record(name)
            if record and _REAL_PACKAGE.fullmatch(name):
                found.append((name, record["Version"]))
            wanted = f"{record.get('Pre-Depends', '')}, {record.get('Depends', '')}"
            dependencies = dict.fromkeys(_REAL_PACKAGE.findall(wanted))
            queue += [package for package in dependencies if package not in queue]
        if found:
            return found
    names = ", ".join(META_PACKAGES[distributions[0]])
    raise PrepareError(f"apt knows none of {names}; run `apt-get update`")


def _apt_record(package: str) -> dict[str, str]:
    """Fields of a package's candidate version (deb-control(5)); empty if apt does not know it."""
    result = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", package],
        capture_output=True,
        text=True,
        check=False,
    )
    paragraph = result.stdout.partition("\n\n")[0]
    fields = (line.partition(": ") for line in paragraph.splitlines() if not line.startswith(" "))
    return {key: value for key, _, value in fields}


def _fetch(packages: list[tuple[str, str]], directory: Path, progress: Progress) -> None:
    """Download and unpack into a folder aside, then give it its name."""
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=directory.parent) as temporary:
        aside = Path(temporary)
        tree = aside / "tree"
        # apt checks what it downloads against the signed package lists. As root it would first drop
        # to a user of its own, who cannot write here.
        wanted = [f"{name}={version}" for name, version in packages]
        _run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *wanted], aside)
        progress("unpacking the kernel")
        for archive in sorted(aside.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(archive), str(tree)], aside)
        result = aside / "kernel"
        result.mkdir()
        _arrange(tree, result, packages[0][1])
        os.sync()
        os.rename(result, directory)
        fsync_directory(directory.parent)


def _arrange(tree: Path, result: Path, version: str) -> None:
    """Move what a guest needs out of an unpacked package into the cache's layout."""
    images = sorted((tree / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise PrepareError(f"the kernel package holds {len(images)} kernels instead of one")
    release = images[0].name.removeprefix("vmlinuz-")
    trees = [tree / prefix / "modules" / release for prefix in ("lib", "usr/lib")]
    modules = next((path for path in trees if path.is_dir()), None)
    if modules is None:
        raise PrepareError(f"the kernel package holds no modules for {release}")
    data = images[0].read_bytes()
    (result / "vmlinux").write_bytes(_elf_of(data, images[0]))
    os.rename(images[0], result / "vmlinuz")
    os.rename(modules, result / "modules")
    digest = hashlib.sha256(data).hexdigest()
    manifest = {"release": release, "version": version, "digest": digest}
    (result / _MANIFEST).write_text(json.dumps(manifest))


def _read_manifest(directory: Path) -> Kernel:
    try:
        manifest = json.loads((directory / _MANIFEST).read_text())
        return Kernel(
            release=manifest["release"],
            version=manifest["version"],
            bzimage=directory / "vmlinuz",
            elf=directory / "vmlinux",
            modules=directory / "modules",
            digest=manifest["digest"],
        )
    except (OSError, ValueError, KeyError) as error:
        raise PrepareError(f"{directory} is damaged ({error}); remove it") from None


def _newest_cached() -> Kernel | None:
    """The kernel that was unpacked last, for a host that has lost its apt."""
    manifests = sorted(_kernels().glob(f"*/{_MANIFEST}"), key=lambda path: path.stat().st_mtime_ns)
    return _read_manifest(manifests[-1].parent) if manifests else None


def _elf_of(data: bytes, image: Path) -> bytes:
    elf = extract_elf(data, str(image))
    if not has_pvh_entry(elf):
        raise PrepareError(f"{image} has no PVH entry point (CONFIG_PVH): microvm cannot enter it")
    return elf


def _release(data: bytes, image: Path) -> str:
    """What `uname -r` will say: the first word of the header's `kernel_version` string."""
    offset = int.from_bytes(data[0x20E:0x210], "little")
    text = data[offset + 0x200 : offset + 0x200 + 256].partition(b"\0")[0] if offset else b""
    if data[0x202:0x206] != b"HdrS" or not text:
        raise PrepareError(f"kernel {image} is not an x86 bzImage that names its version")
    return text.decode("ascii", "replace").split(" ")[0]


def _os_release() -> list[str]:
    """This distribution's ID followed by those it says it is like (os-release(5))."""
    import platform

    try:
        fields = platform.freedesktop_os_release()
    except OSError:
        return []
    return [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]


def _kernels() -> Path:
    path = cache_home() / "kernels"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _run(command: list[str], directory: Path) -> None:
    """Run a tool; its last line of complaint becomes the error."""
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines()
        detail = lines[-1] if lines else f"exit code {result.returncode}"
        raise PrepareError(f"{' '.join(command[:2])} failed: {detail}")
