"""Broken and hostile archives by the dozen, or by the thousand: `pytest -m soak tests/fuzz -s`.

Every one goes through the command line as a user would give it. It either becomes an image or ends
in one sentence; either way nothing around the store is touched, nothing half-made stays, and the
store verifies.
"""

from __future__ import annotations

import io
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.cli.image import image
from runtime.errors import LayerError
from runtime.images import ImageStore
from runtime.images.formats.tar_reader import TarReader
from tests.support.hostile import archives, broken
from tests.support.images import assert_whole, snapshot
from tests.support.tars import make_tar, member

ARCHIVES = int(os.environ.get("STEELYARD_ARCHIVES", "80"))
SOAK_ARCHIVES = int(os.environ.get("STEELYARD_SOAK_ARCHIVES", "2000"))


@pytest.fixture
def home() -> Iterator[Path]:
    """Where an escape would show: the store's folder, things beside it and above."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base, prefix="steelyard-test-") as name:
        around = Path(name)
        (around / "home").mkdir()
        for folder in (around, around / "home"):
            for victim in ("victim", "escaped", "x", "f"):
                (folder / victim).write_bytes(b"secret")
                os.utime(folder / victim, (1, 1))
        yield around / "home"


def check_archive(home: Path, data: bytes) -> str:
    """Import it; gives how that ended."""
    source = home.parent / "archive"
    source.write_bytes(data)
    result = CliRunner().invoke(image, ["import", str(source), "broken"])
    source.unlink()
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    store = ImageStore(home / "images")
    assert_whole(store)
    if result.exit_code == 0:
        assert [each.reference for each in store.images()] == ["broken:latest"]
        store.remove("broken", keep=set)
        return "imported"
    assert result.exit_code == 1
    assert result.stderr.startswith("steelyard: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.strip().isprintable()
    assert len(result.stderr) < 1000
    assert store.images() == ()
    return "refused"


def check_many(home: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(home))
    corpus = archives()
    chance = random.Random(count)
    ended: Counter[str] = Counter()
    before = snapshot(home.parent)
    for number in range(count):
        data = [*corpus.values()][number] if number < len(corpus) else broken(chance, corpus)
        ended[check_archive(home, data)] += 1
        after = {
            name: status
            for name, status in snapshot(home.parent).items()
            if not name.startswith("home/images") and name != "home"
        }
        assert after == {name: status for name, status in before.items() if name != "home"}
    print(f"\n{count} archives: {dict(ended)}")
    assert ended["refused"] > count // 4
    assert ended["imported"] > count // 20
    ImageStore(home / "images").collect(keep=set)
    assert list((home / "images/blobs/sha256").iterdir()) == []
    assert list((home / "images/layers/sha256").iterdir()) == []


def test_broken_archives(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_many(home, monkeypatch, ARCHIVES)


@pytest.mark.soak
@pytest.mark.timeout(590)
def test_broken_archives_by_the_thousand(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_many(home, monkeypatch, SOAK_ARCHIVES)


# The reader alone, on bytes that hypothesis thinks up and shrinks.

headers = st.fixed_dictionaries(
    {
        "name": st.text(max_size=120),
        "mode": st.integers(0, 0o7777),
        "uid": st.integers(0, 1 << 33),
        "mtime": st.integers(-(1 << 40), 1 << 40),
        "type": st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"6", b"S", b"7"]),
    }
)


def read_all(data: bytes) -> None:
    """Read an archive to its end, or to its one clear error."""
    reader = TarReader(io.BytesIO(data))
    said = ""
    try:
        for _ in reader:
            for chunk in reader.chunks():
                assert len(chunk) <= 1 << 20
    except LayerError as error:
        said = str(error)
    assert not said or said.isprintable()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_reader_survives_any_bytes(data: Any) -> None:
    fields = data.draw(st.lists(headers, max_size=3))
    members = [
        member(each.pop("name").replace("\0", "") or "x", each.pop("type"), b"data", **each)
        for each in fields
    ]
    tar = bytearray(make_tar(*members))
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(tar) - 1), st.integers(0, 255)), max_size=8)
    ):
        tar[at] = value
        header = at // 512 * 512
        if data.draw(st.booleans()):
            tar[header + 148 : header + 156] = b" " * 8
            tar[header + 148 : header + 156] = b"%06o\0 " % sum(tar[header : header + 512])
    read_all(bytes(tar[: data.draw(st.integers(0, len(tar)))]))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=2000))
def test_the_reader_survives_extended_headers_of_any_content(records: bytes) -> None:
    info = member("x", b"x", records)
    read_all(make_tar(info) + make_tar(member("after")))
