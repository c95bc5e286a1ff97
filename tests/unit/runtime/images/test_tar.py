"""Our tar reader and writer against the standard library's and GNU tar."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ImageError, LayerError
from runtime.images.formats.tar_fields import show
from runtime.images.formats.tar_reader import HARD_LINK, REGULAR, TarEntry, TarReader
from runtime.images.formats.tar_writer import source_date_epoch_ns, tar_folder
from tests.support.tars import CHR, DIR, LINK, SYM, make_tar, member, tree


def read(data: bytes) -> list[tuple[TarEntry, bytes]]:
    reader = TarReader(io.BytesIO(data))
    return [(entry, b"".join(reader.chunks())) for entry in reader]


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_every_format(style: int) -> None:
    long = "d/" * 60 + "name"
    data = make_tar(
        member("d/", DIR, mode=0o1777, uid=1000, gid=1001),
        member(long if style != tarfile.USTAR_FORMAT else "d/" * 40 + "name", data=b"x" * 1000),
        member("s", SYM, linkname="t" * 99),
        member("c", CHR, devmajor=5, devminor=1),
        member("l", LINK, linkname="s"),
        style=style,
    )
    entries = read(data)
    assert [entry.kind for entry, _ in entries] == [b"5", b"0", b"2", b"3", b"1"]
    assert entries[0][0].name == b"d"
    assert (entries[0][0].mode, entries[0][0].uid, entries[0][0].gid) == (0o1777, 1000, 1001)
    assert entries[1][1] == b"x" * 1000
    assert entries[2][0].link == b"t" * 99
    assert entries[3][0].device == (5, 1)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert [entry.name.decode() for entry, _ in entries] == tar.getnames()


def test_reads_what_only_pax_can_hold() -> None:
    records = {
        "SCHILY.xattr.user.a": "text",
        "mtime": "1600000000.123456789",
        "path": "ü" * 200,
        "uid": "4000000000",
    }
    entry, _ = read(make_tar(member("short", pax_headers=records)))[0]
    assert entry.name == ("ü" * 200).encode()
    assert entry.xattrs == {"user.a": b"text"}
    assert entry.mtime_ns == 1600000000_123456789
    assert entry.uid == 4000000000


def test_times_before_the_epoch() -> None:
    entry, _ = read(make_tar(member("a", pax_headers={"mtime": "-1.5"})))[0]
    assert entry.mtime_ns == -1_500_000_000


def test_base_256_numbers() -> None:
    data = make_tar(member("a", uid=1 << 24, mtime=-5), style=tarfile.GNU_FORMAT)
    entry, _ = read(data)[0]
    assert (entry.uid, entry.mtime_ns) == (1 << 24, -5_000_000_000)


def test_global_headers_hold_for_what_follows() -> None:
    data = make_tar(member("a"), member("b", pax_headers={"gid": "8"}), global_pax={"gid": "7"})
    assert [entry.gid for entry, _ in read(data)] == [7, 8]
    only_global = make_tar(global_pax={"comment": "0123"})
    assert read(only_global) == []


@pytest.mark.parametrize(
    "arguments",
    [["-H", "gnu"], *([["-H", "posix", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")])],
)
def test_reads_sparse_files_of_gnu_tar(tmp_path: Path, arguments: list[str]) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        # More pieces than fit one header, of GNU's old form and of form 1.0's first block.
        for index in range(200):
            file.seek(index * 65536)
            file.write(b"%05d" % index)
        file.truncate(200 * 65536 + 123)
    archive = tmp_path / "a.tar"
    subprocess.run(["tar", "-S", *arguments, "-cf", archive, "-C", tmp_path, "sparse"], check=True)
    assert archive.stat().st_size < 2_000_000
    ((entry, data),) = read(archive.read_bytes())
    assert entry.name == b"sparse"
    assert entry.size_bytes == sparse.stat().st_size
    assert entry.sparse is not None
    whole = bytearray(entry.size_bytes)
    at = 0
    for offset, length in entry.sparse:
        whole[offset : offset + length] = data[at : at + length]
        at += length
    assert whole == sparse.read_bytes()


def damaged(change: str) -> bytes:
    good = make_tar(member("name", data=b"x" * 600, pax_headers={"comment": "c" * 2000}))
    pax = good.index(b" comment=")
    return {
        "no end": good[:-1024].rstrip(b"\0")[: 512 * 7],
        "cut in header": good[:700],
        "cut in data": good[: good.index(b"xxx") + 100],
        "checksum": good[:3] + b"?" + good[4:],
        "pax length": good[: pax - 4] + b"9999" + good[pax:],
        "not a tar": b"hello world" * 100,
        "empty": b"",
    }[change]


@pytest.mark.parametrize(
    "change",
    ["no end", "cut in header", "cut in data", "checksum", "pax length", "not a tar", "empty"],
)
def test_damage_is_one_sentence(change: str) -> None:
    with pytest.raises(LayerError):
        read(damaged(change))


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ({"size": "-1"}, "size"),
        ({"mtime": "never"}, "mtime"),
        ({"mtime": "9" * 25}, "mtime"),
        ({"uid": "4294967295"}, "owner"),
        ({"path": "a\0b"}, "zero byte"),
        ({"GNU.sparse.major": "1", "GNU.sparse.realsize": "10"}, "sparse"),
        ({"GNU.sparse.map": "0,5,3,5", "GNU.sparse.size": "100"}, "sparse"),
        ({"GNU.sparse.map": "0,5", "GNU.sparse.size": "100"}, "does not match"),
        ({"GNU.sparse.map": "99,5", "GNU.sparse.size": "100"}, "sparse"),
        ({"SCHILY.xattr.user.x\0y": "z"}, "key"),
        ({"comment": "c" * (2 << 20)}, "extended header of"),
    ],
)
def test_hostile_extended_headers(records: dict[str, str], reason: str) -> None:
    data = make_tar(member("a", pax_headers=records))
    with pytest.raises(LayerError, match=reason):
        read(data)


def test_a_pointer_of_git_lfs_is_named() -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    with pytest.raises(LayerError, match=r"pointer of Git LFS.*git lfs pull"):
        read(pointer)


def test_unknown_types_and_devices_are_refused() -> None:
    with pytest.raises(LayerError, match="not supported"):
        read(make_tar(member("a", b"D")))
    with pytest.raises(LayerError, match="device"):
        read(make_tar(member("a", CHR, devmajor=5000, devminor=1)))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutations_end_in_entries_or_a_layer_error(data: st.DataObject) -> None:
    good = bytearray(
        make_tar(
            member("dir/", DIR),
            member("dir/" + "n" * 120, data=b"x" * 700, pax_headers={"SCHILY.xattr.user.a": "b"}),
            member("link", LINK, linkname="dir"),
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good) - 1))
        good[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    with contextlib.suppress(LayerError):
        read(bytes(good[:cut] if data.draw(st.booleans()) else good))


def test_names_in_messages_are_harmless() -> None:
    assert show(b"a\x1b[31m\n\xff") == r"a\x1b[31m\n\xff"
    assert len(show(b"x" * 5000)) == 201


def test_writer_is_read_by_the_standard_library(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / ("n" * 150)).write_bytes(b"12345")
    os.utime(folder / ("n" * 150), ns=(0, 1_500_000_000_123_456_789))
    (folder / "sub" / "link").symlink_to("/" + "t" * 150)
    os.link(folder / ("n" * 150), folder / "z")
    os.mkfifo(folder / "pipe")
    (folder / b"\xff\xfe".decode("utf-8", "surrogateescape")).write_bytes(b"")
    data = b"".join(tar_folder(folder))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        assert names[0] == "."
        assert names[1:] == sorted(names[1:])
        assert set(names) == {".", "sub", "sub/link", "n" * 150, "z", "pipe", "\udcff\udcfe"}
        assert tar.getmember("z").linkname == "n" * 150
        assert tar.getmember("n" * 150).pax_headers["mtime"] == "1500000000.123456789"
        assert tar.getmember("sub/link").linkname == "/" + "t" * 150
    # And by us.
    kinds = {entry.name: entry.kind for entry, _ in read(data)}
    assert kinds[b"z"] == HARD_LINK
    assert kinds[b"\xff\xfe"] == REGULAR


def test_gnu_tar_unpacks_what_we_wrote(tmp_path: Path) -> None:
    folder, copy = tmp_path / "folder", tmp_path / "copy"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "file").write_bytes(os.urandom(3000))
    (folder / "a" / "file").chmod(0o4750)
    os.link(folder / "a" / "file", folder / "a" / "b" / "hard")
    (folder / "a" / "b").chmod(0o2711)
    copy.mkdir()
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"".join(tar_folder(folder)))
    subprocess.run(["tar", "-xpf", archive, "--same-owner", "-C", copy], check=True)
    assert tree(copy) == tree(folder)


def test_writer_is_reproducible(tmp_path: Path) -> None:
    def build(name: str, order: list[str]) -> bytes:
        folder = tmp_path / name
        folder.mkdir()
        for child in order:
            (folder / child).write_text(child)
            os.utime(folder / child, (5, 5))
        os.utime(folder, (5, 5))
        return b"".join(tar_folder(folder))

    assert build("one", ["a", "b", "c"]) == build("two", ["c", "a", "b"])


def test_times_are_clamped_and_owners_overruled(tmp_path: Path) -> None:
    for name, seconds in (("old", 50), ("new", 5000)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (seconds, seconds))
    data = b"".join(tar_folder(tmp_path, latest_ns=1000_000_000_000, owner=(7, 8)))
    times = {entry.name: entry.mtime_ns // 1_000_000_000 for entry, _ in read(data)}
    assert (times[b"old"], times[b"new"], times[b"."]) == (50, 1000, 1000)
    assert {(entry.uid, entry.gid) for entry, _ in read(data)} == {(7, 8)}


def test_source_date_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert source_date_epoch_ns() is None
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "12")
    assert source_date_epoch_ns() == 12_000_000_000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with pytest.raises(ImageError, match="today"):
        source_date_epoch_ns()


def test_writer_names_what_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="gone"):
        b"".join(tar_folder(tmp_path / "gone"))


def test_records_count_their_own_length(tmp_path: Path) -> None:
    # Around 10, 100 and 1000 the number of digits changes with the number itself.
    for length in range(85, 110):
        name = "n" * length
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / name).symlink_to("t" * 110)
        entries = [entry for entry, _ in read(b"".join(tar_folder(folder)))]
        assert entries[1].name.decode() == name
        assert entries[1].link == b"t" * 110
