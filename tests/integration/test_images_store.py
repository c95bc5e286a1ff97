"""The store on a real filesystem: adding, looking, removing, crashing, racing."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runtime.errors import (
    ImageError,
    ImageNotFoundError,
    InvalidReferenceError,
    LayerError,
    StoreError,
)
from runtime.images import ImageConfig, ImageStore
from runtime.images.layer.attributes import UnpackOptions
from tests.support.tars import CHR, DIR, LINK, SYM, make_tar, member, tree, try_mknod

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar"
    path.write_bytes(
        make_tar(
            member("etc/", DIR, mtime=1_500_000_000),
            member("etc/passwd", data=b"root:x:0:0::/:/bin/sh\n", mtime=1_500_000_005),
            member("etc/link", SYM, linkname="passwd", mtime=5),
            member("etc/hard", LINK, linkname="etc/passwd", mtime=5),
        )
    )
    return path


def check(store: ImageStore) -> None:
    """All that must be true of a store at any time."""
    if not (store.root / "index.json").exists():
        return
    for blob in (store.root / "blobs/sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    for image in store.images():
        assert store.get(image.reference).digest == image.digest
        for layer in image.layers:
            record = json.loads((layer.path.parent / f"{layer.path.name}.json").read_bytes())
            entries = sum(1 for _ in layer.path.rglob("*"))
            assert entries >= record["entries"] - 1


def temporary_files(store: ImageStore) -> list[str]:
    return os.listdir(store.root / "tmp")


def test_import_of_a_tar(store: ImageStore, archive: Path) -> None:
    config = ImageConfig(environment={"A": "b"}, command=("sh",), user="7")
    image = store.import_rootfs(archive, "app", config)
    assert image == store.get("app") == store.get("app:latest") == store.get(image.digest)
    assert store.get(image.digest[7:19]) == image
    assert store.get(f"app@{image.digest}") == image
    assert image.reference == "app:latest"
    assert image.config == config
    # The time of the newest file, so that equal content is an equal image.
    assert image.created == datetime(2017, 7, 14, 2, 40, 5, tzinfo=UTC)
    (layer,) = image.layers
    assert (
        layer.digest
        == layer.diff_id
        == "sha256:" + hashlib.sha256(archive.read_bytes()).hexdigest()
    )
    assert layer.size_bytes == archive.stat().st_size
    assert image.lowerdirs == (layer.path,)
    assert (layer.path / "etc/hard").samefile(layer.path / "etc/passwd")
    assert layer.allocated_bytes > 0
    assert temporary_files(store) == []
    check(store)


def test_the_folder_is_an_oci_layout(store: ImageStore, archive: Path) -> None:
    store.import_rootfs(archive, "app:1")
    assert json.loads((store.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((store.root / "index.json").read_bytes())
    (descriptor,) = index["manifests"]
    assert descriptor["annotations"] == {"org.opencontainers.image.ref.name": "app:1"}
    manifest = json.loads((store.root / "blobs/sha256" / descriptor["digest"][7:]).read_bytes())
    assert manifest["schemaVersion"] == 2
    assert manifest["layers"][0]["mediaType"] == "application/vnd.oci.image.layer.v1.tar"
    config = json.loads(
        (store.root / "blobs/sha256" / manifest["config"]["digest"][7:]).read_bytes()
    )
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]
    assert config["os"] == "linux"


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_reads_it(store: ImageStore, archive: Path, tmp_path: Path) -> None:
    image = store.import_rootfs(archive, "app:1")
    command = ["skopeo", "inspect", f"oci:{store.root}:app:1"]
    seen = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert seen["Digest"] == image.digest
    assert seen["Layers"] == [image.layers[0].digest]


@pytest.mark.parametrize("suffix", ["gz", "two gz", "xz", "bz2", "zst"])
def test_compression_makes_no_difference(
    store: ImageStore, archive: Path, tmp_path: Path, suffix: str
) -> None:
    plain = store.import_rootfs(archive, "plain")
    data = archive.read_bytes()
    packed = tmp_path / "packed"
    if suffix == "zst":
        if shutil.which("zstd") is None:
            pytest.skip("zstd is not installed")
        subprocess.run(["zstd", "-q", archive, "-o", packed], check=True)
    else:
        compress = {
            "gz": gzip.compress,
            "two gz": lambda d: gzip.compress(d[:700]) + gzip.compress(d[700:]) + bytes(512),
            "xz": lzma.compress,
            "bz2": bz2.compress,
        }[suffix]
        packed.write_bytes(compress(data))
    assert store.import_rootfs(packed, "packed").digest == plain.digest
    # Cut short, all of them are refused.
    packed.write_bytes(
        packed.read_bytes()[: -40 if suffix == "zst" else -600 if suffix == "two gz" else -20]
    )
    with pytest.raises(LayerError):
        store.import_rootfs(packed, "cut")
    assert [image.reference for image in store.images()] == ["packed:latest", "plain:latest"]
    assert temporary_files(store) == []


def test_import_of_a_folder_is_reproducible(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "d").mkdir(parents=True)
        (tmp_path / name / "d" / "f").write_bytes(os.urandom(0) + b"data")
    os.utime(tmp_path / "one/d/f", (3_000_000_000, 3_000_000_000))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    digests = {store.import_rootfs(tmp_path / name, name).digest for name in ("one", "two")}
    assert len(digests) == 1
    assert (store.get("one").layers[0].path / "d/f").stat().st_mtime == 1_000_000_000


def test_import_of_a_folder_keeps_everything(store: ImageStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d/empty").mkdir(parents=True)
    (source / "d/f").write_bytes(b"data")
    (source / "d/f").chmod(0o4711)
    os.link(source / "d/f", source / "d/g")
    (source / "s").symlink_to("/nowhere")
    os.setxattr(source / "d/f", "user.note", b"\0binary")
    (source / "d").chmod(0o1777)
    image = store.import_rootfs(source, "app")
    assert tree(image.layers[0].path) == tree(source)
    target = tmp_path / "target"
    store.flatten(image, target)
    assert tree(target) == tree(source)


def test_owners_capabilities_and_devices(store: ImageStore, tmp_path: Path) -> None:
    if reason := try_mknod(tmp_path):
        pytest.skip(f"needs root on the real kernel: {reason}")
    if not UnpackOptions.for_this_user().owners:
        pytest.skip("needs root to set owners")
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_bytes(b"x")
    os.chown(source / "f", 1234, 5678)
    (source / "f").chmod(0o6755)
    # cap_net_raw+ep, as setcap(8) writes it (VFS_CAP_REVISION_2).
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(source / "f", "security.capability", capability)
    (source / "s").symlink_to("f")
    os.chown(source / "s", 7, 8, follow_symlinks=False)
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (source / "null").chmod(0o666)
    image = store.import_rootfs(source, "app")
    assert tree(image.layers[0].path) == tree(source)
    target = tmp_path / "target"
    store.flatten(image, target)
    assert tree(target) == tree(source)
    assert os.getxattr(target / "f", "security.capability") == capability
    again = store.import_rootfs(source, "same", owner=(0, 0))
    assert (again.layers[0].path / "f").stat().st_uid == 0


def test_unpacking_equals_gnu_tar(store: ImageStore, tmp_path: Path) -> None:
    """A real tree: part of this Python installation."""
    archive, copy = tmp_path / "a.tar", tmp_path / "copy"
    subprocess.run(["tar", "-C", os.path.dirname(json.__file__), "-cf", archive, "."], check=True)
    copy.mkdir()
    subprocess.run(["tar", "-xpf", archive, "-C", copy], check=True)
    assert tree(store.import_rootfs(archive, "a").layers[0].path) == tree(copy)


def test_a_taken_name_moves(store: ImageStore, archive: Path, tmp_path: Path) -> None:
    first = store.import_rootfs(archive, "app")
    second = store.import_rootfs(archive, "app", ImageConfig(user="9"))
    assert store.get("app") == second
    assert first.digest != second.digest
    assert len(store.images()) == 1


def test_bad_sources_leave_the_store_as_it_was(
    store: ImageStore, archive: Path, tmp_path: Path
) -> None:
    store.import_rootfs(archive, "app")
    before = tree(store.root)
    hostile = tmp_path / "hostile.tar"
    hostile.write_bytes(make_tar(member("ok", data=b"x" * 100_000), member("../escape")))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    text = tmp_path / "text"
    text.write_text("not a tar" * 1000)
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    bad_gzip = tmp_path / "bad.gz"
    bad_gzip.write_bytes(gzip.compress(archive.read_bytes())[:-8] + bytes(8))
    threading.Timer(0.1, lambda: os.close(os.open(fifo, os.O_WRONLY))).start()
    for source in (hostile, text, empty, bad_gzip, tmp_path / "missing", fifo):
        with pytest.raises(ImageError) as caught:
            store.import_rootfs(source, "bad")
        assert "\n" not in str(caught.value)
    for reference in ("Bad", "a@sha256:" + "0" * 64):
        with pytest.raises(InvalidReferenceError):
            store.import_rootfs(archive, reference)

    def steady(found: dict[bytes, tuple[object, ...]]) -> dict[bytes, tuple[object, ...]]:
        # tmp's own time changes; what is in the store must not.
        return {name: value for name, value in found.items() if name != b"tmp"}

    assert steady(tree(store.root)) == steady(before)


def test_looking_for_what_is_not_there(store: ImageStore, archive: Path) -> None:
    with pytest.raises(ImageNotFoundError, match="none yet"):
        store.get("app")
    assert not store.root.exists()
    store.import_rootfs(archive, "app:1")
    for reference in ("app", "app:2", "sha256:" + "0" * 64, "app:1@sha256:" + "0" * 64):
        with pytest.raises(ImageNotFoundError, match="app:1"):
            store.get(reference)
    with pytest.raises(InvalidReferenceError):
        store.get("APP")


def test_damage_is_named(store: ImageStore, archive: Path) -> None:
    image = store.import_rootfs(archive, "app")
    manifest = store.root / "blobs/sha256" / image.digest[7:]
    good = manifest.read_bytes()
    manifest.write_bytes(good + b" ")
    with pytest.raises(StoreError, match="damaged"):
        store.get("app")
    manifest.unlink()
    with pytest.raises(StoreError, match="missing"):
        store.get("app")
    manifest.write_bytes(good)
    shutil.rmtree(image.layers[0].path)
    with pytest.raises(StoreError, match="import the image again"):
        store.get("app")
    # And importing it again mends it.
    assert store.import_rootfs(archive, "app") == store.get("app")
    for text in ("[]", "{", '{"schemaVersion": 2}', '{"schemaVersion":2,"manifests":[{}]}'):
        (store.root / "index.json").write_text(text)
        with pytest.raises(StoreError, match=r"index\.json"):
            store.images()


# Removing.


def test_remove_frees_only_what_nothing_needs(
    store: ImageStore, archive: Path, tmp_path: Path
) -> None:
    store.import_rootfs(archive, "one")
    store.import_rootfs(archive, "two", ImageConfig(user="2"))
    layer = store.get("one").layers[0]
    removal = store.remove("one", keep=set)
    assert removal.untagged == ("one:latest",)
    assert len(removal.deleted) == 2  # manifest and configuration; the layer is two's as well
    assert store.get("two").layers == (layer,)
    removal = store.remove("two", keep=set)
    assert layer.digest in removal.deleted
    assert removal.freed_bytes > layer.size_bytes
    assert os.listdir(store.root / "blobs/sha256") == []
    assert os.listdir(store.root / "layers/sha256") == []
    with pytest.raises(ImageNotFoundError):
        store.remove("two", keep=set)


def test_remove_one_of_several_names(store: ImageStore, archive: Path) -> None:
    digest = store.import_rootfs(archive, "one").digest
    store.import_rootfs(archive, "two")
    with pytest.raises(StoreError, match="several names"):
        store.remove(digest, keep=set)
    assert store.remove("one", keep=set).deleted == ()
    assert store.remove(digest[7:20], keep=set).untagged == ("two:latest",)
    assert store.images() == ()


def test_what_is_running_is_not_removed(store: ImageStore, archive: Path) -> None:
    image = store.import_rootfs(archive, "app")
    store.import_rootfs(archive, "other", ImageConfig(user="1"))
    with store.lease(image), store.lease(image):
        with pytest.raises(StoreError, match="in use"):
            store.remove("app", keep=set)
        # Its name may move on; collecting for another image then still spares it.
        store.import_rootfs(archive, "app", ImageConfig(user="2"))
        store.remove("other", keep=set)
        store.remove("app", keep=set)
        assert store.images() == ()
        assert (image.layers[0].path / "etc/passwd").exists()
        assert (store.root / "blobs/sha256" / image.digest[7:]).exists()
    store.import_rootfs(archive, "x", ImageConfig(user="3"))
    store.remove("x", keep=set)
    assert not image.layers[0].path.exists()
    assert os.listdir(store.root / "leases/sha256") == []
    with pytest.raises(ImageNotFoundError, match="removed meanwhile"), store.lease(image):
        pass


def test_a_lease_ends_with_its_process(store: ImageStore, archive: Path) -> None:
    store.import_rootfs(archive, "app")
    code = (
        "import sys, time; from pathlib import Path; from runtime.images import ImageStore\n"
        "store = ImageStore(Path(sys.argv[1]))\n"
        "with store.lease(store.get('app')): print('held', flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", code, str(store.root)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match="in use"):
            store.remove("app", keep=set)
        process.kill()
    store.remove("app", keep=set)
    assert store.images() == ()


# Several writers, and dead ones.

IMPORT = (
    "import sys; from pathlib import Path; from runtime.images import ImageStore\n"
    "import runtime.images.store.writer  # an ordinary user may not see this interpreter's files\n"
    "print(ImageStore(Path(sys.argv[1])).import_rootfs(Path(sys.argv[2]), sys.argv[3]).digest)"
)


def importer(store: ImageStore, source: Path, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", IMPORT, str(store.root), str(source), name]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.tar"
    members = [
        member(f"d{n % 50}/f{n}", data=random.Random(n).randbytes(20_000)) for n in range(1500)
    ]
    path.write_bytes(make_tar(*members))
    return path


def test_two_processes_import_the_same(store: ImageStore, large: Path) -> None:
    processes = [importer(store, large, "same") for _ in range(4)]
    outcomes = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outcomes
    assert len({out for out, _ in outcomes}) == 1
    assert len(store.images()) == 1
    assert temporary_files(store) == []
    check(store)


def test_import_and_remove_race(store: ImageStore, archive: Path) -> None:
    """Threads import and remove names of the same content; what is named is always whole."""
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for _ in range(10):
                store.import_rootfs(archive, name)
                assert (store.get(name).layers[0].path / "etc/passwd").exists()
                store.remove(name, keep=set)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"n{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.images() == ()
    check(store)


def test_device_entries_in_a_tar_follow_the_user(store: ImageStore, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(make_tar(member("null", CHR, devmajor=1, devminor=3), member("f")))
    layer = store.import_rootfs(archive, "dev").layers[0]
    assert (layer.path / "null").exists() == (try_mknod(tmp_path) is None)


def test_an_ordinary_user_can_import(archive: Path) -> None:
    """In a process that gives up root after loading the code, which others may not see."""
    if os.geteuid() != 0:
        pytest.skip("the whole suite runs as an ordinary user already")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        shutil.copy(archive, home / "a.tar")
        for path in (home, home / "a.tar"):
            os.chown(path, 65534, 65534)
        code = IMPORT.replace(
            "print(", "import os; os.setgroups([]); os.setgid(65534)\n", 1
        ).replace("\nImageStore", "\nos.setuid(65534)\nprint(ImageStore")
        command = [sys.executable, "-c", code, str(home / "store"), str(home / "a.tar"), "app"]
        result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        layer = ImageStore(home / "store").get("app").layers[0]
        assert (layer.path / "etc/passwd").stat().st_uid == 65534
        assert layer.overlay_xattr == "user.overlay"
