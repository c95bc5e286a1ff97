"""Unpacking: what is right, and what is refused. All of it works without privilege."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import LayerError
from runtime.images.layer.attributes import Devices, UnpackOptions
from runtime.images.layer.unpack import UnpackResult, unpack
from tests.support.hostile import HOSTILE
from tests.support.tars import CHR, DIR, FIFO, FILE, LINK, SYM, make_tar, member, try_mknod

ROOTLESS = UnpackOptions(owners=False, devices=Devices.SKIP, overlay_xattr="user.overlay")
OPAQUE = "user.overlay.opaque"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "jail" / "layer"
    path.mkdir(parents=True)
    return path


def unpack_into(
    folder: Path, *members: tuple[Any, bytes], options: UnpackOptions = ROOTLESS
) -> UnpackResult:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    before = open_files()
    try:
        return unpack(io.BytesIO(make_tar(*members)), fd, options)
    finally:
        assert open_files() == before
        os.close(fd)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def outside(folder: Path) -> list[str]:
    """Names in the folder around the layer other than the layer."""
    return [name for name in os.listdir(folder.parent) if name != folder.name]


def has_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return OPAQUE in os.listxattr(path) and os.getxattr(path, OPAQUE) == b"y"


def test_files_folders_links(folder: Path) -> None:
    result = unpack_into(
        folder,
        member("./", DIR, mode=0o711, mtime=7),
        member("a/", DIR, mode=0o1777, mtime=8),
        member("a/file", data=b"x" * 3_000_000, mode=0o4751, mtime=9),
        member("a/hard", LINK, linkname="a/file"),
        member("a/sym", SYM, linkname="/etc/passwd", mtime=10),
        member("a/pipe", FIFO, mode=0o600),
        member("empty"),
    )
    assert result.entries == 7
    assert stat.S_IMODE(folder.stat().st_mode) == 0o711
    assert folder.stat().st_mtime == 7
    assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o1777
    assert (folder / "a").stat().st_mtime == 8
    status = (folder / "a/file").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime, status.st_nlink) == (0o4751, 9, 2)
    assert (folder / "a/hard").samefile(folder / "a/file")
    assert (folder / "a/sym").lstat().st_mtime == 10
    assert os.readlink(folder / "a/sym") == "/etc/passwd"
    assert (folder / "a/pipe").is_fifo()
    assert result.newest_ns == 1_600_000_000_000_000_000


def test_nanoseconds_and_xattrs(folder: Path) -> None:
    pax = {"mtime": "1234567890.987654321", "SCHILY.xattr.user.note": "hello"}
    unpack_into(folder, member("f", pax_headers=pax), member("d", DIR, pax_headers=pax))
    for name in ("f", "d"):
        assert (folder / name).stat().st_mtime_ns == 1234567890_987654321
        assert os.getxattr(folder / name, "user.note") == b"hello"


def test_read_only_folders_are_filled_first(folder: Path) -> None:
    unpack_into(folder, member("ro", DIR, mode=0o555), member("ro/f"), member("ro/d", DIR, mode=0))
    assert stat.S_IMODE((folder / "ro").stat().st_mode) == 0o555
    assert stat.S_IMODE((folder / "ro/d").stat().st_mode) == 0


def test_names_are_bytes(folder: Path) -> None:
    name = b"\xff\xfe\n".decode("utf-8", "surrogateescape")
    unpack_into(folder, member(name, data=b"x"))
    assert os.listdir(os.fsencode(folder)) == [b"\xff\xfe\n"]


def test_missing_parents_are_made(folder: Path) -> None:
    unpack_into(folder, member("a/b/c/file", data=b"1"))
    assert (folder / "a/b/c/file").read_bytes() == b"1"
    assert stat.S_IMODE((folder / "a/b").stat().st_mode) == 0o755
    assert (folder / "a").stat().st_mtime == 0


def test_entries_in_any_order(folder: Path) -> None:
    unpack_into(
        folder,
        member("a/b/file"),
        member("a/b", DIR, mode=0o700, mtime=3),
        member("a", DIR, mtime=4),
    )
    assert (folder / "a/b").stat().st_mtime == 3
    assert stat.S_IMODE((folder / "a/b").stat().st_mode) == 0o700
    assert (folder / "a").stat().st_mtime == 4


def test_leading_slash_and_dots_mean_nothing(folder: Path) -> None:
    unpack_into(folder, member("/etc/hosts", data=b"1"), member("././b//c", data=b"2"))
    assert (folder / "etc/hosts").read_bytes() == b"1"
    assert (folder / "b/c").read_bytes() == b"2"


@pytest.mark.parametrize("first", ["file", "symlink", "folder", "fifo", "whiteout"])
@pytest.mark.parametrize("second", ["file", "symlink", "folder", "fifo", "hard link"])
def test_the_later_entry_counts(folder: Path, first: str, second: str) -> None:
    def make(kind: str) -> list[tuple[Any, bytes]]:
        return {
            "file": [member("x", data=kind.encode(), mode=0o600)],
            "symlink": [member("x", SYM, linkname="target")],
            "folder": [member("x", DIR), member("x/inner", data=b"i")],
            "fifo": [member("x", FIFO)],
            "whiteout": [member(".wh.x")],
            "hard link": [member("x", LINK, linkname="other")],
        }[kind]

    other = member("other", data=b"other")
    unpack_into(folder, other, *make(first), *make(second), member("last"))
    mode = (folder / "x").lstat().st_mode
    wanted = {
        "file": stat.S_ISREG,
        "symlink": stat.S_ISLNK,
        "folder": stat.S_ISDIR,
        "fifo": stat.S_ISFIFO,
        "hard link": stat.S_ISREG,
    }
    assert wanted[second](mode)
    assert (folder / "other").read_bytes() == b"other"
    assert sorted(os.listdir(folder)) == ["last", "other", "x"]


def test_replacing_one_name_of_a_file_leaves_the_others(folder: Path) -> None:
    unpack_into(
        folder, member("a", data=b"1"), member("b", LINK, linkname="a"), member("a", data=b"2")
    )
    assert (folder / "a").read_bytes() == b"2"
    assert (folder / "b").read_bytes() == b"1"


def test_folder_replaced_and_made_again(folder: Path) -> None:
    unpack_into(
        folder,
        member("d", DIR, mode=0o700),
        member("d/sub", DIR, mode=0o700, mtime=5),
        member("d", data=b"file"),
        member("d", DIR, mode=0o711, mtime=6),
        member("d/sub/f"),
    )
    assert stat.S_IMODE((folder / "d").stat().st_mode) == 0o711
    # What the first d/sub was has nothing to do with the second, which no entry described.
    assert stat.S_IMODE((folder / "d/sub").stat().st_mode) == 0o755
    assert (folder / "d/sub").stat().st_mtime == 0


def test_folder_replaced_by_symlink_is_not_entered_at_the_end(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / "sub").mkdir(parents=True, mode=0o755)
    before = (victim / "sub").stat()
    unpack_into(
        folder,
        member("d/sub", DIR, mode=0o777, mtime=1),
        member("d", SYM, linkname=str(victim)),
    )
    after = (victim / "sub").stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


# Whiteouts.


def test_whiteouts(folder: Path) -> None:
    result = unpack_into(
        folder,
        member(".wh.gone"),
        member("d/", DIR),
        member("d/.wh..wh..opq"),
        member("d/kept", data=b"k"),
        member("late/.wh..wh..opq"),
        member("d/.wh..wh.plnk", DIR),
    )
    assert has_whiteout(folder / "gone")
    assert is_opaque(folder / "d")
    assert is_opaque(folder / "late")
    assert (folder / "d/kept").read_bytes() == b"k"
    assert os.listdir(folder / "d") == ["kept"]
    assert (result.whiteouts, result.entries) == (3, 2)


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_a_whiteout_hides_only_what_is_below(folder: Path, whiteout_first: bool) -> None:
    whiteouts = [member(".wh.file"), member(".wh.dir")]
    entries = [member("file", data=b"new"), member("dir/", DIR, mode=0o700), member("dir/f")]
    unpack_into(folder, *(whiteouts + entries if whiteout_first else entries + whiteouts))
    assert (folder / "file").read_bytes() == b"new"
    assert sorted(os.listdir(folder)) == ["dir", "file"]
    assert is_opaque(folder / "dir")
    assert stat.S_IMODE((folder / "dir").stat().st_mode) == 0o700
    assert (folder / "dir/f").exists()


def test_whiteout_then_entries_below_without_a_folder_entry(folder: Path) -> None:
    unpack_into(folder, member(".wh.dir"), member("dir/f", data=b"1"))
    assert is_opaque(folder / "dir")
    assert (folder / "dir/f").read_bytes() == b"1"


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.."])
def test_whiteouts_of_nothing_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(LayerError, match="whiteout"):
        unpack_into(folder, member(name))


def test_an_archive_does_not_speak_to_overlayfs(folder: Path) -> None:
    names = ("trusted.overlay.redirect", "user.overlay.metacopy", OPAQUE)
    pax = {f"SCHILY.xattr.{name}": "y" for name in names}
    unpack_into(folder, member("f", pax_headers=pax), member("d", DIR, pax_headers=pax))
    assert os.listxattr(folder / "f") == []
    assert os.listxattr(folder / "d") == []


# Hostile archives.


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_end_in_one_sentence(folder: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"secret")
    before = victim.stat()
    with pytest.raises(LayerError) as caught:
        unpack_into(folder, *HOSTILE[name])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert outside(folder) == []
    assert sorted(os.listdir(tmp_path)) == ["jail", "victim"]
    after = victim.stat()
    assert (after.st_nlink, after.st_mtime_ns) == (1, before.st_mtime_ns)


def test_file_is_never_written_through_a_symlink(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"secret")
    unpack_into(folder, member("s", SYM, linkname=str(victim)), member("s", data=b"attack"))
    assert victim.read_bytes() == b"secret"
    assert (folder / "s").read_bytes() == b"attack"


def test_metadata_is_never_set_through_a_symlink(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    before = victim.stat()
    unpack_into(
        folder, member("s", SYM, linkname=str(victim)), member("s", DIR, mode=0o777, mtime=1)
    )
    after = victim.stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert (folder / "s").is_dir()
    assert not (folder / "s").is_symlink()


def test_devices_as_asked(folder: Path) -> None:
    null = member("null", CHR, devmajor=1, devminor=3)
    refuse = UnpackOptions(owners=False, devices=Devices.REFUSE, overlay_xattr="user.overlay")
    with pytest.raises(LayerError, match="not allowed"):
        unpack_into(folder, null, options=refuse)
    result = unpack_into(folder, null, member("after"))
    assert result.skipped_devices == 1
    assert os.listdir(folder) == ["after"]
    if reason := try_mknod(folder):
        pytest.skip(reason)
    create = UnpackOptions(owners=False, devices=Devices.CREATE, overlay_xattr="user.overlay")
    unpack_into(folder, null, options=create)
    assert (folder / "null").stat().st_rdev == os.makedev(1, 3)


def test_many_folders_need_few_descriptors(folder: Path) -> None:
    members = [member(f"d{index}/f", data=b"x") for index in range(2000)]
    unpack_into(folder, *members, *[member(f"d{index}/g") for index in range(2000)])
    assert len(os.listdir(folder)) == 2000


def test_zero_blocks_become_holes(folder: Path) -> None:
    content = bytes(4 << 20) + b"end"
    unpack_into(folder, member("z", data=content), member("all", data=bytes(2 << 20)))
    assert (folder / "z").read_bytes() == content
    assert (folder / "z").stat().st_blocks * 512 < 1 << 20
    assert (folder / "all").read_bytes() == bytes(2 << 20)


names = st.sampled_from(
    ["a", "b", "a/b", "a/b/c", "b/c", ".wh.a", "a/.wh.b", "a/.wh..wh..opq", "..", "a/..", "/a", "."]
)
kinds = st.sampled_from([FILE, DIR, SYM, LINK, FIFO])
targets = st.sampled_from(["a", "b", "a/b", "..", "../victim", "/", ".", "/etc/passwd"])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(names, kinds, targets), max_size=12))
def test_no_sequence_of_entries_escapes(tmp_path_factory: Any, entries: Any) -> None:
    around = tmp_path_factory.mktemp("fuzz")
    victim = around / "victim"
    victim.write_bytes(b"secret")
    os.utime(victim, (1, 1))
    folder = around / "layer"
    folder.mkdir()
    members = [
        member(name, kind, data=b"x" if kind == FILE else b"", linkname=target)
        for name, kind, target in entries
    ]
    with contextlib.suppress(LayerError):
        unpack_into(folder, *members)
    assert sorted(os.listdir(around)) == ["layer", "victim"]
    assert victim.read_bytes() == b"secret"
    assert (victim.stat().st_nlink, victim.stat().st_mtime) == (1, 1)
