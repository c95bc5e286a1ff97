"""The initramfs: archive format, module order, and the script that execs the workload."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.backends.vm.guest.cpio import Archive
from harness.backends.vm.guest.initramfs import workload_script
from harness.backends.vm.guest.modules import ModuleTree, dependencies
from harness.model.errors import PrepareError
from runtime import ContainerSpec, DirectoryRoot
from runtime.launch.spec import User

BUSYBOX = "/bin/busybox"
PATH = "/usr/local/bin:/usr/bin:/bin"


def unpack(data: bytes, folder: Path) -> None:
    """With busybox's cpio: a reader that shares nothing with our writer."""
    # Headers keep their alignment only from the archive's start, as in the kernel.
    command = [BUSYBOX, "cpio", "-idm"]
    subprocess.run(command, cwd=folder, input=data, check=True, capture_output=True)


def test_an_independent_reader_finds_what_was_written(tmp_path: Path) -> None:
    archive = Archive()
    archive.directory("bin", 0o750)
    archive.file("bin/tool", b"content", 0o755)
    archive.file("empty", b"")
    archive.symlink("bin/link", "tool")
    archive.fifo("pipe", 0o622)
    unpack(archive.finish(), tmp_path)
    assert stat.S_IMODE((tmp_path / "bin").stat().st_mode) == 0o750
    assert (tmp_path / "bin/tool").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "bin/tool").stat().st_mode) == 0o755
    assert (tmp_path / "empty").read_bytes() == b""
    assert os.readlink(tmp_path / "bin/link") == "tool"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="making device nodes needs root; writing them not")
def test_device_nodes_are_entries_like_any_other(tmp_path: Path) -> None:
    archive = Archive()
    archive.character_device("null", 1, 3, 0o666)
    unpack(archive.finish(), tmp_path)
    status = (tmp_path / "null").stat()
    assert stat.S_ISCHR(status.st_mode)
    assert status.st_rdev == os.makedev(1, 3)


def test_equal_content_gives_equal_bytes_that_can_be_followed() -> None:
    def made() -> bytes:
        archive = Archive()
        archive.file("odd", b"x" * 13)
        return archive.finish()

    assert made() == made()
    assert len(made()) % 4 == 0


def module(*needs: str) -> bytes:
    """As much of a module as tells its dependencies."""
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


def tree(folder: Path, modules: dict[str, bytes], builtin: str = "") -> ModuleTree:
    (folder / "kernel/drivers").mkdir(parents=True)
    for name, data in modules.items():
        (folder / "kernel/drivers" / name).write_bytes(data)
    (folder / "modules.builtin").write_text(builtin)
    return ModuleTree(folder)


def test_modules_come_after_what_they_depend_on(tmp_path: Path) -> None:
    import lzma

    modules = tree(
        tmp_path,
        {
            "virtio.ko": module("virtio_ring"),
            "virtio_ring.ko": module(),
            "virtio-blk.ko.xz": lzma.compress(module("virtio", "virtio_ring", "ext4")),
        },
        builtin="kernel/fs/ext4/ext4.ko\n",
    )
    assert modules.load_order(("virtio_blk", "virtio")) == ("virtio_ring", "virtio", "virtio_blk")
    assert modules.read("virtio_blk").startswith(b"\x7fELF")


def test_a_missing_module_is_named_with_who_needs_it(tmp_path: Path) -> None:
    modules = tree(tmp_path, {"a.ko": module("b")})
    with pytest.raises(PrepareError, match=r"module b \(needed by a\)"):
        modules.load_order(("a",))


def test_a_circle_of_modules_is_an_error(tmp_path: Path) -> None:
    modules = tree(tmp_path, {"a.ko": module("b"), "b.ko": module("a")})
    with pytest.raises(PrepareError, match="circle"):
        modules.load_order(("a",))


def test_a_module_without_modinfo_depends_on_nothing() -> None:
    assert dependencies(b"\x7fELF") == ()


# What the guest's shell does with the workload, done by the same shell here.

REPORT = "cat /proc/$$/cmdline; printf '\\001'; exec cat /proc/self/environ"


def workload(
    argv: tuple[str, ...], environment: dict[str, str], uid: int, gid: int, directory: str
) -> ContainerSpec:
    return ContainerSpec(
        DirectoryRoot(""),
        argv,
        environment,
        user=User(uid, gid),
        working_directory=directory,
    )


def run_script(command: ContainerSpec, folder: Path) -> tuple[int, list[str], bytes]:
    """Run a workload script as guest/init does.

    Returns:
        Exit code, lines on the control port, and what the workload printed.
    """
    guest = folder / "guest"
    (guest / "bin").mkdir(parents=True)
    (guest / "bin/sh").symlink_to(BUSYBOX)
    (guest / "steelyard").mkdir()
    script = guest / "steelyard/workload"
    script.write_bytes(workload_script(command))
    control_read, control_write = os.pipe()
    root = os.open(guest, os.O_RDONLY)
    try:
        # The descriptors have fixed numbers in the guest: 3 is the control port, 9 its root.
        wrapper = (
            f"exec 3>&{control_write} {control_write}>&- 9<&{root} {root}<&-;"
            f"exec {BUSYBOX} sh '{script}'"
        )
        result = subprocess.run(
            ["/bin/bash", "-c", wrapper],
            pass_fds=(control_write, root),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={"HOME": "/", "TERM": "linux", "STEELYARD_HOSTNAME": "x"},
            check=False,
        )
    finally:
        os.close(control_write)
        os.close(root)
    with open(control_read, encoding="utf-8") as lines:
        return result.returncode, lines.read().splitlines(), result.stdout


def text_without_nul() -> st.SearchStrategy[str]:
    raw = st.binary(max_size=20).map(lambda data: data.replace(b"\0", b""))
    return raw.map(lambda data: data.decode("utf-8", "surrogateescape"))


@settings(max_examples=40, deadline=None)
@given(
    arguments=st.lists(text_without_nul(), max_size=5),
    values=st.lists(text_without_nul(), max_size=3),
)
def test_every_byte_of_arguments_and_environment_arrives(
    tmp_path_factory: pytest.TempPathFactory, arguments: list[str], values: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("script")
    environment = {"PATH": PATH} | {f"NAME_{i}": value for i, value in enumerate(values)}
    command = workload(("sh", "-c", REPORT, *arguments), environment, 0, 0, "/")
    code, control, printed = run_script(command, folder)
    assert (code, control) == (0, ["started"])
    expected = b"".join(os.fsencode(word) + b"\0" for word in command.command) + b"\1"
    assert printed[: len(expected)] == expected
    wanted = {os.fsencode(f"{name}={value}") for name, value in environment.items()}
    found = {item for item in printed[len(expected) :].split(b"\0") if item}
    # dash, the workload here, adds these to its own children.
    assert {item for item in found if not item.startswith((b"PWD=", b"OLDPWD="))} == wanted


@pytest.mark.parametrize("name", ["my.dotted", "IFS", "steelyard_name", "RANDOM", "1st"])
def test_variables_that_are_none_of_a_shell_arrive_too(tmp_path: Path, name: str) -> None:
    environment = {"PATH": PATH, name: "a b'c"}
    command = workload(("/bin/cat", "/proc/self/environ"), environment, 0, 0, "/")
    code, control, printed = run_script(command, tmp_path)
    assert (code, control) == (0, ["started"])
    assert printed == f"PATH={PATH}\0{name}=a b'c\0".encode()


def test_nothing_of_the_guest_leaks_into_the_environment(tmp_path: Path) -> None:
    command = workload(("/bin/cat", "/proc/self/environ"), {"ONLY": "this"}, 0, 0, "/usr")
    assert run_script(command, tmp_path) == (0, ["started"], b"ONLY=this\0")


def test_no_descriptor_of_the_guest_leaks_into_the_workload(tmp_path: Path) -> None:
    look = "for fd in /proc/$$/fd/*; do readlink $fd; done"
    command = workload(("/bin/sh", "-c", look), {"PATH": PATH}, 0, 0, "/")
    _, _, printed = run_script(command, tmp_path)
    assert printed.split()[0] == b"/dev/null"
    # Output and errors; not the control port, not the guest's root, not the script.
    assert len([target for target in printed.split() if target.startswith(b"pipe:")]) == 2
    assert os.fsencode(tmp_path) not in printed


def test_the_first_match_in_path_is_taken_and_no_applet(tmp_path: Path) -> None:
    for folder, answer in (("first", "right"), ("second", "wrong")):
        (tmp_path / folder).mkdir()
        tool = tmp_path / folder / "ls"
        tool.write_text(f"#!/bin/sh\necho {answer} $0\n")
        tool.chmod(0o755)
    (tmp_path / "zeroth").mkdir()
    (tmp_path / "zeroth/ls").write_text("not executable")
    path = ":".join(str(tmp_path / name) for name in ("zeroth", "first", "second"))
    _, _, printed = run_script(workload(("ls",), {"PATH": path}, 0, 0, "/"), tmp_path)
    assert printed.split() == [b"right", str(tmp_path / "first/ls").encode()]


@pytest.mark.parametrize(
    ("argv", "code", "complaint"),
    [
        (("nosuch",), 127, "failed there is no command nosuch in the image"),
        (("/no/such",), 127, "failed there is no command /no/such in the image"),
        (("/etc/passwd",), 126, "failed the command /etc/passwd in the image cannot be executed"),
        (("/etc",), 126, "failed the command /etc in the image cannot be executed"),
    ],
)
def test_a_command_that_cannot_run_is_refused_by_name(
    tmp_path: Path, argv: tuple[str, ...], code: int, complaint: str
) -> None:
    command = workload(argv, {"PATH": PATH}, 0, 0, "/")
    assert run_script(command, tmp_path) == (code, [complaint], b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="changing user needs root")
def test_the_user_is_dropped_to_and_the_folder_made(tmp_path: Path) -> None:
    # pytest's own folders are for their owner only.
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and str(folder) != "/":
            folder.chmod(folder.stat().st_mode | 0o011)
    where = tmp_path / "made" / "here"
    command = workload(
        ("sh", "-c", "id -u; id -g; id -G; pwd"), {"PATH": PATH}, 123, 45, str(where)
    )
    code, control, printed = run_script(command, tmp_path)
    assert (code, control) == (0, ["started"])
    assert printed.split() == [b"123", b"45", b"45", os.fsencode(where)]
