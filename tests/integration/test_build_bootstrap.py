"""`image bootstrap`: a Debian from its packages, the same each time, for root and for others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from runtime.build.bootstrap import (
    Packages,
    bootstrap_image,
    clamp_times,
    mmdebstrap_command,
    remove_traces,
)
from runtime.errors import ImageError
from runtime.images import ImageStore


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


def test_command_lines() -> None:
    packages = Packages("bookworm", "minbase", ("jq", "curl"), "http://mirror.example/debian")
    command = mmdebstrap_command(Path("/x"), packages, root=True)
    assert command[: command.index("mmdebstrap")] == [
        "setpriv", "--pdeathsig", "KILL",
        "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL",
    ]  # fmt: skip
    assert {"--mode=root", "--variant=minbase", "--include=jq,curl"} <= set(command)
    assert command[-3:] == ["bookworm", "/x", "http://mirror.example/debian"]
    assert not any(word.startswith("--skip") for word in command)
    extract = mmdebstrap_command(Path("/x"), Packages("sid", "extract"), root=False)
    assert {"--map-root-user", "--mode=chrootless", "--variant=extract"} <= set(extract)
    assert extract[-2:] == ["sid", "/x"]
    unshare = mmdebstrap_command(Path("/x"), Packages("sid"), root=False)
    assert {"--mode=unshare", "--variant=minbase"} <= set(unshare)


def test_traces_go_and_folders_stay(tmp_path: Path) -> None:
    for name in ("etc/hostname", "etc/machine-id", "etc/passwd", "etc/passwd-", "dev/null",
                 "run/lock/x", "var/log/apt/term.log", "var/log/dpkg.log", "var/lib/dpkg/status",
                 "var/lib/dpkg/status-old", "var/lib/apt/lists/deb", "tmp/x"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "etc/resolv.conf").symlink_to("/nowhere")
    remove_traces(tmp_path)
    clamp_times(tmp_path, 1000)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {
        "dev", "etc", "etc/machine-id", "etc/passwd", "run", "tmp", "var", "var/lib", "var/lib/apt",
        "var/lib/apt/lists", "var/lib/dpkg", "var/lib/dpkg/status", "var/log", "var/log/apt",
    }  # fmt: skip
    assert (tmp_path / "etc/machine-id").read_bytes() == b""
    assert {path.lstat().st_mtime for path in tmp_path.rglob("*")} == {1000.0}


@pytest.mark.parametrize(
    ("base", "fields", "message"),
    [
        ("fedora:40", {}, "write debian:bookworm"),
        ("debian:", {}, "write debian:bookworm"),
        ("debian:--x", {}, "write debian:bookworm"),
        ("debian:sid", {"include": ("a,b",)}, "'a,b' is no name of a package"),
        ("debian:sid", {"reference": "UPPER"}, "lower-case"),
    ],
)
def test_mistakes(base: str, fields: dict[str, object], message: str, store: ImageStore) -> None:
    with pytest.raises(ImageError, match=message):
        bootstrap_image(store, base, lambda _: None, **fields)  # type: ignore[arg-type]
    assert not store.root.exists()


def test_twice_the_same_image(store: ImageStore, tmp_path: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed")
    said: list[str] = []
    fields = {"variant": "extract", "include": ("busybox-static",), "reference": "tiny"}
    try:
        image = bootstrap_image(store, "debian:bookworm", said.append, **fields)  # type: ignore[arg-type]
    except ImageError as error:
        pytest.skip(f"no Debian mirror can be reached: {error}")
    assert said[0] == "fetching Debian bookworm packages with mmdebstrap"
    # Made of packages that are unpacked later than the first ones, by seconds.
    other = ImageStore(tmp_path / "other")
    again = bootstrap_image(other, "bookworm", said.append, **fields)  # type: ignore[arg-type]
    assert (again.digest, image.reference) == (image.digest, "tiny:latest")
    rootfs = image.lowerdirs[0]
    assert os.readlink(rootfs / "bin") == "usr/bin"
    assert (rootfs / "usr/bin/busybox").is_file()
    assert os.listdir(rootfs / "dev") == []
    assert image.config.command == ("sh",)
