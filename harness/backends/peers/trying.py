"""Whether a peer works here: found out by running a container with it.

The trial needs no image: its root is an empty folder into which the host's own programs are
mounted read-only, and what runs is the host's `true`.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import runtime
from harness.backends.peers.argv import Start, filled, oci_config
from harness.backends.peers.command import Tool, remove_cgroups, run_peer
from harness.backends.peers.table import Peer
from harness.model.backend import Availability
from runtime.linux.namespace_thread import NamespaceThread

_TRUE = "/bin/true"
_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr")
_TRIAL_IMAGE = "steelyard-trial"


def find_program(peer: Peer, asked: object = None) -> str | None:
    """Absolute path of a peer's program; None if there is none."""
    # Administrators' programs too: not every user's PATH has them.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    found = shutil.which(str(asked) if asked else peer.name, path=path)
    return os.path.abspath(found) if found else None


def version_of(program: str, environment: Mapping[str, str]) -> str:
    """The first line of what `--version` says."""
    _, said = run_peer([program, "--version"], environment)
    return said.splitlines()[0] if said else "unknown"


def try_out(peer: Peer, tool: Tool) -> Availability:
    """Run the smallest container there is."""
    if peer.name == "docker":
        code, said = tool.run("version")
        if code != 0:
            reason = said.splitlines()[-1] if said else f"its client ended with code {code}"
            return Availability(False, reason, "start its daemon: dockerd")
    root = Path(tool.directory, "trial")
    root.mkdir()
    folders = []
    for name in _FOLDERS:
        if os.path.islink(f"/{name}"):  # with /usr merged, all but one are links into it
            (root / name).symlink_to(os.readlink(f"/{name}"))
        elif os.path.isdir(f"/{name}"):
            folders.append(name)
    for name in (*folders, "proc", "dev", "sys", "tmp"):
        (root / name).mkdir()
    identifier = f"{runtime.Session.current().identifier}-{Path(tool.directory).name}-trial"
    spec = runtime.ContainerSpec(runtime.DirectoryRoot(""), (_TRUE,), {"PATH": "/bin"})
    start = Start(tool.program, identifier, os.fspath(root), tool.state, spec)
    with closing(NamespaceThread(tool.namespace.enter, name=f"trial of {peer.name}")) as thread:
        try:
            code, said = thread.call(lambda: _run(peer, tool, start, folders))
        finally:
            thread.call(lambda: _clear_up(peer, tool, start))
    version = version_of(tool.program, tool.environment)
    if code != 0:
        last = said.splitlines()[-1] if said else "it said nothing"
        reason = f"{version} cannot run a container here (code {code}): {last}"
        return Availability(False, reason)
    unseen = ""
    if not peer.is_seen:
        unseen = "; when the workload starts is not seen"
    elif tool.unwatched is not None:
        unseen = f"; when the workload starts is not seen: {tool.unwatched}"
    return Availability(True, f"{version}, {tool.program}{unseen}")


def _run(peer: Peer, tool: Tool, start: Start, folders: list[str]) -> tuple[int, str]:
    if peer.has_bundle:
        config = oci_config(start)
        config["root"] = {"path": start.directory, "readonly": False}
        config["mounts"] += [
            {"destination": f"/{name}", "type": "bind", "source": f"/{name}",
             "options": ["bind", "ro"]}
            for name in folders
        ]  # fmt: skip
        bundle = Path(tool.directory, "bundle")
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(config))
        argv = [tool.program, "--root", start.state, "run", "--bundle", f"{bundle}",
                start.identifier]  # fmt: skip
    elif peer.is_engine:
        argv = [tool.program, "run", "--rm", "--network", "none", "--name", start.identifier]
        if peer.is_seen:
            argv += ["--cgroup-parent", start.cgroup]
        for name in folders:
            argv += ["--volume", f"/{name}:/{name}:ro"]
        if peer.name == "docker":
            code, said = _import_empty(tool, start)
            if code != 0:
                return code, said
            argv += [_TRIAL_IMAGE, _TRUE]
        else:
            argv += ["--rootfs", start.directory, _TRUE]
    else:
        argv = [tool.program, "--bind", start.directory, "/", "--proc", "/proc", "--dev", "/dev",
                "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"]  # fmt: skip
        for name in folders:
            argv += ["--ro-bind", f"/{name}", f"/{name}"]
        argv += ["--", _TRUE]
    return run_peer(argv, tool.environment)


def _import_empty(tool: Tool, start: Start) -> tuple[int, str]:
    """Make the trial's folder, which holds links and empty folders only, an image of docker's."""
    archive = Path(tool.directory, "trial.tar")
    with tarfile.open(archive, mode="w") as tar:
        for path in sorted(Path(start.directory).iterdir()):
            tar.add(path, path.name, recursive=False)
    return tool.run("import", f"{archive}", _TRIAL_IMAGE)


def _clear_up(peer: Peer, tool: Tool, start: Start) -> None:
    if peer.name == "docker":
        tool.run("image", "rm", "--force", _TRIAL_IMAGE)
    elif peer.delete:
        run_peer(filled(peer.delete, start), tool.environment)
    if peer.has_limits:
        remove_cgroups(start.cgroup, tool.hierarchies)
