"""A path that a user names for output: regular files are replaced, everything else stays."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.analysis.judgement import Judgement
from harness.cli.output import emit
from harness.model.errors import RecordError
from harness.records.scan import read_data
from harness.report import write_files
from runtime.linux.output_file import output_file
from tests.support.histories import one_run, write_run


def write(path: Path) -> None:
    with output_file(path) as file:
        file.write(b"new")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def a_judgement(path: Path) -> None:
    emit(Judgement("q", ()), (("json", str(path)),))


def a_report(path: Path) -> None:
    write_files({path: b"<html>"})


def a_table(path: Path) -> None:
    if find_spec("pyarrow") is None:
        pytest.skip("no pyarrow here")
    from harness.records.parquet import write_table

    run = path.parent / "run"
    assert write_table([read_data(write_run(one_run(1), run))], path) > 0


WRITERS: tuple[Callable[[Path], None], ...] = (write, a_judgement, a_report, a_table)
every_writer = pytest.mark.parametrize("writer", WRITERS)


@every_writer
def test_a_device_stays_a_device(tmp_path: Path, writer: Callable[[Path], None]) -> None:
    node = tmp_path / "null"
    try:
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        node.open("wb").close()
    except PermissionError:
        pytest.skip("no device nodes can be made or used here")
    writer(node)
    assert stat.S_ISCHR(node.lstat().st_mode)
    assert node.lstat().st_rdev == os.makedev(1, 3)


@every_writer
def test_a_fifo_is_written_through(tmp_path: Path, writer: Callable[[Path], None]) -> None:
    fifo, plain = tmp_path / "a" / "fifo", tmp_path / "b" / "plain"
    for path in (fifo, plain):
        path.parent.mkdir()
    os.mkfifo(fifo)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()), daemon=True)
    reader.start()
    writer(fifo)
    reader.join(30)
    assert fifo.is_fifo()
    writer(plain)
    assert got == [plain.read_bytes()]


@every_writer
@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_and_its_target_is_replaced(
    tmp_path: Path, writer: Callable[[Path], None], is_there: bool
) -> None:
    link, target = tmp_path / "link", tmp_path / "far" / "target"
    target.parent.mkdir()
    if is_there:
        target.write_text("old")
    (tmp_path / "middle").symlink_to("far/target")
    link.symlink_to("middle")
    writer(link)
    assert os.readlink(link) == "middle"
    assert not target.is_symlink()
    assert target.read_bytes() not in {b"", b"old"}
    assert [entry.name for entry in target.parent.iterdir()] == ["target"]


def test_a_link_that_leads_to_itself_is_an_error(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("link")
    with pytest.raises(RecordError, match=f"cannot write {link}: {os.strerror(errno.ELOOP)}"):
        write_files({link: b"new"})
    assert link.is_symlink()


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_a_new_file_obeys_the_umask_and_an_old_one_keeps_its_mode(
    tmp_path: Path, umask: int, expected: int
) -> None:
    before = os.umask(umask)
    try:
        path = tmp_path / "file"
        write(path)
        assert mode(path) == expected
        for kept in (0o604, 0o666, 0o400):
            path.chmod(kept)
            write(path)
            assert mode(path) == kept
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_old_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    os.chown(path, 12, 34)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with output_file(path) as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)  # 254 bytes of 255
    write(path)
    assert path.read_bytes() == b"new"


def test_a_folder_and_a_socket_are_errors(tmp_path: Path) -> None:
    import socket

    with pytest.raises(IsADirectoryError):
        write(tmp_path)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
            write(tmp_path / "socket")
    assert (tmp_path / "socket").is_socket()


PROGRAM = """
import sys
from runtime.linux.output_file import output_file
print("before")
with output_file(sys.argv[1]) as file:
    file.write(b"new\\n")
print("after")
"""


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_a_descriptor_of_this_process_is_written_in_its_place(tmp_path: Path, kind: str) -> None:
    """As /dev/stdout is: neither replaced nor truncated, also when it leads to a file."""
    link = tmp_path / "stdout"  # never a real node, for the day when this fails
    link.symlink_to("/proc/self/fd/1")
    log = tmp_path / "log"
    log.write_text("first\n")
    command = [sys.executable, "-c", PROGRAM, str(link)]
    if kind == "pipe":
        told = subprocess.run(command, capture_output=True, check=True).stdout
        assert told == b"before\nnew\nafter\n"
    else:
        with log.open("ab") as file:
            subprocess.run(command, stdout=file, check=True)
        assert log.read_text() == "first\nbefore\nnew\nafter\n"
    assert link.is_symlink()


def test_a_descriptor_that_was_not_given_is_refused(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    with (
        ours.open("wb") as file,  # as Python opens files: not inheritable
        pytest.raises(OSError, match=os.strerror(errno.EBADF)),
    ):
        write(Path(f"/proc/self/fd/{file.fileno()}"))
    assert ours.read_bytes() == b""
