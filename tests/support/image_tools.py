"""The peers' own image tools, each with its state in a folder of the test."""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

NO_TLS_FROM, NO_TLS_TO = "--src-tls-verify=false", "--dest-tls-verify=false"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Its output; what it said is in the message if it fails."""
    argv = list(map(str, command))
    done = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr or done.stdout}"
    return done.stdout


def make_root(folder: Path, size_bytes: int = 3_000_000) -> Path:
    """A root filesystem of a few files, the same every time."""
    (folder / "etc").mkdir(parents=True)
    (folder / "usr/bin").mkdir(parents=True)
    (folder / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (folder / "usr/bin/tool").write_bytes(random.Random(size_bytes).randbytes(size_bytes))
    (folder / "usr/bin/tool").chmod(0o4755)
    (folder / "usr/bin/other").hardlink_to(folder / "usr/bin/tool")
    (folder / "bin").symlink_to("usr/bin")
    for path in sorted(folder.rglob("*"), reverse=True):
        os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    return folder


def umoci_layout(folder: Path) -> Path:
    """A layout with the images `base` and, one layer above it, `app`."""
    root, layout, tar = make_root(folder / "root"), folder / "layout", folder / "base.tar"
    run("tar", "-cf", tar, "-C", root, ".")
    (folder / "srv").mkdir()
    (folder / "srv/file").write_text("hello\n")
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:base")
    run("umoci", "raw", "add-layer", "--image", f"{layout}:base", tar)
    run("umoci", "config", "--image", f"{layout}:base", "--config.cmd", "/bin/sh")
    run("umoci", "insert", "--image", f"{layout}:base", "--tag", "app", folder / "srv", "/srv/app")
    return layout


def skopeo_copy(source: str, target: str, *options: str) -> None:
    # No policy file of the machine, no credentials of whoever runs the tests.
    run("skopeo", "--insecure-policy", "copy", *options, source, target)


def skopeo_inspect(where: str, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("skopeo", "inspect", *options, where))
    return found


class Containers:
    """podman or buildah with storage of its own; podman wants short names for that.

    Args:
        program: Which.
    """

    def __init__(self, program: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="steelyard-")
        root = Path(self._folder.name)
        self._command: tuple[str | Path, ...] = (
            program, "--root", root / "root", "--runroot", root / "run",
            "--storage-driver", "vfs",
        )  # fmt: skip
        if program == "podman":
            self._command += ("--tmpdir", root / "tmp", "--events-backend", "none")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def __call__(self, *arguments: str | Path) -> str:
        return run(*self._command, *arguments).strip()
