"""What `save` writes, read back by skopeo, podman, umoci and ourselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from runtime.cli.image_transfer import save as save_command
from runtime.errors import ImageError, ImageNotFoundError
from runtime.images import ImageConfig, ImageStore
from runtime.images.archive.load import load
from runtime.images.archive.save import save
from tests.support.image_tools import (
    Containers,
    make_root,
    run,
    skopeo_copy,
    skopeo_inspect,
    umoci_layout,
)
from tests.support.registry import missing
from tests.support.tars import tree

reason = missing("skopeo", "umoci", "podman")
pytestmark = pytest.mark.skipif(reason is not None, reason=reason or "")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """An image of umoci's, packed, and one imported, plain."""
    found = ImageStore(tmp_path / "home/images")
    (tmp_path / "umoci").mkdir()
    load(found, umoci_layout(tmp_path / "umoci"), name="team/app")
    config = ImageConfig(command=("/bin/tool",), environment={"A": "b"})
    found.import_rootfs(make_root(tmp_path / "root", 200_000), "mine:2", config)
    return found


@pytest.fixture
def podman() -> Iterator[Containers]:
    with Containers("podman") as found:
        yield found


def archived(root: Path) -> dict[bytes, Any]:
    """A tree without the times of the folders that no layer has an entry for."""
    found = tree(root)
    for name in (b".", b"srv"):
        if name in found:
            found[name] = (*found[name][:3], 0, *found[name][4:])
    return found


@pytest.mark.parametrize("style", ["docker", "oci"])
def test_skopeo_reads_it(store: ImageStore, tmp_path: Path, style: str) -> None:
    path = tmp_path / "a.tar"
    save(store, ("team/app:app", "mine:2"), path, style)
    for name in ("team/app:app", "mine:2"):
        inspected = skopeo_inspect(f"oci-archive:{path}:{name}")
        assert inspected["Digest"] == store.get(name).digest
        assert inspected["Layers"] == [layer.digest for layer in store.get(name).layers]
    if style == "docker":
        for name in ("team/app:app", "mine:2"):
            inspected = skopeo_inspect(f"docker-archive:{path}:{name}")
            # docker's archives know layers by what is in them.
            assert inspected["Layers"] == [layer.diff_id for layer in store.get(name).layers]
            copied = tmp_path / f"copied-{name.partition(':')[2]}"
            skopeo_copy(f"docker-archive:{path}:{name}", f"oci:{copied}:x")
            flat, theirs = tmp_path / f"{copied.name}-flat", tmp_path / f"{copied.name}-umoci"
            store.flatten(store.get(name), flat)
            run("umoci", "unpack", "--image", f"{copied}:x", theirs)
            assert archived(flat) == archived(theirs / "rootfs")


@pytest.mark.parametrize("style", ["docker", "oci"])
def test_podman_loads_it(store: ImageStore, tmp_path: Path, podman: Containers, style: str) -> None:
    path = tmp_path / "a.tar"
    save(store, ("mine:2",), path, style)
    said = podman("load", "--input", path)
    assert "mine:2" in said
    format_ = "{{.Config.Cmd}} {{.Config.Env}} {{.RootFS.Layers}}"
    image = said.rpartition("Loaded image: ")[2].strip()
    layers = " ".join(layer.diff_id for layer in store.get("mine:2").layers)
    assert podman("image", "inspect", "--format", format_, image) == (
        f"[/bin/tool] [A=b] [{layers}]"
    )


def test_umoci_reads_a_folder(store: ImageStore, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    save(store, ("team/app:app",), folder, "oci-dir")
    index = json.loads((folder / "index.json").read_bytes())
    assert index["manifests"][0]["digest"] == store.get("team/app:app").digest
    run("umoci", "unpack", "--image", f"{folder}:team/app:app", tmp_path / "theirs")
    store.flatten(store.get("team/app:app"), tmp_path / "flat")
    assert archived(tmp_path / "flat") == archived(tmp_path / "theirs/rootfs")
    with pytest.raises(ImageError, match="is there already"):
        save(store, ("mine:2",), folder, "oci-dir")


@pytest.mark.parametrize("style", ["docker", "oci", "oci-dir"])
def test_we_read_it_ourselves(store: ImageStore, tmp_path: Path, style: str) -> None:
    names = ("mine:2", "team/app:app", "team/app:base")
    save(store, names, tmp_path / "a", style)
    other = ImageStore(tmp_path / "other")
    assert sorted(name for found in load(other, tmp_path / "a") for name in found.names) == [*names]
    for name in names:
        assert other.get(name).digest == store.get(name).digest
        assert [layer.digest for layer in other.get(name).layers] == [
            layer.digest for layer in store.get(name).layers
        ]


def test_equal_images_give_equal_archives(store: ImageStore, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(store, ("team/app:app", "mine:2"), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with tarfile.open(tmp_path / "a") as tar:
        assert all(entry.mtime == 0 and entry.uid == 0 for entry in tar)
        blobs = [name for name in tar.getnames() if name.startswith("blobs/sha256/")]
    # app's two layers, mine's one, and a configuration and a manifest for each.
    assert len(blobs) == len(set(blobs)) == 7


def test_to_the_standard_output(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(store.root.parent))
    result = CliRunner().invoke(save_command, ["mine:2"], catch_exceptions=False)
    assert result.exit_code == 0
    save(store, ("mine:2",), tmp_path / "a")
    assert result.stdout_bytes == (tmp_path / "a").read_bytes()
    result = CliRunner().invoke(save_command, ["nothing:1", "-o", str(tmp_path / "b")])
    assert result.exit_code == 1
    assert result.output.startswith("steelyard: no image 'nothing:1'")


@pytest.mark.parametrize("style", ["docker", "oci-dir"])
def test_nothing_is_left_of_a_failure(store: ImageStore, tmp_path: Path, style: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "kept").write_text("as it was")
    with pytest.raises(ImageNotFoundError):
        save(store, ("mine:2", "nothing:1"), folder / "a", style)
    blob = store.root / "blobs/sha256" / store.get("mine:2").layers[0].digest[7:]
    data = blob.read_bytes()
    for damaged in (data[:-1], b"\1" + data[1:], data + b"\0"):
        blob.write_bytes(damaged)
        with pytest.raises(ImageError, match="is damaged"):
            save(store, ("mine:2",), folder / ("kept" if style == "docker" else "a"), style)
    assert os.listdir(folder) == ["kept"]
    assert (folder / "kept").read_text() == "as it was"
    with pytest.raises(ImageError, match="cannot write"):
        save(store, ("team/app:app",), tmp_path / "no/such/a")


def test_the_target_of_a_link_is_replaced_and_a_fifo_written_through(
    store: ImageStore, tmp_path: Path
) -> None:
    save(store, ("mine:2",), tmp_path / "plain")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "target").write_text("old")
    save(store, ("mine:2",), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == (tmp_path / "plain").read_bytes()
    os.mkfifo(tmp_path / "fifo")
    reader = ["cmp", tmp_path / "fifo", tmp_path / "plain"]
    with subprocess.Popen(reader) as process:
        save(store, ("mine:2",), tmp_path / "fifo")
        assert process.wait(30) == 0
    assert (tmp_path / "fifo").is_fifo()
    (tmp_path / "folder").symlink_to("layout")
    save(store, ("mine:2",), tmp_path / "folder", "oci-dir")
    assert (tmp_path / "folder").is_symlink()
    assert (tmp_path / "layout/index.json").is_file()


def test_a_standard_output_that_fails(store: ImageStore, tmp_path: Path) -> None:
    program = "from harness.cli.main import main; main()"
    command = [sys.executable, "-W", "error", "-c", program, "image", "save", "mine:2"]
    environment = {**os.environ, "STEELYARD_HOME": str(store.root.parent)}
    ours, theirs = os.pipe()
    os.close(ours)
    full = os.open("/dev/full", os.O_WRONLY)
    sentence = "steelyard: cannot write to the standard output: no space left on device\n"
    for stdout, expected in ((theirs, (141, "")), (full, (1, sentence))):
        told = subprocess.run(
            command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, env=environment
        )
        os.close(stdout)
        assert (told.returncode, told.stderr) == expected
