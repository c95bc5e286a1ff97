"""`steelyard container run` and `plan` as a user types them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.containers.leftovers import find_leftovers
from runtime.containers.session import dead_sessions
from runtime.images import ImageConfig, ImageStore
from tests.support.host import HostState

pytestmark = [pytest.mark.privileged, pytest.mark.usefixtures("can_run")]

STEELYARD = (sys.executable, "-m", "harness.cli.main", "container")
_IMAGE = "box"


@pytest.fixture(scope="module")
def home(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose store has one image, with every default set to something."""
    home = tmp_path_factory.mktemp("home")
    config = ImageConfig(
        environment={"PATH": "/bin", "FROM": "image", "BOTH": "image"},
        entrypoint=("/bin/sh", "-c"),
        command=("echo default $0",),
        working_directory="/srv",
        user="root",
    )
    ImageStore(home / "images").import_rootfs(rootfs, _IMAGE, config)
    return home


@pytest.fixture(autouse=True)
def nothing_in_the_home(home: Path) -> Iterator[None]:
    before = HostState.now()
    yield
    instances = home / "instances"
    assert not instances.exists() or os.listdir(instances) == []
    assert not HostState.now().processes - before.processes
    assert HostState.now().mounts <= before.mounts
    assert str(home) not in Path("/proc/self/mountinfo").read_text()


def steelyard(
    home: Path, *arguments: str, stdin: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*STEELYARD, *arguments], input=stdin, capture_output=True, text=True, check=False,
        env={**os.environ, "STEELYARD_HOME": str(home), **variables},
    )  # fmt: skip


def test_the_images_defaults(home: Path) -> None:
    result = steelyard(home, "run", "--rm", _IMAGE)
    assert (result.returncode, result.stdout, result.stderr) == (0, "default /bin/sh\n", "")


def test_the_users_wishes(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("shown\n")
    tmp_path.chmod(0o755)
    script = (
        "pwd; hostname; id -u; id -g; echo $FROM $BOTH $MINE $TAKEN $ABSENT; cat /v/file; "
        "cat; echo to stderr >&2; touch /v/x 2>/dev/null || exit 9"
    )
    result = steelyard(
        home, "run", "-w", "/work", "-u", "1000:2000", "--name", "boxy", "-e", "BOTH=user",
        "-e", "MINE=a=b", "-e", "TAKEN", "-e", "ABSENT", "-v", f"{tmp_path}:/v:ro", "-m", "64m",
        "--cpus", "1.5", "--pids-limit", "20", _IMAGE, script,
        stdin="from stdin\n", TAKEN="caller",
    )  # fmt: skip
    assert result.stdout.splitlines() == [
        "/work", "boxy", "1000", "2000", "image user a=b caller", "shown", "from stdin"
    ]  # fmt: skip
    assert result.stderr == "to stderr\n"
    assert result.returncode == 9


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        (("--entrypoint", "/bin/true", _IMAGE), 0, ""),
        (("--entrypoint", "", _IMAGE, "false"), 1, ""),
        ((_IMAGE, "exit 42"), 42, ""),
        ((_IMAGE, "sh -c 'kill -9 $$'; exit $?"), 137, ""),
        (("--entrypoint", "nothing", _IMAGE), 127, "there is no nothing in any folder of PATH"),
        (("--entrypoint", "/etc/passwd", _IMAGE), 126, "not an executable file"),
        (("--entrypoint", "", _IMAGE), 125, "names no command"),
        (("-u", "nobody", _IMAGE), 125, "no user 'nobody' in the image"),
        (("-w", "/etc/passwd", _IMAGE), 125, "enter working directory /etc/passwd"),
        (("--hostname", "h" * 65, _IMAGE), 125, "a host name has 1 to 64 bytes"),
        (("-v", "/absent-on-the-host:/x", _IMAGE), 125, "does not exist on this machine"),
        (("--frob", _IMAGE), 125, "no such option"),
        (("--memory", "lots", _IMAGE), 125, "'lots' is not a size"),
        ((), 125, "missing argument"),
    ],
)
def test_exit_codes_and_sentences(
    home: Path, command: tuple[str, ...], code: int, text: str
) -> None:
    result = steelyard(home, "run", *command)
    assert result.returncode == code, result.stderr
    assert text in result.stderr
    assert "Traceback" not in result.stderr
    if text:
        assert result.stdout == ""
        assert len(result.stderr.strip().splitlines()) == 1
        assert result.stderr.startswith("steelyard: ")


def test_options_of_the_command_are_the_commands(home: Path) -> None:
    result = steelyard(home, "run", "--entrypoint", "echo", _IMAGE, "-u", "--rm", "--", "-m")
    assert result.stdout == "-u --rm -- -m\n"


def test_plan_is_printed_and_nothing_runs(home: Path) -> None:
    first = steelyard(home, "plan", "-u", "1000", "--read-only", _IMAGE, "exit 3")
    again = steelyard(home, "plan", "-u", "1000", "--read-only", _IMAGE, "exit 3")
    assert first.returncode == 0
    assert first.stdout == again.stdout
    lines = first.stdout.splitlines()
    assert lines[0].startswith("clone3({flags=CLONE_NEWNS|")
    assert any(line.startswith("setuid(1000)  # set user 1000") for line in lines)
    assert 'execve("/bin/sh", ["/bin/sh", "-c", "exit 3"]' in lines[-1]


def test_without_standard_streams(home: Path) -> None:
    script = 'exec "$@" <&- >&- 2>&-'
    result = subprocess.run(
        ["sh", "-c", script, "sh", *STEELYARD, "run", _IMAGE,
         "ls -l /proc/self/fd | grep -c /dev/null > /n; cat /n; [ $(cat /n) = 3 ] && exit 33"],
        env={**os.environ, "STEELYARD_HOME": str(home)}, check=False,
    )  # fmt: skip
    assert result.returncode in (1, 33)


def _start(home: Path, script: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*STEELYARD, "run", _IMAGE, script],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "STEELYARD_HOME": str(home)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT]
)
def test_signals_go_to_the_workload(home: Path, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    with _start(
        home, f"trap 'echo got; exit 5' {name}; echo up; while :; do sleep 0.02; done"
    ) as p:
        p.send_signal(number)
        assert p.wait(20) == 5
        assert p.stdout is not None
        assert p.stdout.read() == "got\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_workload_that_does_not_listen_ends_at_the_second_signal(
    home: Path, number: signal.Signals
) -> None:
    # The first process of a pid namespace has no default action for signals.
    with _start(home, "trap '' INT TERM; echo up; while :; do sleep 0.02; done") as process:
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.send_signal(number)
        assert process.wait(20) == 137
        assert process.stderr is not None
        told = process.stderr.read()
        assert f"first process does not handle {number.name}; once more ends it" in told


def test_killed_by_force_the_workload_dies_too(home: Path) -> None:
    with _start(home, "echo up; exec sleep 1000") as process:
        child = next(
            int(pid)
            for pid in filter(str.isdecimal, os.listdir("/proc"))
            if f"\nPPid:\t{process.pid}\n" in _status(pid)
        )
        pidfd = os.pidfd_open(child)
        process.kill()
        process.wait(20)
        # What is left is the next `steelyard doctor`'s.
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(20_000)
        os.close(pidfd)
        (dead,) = dead_sessions(home)
        for left in find_leftovers(home):
            if left.session == dead.name:
                left.remove()


def _status(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
