"""Building: what becomes a layer, what the cache spares, and how it fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime import BuildRequest, build_image
from runtime.build.containerfile import BuildError
from runtime.errors import ImageError
from runtime.images import Image, ImageStore
from runtime.images.store.layout import StoreLayout

PROJECT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-c", "from harness.cli.main import main; main()")
BUSYBOX = Path("/bin/busybox")
EPOCH_S = 1_700_000_000
SHELL = 'FROM scratch\nCOPY busybox /bin/busybox\nSHELL ["/bin/busybox", "sh", "-c"]\n'
"""Something to RUN in."""

pytestmark = pytest.mark.skipif(not BUSYBOX.exists(), reason="busybox-static is not installed")

Build = Callable[..., tuple[Image, list[str]]]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    shutil.copy(BUSYBOX, folder / "busybox")
    return folder


@pytest.fixture
def build(store: ImageStore, context: Path) -> Build:
    """Build from text; gives the image and what was said."""

    def call(
        text: str, *, into: ImageStore | None = None, **fields: Any
    ) -> tuple[Image, list[str]]:
        (context.parent / "file").write_text(text)
        said: list[str] = []
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            request = BuildRequest(
                context,
                context.parent / "file",
                **{"tags": ("x",), "epoch_s": EPOCH_S, "output": (null, null), **fields},
            )
            return build_image(request, store=into or store, progress=said.append), said
        finally:
            os.close(null)

    return call


def document(store: ImageStore, image: Image) -> dict[str, Any]:
    layout = StoreLayout(store.root)
    manifest = layout.read_document(image.digest)
    return layout.read_document(manifest["config"]["digest"])


def names(image: Image) -> list[set[str]]:
    """What is in each layer, bottom first."""
    return [
        {str(path.relative_to(layer.path)) for path in layer.path.rglob("*")}
        for layer in image.layers
    ]


def hits(said: list[str]) -> int:
    return sum(line.startswith("--> Using cache") for line in said)


def test_what_needs_no_layer_makes_none(store: ImageStore, build: Build) -> None:
    image, said = build(
        "ARG version=7\nFROM scratch\nARG version\nARG unset\n"
        'ENV A=1 B="two $version" C=${unset:-none}\nENV D=$B$A\nLABEL x.y="$D" z=1\n'
        "USER 7:8\nEXPOSE 80 9000-9001/udp\nVOLUME /v /w\nSTOPSIGNAL SIGINT\n"
        'ENTRYPOINT ["/e"]\nCMD run $A\nMAINTAINER Nobody\n',
        labels={"z": "2"},
        arguments={"unknown": "1"},
    )
    assert image.layers == ()
    config = image.config
    assert dict(config.environment) == {"A": "1", "B": "two 7", "C": "none", "D": "two 71"}
    assert dict(config.labels) == {"x.y": "two 71", "z": "2"}
    assert (config.user, config.stop_signal, config.volumes) == ("7:8", "SIGINT", ("/v", "/w"))
    assert config.exposed_ports == ("80/tcp", "9000/udp", "9001/udp")
    # CMD is not expanded: its shell does that.
    assert config.argv == ("/e", "/bin/sh", "-c", "run $A")
    found = document(store, image)
    assert found["author"] == "Nobody"
    assert {entry["created"] for entry in found["history"]} == {"2023-11-14T22:13:20Z"}
    assert all(entry["empty_layer"] for entry in found["history"])
    assert any("MAINTAINER is deprecated" in line for line in said)
    assert any("unknown" in line for line in said)
    assert "STEP 2/13: ARG version" in said


def test_copy_gives_layers_and_the_cache_knows_contents_not_times(
    store: ImageStore, build: Build, context: Path, tmp_path: Path
) -> None:
    (context / "d").mkdir()
    (context / "d/f").write_text("1")
    text = "FROM scratch\nCOPY d /d/\nCOPY d/f /a/b/c\nWORKDIR /a/w\nENV X=1\n"
    image, said = build(text)
    assert hits(said) == 0
    assert names(image) == [{"d", "d/f"}, {"a", "a/b", "a/b/c"}, {"a", "a/w"}]
    newest = max(path.lstat().st_mtime for layer in image.layers for path in layer.path.rglob("*"))
    assert newest <= EPOCH_S
    os.utime(context / "d/f", (1_900_000_000, 1_900_000_000))
    os.utime(context / "d", (1_900_000_001, 1_900_000_001))
    again, said = build(text)
    assert (again.digest, hits(said)) == (image.digest, 4)
    # Another store has no cache, and gives the same digests all the same.
    other, said = build(text, into=ImageStore(tmp_path / "other"))
    assert (other.digest, hits(said)) == (image.digest, 0)
    anew, said = build(text, use_cache=False)
    assert (anew.digest, hits(said)) == (image.digest, 0)
    for change in (
        lambda: (context / "d/f").chmod(0o600),
        lambda: (context / "d/f").write_text("2"),
        lambda: (context / "d/f").rename(context / "d/g"),
    ):
        before = build(text.partition("COPY d/f")[0])[0]
        change()
        after, said = build(text.partition("COPY d/f")[0])
        assert (after.digest != before.digest, hits(said)) == (True, 0)


def test_without_an_epoch_the_cache_still_gives_the_same_image(
    build: Build, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (context / "f").write_text("1")
    text = "FROM scratch\nCOPY f /f\nENV A=1\n"
    first, _ = build(text, epoch_s=None)
    an_hour_later_ns = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: an_hour_later_ns)
    second, said = build(text, epoch_s=None)
    assert (first.digest, hits(said)) == (second.digest, 2)
    anew, said = build(text, epoch_s=None, use_cache=False)
    assert (anew.digest != first.digest, hits(said)) == (True, 0)


def test_a_record_whose_layer_has_gone_does_not_count(
    store: ImageStore, build: Build, context: Path
) -> None:
    (context / "f").write_text("1")
    text = "FROM scratch\nCOPY f /f\n"
    image, _ = build(text)
    store.remove("x", keep=set)
    assert not image.layers[0].path.exists()
    again, said = build(text)
    assert (again.digest, hits(said)) == (image.digest, 0)
    for record in (store.root / "build-cache").iterdir():
        record.write_text('{"created": 7')
    again, said = build(text)
    assert (again.digest, hits(said)) == (image.digest, 0)


def test_a_copy_of_what_is_there_already_adds_nothing(build: Build, context: Path) -> None:
    (context / "d").mkdir()
    for name in "fg":
        (context / "d" / name).write_text(name)
        os.utime(context / "d" / name, (1_600_000_000, 1_600_000_000))
    image, _ = build("FROM scratch\nCOPY d/f /d/f\nCOPY d /d\nCOPY d/g /d/\n")
    assert names(image) == [{"d", "d/f"}, {"d", "d/g"}]


def test_stages_are_built_only_if_the_target_needs_them(build: Build, context: Path) -> None:
    (context / "f").write_text("1")
    text = (
        "FROM scratch AS a\nCOPY f /fa\nFROM nothing-of-the-kind AS b\nCOPY f /fb\n"
        "FROM a AS c\nCOPY f /fc\nFROM scratch\nCOPY --from=c / /all/\nCOPY --from=0 /fa /\n"
    )
    image, said = build(text)
    assert names(image) == [{"all", "all/fa", "all/fc"}, {"fa"}]
    assert said[0] == "STEP 1/7: FROM scratch AS a"
    assert names(build(text, target="C")[0]) == [{"fa"}, {"fc"}]
    with pytest.raises(BuildError, match="has no stage 'd'"):
        build(text, target="d")
    with pytest.raises(BuildError, match="3: FROM: no image 'nothing-of-the-kind' here"):
        build(text, target="b")


def test_copy_from_an_image_and_a_further_context(
    build: Build, context: Path, tmp_path: Path
) -> None:
    (context / "f").write_text("1")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/g").write_text("2")
    build("FROM scratch\nCOPY --chown=3:4 f /f\n", tags=("base:1",))
    image, _ = build(
        "FROM base:1\nCOPY --from=base:1 /f /copy\nCOPY --from=more g /\n",
        contexts={"more": tmp_path / "more"},
    )
    assert names(image) == [{"f"}, {"copy"}, {"g"}]
    if os.geteuid() == 0:
        assert (image.layers[1].path / "copy").stat().st_uid == 3
        assert (image.layers[2].path / "g").stat().st_uid == 0


def test_heredocs_and_archives(build: Build, context: Path) -> None:
    (context / "f").write_text("1")
    with tarfile.open(context / "t.tar.xz", "w:xz") as archive:
        archive.add(context / "f", "in/f")
    (context / "not.gz").write_bytes(b"\x1f\x8bnonsense")
    image, _ = build(
        "FROM scratch\nARG a=1\nCOPY <<one <<'two' /h/\nit's $a\none\n$a\ntwo\n"
        "ADD t.tar.xz not.gz f /x/\nCOPY t.tar.xz /y/\n"
    )
    assert names(image) == [
        {"h", "h/one", "h/two"},
        {"x", "x/in", "x/in/f", "x/not.gz", "x/f"},
        {"y", "y/t.tar.xz"},
    ]
    assert (image.layers[0].path / "h/one").read_text() == "it's 1\n"
    assert (image.layers[0].path / "h/two").read_text() == "$a\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("COPY none /", "2: COPY: there is no none in the build context"),
        ("COPY n*e /", "nothing matches n"),
        ("COPY secret /", "secret is hidden by the ignore file"),
        ("COPY ../../../etc/passwd /", "there is no ../../../etc/passwd in the build context"),
        ("COPY out /", "is a symlink to nothing"),
        ("COPY f f2 /x", "end it with a slash"),
        ("COPY f /x\nCOPY d /x", "3: COPY: /x is there already, and is no folder"),
        ("COPY d /x\nCOPY e /", None),
        ("COPY d /x/f\nCOPY f /x/", "/x/f is there already, and is a folder"),
        ("COPY --chown=nobody f /", "no user 'nobody'"),
        ("COPY --chmod=u+x f /", "write an octal mode"),
        ("COPY --from=5 f /", "there is no stage 5"),
        ("ADD https://example.org/x /", "fetching URLs is not supported"),
        ('ENV A="${B?must be given}"', "ENV: B: must be given"),
        ("EXPOSE x", "'x' is no port"),
        ("STOPSIGNAL NOPE", "'NOPE' is no signal"),
        ("COPY f /f\nWORKDIR /f/x", "is there already, and is no folder"),
        ("USER no\nWORKDIR /x", "no user 'no'"),
        ("COPY .wh.x /", "mean deletions"),
    ],
)
def test_a_failing_step_names_its_line(
    text: str, message: str | None, build: Build, store: ImageStore, context: Path
) -> None:
    for name in ("f", "f2", "secret", ".wh.x"):
        (context / name).write_text(name)
    for name in ("d", "e"):
        (context / name).mkdir()
        (context / name / "f").write_text(name)
    (context / "out").symlink_to("/etc/passwd")
    (context / ".containerignore").write_text("secret\n")
    if message is None:
        build(f"FROM scratch\n{text}\n")
        return
    with pytest.raises(BuildError) as caught:
        build(f"FROM scratch\n{text}\n")
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{context.parent / 'file'}:")
    assert store.images() == ()
    assert os.listdir(store.root / "tmp") == [] if store.root.exists() else True


def test_a_context_that_is_none(tmp_path: Path, store: ImageStore) -> None:
    with pytest.raises(ImageError, match="is not a folder"):
        build_image(BuildRequest(tmp_path / "no"), store=store)
    with pytest.raises(ImageError, match="neither a Containerfile nor a Dockerfile"):
        build_image(BuildRequest(tmp_path), store=store)
    (tmp_path / "Containerfile").write_bytes(b"\xff")
    with pytest.raises(BuildError, match="not UTF-8"):
        build_image(BuildRequest(tmp_path), store=store)


# With containers.


def test_run_leaves_a_layer_and_nothing_else(
    can_run: None, leaves_nothing: None, build: Build, store: ImageStore
) -> None:
    image, said = build(
        SHELL + "ARG who=world\nENV HELLO=hello\nWORKDIR /w\n"
        "RUN /bin/busybox echo $HELLO $who > said; /bin/busybox touch /new\n"
        'RUN ["/bin/busybox", "rm", "/new"]\nRUN true\nUSER 5\n'
        "RUN /bin/busybox id -u\n"
        "RUN <<EOF\nset -e\n/bin/busybox test $(/bin/busybox id -u) = 5\nEOF\n"
        "RUN /bin/busybox cat > /dev/null <<X && /bin/busybox true\nbody\nX\n"
    )
    # No trace of the mount points /proc, /dev and /sys, and no layer for what changed nothing.
    assert names(image)[1:] == [{"w"}, {"w", "w/said", "new"}, {"new"}]
    assert (image.layers[2].path / "w/said").read_text() == "hello world\n"
    empty = [bool(entry.get("empty_layer")) for entry in document(store, image)["history"]]
    assert empty == [False, True, True, True, False, False, False, True, True, True, True, True]
    again, said = build("# another comment\n" + SHELL)
    assert hits(said) == 2
    assert again.layers == image.layers[:1]


def test_run_twice_gives_equal_digests(
    can_run: None, build: Build, tmp_path: Path, context: Path
) -> None:
    text = (
        SHELL.replace("scratch", "scratch AS a")
        + "RUN cd /; for d in z y x; do /bin/busybox mkdir $d; done; /bin/busybox echo 1 > z/f;"
        " /bin/busybox ln z/f y/g; /bin/busybox ln -s z/f l; /bin/busybox mkfifo p;"
        # Another time in each build, and a time to come in all.
        " /bin/busybox touch -d @$((4000000000 + $(/bin/busybox od -An -N2 -tu2 /dev/urandom)))"
        " z/f\n"
        'FROM scratch\nCOPY --from=a /z /y /\nCOPY --from=a /bin /bin\nCMD ["/bin/busybox"]\n'
    )
    first, _ = build(text)
    os.utime(context / "busybox", (4_000_000_000, 4_000_000_000))
    second, said = build(text, into=ImageStore(tmp_path / "other"))
    assert (second.digest, hits(said)) == (first.digest, 0)


def test_a_failing_run_gives_its_exit_code(
    can_run: None, leaves_nothing: None, build: Build, store: ImageStore
) -> None:
    with pytest.raises(BuildError, match=r"file:4: RUN: .*exit 7 ended with exit code 7$"):
        build(SHELL + "RUN /bin/busybox touch /x && exit 7\n")
    with pytest.raises(BuildError, match=r"file:2: RUN: cannot execute /bin/sh"):
        build("FROM scratch\nRUN true\n")
    assert store.images() == ()


def test_run_has_no_network_unless_told(can_run: None, build: Build) -> None:
    links = "RUN /bin/busybox ls /sys/class/net > /links\n"
    image, _ = build(SHELL + links)
    assert (image.layers[-1].path / "links").read_text() == "lo\n"
    image, said = build(SHELL + links, network="host")
    assert hits(said) == 2
    wanted = {"".join(f"{name}\n" for name in sorted(os.listdir("/sys/class/net")))}
    assert {(image.layers[-1].path / "links").read_text()} == wanted
    assert names(image)[-1] == {"links"}


def test_interrupting_a_build_leaves_nothing_behind(
    can_run: None, tmp_path: Path, context: Path
) -> None:
    (context / "Containerfile").write_text(
        SHELL + "RUN /bin/busybox echo running; /bin/busybox sleep 60\n"
    )
    home = tmp_path / "home"
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            [*COMMAND, "image", "build", "-t", "x", context],
            cwd=PROJECT,
            env={**os.environ, "STEELYARD_HOME": str(home), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            assert process.stderr is not None
            for line in process.stdout:
                if line == "running\n":
                    break
            process.send_signal(number)
            assert process.wait(timeout=20) == 128 + number, process.stderr.read()
            assert "Traceback" not in process.stderr.read()
        assert os.listdir(home / "instances") == []
        assert os.listdir(home / "images/tmp") == []
    assert ImageStore(home / "images").images() == ()


def test_a_killed_build_leaves_a_sound_store(can_run: None, tmp_path: Path, context: Path) -> None:
    """Killed a little later each time; the next build sees to it that nothing of it is left."""
    steps = "".join(f"RUN /bin/busybox echo {step} > /f{step}\n" for step in range(8))
    (context / "Containerfile").write_text(SHELL + steps)
    home = tmp_path / "home"
    environment = {**os.environ, "STEELYARD_HOME": str(home)}
    command = [*COMMAND, "image", "build", "-t", "x", str(context)]
    rounds = int(os.environ.get("STEELYARD_KILLS", "6"))
    for number in range(rounds):
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(0.15 + 0.5 * number / rounds)
        process.kill()
        process.wait()
        store = ImageStore(home / "images")
        for image in store.images():
            assert len(image.layers) == 9
        if (home / "images").exists():
            assert store.verify() == ()
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1].startswith("sha256:")
    store = ImageStore(home / "images")
    assert len(store.get("x").layers) == 9
    assert os.listdir(store.root / "tmp") == []
    assert store.verify() == ()


def test_a_build_without_a_name_is_kept_by_its_digest(build: Build, store: ImageStore) -> None:
    image, _ = build("FROM scratch\nENV A=1\n", tags=())
    build("FROM scratch\nENV A=1\n", tags=())
    assert store.get(image.digest).config.environment["A"] == "1"
    store.remove(image.digest, keep=set)


def test_the_command(tmp_path: Path, context: Path) -> None:
    (context / "Dockerfile").write_text("ARG base\nFROM $base\nCOPY f /\n")
    (context / "f").write_text("1")

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "STEELYARD_HOME": str(tmp_path / "home"), "base": "scratch"}
        done = subprocess.run(
            [*COMMAND, "image", *arguments],
            cwd=context, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    done = run("build", "-t", "a", "-t", "b:2", "--build-arg", "base", "--source-date-epoch", "5")
    lines = done.stdout.splitlines()
    assert lines[0] == "STEP 1/2: FROM $base"
    assert lines[-3:-1] == ["COMMIT a:latest", "COMMIT b:2"]
    quiet = run("build", "-q", "-f", "Dockerfile", "--build-arg", "base=scratch",
                "--source-date-epoch", "5")  # fmt: skip
    assert quiet.stdout == lines[-1] + "\n"
    found = json.loads(run("ls", "--format", "json").stdout)
    assert len({entry["digest"] for entry in found}) == 1
    failed = run("build", code=1)
    assert failed.stderr.startswith("steelyard: Dockerfile:2: FROM: ")
    assert "base" in failed.stderr
