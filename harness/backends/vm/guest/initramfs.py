"""The guest's first file system: busybox, a few modules, an init; and the workload behind it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path

from harness.backends.vm.arms import Bus
from harness.backends.vm.guest.bzimage import program_headers
from harness.backends.vm.guest.cpio import Archive
from harness.backends.vm.guest.kernel import Kernel
from harness.backends.vm.guest.modules import ModuleTree
from harness.model.errors import PrepareError
from runtime import ContainerSpec

_BASE_MODULES: Mapping[Bus, tuple[str, ...]] = {
    Bus.PCI: ("virtio_pci", "virtio_blk", "virtio_console"),
    Bus.MMIO: ("virtio_mmio", "virtio_blk", "virtio_console"),
}
_NETWORK_MODULES = ("virtio_net",)
_PT_INTERP = 3
"""The segment by which an ELF program names its dynamic loader (elf(5))."""

_FOLDERS = (
    *("bin", "dev", "etc", "modules", "modules/base", "modules/network", "proc", "root"),
    *("steelyard", "sys", "device-links", "device-links/pts", "device-links/shm"),
)
_APPLETS = (
    *("cat", "chroot", "cp", "env", "ifconfig", "insmod", "mkdir", "mount", "nsenter", "reboot"),
    *("route", "setsid", "sh", "sleep", "sync", "time", "usleep"),
)
"""What guest/init and guest/workload call."""

# Tables of fstab(5). In the image's root later lines lie in earlier ones.
_EARLY_MOUNTS = """\
proc  /proc proc     defaults 0 0
sysfs /sys  sysfs    defaults 0 0
dev   /dev  devtmpfs defaults 0 0
"""
_MOUNTS = """\
/dev/vda /root          ext4     rw                                 0 0
proc     /root/proc     proc     nosuid,nodev,noexec                0 0
sysfs    /root/sys      sysfs    nosuid,nodev,noexec                0 0
dev      /root/dev      devtmpfs nosuid,noexec                      0 0
devpts   /root/dev/pts  devpts   nosuid,noexec,mode=620,ptmxmode=666,gid=5 0 0
shm      /root/dev/shm  tmpfs    nosuid,nodev,noexec,mode=1777      0 0
"""
# What devtmpfs does not have by itself; copied over it.
_DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}

# What a shell sets or changes by itself; such variables and those whose names are no shell names go
# through env(1), which costs another exec.
_PLAIN_NAME = re.compile(r"(?!steelyard_|STEELYARD_)[A-Za-z_][A-Za-z0-9_]*")
_SHELL_NAMES = (
    *("IFS", "LINENO", "MAIL", "MAILCHECK", "MAILPATH", "OLDPWD", "OPTARG", "OPTIND", "PPID"),
    *("PS1", "PS2", "PS4", "PWD", "RANDOM", "SHLVL", "_"),
)
_LEAKED = (
    "HOME TERM PWD OLDPWD SHLVL STEELYARD_DROPPED STEELYARD_HOSTNAME "
    "STEELYARD_NETWORK STEELYARD_NETMASK STEELYARD_GATEWAY"
)


def base_initramfs(kernel: Kernel, bus: Bus) -> bytes:
    """The part that depends on kernel and machine alone. Not compressed: a guest would pay for it.

    Raises:
        PrepareError: A module or a static busybox is missing.
    """
    archive = Archive()
    for name in _FOLDERS:
        archive.directory(name)
    # The kernel opens /dev/console for init before anything is mounted.
    archive.character_device("dev/console", 5, 1)
    archive.character_device("dev/null", 1, 3, 0o666)
    archive.file("etc/early", _EARLY_MOUNTS.encode())
    archive.file("etc/fstab", _MOUNTS.encode())
    archive.fifo("steelyard/pipe", 0o666)
    for name, target in _DEVICE_LINKS.items():
        archive.symlink(f"device-links/{name}", target)
    archive.file("init", _guest_file("init"), 0o755)
    archive.file("bin/busybox", find_busybox().read_bytes(), 0o755)
    archive.symlink("bin/sh", "busybox")
    tree = ModuleTree(kernel.modules)
    base = tree.load_order(_BASE_MODULES[bus])
    everything = tree.load_order(_BASE_MODULES[bus] + _NETWORK_MODULES)
    for index, name in enumerate(everything):
        folder = "base" if name in base else "network"
        archive.file(f"modules/{folder}/{index:02}-{name}.ko", tree.read(name))
    return archive.finish()


def workload_segment(workload: ContainerSpec, probe: tuple[str, ...] = ()) -> bytes:
    """The part that depends on the workload: its script, as a cpio archive of its own.

    `probe` is the readiness command, if that is one: it has a script as well.
    """
    archive = Archive()
    archive.file("steelyard/workload", workload_script(workload), 0o755)
    if probe:
        script = workload_script(replace(workload, command=probe), probes=True)
        archive.file("steelyard/probe", script, 0o755)
    return archive.finish()


def workload_script(workload: ContainerSpec, *, probes: bool = False) -> bytes:
    """guest/workload between the facts of one workload and the exec of it.

    With `probes` it is for the readiness command: it reports by what it prints and its code alone.

    Every byte but NUL passes: single quotes hold everything but themselves (sh(1), Quoting).
    """
    environment = workload.environment
    user = workload.user
    head = [
        f"uid={user.uid} gid={user.gid} probes={'yes' if probes else ''}".encode(),
        b"search=" + _quoted(environment.get("PATH", "")),
        b"directory=" + _quoted(workload.working_directory),
        b"set -- " + b" ".join(map(_quoted, workload.command)),
    ]
    return b"\n".join([*head, _guest_file("workload") + _exec_lines(environment)])


def _exec_lines(environment: Mapping[str, str]) -> bytes:
    """The end of the script: the environment, exactly, and the exec."""
    plain = all(_PLAIN_NAME.fullmatch(name) and name not in _SHELL_NAMES for name in environment)
    if plain:
        lines = [b"unset PATH " + _LEAKED.encode()]
        lines += [b"export %b=%b" % (n.encode(), _quoted(v)) for n, v in environment.items()]
        lines.append(b'exec -a "$steelyard_name" "$steelyard_program" "$@"')
    else:
        words = [_quoted(f"{name}={value}") for name, value in environment.items()]
        lines = [b"exec env -i " + b" ".join(words) + b' "$steelyard_program" "$@"']
    return b"\n".join(lines) + b"\n"


def _quoted(text: str) -> bytes:
    """A word for the shell; undecodable bytes come back as they were (PEP 383)."""
    raw = text.encode("utf-8", "surrogateescape")
    return b"'" + raw.replace(b"'", b"'\\''") + b"'"


def find_busybox() -> Path:
    """A static busybox on this host that has every applet the guest calls.

    Raises:
        PrepareError: There is none.
    """
    found = shutil.which("busybox")
    remedy = "install the package busybox-static"
    if found is None:
        raise PrepareError(f"no busybox for the guest's initramfs; {remedy}")
    path = Path(found).resolve()
    if any(kind == _PT_INTERP for kind, _, _ in program_headers(path.read_bytes())):
        raise PrepareError(f"{path} is not static, so that no guest can run it; {remedy}")
    listed = subprocess.run([path, "--list"], capture_output=True, text=True, check=False)
    missing = sorted(set(_APPLETS) - set(listed.stdout.split()))
    if missing:
        raise PrepareError(f"{path} lacks the applets {', '.join(missing)}; {remedy}")
    return path


def _guest_file(name: str) -> bytes:
    return resources.files("harness.backends.vm.guest").joinpath(name).read_bytes()
