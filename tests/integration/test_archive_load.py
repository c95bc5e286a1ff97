"""Loading what other tools wrote, and what nobody should have written."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from runtime.cli.image_transfer import load as load_command
from runtime.errors import ImageError
from runtime.images import ImageStore
from runtime.images.archive.load import load
from runtime.images.formats.schema import Platform
from tests.support.image_tools import (
    Containers,
    make_root,
    run,
    skopeo_copy,
    umoci_layout,
)
from tests.support.registry import CONFIG, INDEX, LAYER, MANIFEST, digest_of, missing
from tests.support.tars import DIR, FIFO, LINK, SYM, make_tar, member, tree

PROJECT = Path(__file__).parents[2]
reason = missing("skopeo", "umoci", "buildah", "podman")
peers = pytest.mark.skipif(reason is not None, reason=reason or "")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return umoci_layout(tmp_path_factory.mktemp("umoci"))


@pytest.fixture
def podman() -> Iterator[Containers]:
    with Containers("podman") as found:
        yield found


@pytest.fixture
def buildah() -> Iterator[Containers]:
    with Containers("buildah") as found:
        yield found


def names(store: ImageStore) -> list[str]:
    return [image.reference for image in store.images()]


def nothing_half_made(store: ImageStore) -> None:
    assert os.listdir(store.root / "tmp") == []
    assert store.verify() == ()


# What the peers write.


@peers
def test_a_layout_of_umoci(store: ImageStore, layout: Path) -> None:
    base, app = load(store, layout)
    assert (base.names, app.names) == (("base:latest",), ("app:latest",))
    assert app.image.layers[0] == base.image.layers[0]
    index = json.loads((layout / "index.json").read_bytes())
    assert {entry["digest"] for entry in index["manifests"]} == {
        base.image.digest,
        app.image.digest,
    }
    assert store.read_file(app.image, "srv/app/file") == b"hello\n"
    nothing_half_made(store)


@peers
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("team/x", ["team/x:app", "team/x:base"]),
        ("h.test:5/x", ["h.test:5/x:app", "h.test:5/x:base"]),
    ],
)
def test_another_name(store: ImageStore, layout: Path, name: str, expected: list[str]) -> None:
    load(store, layout, name=name)
    assert names(store) == expected
    with pytest.raises(ImageError, match=r"can name one image, but .* holds 2"):
        load(store, layout, name=f"{name}:1")


@peers
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive", "oci"])
def test_what_skopeo_writes(
    store: ImageStore, layout: Path, tmp_path: Path, kind: str, packed: bool
) -> None:
    (expected,) = [found for found in load(store, layout) if found.names == ("app:latest",)]
    target = tmp_path / "written"
    skopeo_copy(f"oci:{layout}:app", f"{kind}:{target}:127.0.0.1/copy:3")
    source = target
    if packed:
        if kind == "oci":
            run("tar", "-czf", tmp_path / "packed", "-C", target, ".")
        else:
            (tmp_path / "packed").write_bytes(gzip.compress(target.read_bytes(), 1))
        source = tmp_path / "packed"
    (found,) = load(store, source)
    assert found.names == ("127.0.0.1/copy:3",)
    assert found.image.config == expected.image.config
    # The same layers below, whatever they were packed as.
    assert found.image.lowerdirs == expected.image.lowerdirs
    if kind != "docker-archive":
        assert found.image.digest == expected.image.digest
    again = load(store, source)
    assert again[0].image == found.image
    nothing_half_made(store)


@peers
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive", "oci-dir"])
def test_what_podman_and_buildah_write(
    store: ImageStore, podman: Containers, buildah: Containers, tmp_path: Path, kind: str
) -> None:
    root = make_root(tmp_path / "root", 50_000)
    container = buildah("from", "scratch")
    buildah("add", container, root, "/")
    buildah("config", "--entrypoint", '["/bin/tool"]', "--user", "7:8", container)
    buildah("commit", container, "localhost/made:1")
    pushed = {"oci-dir": "oci"}.get(kind, kind)
    buildah("push", "localhost/made:1", f"{pushed}:{tmp_path / 'buildah'}:localhost/made:2")
    (mine,) = load(store, tmp_path / "buildah")
    assert "localhost/made:2" in mine.names
    assert mine.image.config.entrypoint == ("/bin/tool",)
    # podman has storage of its own: by way of an archive.
    between = tmp_path / "between"
    buildah("push", "localhost/made:1", f"docker-archive:{between}:localhost/made:3")
    podman("load", "--input", between)
    target = tmp_path / "podman"
    podman("save", "--format", kind, "--output", target, "localhost/made:3")
    (found,) = load(store, target, name="saved:4" if kind == "oci-dir" else None)
    assert found.names == (("saved:4",) if kind == "oci-dir" else ("localhost/made:3",))
    assert found.image.lowerdirs == mine.image.lowerdirs
    assert found.image.config == mine.image.config
    flat = tmp_path / "flat"
    store.flatten(found.image, flat)
    theirs = {name: value for name, value in tree(root).items() if name != b"."}
    ours = {name: value for name, value in tree(flat).items() if name != b"."}
    assert set(ours) == set(theirs)
    assert [value[6] for value in ours.values()] == [theirs[name][6] for name in ours]


# docker itself is not here: its archives put together by hand, as its versions wrote them.

TAR = make_tar(member("etc/", DIR), member("etc/name", data=b"lower\n"))
UPPER = make_tar(member("etc/name", data=b"upper\n"))


def configuration(*tars: bytes, **more: Any) -> bytes:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
    }
    return json.dumps(document | more).encode()


def archive(path: Path, *members: tuple[Any, bytes]) -> Path:
    path.write_bytes(make_tar(*members))
    return path


def docker_24(path: Path) -> Path:
    """docker 1.10 to 24: the old files for the older, manifest.json for itself."""
    config = configuration(TAR, UPPER)
    entry = {
        "Config": f"{digest_of(config)[7:]}.json",
        "RepoTags": ["team/app:1", "team/app:latest"],
        "Layers": ["lower/layer.tar", "upper/layer.tar"],
    }
    return archive(
        path,
        member("lower/", DIR),
        member("lower/VERSION", data=b"1.0"),
        member("lower/json", data=b'{"id":"lower"}'),
        member("lower/layer.tar", data=TAR),
        member("upper/", DIR),
        member("upper/VERSION", data=b"1.0"),
        member("upper/json", data=b'{"id":"upper","parent":"lower"}'),
        member("upper/layer.tar", data=UPPER),
        member(f"{digest_of(config)[7:]}.json", data=config),
        member("manifest.json", data=json.dumps([entry]).encode()),
        member("repositories", data=b'{"team/app":{"1":"upper"}}'),
    )


def test_an_archive_of_docker_24(store: ImageStore, tmp_path: Path) -> None:
    (found,) = load(store, docker_24(tmp_path / "a.tar"))
    assert found.names == ("team/app:1", "team/app:latest")
    assert names(store) == ["team/app:1", "team/app:latest"]
    assert store.read_file(found.image, "etc/name") == b"upper\n"
    assert [layer.digest for layer in found.image.layers] == [digest_of(TAR), digest_of(UPPER)]
    assert found.image.config.environment == {"A": "b"}


def test_an_archive_of_docker_25(store: ImageStore, tmp_path: Path) -> None:
    """An OCI layout with manifest.json; its index names the host that docker assumes."""
    config, packed = configuration(TAR), gzip.compress(TAR)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest_of(config), "size": len(config)},
        "layers": [
            {"mediaType": f"{LAYER}+gzip", "digest": digest_of(packed), "size": len(packed)}
        ],
    }
    blobs = [config, packed, json.dumps(manifest).encode()]
    annotations = {
        "io.containerd.image.name": "h.test/library/app:2",
        "org.opencontainers.image.ref.name": "2",
    }
    attested = {
        "mediaType": MANIFEST,
        "digest": "sha256:" + "a" * 64,
        "size": 100,
        "platform": {"os": "unknown", "architecture": "unknown"},
    }
    nested = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [
            {
                "mediaType": MANIFEST,
                "digest": digest_of(blobs[2]),
                "size": len(blobs[2]),
                "platform": {"os": "linux", "architecture": "amd64"},
            },
            attested,
        ],
    }
    blobs.append(json.dumps(nested).encode())
    top = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [
            {
                "mediaType": INDEX,
                "digest": digest_of(blobs[3]),
                "size": len(blobs[3]),
                "annotations": annotations,
            }
        ],
    }
    docker = [
        {
            "Config": f"blobs/sha256/{digest_of(config)[7:]}",
            "RepoTags": ["app:2"],
            "Layers": [f"blobs/sha256/{digest_of(packed)[7:]}"],
        }
    ]
    path = archive(
        tmp_path / "a.tar",
        *(member(f"blobs/sha256/{digest_of(blob)[7:]}", data=blob) for blob in blobs),
        member("index.json", data=json.dumps(top).encode()),
        member("manifest.json", data=json.dumps(docker).encode()),
        member("oci-layout", data=b'{"imageLayoutVersion":"1.0.0"}'),
    )
    amd64 = Platform.parse("linux/amd64")
    (found,) = load(store, path, platform=amd64)
    assert found.names == ("app:2",)
    assert found.image.digest == digest_of(blobs[2])
    assert found.image.layers[0].digest == digest_of(packed)


def test_an_archive_of_the_oldest_docker(store: ImageStore, tmp_path: Path) -> None:
    lower = {"id": "a" * 64, "container_config": {"Cmd": ["/bin/sh", "-c", "ADD x"]}}
    upper = {
        "id": "b" * 64,
        "parent": "a" * 64,
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/run"]},
        "created": "2014-01-01T00:00:00Z",
    }
    path = archive(
        tmp_path / "a.tar",
        *(
            part
            for layer, tar in ((lower, TAR), (upper, gzip.compress(UPPER)))
            for part in (
                member(f"{layer['id']}/VERSION", data=b"1.0"),
                member(f"{layer['id']}/json", data=json.dumps(layer).encode()),
                member(f"{layer['id']}/layer.tar", data=tar),
            )
        ),
        member("repositories", data=json.dumps({"old/app": {"0.9": "b" * 64}}).encode()),
    )
    (found,) = load(store, path)
    assert found.names == ("old/app:0.9",)
    assert found.image.config.command == ("/bin/run",)
    assert store.read_file(found.image, "etc/name") == b"upper\n"
    assert [layer.diff_id for layer in found.image.layers] == [digest_of(TAR), digest_of(UPPER)]


def test_from_the_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    data = gzip.compress(docker_24(tmp_path / "a.tar").read_bytes())
    result = CliRunner().invoke(load_command, [], input=data, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-2:] == [
        "Loaded image: team/app:1",
        "Loaded image: team/app:latest",
    ]


# What nobody should have written.


ESCAPING = make_tar(member("../../escaped", data=b"x"))
GOOD_LAYER = member("l.tar", data=TAR)
# What is wrong: the layer's member, the configuration, changes of manifest.json, more members.
SPOILED: dict[str, tuple[Any, bytes, dict[str, Any], tuple[Any, ...]]] = {
    "diff id": (GOOD_LAYER, configuration(UPPER), {}, ()),
    "count": (GOOD_LAYER, configuration(TAR, UPPER), {}, ()),
    "link out": (member("l.tar", SYM, linkname="../../../etc/passwd"), b"", {}, ()),
    "absolute link": (member("l.tar", SYM, linkname="/etc/passwd"), b"", {}, ()),
    "hard link out": (member("l.tar", LINK, linkname="../x"), b"", {}, ()),
    "circle": (
        member("l.tar", SYM, linkname="m.tar"),
        b"",
        {},
        (member("m.tar", SYM, linkname="l.tar"),),
    ),
    "dots": (GOOD_LAYER, b"", {}, (member("../escaped", data=b"x"),)),
    "absolute": (
        GOOD_LAYER,
        b"",
        {"Layers": ["/tmp/steelyard-escaped"]},
        (member("/tmp/steelyard-escaped", data=b"x"),),
    ),
    "fifo": (member("l.tar", FIFO), b"", {}, ()),
    "config path": (GOOD_LAYER, b"", {"Config": "/etc/passwd"}, ()),
    "layer path": (GOOD_LAYER, b"", {"Layers": ["../../etc/passwd"]}, ()),
    "name": (GOOD_LAYER, b"", {"RepoTags": ["a\x1b[2J:1"]}, ()),
    "shape": (GOOD_LAYER, b"", {"Layers": {"l.tar": 1}}, ()),
    "strings": (GOOD_LAYER, b"", {"Layers": [1]}, ()),
    "xz": (member("l.tar", data=lzma.compress(TAR)), b"", {}, ()),
    "layer escapes": (member("l.tar", data=ESCAPING), configuration(ESCAPING), {}, ()),
    "truncated layer": (member("l.tar", data=TAR[:700]), configuration(TAR[:700]), {}, ()),
}


def spoiled(path: Path, how: str) -> Path:
    """An archive of docker 24 with one thing wrong."""
    layer, config, changes, more = SPOILED[how]
    entry = {"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l.tar"], **changes}
    return archive(
        path,
        layer,
        member("c.json", data=config or configuration(TAR)),
        member("manifest.json", data=json.dumps([entry]).encode()),
        *more,
    )


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("diff id", "unpacks to sha256:"),
        ("count", "2 diff IDs, but the manifest 1"),
        ("link out", "has no file l.tar"),
        ("absolute link", "has no file l.tar"),
        ("hard link out", r"with '\.\.' in it is refused"),
        ("circle", "has no file l.tar"),
        ("dots", r"with '\.\.' in it is refused"),
        ("absolute", "has no file /tmp/steelyard-escaped"),
        ("fifo", "has no file l.tar"),
        ("config path", "has no file /etc/passwd"),
        ("layer path", r"has no file \.\./\.\./etc/passwd"),
        ("name", "invalid image reference"),
        ("shape", "malformed"),
        ("strings", "malformed"),
        ("xz", "packed by xz or bzip2"),
        ("layer escapes", r"with '\.\.' in it is refused"),
        ("truncated layer", "cut short"),
    ],
)
def test_hostile_archives(store: ImageStore, tmp_path: Path, how: str, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        load(store, spoiled(tmp_path / "a.tar", how))
    assert str(caught.value).isprintable()
    assert store.images() == ()
    assert not list(tmp_path.rglob("*escaped*"))
    assert not Path("/tmp/steelyard-escaped").exists()
    nothing_half_made(store)


def test_an_image_without_a_name_is_found_by_its_digest(store: ImageStore, tmp_path: Path) -> None:
    entry = {"Config": "c.json", "RepoTags": None, "Layers": ["l.tar"]}
    source = archive(
        tmp_path / "a.tar",
        GOOD_LAYER,
        member("c.json", data=configuration(TAR)),
        member("manifest.json", data=json.dumps([entry]).encode()),
    )
    for _ in range(2):
        (loaded,) = load(store, source)
        assert loaded.names == ()
        assert [image.digest for image in store.images()] == [loaded.image.digest]
    store.collect(keep=set)
    assert store.get(loaded.image.digest.removeprefix("sha256:")[:12]) == loaded.image
    store.tag(loaded.image.digest, "named:1")
    load(store, source)
    assert {image.reference for image in store.images()} == {loaded.image.digest, "named:1"}
    store.remove("named:1", keep=set)
    store.remove(loaded.image.digest, keep=set)
    assert store.images() == ()
    nothing_half_made(store)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"index.json": b"{"}, "is not JSON"),
        ({"index.json": b"[]"}, "not a JSON object"),
        ({"index.json": b'{"schemaVersion":2,"manifests":[]}'}, "holds no image"),
        ({"index.json": b'{"schemaVersion":2,"manifests":[{"digest":"x","size":1}]}'}, "no digest"),
        ({"oci-layout": b'{"imageLayoutVersion":"9"}'}, "version other than 1.0.0"),
        ({"oci-layout": b" " * (5 << 20)}, "over 4194304 bytes"),
    ],
)
def test_hostile_layouts(
    store: ImageStore, tmp_path: Path, change: dict[str, bytes], said: str
) -> None:
    folder = tmp_path / "layout"
    folder.mkdir()
    (folder / "index.json").write_bytes(b"{}")
    for name, data in change.items():
        (folder / name).write_bytes(data)
    with pytest.raises(ImageError, match=said):
        load(store, folder)


def write_layout(folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    config = configuration(TAR)
    manifest = {
        "schemaVersion": 2,
        "config": {"mediaType": CONFIG, "digest": digest_of(config), "size": len(config)},
        "layers": [{"mediaType": LAYER, "digest": digest_of(TAR), "size": len(TAR)}],
    }
    change(manifest)
    data = json.dumps(manifest).encode()
    for blob in (config, TAR, data):
        (blobs / digest_of(blob)[7:]).write_bytes(blob)
    entry = {"mediaType": MANIFEST, "digest": digest_of(data), "size": len(data)}
    entry["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    index = {"schemaVersion": 2, "manifests": [entry]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def test_a_manifest_without_media_type(store: ImageStore, tmp_path: Path) -> None:
    (found,) = load(store, write_layout(tmp_path / "layout"))
    assert found.names == ("x:latest",)


@pytest.mark.parametrize("how", ["damaged", "short", "fifo", "folder", "missing"])
@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
def test_damaged_layouts(store: ImageStore, tmp_path: Path, which: str, how: str) -> None:
    folder = write_layout(tmp_path / "layout")
    index = json.loads((folder / "index.json").read_bytes())
    path = folder / "blobs/sha256" / index["manifests"][0]["digest"][7:]
    manifest = json.loads(path.read_bytes())
    if which != "manifest":
        part = manifest["config"] if which == "config" else manifest["layers"][0]
        path = folder / "blobs/sha256" / part["digest"][7:]
    data = path.read_bytes()
    path.unlink()
    if how == "damaged":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif how == "short":
        path.write_bytes(data[:-1])
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    with pytest.raises(ImageError) as caught:
        load(store, folder)
    assert str(caught.value).isprintable()
    assert store.images() == ()
    nothing_half_made(store)


@pytest.mark.parametrize("data", [b"", b"x" * 600, b"\x1f\x8b\x08\0", TAR[:600], bytes(10_240)])
def test_no_archives(store: ImageStore, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(ImageError):
        load(store, path)
    with pytest.raises(ImageError, match="cannot read"):
        load(store, tmp_path / "nothing")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageError, match="neither a file nor a folder"):
        load(store, tmp_path / "fifo")


def test_an_archive_that_goes_on_and_on(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits are lowered here: 256 GiB take their time."""
    monkeypatch.setattr("runtime.images.archive.archive_files._ARCHIVE_LIMIT_BYTES", 8 << 20)
    monkeypatch.setattr("runtime.images.archive.archive_files._ENTRIES_LIMIT", 1000)
    path = tmp_path / "a.gz"
    with gzip.open(path, "wb", 1) as file:
        info = tarfile.TarInfo("big")
        info.size = 20 << 20
        file.write(info.tobuf() + bytes(20 << 20) + bytes(1024))
    with pytest.raises(ImageError, match="more than 8388608 bytes"):
        load(store, path)
    path.write_bytes(gzip.compress(bytes(20 << 20)))
    with pytest.raises(ImageError, match="more than 8388608 bytes"):
        load(store, path)
    archive(path, *(member(f"f{number}") for number in range(1001)))
    with pytest.raises(ImageError, match="more than 1000 files"):
        load(store, path)
    nothing_half_made(store)


def test_sparse_members_are_refused(store: ImageStore, tmp_path: Path) -> None:
    with (tmp_path / "index.json").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x")
    subprocess.run(
        ["tar", "-S", "-cf", tmp_path / "a.tar", "-C", tmp_path, "index.json"], check=True
    )
    with pytest.raises(ImageError, match="sparse files are not supported"):
        load(store, tmp_path / "a.tar")


def test_the_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    """150 MB of layer through a process that may have little more than it starts with."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("big")
        info.size = 150 << 20
        tar.addfile(info, io.BytesIO(os.urandom(1 << 20) * 150))
    layer = data.getvalue()
    config = configuration(layer)
    entry = [{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l.tar"]}]
    path = archive(
        tmp_path / "a.tar",
        member("l.tar", data=layer),
        member("c.json", data=config),
        member("manifest.json", data=json.dumps(entry).encode()),
    )
    # Of this program alone: what getrusage(2) says begins with the peak of whoever started it.
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from runtime.images import ImageStore\nfrom runtime.images.archive.load import load\n"
        "load(ImageStore(Path(sys.argv[1])), Path(sys.argv[2]))\n"
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    out = run(sys.executable, "-c", code, tmp_path / "store", path, cwd=PROJECT)
    assert int(out) * 1024 < 150_000_000
    assert hashlib.sha256(layer).hexdigest() in os.listdir(tmp_path / "store/layers/sha256")
