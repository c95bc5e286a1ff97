"""What images share: on disk, as `du` sees it, and as the commands show it; gc, verify, tag."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runtime.cli.image import image as image_group
from runtime.errors import ImageNotFoundError, StoreError
from runtime.images import ImageStore
from tests.support.images import add_image, add_layers, assert_whole, layer_tar
from tests.support.tars import DIR, LINK, make_tar, member

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "home/images")


@pytest.fixture
def three(store: ImageStore) -> ImageStore:
    """A base, two images on it, and one that has nothing to do with them."""
    base = [layer_tar(1, 300_000)]
    add_image(store, "base", base)
    add_image(store, "one", [*base, layer_tar(2, 50_000)])
    add_image(store, "two", [*base, layer_tar(3, 70_000), make_tar(member("d/", DIR))])
    add_image(store, "apart", [layer_tar(4)], "zstd")
    store.tag("one", "one:again")
    return store


def command(store: ImageStore, *arguments: str) -> Result:
    return CliRunner().invoke(
        image_group, arguments, env={"STEELYARD_HOME": str(store.root.parent)}
    )


def used_bytes(store: ImageStore) -> int:
    """What `du` says of blobs and layers, without the folders that hold them."""
    parts = [store.root / "blobs", store.root / "layers"]
    done = subprocess.run(["du", "-s", "-B1", *parts], capture_output=True, text=True, check=True)
    total = sum(int(line.split()[0]) for line in done.stdout.splitlines())
    frames = [*parts, store.root / "blobs/sha256", store.root / "layers/sha256"]
    frames.append(store.root / "layers/folders")
    return total - sum(path.stat().st_blocks * 512 for path in frames)


def test_du_agrees(three: ImageStore) -> None:
    usage = three.usage()
    assert usage.total_bytes == used_bytes(three)
    assert usage.unneeded_bytes == 0
    by_name = {each.image.reference: each for each in usage.images}
    one, two, again = (by_name[name] for name in ("one:latest", "two:latest", "one:again"))
    for each in usage.images:
        assert each.size_bytes == each.shared_bytes + each.exclusive_bytes
    base_layer = three.get("base").layers[0]
    # The base's layer and its blob are on disk once, and part of all three.
    assert one.shared_bytes == two.shared_bytes == by_name["base:latest"].shared_bytes
    assert one.shared_bytes >= base_layer.allocated_bytes + base_layer.size_bytes
    assert by_name["apart:latest"].shared_bytes == 0
    assert (again.size_bytes, again.exclusive_bytes) == (one.size_bytes, one.exclusive_bytes)
    # Whatever is unpacked, du measured the same when it got its record.
    once = {each.image.digest: each.exclusive_bytes for each in usage.images}
    assert sum(once.values()) + one.shared_bytes == usage.total_bytes


def test_du_agrees_whatever_a_layer_holds(store: ImageStore) -> None:
    members = [member(f"f{n}", data=b"x" * n * 700) for n in range(30)]
    members += [member("hard", LINK, linkname="f29"), member("sparse", data=bytes(5 << 20))]
    members += [member("x", pax_headers={"SCHILY.xattr.user.big": "v" * 3000})]
    add_image(store, "app", [make_tar(*members)])
    assert store.usage().total_bytes == used_bytes(store)
    assert_whole(store)


def test_removing_frees_what_is_exclusive(three: ImageStore) -> None:
    for name in ("two", "apart", "base"):
        usage = {each.image.reference: each for each in three.usage().images}
        before = used_bytes(three)
        removal = three.remove(name, keep=set)
        assert removal.freed_bytes == usage[f"{name}:latest"].exclusive_bytes
        assert used_bytes(three) == before - removal.freed_bytes
    assert three.remove("one", keep=set).freed_bytes == 0
    assert three.remove("one:again", keep=set).freed_bytes > 300_000
    assert used_bytes(three) == 0


def test_ls(three: ImageStore) -> None:
    result = command(three, "ls")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert re.split(r" {2,}", lines[0]) == [
        "REFERENCE", "DIGEST", "LAYERS", "SIZE", "SHARED", "EXCLUSIVE", "CREATED",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[1:]] == [
        "apart:latest", "base:latest", "one:again", "one:latest", "two:latest",
    ]  # fmt: skip
    assert re.split(r" {2,}", lines[1])[2:6][2] == "0B"
    assert result.stderr.startswith("4 images, ")
    assert "gc" not in result.stderr
    documents = json.loads(command(three, "ls", "--format", "json").stdout)
    usage = three.usage()
    assert [each["exclusive_bytes"] for each in documents] == [
        each.exclusive_bytes for each in usage.images
    ]
    add_layers(three, [layer_tar(99)])
    assert "gc` can free" in command(three, "ls").stderr


def test_tree(three: ImageStore) -> None:
    chain = [layer.diff_id[7:19] for layer in three.get("two").layers]
    one, apart = (
        three.get("one").layers[1].diff_id[7:19],
        three.get("apart").layers[0].diff_id[7:19],
    )
    lines = [
        re.sub(r"  [0-9.]+k?B", "", line) for line in command(three, "tree").stdout.splitlines()
    ]
    assert lines == [
        f"{apart}  apart:latest",
        f"{chain[0]}  base:latest",
        f"├─ {one}  one:again, one:latest",
        f"└─ {chain[1]}",
        f"   {chain[2]}  two:latest",
    ]
    # The same layer on another branch is marked, since it is there once all the same.
    add_image(three, "zz", [layer_tar(4), layer_tar(3, 70_000)])
    text = command(three, "tree").stdout
    assert len(re.findall(rf"{chain[1]}\*", text)) == 2
    assert re.search(
        rf"^{apart}  \S+  apart:latest\n{chain[1]}\*  \S+  zz:latest$", text, re.MULTILINE
    )


def test_history_and_inspect(store: ImageStore) -> None:
    steps = [
        {"created": "2020-01-01T00:00:00Z", "created_by": "ADD base.tar /"},
        {"created": "2021-01-01T00:00:00Z", "created_by": "ENV A=b", "empty_layer": True},
        {"created_by": "RUN make\n  install", "comment": "note"},
    ]
    image = add_image(store, "app", [layer_tar(1), layer_tar(2)], history=steps)
    entries = store.history(image)
    assert [entry.created_by for entry in entries] == [step["created_by"] for step in steps]
    assert [entry.layer for entry in entries] == [image.layers[0], None, image.layers[1]]
    lines = command(store, "history", "app").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        image.layers[1].diff_id[7:19], "-", image.layers[0].diff_id[7:19],
    ]  # fmt: skip
    assert "RUN make install" in lines[1]
    documents = json.loads(command(store, "history", "app", "--format", "json").stdout)
    assert documents[1]["created"] == "2021-01-01T00:00:00Z"
    bare = add_image(store, "bare", [layer_tar(1)])
    assert [entry.layer for entry in store.history(bare)] == list(bare.layers)
    found = json.loads(command(store, "inspect", "app").stdout)
    assert found["digest"] == image.digest
    assert found["config_digest"] == image.config_digest
    assert found["layers"][0]["shared_with"] == ["bare:latest"]
    assert found["layers"][1]["shared_with"] == []
    assert found["shared_bytes"] + found["exclusive_bytes"] == found["disk_bytes"]
    assert found["media_type"] == "application/vnd.oci.image.manifest.v1+json"


def test_tag(store: ImageStore) -> None:
    image = add_image(store, "app", [layer_tar(1)])
    other = add_image(store, "other", [layer_tar(2)])
    assert store.tag("app", "app:2").digest == image.digest
    assert store.tag(image.digest[7:20], "by-digest").digest == image.digest
    assert command(store, "tag", "other", "app:2").stdout == "app:2\n"
    assert store.get("app:2").digest == other.digest
    with pytest.raises(ImageNotFoundError):
        store.tag("none", "x")
    assert command(store, "tag", "app", "BAD").exit_code == 1
    assert store.get("app:2").digest == other.digest


# gc.


def test_gc_takes_only_what_nothing_needs(three: ImageStore) -> None:
    result = command(three, "gc")
    assert result.exit_code == 0
    assert result.stdout == "Nothing to free: images need all that is there.\n"
    before = used_bytes(three)
    add_layers(three, [layer_tar(50), layer_tar(51)])
    # A name that has moved on leaves its image to be collected.
    add_image(three, "apart", [layer_tar(52)])
    (three.root / "tmp/half-made").mkdir()
    (three.root / "tmp/half-made/file").write_bytes(bytes(100_000))
    unneeded = three.usage().unneeded_bytes
    used = used_bytes(three)
    removal = three.collect(keep=set)
    assert removal.freed_bytes >= unneeded + 100_000
    assert used_bytes(three) == used - unneeded
    assert len(removal.layers) == 3
    assert used_bytes(three) < before + 20_000
    assert_whole(three)
    assert command(three, "gc").stdout.startswith("Nothing")
    add_layers(three, [layer_tar(50)])
    text = command(three, "gc").stdout
    assert re.fullmatch(
        r"Deleted: sha256:[0-9a-f]{64}\nDeleted layer: sha256:[0-9a-f]{64}\nFreed: [0-9.]+kB\n",
        text,
    )


def test_gc_spares_what_is_leased_or_kept(three: ImageStore) -> None:
    image = three.get("two")
    with three.lease(image):
        add_image(three, "two", [layer_tar(60)])
        three.collect(keep=set)
        assert (image.layers[1].path / "d/3").exists()
        code = (
            "import sys; from pathlib import Path; from runtime.images import ImageStore\n"
            "ImageStore(Path(sys.argv[1])).collect(keep=set)"
        )
        subprocess.run([sys.executable, "-c", code, three.root], cwd=PROJECT, check=True)
        assert (image.layers[1].path / "d/3").exists()
    # A stopped container that is kept stands on it.
    three.collect(keep=lambda: {image.digest})
    assert (image.layers[1].path / "d/3").exists()
    apart = three.tag("apart", "x").digest
    three.remove("x", keep=lambda: {apart})
    with pytest.raises(StoreError, match="stopped container"):
        three.remove("apart", keep=lambda: {apart})
    assert not image.layers[1].path.exists()


def test_gc_does_nothing_when_it_cannot_know(three: ImageStore) -> None:
    manifest = three.root / "blobs/sha256" / three.get("one").digest[7:]
    manifest.write_bytes(manifest.read_bytes() + b" ")
    add_layers(three, [layer_tar(70)])
    before = used_bytes(three)
    with pytest.raises(StoreError, match="damaged"):
        three.collect(keep=set)
    assert used_bytes(three) == before


# verify.


def test_verify_names_what_is_wrong(three: ImageStore) -> None:
    assert command(three, "verify", "-q").output == ""
    assert "The store is whole." in command(three, "verify").stdout
    one, two = three.get("one"), three.get("two")
    shared, own = one.layers
    (own.path / "d/2").write_bytes(b"changed")
    os.utime(shared.path / "top", (5, 5))
    (shared.path / "extra").write_bytes(b"x")
    blob = three.root / "blobs/sha256" / two.layers[1].digest[7:]
    blob.write_bytes(blob.read_bytes()[:-1])
    (three.root / "blobs/sha256/README").write_text("hello")
    shutil.rmtree(two.layers[2].path)
    result = command(three, "verify")
    assert result.exit_code == 1
    problems = result.stdout.splitlines()
    for text in (
        f"layer {own.diff_id}: ./d/2 has ",
        f"layer {shared.diff_id}: ./top has time",
        f"layer {shared.diff_id}: ./extra should not be there",
        f"blob {two.layers[1].digest}: is damaged",
        "README: does not belong here",
        f"image two:latest: layer {two.layers[2].diff_id} is not unpacked",
    ):
        assert [line for line in problems if text in line], (text, problems)
    assert not [line for line in problems if "apart" in line]
    assert list((three.root / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    ["content", "mode", "time", "xattr", "missing", "type", "link", "extra folder", "hard link"],
)
def test_verify_sees_every_kind_of_damage(store: ImageStore, damage: str) -> None:
    tar = make_tar(
        member("f", data=b"0123456789"), member("g", data=b"g"), member("h", LINK, linkname="g"),
        member("l", b"2", linkname="f"), member("d/", DIR),
    )  # fmt: skip
    layer = add_image(store, "app", [tar]).layers[0]
    file, status = layer.path / "f", (layer.path / "f").stat()
    if damage == "content":
        file.write_bytes(b"0123456780")
    elif damage == "mode":
        file.chmod(0o600)
    elif damage == "xattr":
        os.setxattr(file, "user.x", b"y")
    elif damage == "missing":
        file.unlink()
    elif damage == "type":
        file.unlink()
        file.mkdir()
    elif damage == "link":
        (layer.path / "l").unlink()
        (layer.path / "l").symlink_to("g")
    elif damage == "extra folder":
        (layer.path / "d/e").mkdir()
    elif damage == "hard link":
        (layer.path / "h").unlink()
        (layer.path / "h").write_bytes(b"g")
    if damage == "time":
        os.utime(file, (1, 1))
    elif file.is_file():
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    problems = store.verify()
    assert problems
    assert all(problem.where == f"layer {layer.diff_id}" for problem in problems)


def test_a_lost_record_is_no_loss(three: ImageStore) -> None:
    for record in (three.root / "layers/sha256").glob("*.json"):
        record.unlink()
    assert three.verify() == ()
    assert three.usage().images[0].size_bytes > 0
