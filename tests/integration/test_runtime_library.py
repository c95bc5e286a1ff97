"""The library as somebody uses it who writes a test or a notebook: `import runtime`, no command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import runtime

pytestmark = [pytest.mark.privileged, pytest.mark.usefixtures("can_run", "leaves_nothing")]


@pytest.fixture(scope="module", autouse=True)
def busybox() -> runtime.Image:
    """The image that most of these run, made before anything is counted."""
    try:
        return runtime.ensure_image("busybox")
    except runtime.ImageError as error:
        pytest.skip(str(error))


# Running to the end.


def test_a_command_is_run_and_its_output_captured() -> None:
    status = runtime.run_container(
        "busybox", ["sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True
    )
    assert (status.code, status.signal, status.shell_code) == (3, None, 3)
    assert (status.stdout, status.stderr) == (b"out\n", b"err\n")


def test_what_is_not_captured_goes_where_it_was_sent(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        status = runtime.run_container(
            "busybox", ["sh", "-c", "cat; echo hidden >&2"],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    assert (status.code, status.stdout, status.stderr) == (0, None, None)
    assert (tmp_path / "out").read_bytes() == b""


def test_input_larger_than_a_pipe_comes_back_whole() -> None:
    data = os.urandom(1 << 20)
    status = runtime.run_container("busybox", ["cat"], input=data, capture_output=True)
    assert status.stdout == data


def test_input_that_nobody_reads_is_no_error() -> None:
    status = runtime.run_container("busybox", ["true"], input=bytes(1 << 20))
    assert status.code == 0


def test_what_is_asked_for_reaches_the_workload(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("from the host")
    script = 'echo "$NAME $(id -u) $PWD $(hostname) $(cat /data/file)"; echo x > /data/file'
    status = runtime.run_container(
        "busybox", ["sh", "-c", script],
        environment={"NAME": "value"}, user="1000:1000", working_directory="/srv",
        hostname="box", volumes=[f"{tmp_path}:/data:ro"], capture_output=True,
        limits=runtime.ResourceLimits(pids=20),
    )  # fmt: skip
    assert status.stdout == b"value 1000 /srv box from the host\n"
    assert b"Read-only file system" in (status.stderr or b"")


def test_a_volume_may_be_a_value(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one file")
    volume = runtime.Volume(str(tmp_path / "file"), "/one", read_only=True)
    status = runtime.run_container(
        "busybox", ["cat", "/one"], volumes=[volume], capture_output=True
    )
    assert status.stdout == b"one file"


def test_the_hosts_network_is_shared_when_asked_for() -> None:
    command = ["readlink", "/proc/self/ns/net"]
    ours = os.readlink("/proc/self/ns/net").encode() + b"\n"
    shared = runtime.run_container("busybox", command, network="host", capture_output=True)
    alone = runtime.run_container("busybox", command, capture_output=True)
    assert shared.stdout == ours
    assert alone.stdout != ours


def test_what_runs_too_long_is_ended() -> None:
    with pytest.raises(runtime.ContainerTimeoutError, match=r"still ran after 0 s") as caught:
        runtime.run_container(
            "busybox", ["sh", "-c", "sleep 1000"], capture_output=True, timeout_s=0
        )
    assert caught.value.timeout_s == 0
    assert caught.value.stderr == b""


def test_signals_reach_the_workload_when_asked_for() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    # The workload reads a line, so that it is there; only then is the signal sent.
    script = "trap 'echo caught; exit 7' USR1; echo ready >&2; while :; do sleep 0.01; done"
    reader, writer = os.pipe2(os.O_CLOEXEC)

    def send() -> None:
        os.read(reader, 1)
        os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        status = runtime.run_container(
            "busybox", ["sh", "-c", script], stderr=writer, stdout=subprocess.DEVNULL,
            forward_signals=True, timeout_s=60,
        )  # fmt: skip
    finally:
        os.close(writer)
        thread.join()
        os.close(reader)
    assert status.code == 7
    assert signal.getsignal(signal.SIGUSR1) is before


def test_another_thread_cannot_forward_signals() -> None:
    caught: list[Exception] = []

    def run() -> None:
        try:
            runtime.run_container("busybox", ["true"], forward_signals=True)
        except runtime.InvalidArgumentError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [str(error) for error in caught] == [
        "signals can be forwarded from the main thread alone"
    ]


# Containers that run beside the caller.


def test_a_container_is_there_until_the_end_of_its_block() -> None:
    with runtime.start_container("busybox", ["sleep", "1000"]) as box:
        assert os.path.isdir(f"/proc/{box.pid}")
        assert box.processes() == (box.pid,)
        assert box.wait(timeout_s=0) is None
        box.send_signal(signal.SIGKILL)
        status = box.wait()
        assert (status.code, status.signal, status.shell_code) == (None, signal.SIGKILL, 137)
        assert box.exit_status == status
    assert not os.path.exists(f"/proc/{box.pid}")
    assert box.directory is None


def test_a_block_that_fails_removes_its_container() -> None:
    with (
        pytest.raises(ZeroDivisionError),
        runtime.start_container("busybox", ["sleep", "1000"]) as box,
    ):
        1 / 0  # noqa: B018
    assert not os.path.exists(f"/proc/{box.pid}")


def test_what_a_container_changed_can_be_looked_at() -> None:
    script = "echo new > /srv/new; rm /etc/hosts; echo x >> /etc/passwd"
    with runtime.start_container("busybox", ["sh", "-c", script]) as box:
        box.wait()
        changes = {(change.kind, change.path) for change in box.changes()}
        assert {("A", b"/srv/new"), ("D", b"/etc/hosts"), ("C", b"/etc/passwd")} <= changes
    with pytest.raises(runtime.ContainerError, match="is removed already"):
        box.changes()


def test_changes_of_a_running_container_are_not_told() -> None:
    with (
        runtime.start_container("busybox", ["sleep", "1000"]) as box,
        pytest.raises(runtime.ContainerError, match="is running; wait for its end"),
    ):
        box.changes()


def test_an_image_in_use_is_not_removed(tmp_path: Path) -> None:
    store = runtime.ImageStore(tmp_path / "store")
    (tmp_path / "rootfs/bin").mkdir(parents=True)
    (tmp_path / "rootfs/bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (tmp_path / "rootfs/bin/busybox").chmod(0o755)
    config = runtime.ImageConfig(command=("/bin/busybox", "sleep", "1000"))
    image = store.import_rootfs(tmp_path / "rootfs", "mine", config)
    with (
        runtime.start_container(image, store=store),
        pytest.raises(runtime.ImageError, match="in use by a running instance"),
    ):
        store.remove("mine", keep=runtime.kept_images)
    assert store.remove("mine", keep=runtime.kept_images).deleted
    assert store.images() == ()


# Plans, and what cannot be started.


def test_a_plan_is_a_value_and_makes_nothing() -> None:
    spec = runtime.container_spec("busybox", ["echo", "hello"], user="1000")
    plan = runtime.plan_container(spec)
    assert plan == runtime.plan_container(spec)
    assert 'execve("/bin/echo", ["echo", "hello"]' in plan.describe()
    with runtime.launch_container(spec) as box:
        assert box.wait().code == 0


@pytest.mark.parametrize(
    ("image", "command", "error", "sentence"),
    [
        ("absent", ("true",), runtime.ImageNotFoundError, "no image 'absent' in the store"),
        ("busybox", ("absent",), runtime.CommandNotFoundError, "there is no absent"),
        ("busybox", ("/etc/passwd",), runtime.CommandNotExecutableError, "not an executable file"),
        ("busybox", ("/bin/a\0b",), runtime.ContainerError, "holds a NUL"),
    ],
)
def test_what_cannot_be_started_is_an_error_with_a_sentence(
    image: str, command: tuple[str, ...], error: type[Exception], sentence: str
) -> None:
    for call in (runtime.run_container, runtime.start_container):
        with pytest.raises(error, match=re.escape(sentence)) as caught:
            call(image, command)
        assert isinstance(caught.value, runtime.ContainerError)


# Kept containers.


def test_a_kept_container_becomes_an_image() -> None:
    said: list[str] = []
    store = runtime.ImageStore.default()
    status = runtime.run_container(
        "busybox", ["sh", "-c", "echo made > /srv/made"], keep=True, progress=said.append
    )
    assert status.code == 0
    name = said[-1].removeprefix("kept as ")
    assert [kept.status for kept in runtime.kept_containers() if kept.name == name] == [
        "exited (0)"
    ]
    assert ("A", b"/srv/made") in {(c.kind, c.path) for c in runtime.kept_changes(name)}
    image = runtime.commit_container(name, "made:1", changes=("CMD cat /srv/made",))
    runtime.remove_container(name)
    assert runtime.run_container(image, capture_output=True).stdout == b"made\n"
    store.remove("made:1", keep=runtime.kept_images)
    with pytest.raises(runtime.ContainerError, match=r"no container .* is kept"):
        runtime.commit_container(name, "made:2")


def test_what_could_not_be_started_is_not_kept() -> None:
    before = runtime.kept_containers()
    with pytest.raises(runtime.CommandNotFoundError):
        runtime.run_container("busybox", ["absent"], keep=True, name="not-kept")
    assert runtime.kept_containers() == before


# Images.


def test_an_image_is_built_saved_and_loaded(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "greeting").write_text("hello")
    (context / "Containerfile").write_text(
        "FROM busybox\nARG WHO=nobody\nCOPY greeting /srv/\nRUN echo $WHO >> /srv/greeting\n"
        "CMD cat /srv/greeting\n"
    )
    store = runtime.ImageStore(tmp_path / "store")
    said: list[str] = []
    image = runtime.build_image(
        context, tags=["greeting:1"], arguments={"WHO": "you"}, store=store, progress=said.append
    )
    assert said[-1] == "COMMIT greeting:1"
    assert runtime.run_container(image, store=store, capture_output=True).stdout == b"helloyou\n"
    runtime.save_images(["greeting:1"], tmp_path / "archive.tar", store=store)
    other = runtime.ImageStore(tmp_path / "other")
    (loaded,) = runtime.load_images(tmp_path / "archive.tar", store=other)
    assert (loaded.reference, loaded.digest) == (image.reference, image.digest)
    again = runtime.build_image(
        runtime.BuildRequest(context, arguments={"WHO": "you"}), store=store
    )
    assert again.layers == image.layers


def test_mistakes_about_images_are_errors_with_a_sentence(tmp_path: Path) -> None:
    store = runtime.ImageStore(tmp_path / "store")
    (tmp_path / "Containerfile").write_text("FROM scratch\nFROB x\n")
    with pytest.raises(runtime.BuildError, match=r"Containerfile:2"):
        runtime.build_image(tmp_path, store=store)
    with pytest.raises(runtime.InvalidArgumentError, match="give a list, as in"):
        runtime.build_image(tmp_path, tags="one", store=store)
    with pytest.raises(runtime.InvalidArgumentError, match="a BuildRequest says all of it"):
        runtime.build_image(runtime.BuildRequest(tmp_path), tags=["one"], store=store)
    with pytest.raises(runtime.ImageError, match="names no registry, and none is assumed"):
        runtime.pull_image("busybox", store=store)
    with pytest.raises(runtime.ImageNotFoundError, match="no image 'absent'"):
        runtime.push_image("absent", "localhost:1/absent", store=store)
    with pytest.raises(runtime.ImageError):
        runtime.load_images(tmp_path / "Containerfile", store=store)
    with pytest.raises(runtime.InvalidArgumentError, match="no style of archive; known are docker"):
        runtime.save_images(["x"], tmp_path / "x", style="zip", store=store)
    assert store.images() == ()


def test_no_command_line_is_loaded_with_the_library() -> None:
    program = (
        "import sys, runtime\n"
        "status = runtime.run_container('busybox', ['echo', 'hi'], capture_output=True)\n"
        "assert status.stdout == b'hi\\n'\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'click', 'rich', 'harness'}, loaded\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_closed_standard_input_of_the_caller_takes_nothing_from_the_container() -> None:
    program = (
        "import os, runtime; os.close(0)\n"
        "found = runtime.run_container('busybox', ['cat'], input=b'x', capture_output=True)\n"
        "print(found.stdout)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"b'x'\n"), done.stderr
