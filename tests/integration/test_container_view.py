"""What a workload finds when it starts: the same under both launchers, and as documented."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from runtime.launch.capabilities import NUMBERS, mask
from runtime.launch.launcher import Launcher, native_library
from runtime.launch.spec import DEFAULT_CAPABILITIES, Namespace, NetworkSpec, User
from runtime.linux.features import probe_features
from tests.support.containers import Run

pytestmark = [pytest.mark.privileged, pytest.mark.usefixtures("leaves_nothing")]

_LOOK = """
echo cwd $(pwd); echo umask $(umask); echo hostname $(hostname); echo id $(id)
cat /proc/1/cgroup /proc/net/dev /proc/1/limits /proc/1/oom_score_adj
tr '\\0' '\\n' < /proc/1/environ
set -- $(cat /proc/1/stat); echo ids $1 $4 $5 $6 $7
ls -l /dev; ls /; ls /dev/pts /dev/shm /dev/mqueue
"""
_VARIES = re.compile(
    r"(?m)container-\d+|\d\d:\d\d|^\d+ \d+ \d+:\d+ |^(SigQ|VmPeak|VmSize|VmHWM|VmRSS|Vm\w+|Rss\w+|"
    r"HugetlbPages|\w*ctxt_switches|NSsid|Cpus_allowed\w*|Mems_allowed\w*):.*\n"
)


def _status(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def _namespaces(*kinds: str) -> str:
    return f"for kind in {' '.join(kinds)}; do readlink /proc/self/ns/$kind; done"


def test_both_launchers_show_the_workload_the_same(run: Run) -> None:
    if native_library() is None:
        pytest.skip("the native launcher is not built here")
    for command in (
        ("cat", "/proc/self/status", "/proc/self/mountinfo"),
        ("sh", "-c", _LOOK),
        ("ls", "/proc/self/fd"),
    ):
        seen = [
            _VARIES.sub("", run(*command, hostname="box", launcher=launcher).output)
            for launcher in Launcher
        ]
        assert seen[0] == seen[1]
        assert len(seen[0]) > 5


def test_namespaces_are_its_own(run: Run, launcher: Launcher) -> None:
    kinds = ("mnt", "pid", "uts", "ipc", "net", "cgroup")
    inside = run("sh", "-c", _namespaces(*kinds), launcher=launcher).output.split()
    outside = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    assert len(inside) == len(kinds)
    assert not set(inside) & set(outside)


def test_host_network_and_chosen_namespaces(run: Run, launcher: Launcher) -> None:
    result = run(
        "sh", "-c", _namespaces("net", "uts", "ipc"),
        network=NetworkSpec("host"),
        namespaces=frozenset({Namespace.MOUNT, Namespace.PID, Namespace.IPC}),
        launcher=launcher,
    )  # fmt: skip
    net, uts, ipc = result.output.split()
    assert net == os.readlink("/proc/self/ns/net")
    assert uts == os.readlink("/proc/self/ns/uts")
    assert ipc != os.readlink("/proc/self/ns/ipc")


def test_it_is_the_first_process_and_leads_a_session(run: Run, launcher: Launcher) -> None:
    # pid, parent, group, session, terminal: proc(5), /proc/pid/stat
    fields = run("cat", "/proc/self/stat", launcher=launcher).output.split()
    assert fields[0] == "1"
    assert fields[3:7] == ["0", "1", "1", "0"]


def test_without_a_new_session_it_stays_in_the_callers(run: Run, launcher: Launcher) -> None:
    fields = run("cat", "/proc/self/stat", launcher=launcher, new_session=False).output.split()
    assert fields[5] == "0"


def test_identity_and_capabilities_of_root(run: Run, launcher: Launcher) -> None:
    status = _status(run("cat", "/proc/self/status", launcher=launcher).output)
    keep = f"{mask(DEFAULT_CAPABILITIES) & probe_features().effective_capabilities:016x}"
    assert status["Uid"].split() == ["0"] * 4
    assert status["Gid"].split() == ["0"] * 4
    assert status["Groups"].split() == ["0"]
    assert [status[f"Cap{kind}"] for kind in ("Prm", "Eff", "Bnd")] == [keep] * 3
    assert [status[f"Cap{kind}"] for kind in ("Inh", "Amb")] == ["0" * 16] * 2
    assert status["NoNewPrivs"] == "1"


def test_identity_of_an_ordinary_user(run: Run, launcher: Launcher) -> None:
    user = User(1234, 2345, (2345, 3456))
    status = _status(run("cat", "/proc/self/status", user=user, launcher=launcher).output)
    assert status["Uid"].split() == ["1234"] * 4
    assert status["Gid"].split() == ["2345"] * 4
    assert status["Groups"].split() == ["2345", "3456"]
    assert {status[f"Cap{kind}"] for kind in ("Prm", "Eff", "Inh", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"


def test_fewer_capabilities_and_privileges_on_request(run: Run, launcher: Launcher) -> None:
    result = run(
        "cat", "/proc/self/status", capabilities=("CAP_KILL",), no_new_privileges=False,
        launcher=launcher,
    )  # fmt: skip
    status = _status(result.output)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 1 << NUMBERS["CAP_KILL"]
    assert status["NoNewPrivs"] == "0"


def test_signals_are_as_at_boot_whatever_the_launcher_does_with_its_own(
    run: Run, launcher: Launcher
) -> None:
    ignored = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGALRM})
    try:
        status = _status(run("cat", "/proc/self/status", launcher=launcher).output)
        mask_after = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert {signal.SIGUSR1, signal.SIGALRM} <= mask_after
        assert signal.SIGTERM not in mask_after
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask_before)
        for number, handler in before.items():
            signal.signal(number, handler)
    for field in ("SigBlk", "SigIgn", "SigCgt"):
        assert int(status[field], 16) == 0, field


def test_environment_directory_hostname_and_mask(run: Run, launcher: Launcher) -> None:
    os.environ["STEELYARD_SECRET"] = "the launcher's"
    try:
        result = run(
            "sh", "-c", "env; pwd; umask; hostname; cat /proc/sys/kernel/hostname",
            environment={"PATH": "/bin", "GREETING": "grüß dich", "EMPTY": ""},
            working_directory="/made/on/the/way",
            hostname="box-7",
            launcher=launcher,
        )  # fmt: skip
    finally:
        del os.environ["STEELYARD_SECRET"]
    lines = result.output.splitlines()
    assert set(lines) >= {"GREETING=grüß dich", "EMPTY=", "PATH=/bin"}
    assert "SECRET" not in result.output
    assert lines[-4:] == ["/made/on/the/way", "0022", "box-7", "box-7"]


def test_loopback_is_up_and_alone(run: Run, launcher: Launcher) -> None:
    result = run("sh", "-c", "ip -o link; ping -c1 -W2 127.0.0.1", launcher=launcher)
    assert result.code == 0, result.output
    assert len([line for line in result.output.splitlines() if "mtu" in line]) >= 1
    assert "LOOPBACK,UP" in result.output
    assert "eth" not in result.output


def test_devices_work(run: Run, launcher: Launcher) -> None:
    script = (
        "echo x > /dev/null && head -c4 /dev/zero | wc -c && head -c4 /dev/urandom | wc -c && "
        "! echo x 2>&1 > /dev/full; readlink /dev/fd; readlink /dev/ptmx; "
        "echo s > /dev/shm/f && cat /dev/shm/f; echo out > /dev/stdout"
    )
    lines = run("sh", "-c", script, launcher=launcher).output.splitlines()
    assert lines[:2] == ["4", "4"]
    assert "No space left on device" in lines[2]
    assert lines[3:] == ["/proc/self/fd", "pts/ptmx", "s", "out"]


def test_writes_go_to_the_writable_layer_only(run: Run, launcher: Launcher, rootfs: Path) -> None:
    before = sorted(rootfs.rglob("*"))
    script = "echo new > /etc/new && rm /bin/wget && echo >> /etc/passwd && ls /etc"
    assert run("sh", "-c", script, launcher=launcher).output.split() == ["new", "passwd"]
    assert sorted(rootfs.rglob("*")) == before
    assert (rootfs / "bin/wget").is_symlink()


def test_read_only_rootfs(run: Run, launcher: Launcher) -> None:
    script = "touch /x 2>&1; echo y > /dev/shm/y && cat /dev/shm/y"
    result = run("sh", "-c", script, read_only_root=True, launcher=launcher)
    assert "Read-only file system" in result.output
    assert result.output.splitlines()[-1] == "y"


def test_nothing_of_the_hosts_mounts_is_left(run: Run, launcher: Launcher) -> None:
    text = run("cat", "/proc/self/mountinfo", launcher=launcher).output
    mountpoints = {line.split()[4] for line in text.splitlines()}
    features = probe_features()
    ours = {"/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"}
    hidden = {*features.masked_files, *features.masked_directories, *features.read_only_paths}
    assert mountpoints == ours | hidden
    # Propagation: no tag of a peer group, so nothing spreads in either direction.
    assert "shared:" not in text
    assert "master:" not in text


def test_chroot_of_a_plain_folder_has_no_isolation(
    run: Run, launcher: Launcher, rootfs: Path
) -> None:
    from runtime.launch.spec import DirectoryRoot

    result = run(
        "sh", "-c", "pwd; ls /; id -u", root=DirectoryRoot(str(rootfs)), namespaces=frozenset(),
        network=NetworkSpec("host"), launcher=launcher,
    )  # fmt: skip
    assert result.output.split() == ["/", "bin", "etc", "root", "tmp", "0"]
    assert result.container.directory is None
