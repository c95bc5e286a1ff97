"""Layers, volumes and odd names: what is mounted, and what reaches the host."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from runtime.containers.container import launch_container
from runtime.containers.session import Session
from runtime.errors import UnsupportedError
from runtime.launch import overlay
from runtime.launch.launcher import Launcher
from runtime.launch.spec import ContainerSpec, User, Volume
from tests.support.containers import Run, make_rootfs, overlay_root

pytestmark = [pytest.mark.privileged, pytest.mark.usefixtures("leaves_nothing")]


def test_volume_for_writing(run: Run, launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host\n")
    result = run(
        "sh", "-c", "cat /data/in; echo back > /data/out", launcher=launcher,
        volumes=(Volume(str(tmp_path), "/data"),),
    )  # fmt: skip
    assert result.output == "from the host\n"
    assert (tmp_path / "out").read_text() == "back\n"


def test_volume_for_reading(run: Run, launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("x\n")
    result = run(
        "sh", "-c", "cat /data/in; echo y > /data/in; mount -o remount,rw /data; echo y > /data/in",
        launcher=launcher, volumes=(Volume(str(tmp_path), "/data", read_only=True),),
    )  # fmt: skip
    assert result.output.splitlines()[0] == "x"
    assert result.output.count("Read-only file system") == 2
    assert (tmp_path / "in").read_text() == "x\n"


def test_volume_of_one_file_over_a_file_of_the_image(
    run: Run, launcher: Launcher, tmp_path: Path, rootfs: Path
) -> None:
    before = (rootfs / "etc/passwd").read_text()
    file = tmp_path / "file"
    file.write_text("mine\n")
    result = run(
        "sh", "-c", "cat /etc/passwd; echo more >> /etc/passwd", launcher=launcher,
        volumes=(Volume(str(file), "/etc/passwd", is_directory=False),),
    )  # fmt: skip
    assert result.output == "mine\n"
    assert file.read_text() == "mine\nmore\n"
    assert (rootfs / "etc/passwd").read_text() == before


def test_volumes_upon_volumes_in_order(run: Run, launcher: Launcher, tmp_path: Path) -> None:
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    result = run(
        "sh", "-c", "ls /data /data/deep/er", launcher=launcher, read_only_root=True,
        volumes=(
            Volume(str(tmp_path / "outer"), "/data"),
            Volume(str(tmp_path / "inner"), "/data/deep/er"),
        ),
    )  # fmt: skip
    assert result.output.split() == ["/data:", "deep", "outer", "/data/deep/er:", "inner"]


def test_most_volumes_and_one_more(
    run: Run, can_run: None, rootfs: Path, tmp_path: Path, launcher: Launcher
) -> None:
    volumes = tuple(Volume(str(tmp_path), f"/v/{number}") for number in range(56))
    assert run("sh", "-c", "ls /v | wc -l", volumes=volumes, launcher=launcher).output == "56\n"
    too_many = (*volumes, Volume(str(tmp_path), "/v/last"))
    with pytest.raises(UnsupportedError, match="57 volumes are more than the 56"):
        launch_container(ContainerSpec(overlay_root(rootfs), ("true",), volumes=too_many))


def test_working_directory_is_made_and_belongs_to_root(run: Run, launcher: Launcher) -> None:
    result = run(
        "sh", "-c", "pwd; stat -c '%u %a' . ; touch x 2>&1", working_directory="/a/b/../c/",
        user=User(1000, 1000), launcher=launcher,
    )  # fmt: skip
    lines = result.output.splitlines()
    assert lines[:2] == ["/a/c", "0 755"]
    assert "Permission denied" in lines[2]


def test_many_layers(run: Run, rootfs: Path, tmp_path: Path, launcher: Launcher) -> None:
    layers = []
    for number in range(130):
        layer = tmp_path / f"layer-with-a-name-as-long-as-a-digest-{number:04}"
        (layer / "layers").mkdir(parents=True)
        (layer / "layers" / str(number)).write_text("")
        (layer / "top").write_text(f"{number}\n")
        layers.append(layer)
    root = overlay_root(*layers, rootfs)
    assert not overlay.fits_one_page(root)
    result = run("sh", "-c", "ls /layers | wc -l; cat /top; echo > /new", root=root,
                 launcher=launcher)  # fmt: skip
    assert result.output.split() == ["130", "0"]
    assert any(step.label.startswith("name layer") for step in result.container.plan.steps)


@pytest.mark.parametrize("name", ["a,b", "a:b", "back\\slash", "sp ace", "ü", 'quo"te', "a\\,b:c"])
@pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
def test_odd_characters_in_paths(
    run: Run, rootfs: Path, tmp_path: Path, launcher: Launcher, name: str, many: bool
) -> None:
    release = tuple(int(part) for part in platform.release().split(".")[:2])
    if many and release < (6, 8):
        pytest.skip("overlay takes layers one by one since Linux 6.8")
    layer = tmp_path / name
    layer.mkdir()
    (layer / "found").write_text("it\n")
    padding = []
    for number in range(30 if many else 0):
        padding.append(tmp_path / f"{'x' * 120}{number}")
        padding[-1].mkdir()
    home = tmp_path / f"home {name}"
    session = Session(home)
    try:
        spec = ContainerSpec(
            overlay_root(layer, *padding, rootfs), ("sh", "-c", "cat /found > /copy"),
            {"PATH": "/bin"},
        )  # fmt: skip
        container = launch_container(spec, session=session, launcher=launcher)
        status = container.wait()
        assert status is not None
        assert status.code == 0
        assert Path(container.upperdir or "", "copy").read_text() == "it\n"
        container.remove()
        assert sorted(os.listdir(session.directory)) == [".lock", ".rootfs"]
    finally:
        session.close()
    assert os.listdir(home / "instances") == []


def test_an_image_without_any_mount_point(run: Run, tmp_path: Path, launcher: Launcher) -> None:
    bare = make_rootfs(tmp_path / "bare")
    assert not (bare / "proc").exists()
    result = run("ls", "/", root=overlay_root(bare), launcher=launcher)
    assert set(result.output.split()) >= {"proc", "sys", "dev"}
    assert not (bare / "proc").exists()
