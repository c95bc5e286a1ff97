"""Images and specifications that try to get out of the container, or at what is not theirs."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.containers.container import launch_container
from runtime.errors import CommandNotExecutableError, LaunchError
from runtime.launch.launcher import Launcher
from runtime.launch.spec import ALL_NAMESPACES, ContainerSpec, Namespace, Volume
from runtime.linux.features import probe_features
from tests.support.containers import Run, overlay_root

pytestmark = [pytest.mark.privileged, pytest.mark.usefixtures("leaves_nothing")]


def _layer(folder: Path, **links: str) -> Path:
    """A layer of symbolic links."""
    folder.mkdir(exist_ok=True)
    for name, target in links.items():
        (folder / name).symlink_to(target)
    return folder


@pytest.fixture
def host_folder(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder of the host and a descriptor of it, left open and inheritable in this process."""
    folder = tmp_path / "host"
    folder.mkdir()
    (folder / "secret").write_text("of the host\n")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(fd, True)
    yield folder, fd
    os.close(fd)
    assert os.listdir(folder) == ["secret"]
    assert os.stat(folder).st_mode & 0o777 == 0o755


# --- the launcher's own program (CVE-2019-5736) ---


@pytest.mark.parametrize(
    "command",
    ["/proc/self/exe", "/proc/1/exe", "/proc/thread-self/exe", "/alias", "alias", "/bin/../alias",
     "/chain", "/dev/fd/../exe"],
)  # fmt: skip
def test_the_launchers_program_cannot_be_the_command(
    run: Run, rootfs: Path, tmp_path: Path, launcher: Launcher, command: str
) -> None:
    layer = _layer(tmp_path / "layer", alias="/proc/self/exe", chain="alias")
    environment = {"PATH": "/bin:/"}
    with pytest.raises(CommandNotExecutableError) as caught:
        run(command, root=overlay_root(layer, rootfs), environment=environment, launcher=launcher)
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize(
    "interpreter",
    ["/proc/self/exe", " \t/proc/self/exe -c x", "/link", "/script2", "proc/self/exe"],
)
def test_nor_the_interpreter_of_a_script(
    run: Run, rootfs: Path, tmp_path: Path, launcher: Launcher, interpreter: str
) -> None:
    layer = _layer(tmp_path / "layer", link="/proc/self/exe")
    for name, line in (("script", interpreter), ("script2", "/proc/self/exe")):
        (layer / name).write_text(f"#!{line}\n")
        (layer / name).chmod(0o755)
    with pytest.raises(CommandNotExecutableError) as caught:
        run("/script", root=overlay_root(layer, rootfs), launcher=launcher)
    assert caught.value.errno == errno.ELOOP


def test_nor_the_loader_of_a_program(
    run: Run, rootfs: Path, tmp_path: Path, launcher: Launcher
) -> None:
    """An ELF file names its loader too. Nothing checks that one, and the kernel does load the
    launcher's program, but as a program without its own loader it ends before its first line."""
    name = b"/proc/self/exe\0"
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,
        62,
        1,
        0x400000,
        64,
        0,
        0,
        64,
        56,
        2,
        0,
        0,
        0,
    )
    offset = 64 + 2 * 56
    interp = struct.pack("<IIQQQQQQ", 3, 4, offset, 0x400000 + offset, 0, len(name), len(name), 1)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0, 4096, 4096, 4096)
    layer = _layer(tmp_path / "layer")
    (layer / "program").write_bytes((header + interp + load + name).ljust(4096, b"\0"))
    (layer / "program").chmod(0o755)
    result = run("/program", root=overlay_root(layer, rootfs), launcher=launcher)
    assert result.code != 0
    assert "Python" not in result.output


def test_a_chain_of_scripts_ends(
    run: Run, rootfs: Path, tmp_path: Path, launcher: Launcher
) -> None:
    layer = _layer(tmp_path / "layer")
    (layer / "loop").write_text("#!/loop\n")
    (layer / "loop").chmod(0o755)
    with pytest.raises(CommandNotExecutableError):
        run("/loop", root=overlay_root(layer, rootfs), launcher=launcher)


def test_the_running_program_is_the_images(run: Run, launcher: Launcher) -> None:
    assert run("readlink", "/proc/1/exe", launcher=launcher).output == "/bin/busybox\n"


# --- descriptors of the host (CVE-2024-21626) ---


def test_no_descriptor_of_the_host_is_there(
    run: Run, launcher: Launcher, host_folder: tuple[Path, int]
) -> None:
    result = run("sh", "-c", "ls -l /proc/1/fd/; cat /proc/1/fd/*/secret", launcher=launcher)
    links = [line for line in result.output.splitlines() if " -> " in line]
    # The three of the shell; ls and its reading of the folder are another process's.
    assert len(links) == 3, result.output
    assert "of the host" not in result.output


@pytest.mark.parametrize(
    "where",
    ["/proc/self/fd/{fd}", "/proc/self/fd/{fd}/made", "/link", "/link/made", "/dev/fd/{fd}"],
)
def test_working_directory_cannot_be_one(
    run: Run,
    rootfs: Path,
    tmp_path: Path,
    launcher: Launcher,
    host_folder: tuple[Path, int],
    where: str,
) -> None:
    _, fd = host_folder
    layer = _layer(tmp_path / "layer", link=f"/proc/self/fd/{fd}")
    with pytest.raises(LaunchError):
        run(
            "true", working_directory=where.format(fd=fd), root=overlay_root(layer, rootfs),
            launcher=launcher,
        )  # fmt: skip


@pytest.mark.parametrize("where", ["/proc/self/fd/0", "/proc/self/fd/0/made", "/dev/stdin/made"])
def test_working_directory_cannot_be_a_stream(
    run: Run, launcher: Launcher, host_folder: tuple[Path, int], where: str
) -> None:
    # The one descriptor that has to be there.
    with pytest.raises(LaunchError) as caught:
        run("true", working_directory=where, stdin=host_folder[1], launcher=launcher)
    assert caught.value.errno == errno.ELOOP


def test_working_directory_cannot_be_another_processs_root(run: Run, launcher: Launcher) -> None:
    marker = Path("/tmp") / f"steelyard-test-{os.getpid()}"
    for where in (f"/proc/{os.getpid()}/root", f"/proc/{os.getpid()}/cwd", "/proc/1/root",
                  f"/proc/{os.getpid()}/root{marker}"):  # fmt: skip
        with pytest.raises(LaunchError):
            run(
                "true", working_directory=where, launcher=launcher,
                namespaces=ALL_NAMESPACES - {Namespace.PID},
            )  # fmt: skip
    assert not marker.exists()


@pytest.mark.parametrize("is_directory", [True, False])
def test_volume_target_cannot_be_one(
    run: Run,
    rootfs: Path,
    tmp_path: Path,
    launcher: Launcher,
    host_folder: tuple[Path, int],
    is_directory: bool,
) -> None:
    _, fd = host_folder
    layer = _layer(tmp_path / "layer", data=f"/proc/self/fd/{fd}", stream="/proc/self/fd/0")
    source = tmp_path / "source"
    if is_directory:
        source.mkdir()
    else:
        source.write_text("")
    for target in ("/data", "/data/in", "/data/a/b", "/stream", "/stream/in"):
        with pytest.raises(LaunchError):
            run(
                "true", volumes=(Volume(str(source), target, False, is_directory),),
                root=overlay_root(layer, rootfs), stdin=fd, launcher=launcher,
            )  # fmt: skip


# --- symbolic links where mounts go ---


@pytest.mark.parametrize("mountpoint", ["proc", "sys", "dev"])
@pytest.mark.parametrize(
    "target", ["/etc", "../../../../..", "/proc/self/fd/0", "/absent", "/proc"]
)
def test_links_in_place_of_mount_points_stay_inside(
    run: Run,
    rootfs: Path,
    tmp_path: Path,
    launcher: Launcher,
    host_folder: tuple[Path, int],
    mountpoint: str,
    target: str,
) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    layer = _layer(tmp_path / "layer", **{mountpoint: target})
    # Whether such a container starts is up to the image; what matters is the host.
    with contextlib.suppress(LaunchError):
        run("true", root=overlay_root(layer, rootfs), stdin=host_folder[1], launcher=launcher)
    assert Path("/proc/self/mountinfo").read_text() == before
    assert sorted(os.listdir(layer)) == [mountpoint]


@pytest.mark.parametrize("target", ["../../../../tmp", "/tmp", "/absent", "../../.."])
def test_links_in_place_of_volume_targets_stay_inside(
    run: Run, rootfs: Path, tmp_path: Path, launcher: Launcher, target: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "seen").write_text("")
    layer = _layer(tmp_path / "layer", data=target)
    before = set(os.listdir("/tmp"))

    def launch() -> str:
        return run(
            "ls", "/tmp", volumes=(Volume(str(source), "/data"),),
            root=overlay_root(layer, rootfs), launcher=launcher,
        ).output  # fmt: skip

    if target == "/absent":
        with pytest.raises(LaunchError) as caught:
            launch()
        assert (caught.value.syscall, caught.value.errno) == ("openat2", errno.ENOENT)
    else:
        assert launch() == ("seen\n" if target.endswith("tmp") else "")
    assert "seen" not in set(os.listdir("/tmp")) - before


# --- devices, masked and read-only paths ---


def test_device_nodes_of_the_image_and_of_volumes_are_dead(
    run: Run, rootfs: Path, tmp_path: Path, launcher: Launcher
) -> None:
    layer = _layer(tmp_path / "layer")
    volume = tmp_path / "volume"
    volume.mkdir()
    for folder in (layer, volume):
        os.mknod(folder / "zero", 0o020666, os.makedev(1, 5))
    script = "head -c1 /zero; head -c1 /data/zero; head -c1 /dev/zero | wc -c"
    result = run(
        "sh", "-c", script, root=overlay_root(layer, rootfs), launcher=launcher,
        volumes=(Volume(str(volume), "/data"),),
    )  # fmt: skip
    assert result.output.count("Permission denied") == 2
    assert result.output.splitlines()[-1] == "1"


def test_device_nodes_cannot_be_made(run: Run, launcher: Launcher) -> None:
    script = "mknod /sda b 8 0; mknod /dev/sda b 8 0; mknod /dev/shm/mem c 1 1"
    result = run("sh", "-c", script, launcher=launcher)
    assert result.output.count("Operation not permitted") == 3


def test_masked_paths_are_empty(run: Run, launcher: Launcher) -> None:
    features = probe_features()
    files, folders = " ".join(features.masked_files), " ".join(features.masked_directories)
    script = (
        f"for f in {files}; do cat $f; done | wc -c; "
        f"for d in {folders}; do ls -A $d; done | wc -l; "
        f"for d in {folders}; do touch $d/x 2>/dev/null && echo written $d; done; true"
    )
    assert run("sh", "-c", script, launcher=launcher).output.split() == ["0", "0"]
    assert files or folders


def test_read_only_paths_cannot_be_written(run: Run, launcher: Launcher) -> None:
    result = run(
        "sh", "-c",
        "echo 1 > /proc/sys/vm/drop_caches; echo x > /proc/sys/kernel/core_pattern; "
        "echo b > /proc/sysrq-trigger; mkdir /sys/fs/cgroup/x; echo 1 > /sys/kernel/mm/ksm/run",
        launcher=launcher,
    )  # fmt: skip
    assert result.output.count("Read-only file system") >= 3
    assert result.code != 0


def test_nothing_can_be_mounted_or_unmounted(run: Run, launcher: Launcher) -> None:
    script = (
        "umount /proc/sys; umount /sys; mount -o remount,rw /sys; mount -t tmpfs x /tmp; "
        "mount -t proc proc /tmp; mount -o bind / /tmp; unshare -m true; chroot / true && echo ok"
    )
    result = run("sh", "-c", script, launcher=launcher)
    assert result.output.splitlines()[-1] == "ok"
    refused = result.output.count("Operation not permitted")
    assert refused + result.output.count("ermission denied") >= 7


def test_processes_of_the_host_cannot_be_seen_or_signalled(run: Run, launcher: Launcher) -> None:
    script = f"ls -d /proc/[0-9]* | wc -l; kill -9 {os.getpid()} 2>&1"
    lines = run("sh", "-c", script, launcher=launcher).output.splitlines()
    assert int(lines[0]) <= 3
    assert "No such process" in lines[-1]


def test_a_set_user_id_program_gives_nothing(
    run: Run, rootfs: Path, tmp_path: Path, launcher: Launcher
) -> None:
    from runtime.launch.spec import User

    layer = _layer(tmp_path / "layer")
    subprocess.run(["cp", "/bin/busybox", layer / "id"], check=True)
    (layer / "id").chmod(0o4755)
    result = run("/id", "-u", root=overlay_root(layer, rootfs), user=User(1000, 1000),
                 launcher=launcher)  # fmt: skip
    assert result.output == "1000\n"


def test_the_hosts_view_is_unchanged_by_a_launch(can_run: None, rootfs: Path) -> None:
    spec = ContainerSpec(overlay_root(rootfs), ("sleep", "1000"), {"PATH": "/bin"})
    before = Path("/proc/self/mountinfo").read_text(), os.uname().nodename, os.getcwd()
    container = launch_container(spec)
    try:
        after = Path("/proc/self/mountinfo").read_text(), os.uname().nodename, os.getcwd()
    finally:
        container.remove()
    assert after == before
