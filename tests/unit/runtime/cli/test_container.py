"""Mistakes in what was typed, each told in one sentence before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from runtime.cli.common import assignments
from runtime.cli.container import container, memory_size
from runtime.containers.from_image import check_volume, spec_for_image
from runtime.errors import ContainerError
from runtime.images import Image, ImageConfig, ImageStore
from runtime.launch.spec import DEFAULT_PATH, Volume


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which nothing may appear: none of these commands gets so far."""
    home = tmp_path / "home"
    monkeypatch.setenv("STEELYARD_HOME", str(home))
    return home


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--memory", "lots"), "'lots' is not a size; write a number and b, k, m or g, as in 512m"),
        (("--memory", ""), "'' is not a size"),
        (("--memory", "-5m"), "'-5m' is not a size"),
        (("--memory", "512mm"), "'512mm' is not a size"),
        (("-m", "4k"), "4k is less than 1m, in which nothing runs"),
        (("-m", "0"), "'0' is nothing"),
        (("--cpus", "0"), "0.0 is not in the range"),
        (("--cpus", "-1"), "-1.0 is not in the range"),
        (("--cpus", "inf"), "inf is not in the range"),
        (("--cpus", "two"), "'two' is not a valid float"),
        (("--pids-limit", "0"), "0 is not in the range"),
        (("--pids-limit", "1.5"), "'1.5' is not a valid integer"),
        (("-v", "/tmp"), "'/tmp' is not SOURCE:TARGET[:ro], where TARGET is absolute"),
        (("-v", ":/x"), "':/x' is not SOURCE:TARGET"),
        (("-v", "/tmp:x"), "'/tmp:x' is not SOURCE:TARGET"),
        (("-v", "/tmp:/x:rx"), "'/tmp:/x:rx' is not SOURCE:TARGET"),
        (("-v", "/tmp:/x:ro:ro"), "is not SOURCE:TARGET"),
        (("-v", "/tmp:/"), "would hide the whole container: TARGET cannot be /"),
        (("-v", "/tmp://"), "would hide the whole container"),
        (("-v", "/absent-here:/x"), "/absent-here does not exist on this machine; make it first"),
        (("-e", "=value"), "'=value' has no name before the '='"),
        (("--name", "a/b"), "'a/b' is no container name: use up to 63 letters"),
        (("--name", ""), "'' is no container name"),
        (("--name", "-x"), "'-x' is no container name"),
        (("--name", "x" * 64), "is no container name"),
        (("--name", "../x"), "'../x' is no container name"),
        (("-w", "relative"), "'relative' is not absolute"),
        (("--network", "bridge"), "'bridge' is not one of 'none', 'host'"),
        (("--privileged",), "No such option"),
        (("--hostname", "x" * 65), "a host name has 1 to 64 bytes"),
    ],
)
def test_mistakes(
    command: str, arguments: tuple[str, ...], sentence: str, empty_home: Path
) -> None:
    result = CliRunner().invoke(container, [command, *arguments, "busybox", "true"])
    # As docker: what fails before the command runs must not look like the command's own failure.
    assert result.exit_code == (125 if command == "run" else 2)
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert sentence in errors[0]
    assert not empty_home.exists()


@pytest.mark.parametrize("command", ["run", "plan"])
def test_an_image_is_needed(command: str) -> None:
    result = CliRunner().invoke(container, [command])
    assert result.exit_code == (125 if command == "run" else 2)
    assert "Missing argument 'IMAGE'" in result.output


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 1 << 20), ("1048576b", 1 << 20), ("1024k", 1 << 20), ("512m", 512 << 20),
        ("512M", 512 << 20), ("1g", 1 << 30), ("1.5G", 3 << 29), ("2t", 2 << 40),
        ("64MiB", 64 << 20), ("64mb", 64 << 20), (" 1 GiB ", 1 << 30),
    ],
)  # fmt: skip
def test_sizes_are_dockers(text: str, size: int) -> None:
    assert memory_size(None, None, text) == size


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKEN", "mine")
    monkeypatch.delenv("ABSENT", raising=False)
    words = ("A=1", "B=", "C=x=y", "TAKEN", "ABSENT", "A=2")
    assert assignments(words, "-e") == {"A": "2", "B": "", "C": "x=y", "TAKEN": "mine"}


def test_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    asked = (f"{tmp_path}:/a/../b/", "file:/f:ro", ".:/here:rw")
    assert tuple(map(check_volume, asked)) == (
        Volume(str(tmp_path), "/b"),
        Volume(str(tmp_path / "file"), "/f", read_only=True, is_directory=False),
        Volume(str(tmp_path), "/here"),
    )


def test_help_names_every_option() -> None:
    text = CliRunner().invoke(container, ["run", "--help"]).output
    for option in ("--rm", "--env", "--workdir", "--user", "--volume", "--memory", "--cpus",
                   "--pids-limit", "--hostname", "--name", "--network", "--read-only",
                   "--entrypoint"):  # fmt: skip
        assert option in text


# --- an image's defaults and the user's wishes ---


@pytest.fixture
def store_and_image(tmp_path: Path) -> tuple[ImageStore, Image]:
    rootfs = tmp_path / "rootfs"
    (rootfs / "etc").mkdir(parents=True)
    (rootfs / "etc/passwd").write_text("app:x:12:34::/srv/app:/bin/sh\n")
    store = ImageStore(tmp_path / "store")
    config = ImageConfig(
        environment={"IMAGE": "1", "HOSTNAME": "images"}, entrypoint=("run",), command=("cmd",),
        working_directory="/w", user="app",
    )  # fmt: skip
    return store, store.import_rootfs(rootfs, "app", config)


@pytest.mark.parametrize(
    ("command", "entrypoint", "argv"),
    [
        ((), None, ("run", "cmd")),
        (("mine",), None, ("run", "mine")),
        ((), ("other",), ("other",)),
        (("mine",), ("other",), ("other", "mine")),
        (("mine",), (), ("mine",)),
    ],
)
def test_command_and_entry_point(
    store_and_image: tuple[ImageStore, Image],
    command: tuple[str, ...],
    entrypoint: tuple[str, ...] | None,
    argv: tuple[str, ...],
) -> None:
    store, image = store_and_image
    assert spec_for_image(image, store, command=command, entrypoint=entrypoint).command == argv


def test_nothing_to_run(store_and_image: tuple[ImageStore, Image]) -> None:
    store, image = store_and_image
    with pytest.raises(ContainerError, match=r"image .*app.* names no command; give one after it"):
        spec_for_image(image, store, entrypoint=())


def test_environment_user_and_directory(store_and_image: tuple[ImageStore, Image]) -> None:
    store, image = store_and_image
    spec = spec_for_image(image, store, environment={"MINE": "2"}, hostname="box")
    assert dict(spec.environment) == {
        "PATH": DEFAULT_PATH, "HOSTNAME": "images", "HOME": "/srv/app", "IMAGE": "1", "MINE": "2",
    }  # fmt: skip
    assert (spec.user.uid, spec.user.gid) == (12, 34)
    assert spec.working_directory == "/w"
    spec = spec_for_image(image, store, user="5:6", working_directory="/x")
    assert (spec.user.uid, spec.user.gid, spec.working_directory) == (5, 6, "/x")
    assert spec.environment["HOME"] == "/"


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("-it", "standard input is connected anyway"),
        ("--tty", "no terminal of their own yet"),
        ("-d", "put & behind the command"),
        ("--publish", "--network host shares the host's"),
    ],
)
def test_what_hands_used_to_docker_type(option: str, advice: str, empty_home: Path) -> None:
    result = CliRunner().invoke(container, ["run", option, "busybox", "true"])
    assert result.exit_code == 125
    assert advice in result.output
    assert "did you mean" not in result.output.lower()
    assert not empty_home.exists()
