"""What a container changed: `container diff`, `container commit`, and containers kept for them."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.containers.container import Container, launch_container, writable_root
from runtime.containers.kept_containers import (
    get_kept,
    keep,
    kept_containers,
    kept_images,
    remove_container,
)
from runtime.containers.session import Session
from runtime.errors import ContainerError, ImageError
from runtime.images import ImageConfig, ImageStore
from runtime.images.layer.changes import read_changes
from runtime.images.layer.source import PieceStream
from runtime.launch.spec import ContainerSpec, OverlayRoot
from tests.support.tars import CHR, DIR, LINK, SYM, make_tar, member, tree

PROJECT = Path(__file__).parents[2]

pytestmark = pytest.mark.privileged

BELOW = (
    member("bin/", DIR),
    member("d/", DIR, mode=0o750, uid=7),
    member("d/a", data=b"a"),
    member("d/sub/", DIR),
    member("d/sub/b", data=b"b"),
    member("gone/", DIR),
    member("gone/x", data=b"x"),
    member("gone/y", data=b"y"),
    member("file", data=b"file"),
    member("hard", LINK, linkname="file"),
    member("link", SYM, linkname="d/a"),
    member("same", data=b"same"),
    member("tmp/", DIR, mode=0o1777),
    member("other/", DIR),
    member("other/z", data=b"z"),
)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "home/images")


@pytest.fixture
def changed(
    can_run: None, store: ImageStore, tmp_path: Path, rootfs: Path
) -> Callable[[str], tuple[Any, tuple[Path, ...], Path]]:
    """Run a script above the layers; gives the changes, the lowerdirs and the upperdir."""
    archive = tmp_path / "below.tar"
    archive.write_bytes(make_tar(*BELOW))
    lower = store.import_rootfs(archive, "below").lowerdirs
    busybox = store.import_rootfs(rootfs, "busybox").lowerdirs
    session = Session.current()

    def call(script: str) -> tuple[Any, tuple[Path, ...], Path]:
        folder = tmp_path / f"container-{len(list(tmp_path.glob('container-*')))}"
        folder.mkdir()
        lowerdirs = (*lower, *busybox)
        root = OverlayRoot(tuple(map(str, lowerdirs)), "", "", "")
        root = writable_root(session, str(folder), root)
        spec = ContainerSpec(root, ("sh", "-ec", script), {"PATH": "/bin"})
        container: Container = launch_container(spec)
        status = container.wait()
        container.remove()
        assert status is not None
        assert status.code == 0
        return read_changes(Path(root.upperdir), lowerdirs), lowerdirs, Path(root.upperdir)

    return call


def listed(changes: Any) -> list[str]:
    return [f"{change.kind} {change.path.decode()}" for change in changes]


@pytest.mark.parametrize(
    ("script", "lines", "layer"),
    [
        ("true", [], []),
        ("cat /d/a; ls -lR / > /dev/null", [], []),
        ("echo n > /n", ["A /n"], ["n"]),
        ("mkdir -p /p/q; echo > /p/q/r", ["A /p", "A /p/q", "A /p/q/r"], ["p", "p/q", "p/q/r"]),
        ("echo b > /d/a", ["C /d", "C /d/a"], ["d", "d/a"]),
        ("chmod 600 /d/sub/b", ["C /d", "C /d/sub", "C /d/sub/b"], ["d", "d/sub", "d/sub/b"]),
        ("chmod 700 /d", ["C /d"], ["d"]),
        ("rm /same", ["D /same"], [".wh.same"]),
        ("rm -r /gone", ["D /gone"], [".wh.gone"]),
        ("rm /gone/x", ["C /gone", "D /gone/x"], ["gone", "gone/.wh.x"]),
        (
            "rm -r /gone; mkdir /gone; echo > /gone/new; echo y > /gone/y",
            ["C /gone", "A /gone/new", "D /gone/x", "C /gone/y"],
            ["gone", "gone/.wh..wh..opq", "gone/new", "gone/y"],
        ),
        ("rm -r /gone; echo > /gone", ["C /gone"], ["gone"]),
        ("rm /same; mkdir /same; echo > /same/in", ["C /same", "A /same/in"], ["same", "same/in"]),
        ("echo > /t; rm /t", [], []),
        # Opened for writing and not written: copied up, and what it was.
        ("exec 3<> /same; exec 3>&-", [], []),
        ("chmod 644 /same", [], []),
        ("exec 3<> /d/sub/b; exec 3>&-", [], []),
        ("touch -d @5 /link -h", ["C /link"], ["link"]),
        ("ln /other/z /w", ["C /other", "C /other/z", "A /w"], ["other", "other/z", "w"]),
        ("mv /other /moved", ["A /moved", "A /moved/z", "D /other"],
         [".wh.other", "moved", "moved/z"]),
        ("mkfifo /fifo; ln -s x /sym", ["A /fifo", "A /sym"], ["fifo", "sym"]),
    ],
)  # fmt: skip
def test_changes(
    script: str, lines: list[str], layer: list[str], changed: Callable[[str], Any]
) -> None:
    (draft, changes), _, _ = changed(script)
    assert listed(changes) == lines
    assert sorted(b"/".join(parts).decode() for parts in draft.items if parts) == layer


def random_script(seed: int) -> str:
    """What programs do to files, in any order; what cannot be done is passed over."""
    chooser = random.Random(seed)
    folders = ["/", "/d/", "/d/sub/", "/gone/", "/other/", "/tmp/", "/n/"]
    names = ["a", "b", "x", "z", "sub", "same", "file", "hard", "link", "gone", "other", "new"]

    def path() -> str:
        return chooser.choice(folders) + chooser.choice(names)

    lines = ["set +e"]
    for _ in range(40):
        one, other = path(), path()
        lines.append(
            chooser.choice(
                [
                    f"echo {chooser.randrange(99)} > {one}", f"echo more >> {one}",
                    f"rm -rf {one}", f"rm -rf {one}; mkdir {one}", f"mkdir -p {one}/{names[0]}",
                    f"mv {one} {other}", f"ln {one} {other}", f"ln -s {one} {other}",
                    f"chmod {chooser.choice(('700', '4755', '644'))} {one}", f"chown 5:6 {one}",
                    f"timeout 2 cp -a {one} {other}", f"touch -d @{chooser.randrange(99)} {one}",
                    f"mkfifo {one}", f"(exec 3<> {one})",
                ]
            )
        )  # fmt: skip
        if "mkfifo" in lines[-1] or "3<>" in lines[-1]:
            # A shell would wait for ever for the other end of a FIFO.
            lines[-1] = f"[ -p {one} ] || {{ {lines[-1]}; }}"
        elif ">" in lines[-1]:
            lines[-1] = f"[ -p {one} ] || {lines[-1]}"
    return "\n".join([*lines, "true"])


ROUNDS = int(os.environ.get("STEELYARD_ROUNDS", "6"))


@pytest.mark.parametrize(
    "script",
    [
        *(pytest.param(random_script(seed), id=f"random-{seed}") for seed in range(ROUNDS)),
        "rm -r /gone; mkdir /gone; echo > /gone/new; chmod 700 /d; chown 3:4 /d/a; rm /same",
        "rm -r /d; echo > /d; rm /file; mkdir /file; ln /other/z /w; rm /link; ln -s n /link",
        "mv /gone /d/moved; chmod 4755 /same; mkfifo /p; rm -r /other/z; rmdir /other",
        "dd if=/dev/zero of=/big bs=1M count=3; echo x >> /big; ln /big /big2; chmod 711 /",
        "mkdir /a; for i in 1 2 3; do mkdir /a/$i; echo $i > /a/$i/f; done; rm -r /a/2",
    ],
)
def test_a_committed_layer_gives_what_the_container_saw(
    script: str, changed: Callable[[str], Any], store: ImageStore, tmp_path: Path
) -> None:
    """The same tree: overlay's view of the writable layer, and that of the unpacked layer."""
    (draft, _), lowerdirs, upper = changed(script)
    with store.adding() as adder:
        added = adder.add_tar(PieceStream(draft.tar()))
    layer = store.root / "layers/sha256" / added.diff_id.removeprefix("sha256:")
    views = []
    for number, top in enumerate((upper, layer)):
        target = tmp_path / f"view-{number}"
        target.mkdir()
        options = "ro,lowerdir=" + ":".join(map(str, (top, *lowerdirs)))
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, target], check=True)
        try:
            views.append(tree(target))
        finally:
            subprocess.run(["umount", target], check=True)
    for view in views:
        for name in (b"dev", b"proc", b"sys"):
            view.pop(name, None)
        # The runtime made its mount points in it.
        view[b"."] = view[b"."][:3]
    # Overlay shows inode numbers of its own; the names that share a file are compared all the same.
    assert views[0] == views[1]


def test_xattrs_stay_and_those_of_overlay_go(changed: Callable[[str], Any], tmp_path: Path) -> None:
    (_, _), lowerdirs, upper = changed("echo 1 > /x; mkdir /y; rm -r /gone; mkdir /gone")
    os.setxattr(upper / "x", "user.mine", b"1")
    os.setxattr(upper / "x", "trusted.overlay.origin", b"1")
    os.setxattr(upper / "x", "security.selinux", b"1")
    draft, _ = read_changes(upper, lowerdirs)
    assert dict(draft.items[(b"x",)].xattrs) == {"user.mine": b"1"}
    assert dict(draft.items[(b"gone",)].xattrs) == {}
    os.setxattr(upper / "y", "trusted.overlay.redirect", b"/d")
    with pytest.raises(ImageError, match=r"redirect_dir and metacopy .* to N"):
        read_changes(upper, lowerdirs)


def test_names_that_mean_deletions_cannot_be_committed(
    changed: Callable[[str], Any], tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match="mean deletions"):
        changed("echo > /.wh.same")


# Containers that are kept.


@pytest.fixture
def steelyard(can_run: None, tmp_path: Path, rootfs: Path) -> Callable[..., Any]:
    """The command, in a home with the image `busybox`."""
    home = tmp_path / "home"
    ImageStore(home / "images").import_rootfs(
        rootfs, "busybox", ImageConfig(environment={"PATH": "/bin"}, command=("sh",))
    )

    def call(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", "from harness.cli.main import main; main()", *arguments],
            cwd=PROJECT, env={**os.environ, "STEELYARD_HOME": str(home)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return call


def test_a_kept_container_from_run_to_rm(steelyard: Callable[..., Any], tmp_path: Path) -> None:
    steelyard("container", "run", "--keep", "--name", "one", "busybox", "sh", "-c",
              "echo hi > /etc/new; rm /etc/passwd; exit 3", code=3)  # fmt: skip
    (listed_,) = json.loads(steelyard("container", "ls", "--format", "json").stdout)
    assert (listed_["name"], listed_["status"], listed_["exit_code"]) == ("one", "exited (3)", 3)
    assert "exited (3)" in steelyard("container", "ls").stdout
    assert steelyard("container", "diff", "one").stdout == "C /etc\nA /etc/new\nD /etc/passwd\n"
    folder = tmp_path / "home/containers/one"
    assert sorted(os.listdir(folder)) == ["state.json", "upper"]
    assert os.listdir(tmp_path / "home/instances") == []
    # The image has no name any more, and is there all the same.
    refused = steelyard("image", "rm", "busybox", code=1)
    assert "container" in refused.stderr
    digest = steelyard("container", "commit", "one", "new:1", "-m", "why", "-c",
                       'CMD ["cat", "/etc/new"]', "-c", "ENV A=b").stdout  # fmt: skip
    assert digest.startswith("sha256:")
    assert steelyard("container", "run", "new:1").stdout == "hi\n"
    assert steelyard("container", "run", "new:1", "env").stdout.count("A=b") == 1
    steelyard("container", "run", "new:1", "test", "-e", "/etc/passwd", code=1)
    assert steelyard("container", "rm", "one").stdout == "one\n"
    assert steelyard("container", "ls", "--format", "json").stdout == "[]\n"
    steelyard("image", "rm", "busybox")
    assert steelyard("container", "run", "new:1").stdout == "hi\n"
    steelyard("image", "verify")


def test_a_kept_container_without_a_name_gets_one(steelyard: Callable[..., Any]) -> None:
    said = steelyard("container", "run", "--keep", "busybox", "true").stderr
    name = said.removeprefix("kept as ").strip()
    assert name.startswith("busybox-")
    steelyard("container", "diff", name)
    assert steelyard("container", "commit", name, "same").stdout.startswith("sha256:")


def test_mistakes_with_kept_containers(steelyard: Callable[..., Any], tmp_path: Path) -> None:
    steelyard("container", "run", "--keep", "--name", "a", "busybox", "true")
    taken = steelyard("container", "run", "--keep", "--name", "a", "busybox", "true", code=125)
    assert "there is a container a already" in taken.stderr
    steelyard("container", "run", "--keep", "--rm", "busybox", "true", code=125)
    assert "no container 'b' is kept" in steelyard("container", "diff", "b", code=1).stderr
    assert "is no container name" in steelyard("container", "rm", "../a", code=1).stderr
    assert "invalid" in steelyard("container", "commit", "a", "UPPER", code=1).stderr
    change = steelyard("container", "commit", "a", "x", "-c", "RUN true", code=1).stderr
    assert change.startswith("steelyard: --change: RUN: cannot be used here")
    # What cannot be started is not kept.
    steelyard("container", "run", "--keep", "--name", "c", "busybox", "/nothing", code=127)
    assert os.listdir(tmp_path / "home/containers") == ["a"]
    (tmp_path / "home/containers/a/state.json").write_text("{")
    assert "is damaged" in steelyard("container", "diff", "a", code=1).stderr
    steelyard("container", "rm", "a")


def test_a_container_whose_owner_was_killed_can_still_be_looked_at(
    steelyard: Callable[..., Any], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "from harness.cli.main import main; main()", "container", "run",
         "--keep", "--name", "k", "busybox", "sh", "-c", "echo 1 > /x; echo on; sleep 60"],
        cwd=PROJECT, env={**os.environ, "STEELYARD_HOME": str(tmp_path / "home")},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        assert "is running" in steelyard("container", "diff", "k", code=1).stderr
        assert "is running" in steelyard("container", "rm", "k", code=1).stderr
        process.kill()
    assert get_kept("k", tmp_path / "home").status == "lost"
    assert steelyard("container", "diff", "k").stdout == "A /x\n"
    assert kept_images(tmp_path / "home") == {get_kept("k", tmp_path / "home").image_digest}
    steelyard("container", "rm", "k")


def test_records_of_kept_containers(store: ImageStore, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(make_tar(member("null", CHR, devmajor=1, devminor=3)))
    image = store.import_rootfs(archive, "a")
    home = tmp_path / "home"
    kept = keep("n", image, ("x", "y"), "0" * 12, home)
    assert (kept.status, kept_containers(home)) == ("lost", (kept,))
    assert stat.S_IMODE(kept.directory.parent.stat().st_mode) == 0o700
    with pytest.raises(ContainerError, match="there is a container n already"):
        keep("n", image, ("x",), "0" * 12, home)
    (kept.directory.parent / "junk").mkdir()
    assert kept_images(home) == {image.digest}
    remove_container("n", home)
    remove_container("junk", home)
    assert kept_images(home) == set()
    assert os.listdir(kept.directory.parent) == []
