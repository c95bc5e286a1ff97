"""The merged root filesystem as we make it against what umoci makes of the same image."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from runtime.build.shipped import ensure_image
from runtime.images import Image, ImageStore
from tests.support.images import assert_whole
from tests.support.peers import need, umoci_image, umoci_rootfs
from tests.support.tars import CHR, DIR, FIFO, LINK, SYM, make_tar, member, tree, try_mknod

# cap_net_raw+ep, as setcap(8) writes it (VFS_CAP_REVISION_2).
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
# user::rw-, user:1000:r--, group::r--, mask::r--, other::---, as setfacl(1) writes it.
ACL = bytes.fromhex(
    "02000000" "01000600ffffffff" "02000400e8030000" "04000400ffffffff" "10000400ffffffff"
    "20000000ffffffff"
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    if os.geteuid() != 0 or (reason := try_mknod(tmp_path)):
        pytest.skip(f"needs root that makes devices: {'' if os.geteuid() else reason}")
    return ImageStore(tmp_path / "store")


def add_layout(store: ImageStore, layout: Path, tag: str) -> Image:
    """Take an image of an OCI layout into the store."""

    def path(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    index = json.loads((layout / "index.json").read_bytes())
    (entry,) = [
        each for each in index["manifests"]
        if each["annotations"]["org.opencontainers.image.ref.name"] == tag
    ]  # fmt: skip
    manifest = json.loads(path(entry["digest"]).read_bytes())
    config = path(manifest["config"]["digest"]).read_bytes()
    with store.adding() as adder:
        for layer, diff_id in zip(
            manifest["layers"], json.loads(config)["rootfs"]["diff_ids"], strict=True
        ):
            with path(layer["digest"]).open("rb") as file:
                adder.add_layer(file, layer["digest"], layer["size"], diff_id)
        adder.add_document(config, "config", manifest["config"]["digest"])
        data = path(entry["digest"]).read_bytes()
        return adder.add_image(
            adder.add_document(data, entry["mediaType"], entry["digest"]), [f"app:{tag}"]
        )


def implied_folders(*tars: Path) -> set[bytes]:
    """Folders that some layer fills without an entry for them."""
    found: set[bytes] = set()
    for path in tars:
        with tarfile.open(path, errors="surrogateescape", encoding="utf-8") as tar:
            described, filled = set(), set()
            for entry in tar:
                name = os.path.normpath(os.fsencode(entry.name))
                if entry.isdir():
                    described.add(name)
                while name != b".":
                    name = os.path.dirname(name) or b"."
                    filled.add(name)
        found |= filled - described
    return found


def compare(store: ImageStore, folder: Path, *tars: Path) -> None:
    """One image, unpacked by both: paths, types, modes, owners, times, links, xattrs, contents.

    Only of a folder that is implied may umoci say that it is of this moment: it makes those anew or
    loses the time that they had. Ours keep it.
    """
    umoci_image(folder / "layout", "t", *tars)
    image = add_layout(store, folder / "layout", "t")
    store.flatten(image, folder / "ours")
    started_ns = time.time_ns()
    theirs = tree(umoci_rootfs(folder / "layout", "t", folder / "b"))
    ours = tree(folder / "ours")
    assert len(theirs) > 10
    assert sorted(set(ours) ^ set(theirs)) == []
    implied = implied_folders(*tars) & set(ours)
    invented = {name for name in implied if theirs[name][3] > started_ns}
    for each in (ours, theirs):
        for name in invented:
            each[name] = (*each[name][:3], None, *each[name][4:])
    wrong = {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
    assert wrong == {}
    assert_whole(store)


BASE = [
    member("./", DIR, mtime=1_500_000_000),
    member("bin/", DIR, mtime=1_500_000_001),
    member("bin/su", data=b"su", mode=0o4755),
    member("bin/wall", data=b"wall", mode=0o2755, gid=5),
    member("bin/ping", data=b"ping", pax_headers={
        "SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1"),
        "SCHILY.xattr.user.note": "text",
    }),
    member("bin/one", data=b"1" * 5000, mtime=1_500_000_002),
    member("bin/two", LINK, linkname="bin/one"),
    member("bin/three", LINK, linkname="bin/two"),
    member("tmp/", DIR, mode=0o1777, mtime=1_500_000_003),
    member("dev/", DIR, mtime=1_500_000_004),
    member("dev/null", CHR, devmajor=1, devminor=3, mode=0o666),
    member("dev/pipe", FIFO, mode=0o600),
    member("times", data=b"t", pax_headers={"mtime": "1500000000.123456789"}),
    member("times-dir/", DIR, pax_headers={"mtime": "1500000000.987654321"}),
    member("old", data=b"o", pax_headers={"mtime": "-1000000.5"}),
    member("owner", data=b"o", uid=1234, gid=3_000_000_000),
    member("sym", SYM, linkname="../outside", uid=7, gid=8),
    member("n" * 255, data=b"long"),
    member("l/" * 90 + "deep", data=b"long path"),
    member(b"caf\xe9".decode("utf-8", "surrogateescape"), data=b"latin-1"),
    member("new\nline", data=b"x"),
    member("zeros", data=bytes(3 << 20) + b"end"),
    member("gone/", DIR), member("gone/a", data=b"a"), member("gone/sub/b", data=b"b"),
    member("opaque/", DIR), member("opaque/a", data=b"a"), member("opaque/keep/b", data=b"b"),
    member("file-to-dir", data=b"f"), member("dir-to-file/", DIR), member("dir-to-file/x"),
    member("dir-to-sym/x", data=b"x"), member("sym-to-dir", SYM, linkname="bin"),
    member("link-cut-a", data=b"c"), member("link-cut-b", LINK, linkname="link-cut-a"),
]  # fmt: skip
TOP = [
    member(".wh.gone"),
    member("opaque/", DIR, mode=0o700, mtime=1_600_000_001),
    member("opaque/.wh..wh..opq"),
    member("opaque/new", data=b"n"),
    member("file-to-dir/", DIR, mtime=1_600_000_002), member("file-to-dir/inner", data=b"i"),
    member("dir-to-file", data=b"now a file"),
    member("dir-to-sym", SYM, linkname="bin"),
    member("sym-to-dir/", DIR, mtime=1_600_000_003), member("sym-to-dir/y", data=b"y"),
    member("link-cut-a", data=b"of its own"),
    member("bin/", DIR, mode=0o711, mtime=1_600_000_004),
    member("bin/.wh.three"),
    member("bin/four", data=b"4" * 100), member("bin/five", LINK, linkname="bin/four"),
]  # fmt: skip
# Children before their folders, links' other orders: a tar may say things in any order.
SHUFFLED = [
    member("z/y/x", data=b"x", mtime=3),
    member("z/y/", DIR, mode=0o750, mtime=2),
    member("opaque/.wh.new"),
    member("z/", DIR, mode=0o770, mtime=1),
    member("opaque/", DIR, mode=0o755, mtime=4),
]


def test_everything_that_a_layer_can_hold(store: ImageStore, tmp_path: Path) -> None:
    need("umoci")
    tars = []
    for name, members in (("base", BASE), ("top", TOP), ("shuffled", SHUFFLED)):
        tars.append(tmp_path / f"{name}.tar")
        tars[-1].write_bytes(make_tar(*members))
    compare(store, tmp_path, *tars)


def test_what_gnu_tar_writes_of_a_real_tree(store: ImageStore, tmp_path: Path) -> None:
    """ACLs, capabilities, sparse files: set on disk, written by GNU tar."""
    need("umoci")
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    for name in ("acl", "capable", "plain"):
        (root / name).write_text(name)
    os.setxattr(root / "acl", "system.posix_acl_access", ACL)
    default = ACL.replace(b"\x01\x00\x06\x00", b"\x01\x00\x07\x00")
    os.setxattr(root / "d", "system.posix_acl_default", default)
    (root / "d/made-below").write_text("inherits nothing")
    os.setxattr(root / "capable", "security.capability", CAPABILITY)
    with (root / "sparse").open("wb") as file:
        for offset in (1 << 20, 5 << 20, 9 << 20):
            file.seek(offset)
            file.write(b"data")
        file.truncate(12 << 20)
    for number in range(30):
        (root / f"d/f{number}").write_bytes(os.urandom(number * 100))
    tar = tmp_path / "real.tar"
    command = ["tar", "--xattrs", "--xattrs-include=*", "--acls", "--format=pax", "-C", root]
    subprocess.run([*command, "-cf", tar, "."], check=True)
    compare(store, tmp_path, tar)
    # And with GNU's map of holes, which umoci does not read: against the tree it was made of.
    for version in ("0.0", "0.1", "1.0"):
        sparse = tmp_path / f"sparse{version}.tar"
        subprocess.run(
            [*command, "--sparse", f"--sparse-version={version}", "-cf", sparse, "."], check=True
        )
        layer = store.import_rootfs(sparse, f"sparse{version}").layers[0]
        assert tree(layer.path) == tree(root)
        assert (layer.path / "sparse").stat().st_blocks * 512 < 1 << 18


@pytest.mark.timeout(280)
def test_debian_with_python(store: ImageStore, tmp_path: Path) -> None:
    """The image that comes with Steelyard, and a layer that changes some of it."""
    need("umoci", "mmdebstrap")
    home = ImageStore.default()
    image = ensure_image("debian-python", store=home)
    base = tmp_path / "debian.tar"
    with home.open_blob(image.layers[0].digest) as source, base.open("wb") as file:
        shutil.copyfileobj(source, file)
    top = tmp_path / "top.tar"
    top.write_bytes(
        make_tar(
            member("etc/passwd", data=b"root:x:0:0::/:/bin/sh\n"),
            member("usr/share/.wh.zoneinfo"),
            member("usr/lib/python3/", DIR),
            member("usr/lib/python3/.wh..wh..opq"),
            member("srv/app/main.py", data=b"print(1)\n"),
        )
    )
    compare(store, tmp_path, base, top)


@pytest.mark.soak
@pytest.mark.parametrize("package", ["python3", "nodejs"])
def test_debian_as_mmdebstrap_makes_it(store: ImageStore, tmp_path: Path, package: str) -> None:
    need("umoci", "mmdebstrap")
    tar = tmp_path / "debian.tar"
    command = ["mmdebstrap", "--variant=minbase", f"--include={package}", "bookworm", tar]
    subprocess.run(command, check=True, capture_output=True)
    compare(store, tmp_path, tar)
