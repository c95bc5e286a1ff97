"""Writable copies of images: kept while they are as they were made, and made anew otherwise."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.images import Image, ImageStore
from runtime.images.store import copies
from runtime.images.store.files import measure
from tests.support.images import add_image, layer_tar
from tests.support.tars import make_tar, member


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def image(store: ImageStore) -> Image:
    add_image(store, "one", [layer_tar(1), make_tar(member("d/2", data=b"two"))])
    return store.get("one")


class User:
    """Takes copies, and counts how often one had to be made."""

    def __init__(self, store: ImageStore, image: Image) -> None:
        self.made = 0
        self._store, self._image = store, image

    @contextlib.contextmanager
    def hold(self) -> Iterator[Path]:
        def count() -> None:
            self.made += 1

        def finish(rootfs: Path) -> None:
            (rootfs / "dev").mkdir()

        with self._store.private_copy(self._image, finish, count) as rootfs:
            yield rootfs


@pytest.fixture
def user(store: ImageStore, image: Image) -> User:
    return User(store, image)


def names(rootfs: Path) -> set[str]:
    return {str(path.relative_to(rootfs)) for path in rootfs.rglob("*")}


WHOLE = {"d", "d/1", "d/2", "top", "dev"}


def test_an_unchanged_copy_is_taken_again(user: User) -> None:
    with user.hold() as first:
        assert names(first) == WHOLE
        inode = (first / "top").stat().st_ino
        (first / "top").read_bytes()
    with user.hold() as second:
        assert second == first
        assert (second / "top").stat().st_ino == inode
        assert names(second) == WHOLE
    assert user.made == 1


def _same_size_and_times(rootfs: Path) -> None:
    """As hard to see as a program can make it: size and mtime are those of before."""
    path = rootfs / "top"
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _put_back(rootfs: Path) -> None:
    """Another file of the same name, content and times."""
    path = rootfs / "top"
    before, data = path.stat(), path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    path.chmod(before.st_mode & 0o7777)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda rootfs: (rootfs / "d/new").touch(),
        lambda rootfs: (rootfs / "d/1").unlink(),
        lambda rootfs: (rootfs / "top").chmod(0o600),
        lambda rootfs: os.link(rootfs / "top", rootfs / "d/link"),
        lambda rootfs: (rootfs / "d").rename(rootfs / "e"),
        _same_size_and_times,
        _put_back,
    ],
    ids=["added", "removed", "mode", "link", "renamed", "same size and times", "put back"],
)
def test_a_changed_copy_is_made_anew(user: User, change: Callable[[Path], object]) -> None:
    with user.hold() as rootfs:
        content = (rootfs / "top").read_bytes()
        change(rootfs)
    with user.hold() as rootfs:
        assert names(rootfs) == WHOLE
        assert (rootfs / "top").read_bytes() == content
        assert (rootfs / "top").stat().st_mode & 0o777 == 0o644
        assert (rootfs / "top").stat().st_nlink == 1
    assert user.made == 2


def test_a_copy_of_another_boot_is_made_anew(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    with user.hold():
        pass
    monkeypatch.setattr(copies, "_boot", lambda: b"another\n")
    with user.hold() as rootfs:
        assert names(rootfs) == WHOLE
    assert user.made == 2


def test_two_have_two_copies_which_serve_again(user: User) -> None:
    with user.hold() as first, user.hold() as second:
        assert first != second
        (first / "only-here").touch()
        assert names(second) == WHOLE
    (first / "only-here").unlink()
    with user.hold() as again, user.hold() as other:
        assert {again, other} == {first, second}
    assert user.made == 3  # the first was changed, though it looks as before


def test_a_killed_holder_leaves_its_copy_to_the_next(
    user: User, store: ImageStore, image: Image
) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from runtime.images import ImageStore\n"
        "store = ImageStore(Path(sys.argv[1]))\n"
        "finish = lambda rootfs: (rootfs / 'dev').mkdir()\n"
        "with store.private_copy(store.get('one'), finish) as rootfs:\n"
        "    (rootfs / 'lost').touch()\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, store.root], check=False)
    (lost,) = store.root.glob("copies/*/rootfs/lost")
    with user.hold() as rootfs:
        assert rootfs == lost.parent
        assert names(rootfs) == WHOLE
    assert user.made == 1


def test_a_copy_half_made_is_not_trusted(user: User, store: ImageStore, image: Image) -> None:
    def fail(rootfs: Path) -> None:
        raise OSError(28, "No space left on device", str(rootfs))

    with user.hold() as rootfs:
        (rootfs / "changed").touch()
    with pytest.raises(Exception, match="No space left"), store.private_copy(image, fail):
        pass
    with user.hold() as rootfs:
        assert names(rootfs) == WHOLE
    assert list((store.root / "tmp").iterdir()) == []
    assert user.made == 2


def test_the_usage_of_an_image_has_its_copies_and_removing_it_frees_that(
    user: User, store: ImageStore
) -> None:
    add_image(store, "other", [layer_tar(3)])
    before = store.usage()
    with user.hold(), user.hold():
        pass
    du = ["du", "-s", "--block-size=1", *map(str, (store.root / "copies").iterdir())]
    lines = subprocess.run(du, capture_output=True, text=True, check=True).stdout.splitlines()
    taken = sum(int(line.split()[0]) for line in lines)
    after = store.usage()
    assert len(lines) == 2
    assert after.total_bytes - before.total_bytes == taken > 0
    assert after.unneeded_bytes == before.unneeded_bytes
    for old, new in zip(before.images, after.images, strict=True):
        own = taken if new.image.reference.endswith("one:latest") else 0
        assert new.exclusive_bytes - old.exclusive_bytes == own
        assert new.size_bytes - old.size_bytes == own
    one = next(use for use in after.images if use.image.reference.endswith("one:latest"))
    assert store.remove("one", keep=frozenset).freed_bytes == one.exclusive_bytes


def test_what_is_removed_while_it_is_measured_counts_nothing(
    store: ImageStore, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    with user.hold() as rootfs:
        whole = measure(rootfs)
        names_in = os.listdir
        monkeypatch.setattr(os, "listdir", lambda path: [b"gone", *names_in(path)])
        assert measure(rootfs) == whole
    with pytest.raises(FileNotFoundError):
        measure(store.root / "nowhere")


def test_copies_go_with_their_image_unless_somebody_has_them(user: User, store: ImageStore) -> None:
    add_image(store, "other", [layer_tar(3)])
    with user.hold(), user.hold() as second:
        pass
    store.remove("other", keep=frozenset)
    assert len(list((store.root / "copies").iterdir())) == 2
    with user.hold() as first:
        gone = store.remove("one", keep=frozenset)
        assert names(first) == WHOLE
        assert not second.exists()
        assert gone.freed_bytes > 0
    assert store.collect(keep=frozenset).freed_bytes > 0
    assert list((store.root / "copies").iterdir()) == []
