"""The images that come with Steelyard, and the `image` commands, as a user meets them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runtime.build import shipped
from runtime.build.shipped import SHIPPED_IMAGES, ensure_image
from runtime.cli.image import image as command_group
from runtime.errors import ImageError, ImageNotFoundError
from runtime.images import ImageStore
from tests.support.tars import make_tar, member, tree

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command_group, list(arguments))


def need_busybox() -> None:
    if not Path("/bin/busybox").exists():
        pytest.skip("busybox-static is not installed")


def chroot(rootfs: Path, *command: str) -> str:
    result = subprocess.run(
        ["chroot", rootfs, *command], capture_output=True, text=True, check=False
    )
    if "not permitted" in result.stderr:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_busybox_is_reproducible_and_runs(home: Path, tmp_path: Path) -> None:
    need_busybox()
    said: list[str] = []
    image = ensure_image("busybox", progress=said.append)
    assert said
    assert all(message.startswith("busybox: ") for message in said)
    assert ensure_image("busybox:latest", progress=said.append) == image
    again = ensure_image("busybox", store=ImageStore(tmp_path / "other"))
    assert again.digest == image.digest
    rootfs = image.lowerdirs[0]
    # Both may have been made in one second: no time of making is in it either.
    assert max(path.lstat().st_mtime for path in rootfs.rglob("*")) <= shipped.EPOCH_S
    assert image.config.command == ("sh",)
    assert {"bin", "dev", "etc", "proc", "root", "sbin", "sys", "tmp", "usr"} <= set(
        os.listdir(rootfs)
    )
    assert chroot(rootfs, "/bin/sh", "-c", "id -un; ls / | wc -l").split()[0] == "root"
    owners = {value[2] for value in tree(rootfs).values()}
    assert owners == {(0, 0)} if os.geteuid() == 0 else owners
    assert os.listdir(home / "images/tmp") == []


def test_debian_python_serves_http_as_it_is(home: Path, tmp_path: Path) -> None:
    """Made from packages of whatever mirror this machine has; the one slow test here."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed")
    said: list[str] = []
    try:
        image = ensure_image("debian-python", progress=said.append)
    except ImageError as error:
        pytest.skip(f"no Debian mirror can be reached: {error}")
    assert "debian-python: downloading packages with apt" in said
    # It stands on debian-base and shares its layer.
    base = ImageStore.default().get("debian-base")
    assert image.layers[:-1] == base.layers
    assert not list(image.layers[-1].path.glob("usr/lib/*/libc.so.6"))
    rootfs = tmp_path / "rootfs"
    ImageStore.default().flatten(image, rootfs)
    for name in ("bin", "sbin", "lib", "lib64"):
        assert os.readlink(rootfs / name) == f"usr/{name}"
    assert os.listdir(rootfs / "dev") == []
    assert not (rootfs / "etc/hostname").exists()
    newest = max(path.lstat().st_mtime for path in rootfs.rglob("*"))
    assert newest <= 1735689600
    serve = (
        "import http.server, threading, urllib.request as r\n"
        "s = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n"
        "threading.Thread(target=s.serve_forever, daemon=True).start()\n"
        "print(r.urlopen(f'http://127.0.0.1:{s.server_port}/etc/passwd').read().decode())"
    )
    assert "root:x:0:0" in chroot(rootfs, "python3", "-c", serve)
    # What it imports is compiled already, and valid: nothing is written when it starts.
    result = subprocess.run(
        ["chroot", rootfs, "python3", "-v", "-c", "import http.server"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert " matches " in result.stderr
    assert "wrote" not in result.stderr
    assert "busybox" in chroot(rootfs, "sh", "-c", "readlink /bin/sh").strip()


def test_unknown_images_are_not_made(home: Path) -> None:
    with pytest.raises(ImageNotFoundError, match="nothing-like-it"):
        ensure_image("nothing-like-it")
    with pytest.raises(ImageNotFoundError):
        ensure_image("busybox:1.36")
    assert set(SHIPPED_IMAGES) == {"busybox", "debian-base", "debian-python"}


def test_missing_tools_are_named_with_their_package(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "_BUSYBOX_PATHS", (tmp_path / "none",))
    with pytest.raises(ImageError, match="package busybox-static"):
        ensure_image("busybox")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="package mmdebstrap"):
        ensure_image("debian-python")
    assert os.listdir(home / "images/tmp") == []


def test_failure_of_mmdebstrap_is_one_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed")
    monkeypatch.setattr(shipped, "_SUITE", "no-such-suite")
    with pytest.raises(ImageError, match="mmdebstrap could not unpack Debian no-such") as caught:
        ensure_image("debian-python")
    assert "\n" not in str(caught.value)
    assert os.listdir(home / "images/tmp") == []
    assert ImageStore.default().images() == ()


def processes_naming(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and text in (entry / "cmdline").read_text(errors="replace"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_nothing_survives_a_kill_while_mmdebstrap_runs(home: Path, tmp_path: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed")
    code = (
        "from runtime.images import ImageStore\n"
        "from runtime.build.shipped import ensure_image\n"
        "ensure_image('debian-python', progress=lambda m: print(m, flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "apt-get update" in line:
                break
        else:
            pytest.skip("mmdebstrap ended before it fetched anything; no mirror can be reached")
        until = time.monotonic() + 10
        while not processes_naming(str(home)):
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (left := processes_naming(str(home))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    assert str(home) not in Path("/proc/self/mountinfo").read_text()
    need_busybox()
    ensure_image("busybox")
    assert os.listdir(home / "images/tmp") == []


# The command line.


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(make_tar(member("bin/sh", data=b"#!" * 5000, mtime=1_700_000_000)))
    return path


def test_import_ls_inspect_rm(home: Path, archive: Path) -> None:
    options = ["--env", "A=b=c", "--cmd", "sh -c 'echo hi'", "--entrypoint", '["/init", "a b"]']
    result = run("import", str(archive), "app:1", *options, "--workdir", "/srv", "--user", "1:2")
    assert result.exit_code == 0, result.output
    digest = result.stdout.strip()
    assert digest.startswith("sha256:")

    header, row = run("ls").stdout.splitlines()
    assert header.split()[:4] == ["REFERENCE", "DIGEST", "LAYERS", "SIZE"]
    assert row.split()[:3] == ["app:1", digest[7:19], "1"]
    assert row.endswith(" ago")

    (listed,) = json.loads(run("ls", "--format", "json").stdout)
    assert (listed["reference"], listed["digest"]) == ("app:1", digest)
    assert listed["created"] == "2023-11-14T22:13:20Z"

    details = json.loads(run("inspect", digest[7:15]).stdout)
    assert details["config"] == {
        "Env": ["A=b=c"],
        "Cmd": ["sh", "-c", "echo hi"],
        "Entrypoint": ["/init", "a b"],
        "WorkingDir": "/srv",
        "User": "1:2",
    }
    assert Path(details["layers"][0]["path"], "bin/sh").stat().st_size == 10000

    result = run("rm", "app:1", "other")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "Untagged: app:1"
    assert f"Deleted: {digest}" in lines
    assert lines[-1].startswith("Freed: ")
    assert result.stderr.startswith("steelyard: no image 'other'")
    assert [line.split() for line in run("ls").stdout.splitlines()] == [header.split()]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["inspect", "nothing"], 1, "steelyard: no image 'nothing'"),
        (["inspect", "BAD"], 1, "names are lower-case"),
        (["rm"], 2, "Missing argument"),
        (["import", "/nonexistent", "a"], 2, "does not exist"),
        (["import", "ARCHIVE", "A"], 1, "names are lower-case"),
        (["import", "ARCHIVE", "a", "-e", "novalue"], 2, "NAME=VALUE"),
        (["import", "ARCHIVE", "a", "--cmd", "'open"], 2, "No closing quotation"),
        (["import", "ARCHIVE", "a", "--cmd", "[1]"], 2, "strings only"),
        (["import", "ARCHIVE", "a", "-w", "relative"], 2, "must be absolute"),
        (["import", "/dev/null", "a"], 1, "neither a tar file nor a folder"),
    ],
)
def test_errors_are_sentences_on_stderr(
    home: Path, archive: Path, arguments: list[str], code: int, message: str
) -> None:
    result = run(*[str(archive) if word == "ARCHIVE" else word for word in arguments])
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_an_unusable_store_is_one_sentence(home: Path, archive: Path) -> None:
    home.mkdir()
    (home / "images").write_text("in the way")
    result = run("import", str(archive), "app")
    assert result.exit_code == 1
    assert result.stderr.startswith("steelyard: image store ")
    assert len(result.stderr.splitlines()) == 1
