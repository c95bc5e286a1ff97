"""The same Containerfile built by buildah and by us gives the same tree."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime import BuildRequest, build_image
from runtime.images import ImageStore
from tests.support.tars import tree

BUSYBOX = Path("/bin/busybox")
# What buildah's chroot isolation leaves in an image that does not have it, and the root itself.
LEFT_BY_BUILDAH = {b".", b"dev", b"proc", b"sys", b"run", b"etc/hostname", b"etc/hosts",
                   b"etc/resolv.conf"}  # fmt: skip

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.usefixtures("can_run"),
    pytest.mark.skipif(shutil.which("buildah") is None, reason="buildah is not installed"),
    pytest.mark.skipif(not BUSYBOX.exists(), reason="busybox-static is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="buildah with vfs and chroot needs root here"),
]

FILES = """
FROM scratch
COPY busybox /bin/busybox
COPY src /new
COPY --chown=5:6 src/a /p1/p2/f
COPY --chown=5:6 src /p3/p4/
COPY --chmod=604 src /chm
COPY --chmod=604 src/a /chmp/x/f
COPY tofile /f1
COPY todir /d1
COPY tofile todir /d2/
COPY sr* /glob/
COPY src/* /glob2/
COPY ["with blank", "/with blank"]
COPY . /all/
ADD t.tar /t1
ADD t.tar.gz /t2/x
ADD p.gz /p.gz
ADD src/a src/sub /several/
"""
RUNS = """
ARG base=scratch
FROM $base AS one
ARG who=world
ENV greeting="hello ${who}" \\
    other=${greeting:-none}
COPY busybox /bin/
RUN ["/bin/busybox", "mkdir", "-p", "-m", "777", "/exist", "/exist/sub", "/folder", "/tmp"]
RUN ["/bin/busybox", "sh", "-c", "busybox --install -s /bin; busybox touch -d @1000 /bin/*"]
RUN ln -s /folder /lnk && chown 7:8 /exist/sub && echo x > /exist/gone \\
    && echo y > /exist/sub/gone \\
    # a comment in the middle
    && echo "$greeting, $other" > /exist/said && touch -d @1000 /exist/said
COPY src /exist
COPY src/a /lnk
RUN rm -r /exist/gone /exist/sub && mkdir /exist/sub && echo z > /exist/sub/new \\
    && touch -d @1000 /exist/sub/new
RUN ln /exist/said /exist/linked && chmod 4755 /exist/said && mkfifo /exist/pipe \\
    && touch -d @1000 /exist/pipe && mv /exist/rel /exist/relocated && rm -rf /folder \\
    && echo f > /folder && touch -d @1000 /folder && ln -s nowhere /dangling \\
    && touch -h -d @1000 /dangling
WORKDIR /w/d
USER 12:13
WORKDIR rel
COPY src/a .
RUN id -u > /tmp/id && touch -d @1000 /tmp/id
FROM scratch
COPY busybox /bin/busybox
COPY --from=one /exist /exist
COPY --from=0 /tmp/id /lnk /own/
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    (folder / "src/sub").mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "busybox")
    (folder / "src/a").write_text("a\n")
    (folder / "src/sub/b").write_text("b\n")
    (folder / "with blank").write_text("blank\n")
    (folder / "src").chmod(0o750)
    (folder / "src/sub").chmod(0o700)
    (folder / "src/a").chmod(0o640)
    for name in ("src", "src/a", "src/sub", "src/sub/b"):
        os.chown(folder / name, 1000, 1001)
    (folder / "src/rel").symlink_to("a")
    (folder / "tofile").symlink_to("src/a")
    (folder / "todir").symlink_to("src")
    for name in ("t.tar", "t.tar.gz"):
        with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w") as archive:
            archive.add(folder / "src", ".")
    (folder / "p.gz").write_bytes(gzip.compress(b"plain\n", mtime=0))
    (folder / ".dockerignore").write_text(
        "# comment\n*.gz\n!p.gz\n!t.tar.gz\nsecret*\n**/ignored\n"
    )
    (folder / "secret.key").write_text("secret\n")
    (folder / "src/sub/ignored").write_text("ignored\n")
    for path in (folder, *folder.rglob("*")):
        # Whole seconds, since buildah rounds.
        os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    return folder


@pytest.fixture
def buildah(tmp_path: Path) -> Callable[..., dict[bytes, Any]]:
    """Build with buildah, and give the tree."""

    def call(*arguments: str | Path) -> str:
        command = ["buildah", "--root", tmp_path / "b", "--runroot", tmp_path / "br", *arguments]
        environment = {**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_FORMAT": "oci"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            if "not permitted" in done.stderr:
                pytest.skip(f"buildah: {done.stderr.strip().splitlines()[-1]}")
            raise AssertionError(done.stderr)
        return done.stdout.strip()

    def build(context: Path, file: Path) -> dict[bytes, Any]:
        call(
            "bud",
            "--isolation",
            "chroot",
            "--network",
            "host",
            "-q",
            "-f",
            file,
            "-t",
            "x",
            context,
        )
        container = call("from", "--pull-never", "x")
        try:
            return tree(Path(call("mount", container)))
        finally:
            call("rm", container)
            call("rmi", "--all")

    return build


def comparable(found: dict[bytes, Any]) -> dict[bytes, Any]:
    """Without the times of folders, which say when each builder came by, and buildah's remains."""
    result = {}
    for name, (kind, mode, owner, mtime_ns, links, xattrs, content, first) in found.items():
        if name in LEFT_BY_BUILDAH:
            continue
        mtime_s = 0 if kind == stat.S_IFDIR else mtime_ns // 1_000_000_000
        result[name] = (kind, oct(mode), owner, mtime_s, links, xattrs, content, first)
    return result


@pytest.mark.parametrize(("text", "several"), [(FILES, False), (RUNS, True)], ids=["files", "runs"])
def test_buildah_gives_the_same_tree(
    text: str,
    several: bool,
    context: Path,
    tmp_path: Path,
    buildah: Callable[..., dict[bytes, Any]],
) -> None:
    file = tmp_path / "Containerfile"
    file.write_text(text)
    store = ImageStore(tmp_path / "store")
    image = build_image(BuildRequest(context, file, ("x",)), store=store)
    ours = tmp_path / "ours"
    store.flatten(image, ours)
    theirs = comparable(buildah(context, file))
    mine = comparable(tree(ours))
    assert sorted(mine) == sorted(theirs)
    assert {name: mine[name] for name in mine if mine[name] != theirs[name]} == {
        name: theirs[name] for name in mine if mine[name] != theirs[name]
    }
    assert len(mine) > (10 if several else 60)
