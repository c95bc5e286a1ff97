"""Engines with storage of their own: the image is brought there once, and instances are there."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import runtime
from harness.backends.peers.argv import Start, filled, run_argv
from harness.backends.peers.command import Tool, run_peer
from harness.backends.peers.table import Peer
from harness.meters.disk import measure
from harness.model import DiskPart, Sharing
from harness.model.errors import HarnessError, PrepareError

PRIVATE_MEMORY = "/dev/shm"  # noqa: S108 - in the arm's mounts this is a tmpfs of its own
"""Where podman keeps its locks, sockets and the OCI runtime's state: in memory, as `/run` is. The
place has to be private in any case: the locks of all podmans of a host are there under one name,
and one that starts with a new state folder takes the host for rebooted and frees them all."""
SHORT_NAME = f"{PRIVATE_MEMORY}/arm"
"""What the arm's folder is called for podman. A socket's name ends after 108 bytes (unix(7)), and
with its storage below a longer path podman waits for ever for the end of a container."""
_LOADED = ("Loaded image: ", "Loaded image(s): ", "Loaded image ID: ")


class Engine:
    """An engine that has the image.

    Attributes:
        image: What it calls the image.
        image_parts: What the image takes in its storage.
        image_paths: Where its layers are.
    """

    image_parts: tuple[DiskPart, ...] = ()
    image_paths: tuple[Path, ...] = ()

    def __init__(self, peer: Peer, tool: Tool, archive: Path) -> None:
        """Bring the image there; in a thread that sees the engine's mounts.

        Raises:
            PrepareError: The engine does not take it.
        """
        self.peer = peer
        self.tool = tool
        code, said = tool.run("load", "--quiet", "--input", f"{archive}")
        names = [
            line.removeprefix(words)
            for line in said.splitlines()
            for words in _LOADED
            if line.startswith(words)
        ]
        if code != 0 or not names:
            raise PrepareError(f"{peer.name} cannot load the image: {said or f'code {code}'}")
        self.image = names[-1]

    def measure(self, identifier: str) -> tuple[DiskPart, ...]:
        """What an instance has in the storage now."""
        raise NotImplementedError

    def first_pid(self, identifier: str) -> int | None:
        """The first process of a running box, for an engine that does not write it into a file."""

    def failure(self, identifier: str) -> str | None:
        """Why a box never started, where the kernel reports nothing; None: it did, or not known."""

    def facts(self) -> dict[str, str]:
        """What the records should say of it."""
        return {}

    def close(self) -> None:
        """Take back what was brought to where others are too."""

    @contextlib.contextmanager
    def created(self, start: Start) -> Iterator[None]:
        """An instance that is made and never run."""
        argv = run_argv(self.peer, start)
        argv[argv.index("run")] = "create"
        code, said = run_peer(argv, self.tool.environment)
        if code != 0:
            raise HarnessError(f"{self.peer.name} cannot make a container: {said}")
        try:
            yield
        finally:
            run_peer(filled(self.peer.delete, start), self.tool.environment)


class Podman(Engine):
    """Podman with all its state in the arm's folder; `root` in it is the storage."""

    def __init__(self, peer: Peer, tool: Tool, archive: Path) -> None:
        super().__init__(peer, tool, archive)
        self._root = Path(tool.directory, "root")
        self.image_parts = (measure(self._root, "podman's storage", Sharing.SHARED),)
        self.image_paths = tuple(sorted(self._root.glob("overlay/*/diff")))

    def measure(self, identifier: str) -> tuple[DiskPart, ...]:
        """Its layer (upper and work folder) and its settings."""
        listed = (self._root / "overlay-containers/containers.json").read_text()
        for container in json.loads(listed):
            if identifier in container.get("names", ()):
                layer = self._root / "overlay" / container["layer"]
                settings = self._root / "overlay-containers" / container["id"]
                return (
                    measure(layer, "writable layer", Sharing.EXCLUSIVE),
                    measure(settings, "podman's settings", Sharing.EXCLUSIVE),
                )
        raise HarnessError(f"podman does not know the container {identifier} any more")


class Docker(Engine):
    """The docker daemon, which others use too: the image is taken away again, if it was not there.

    Args:
        ids: By which docker may know the image: the digest of its configuration, or of its
            manifest, depending on the daemon's storage.
    """

    def __init__(self, peer: Peer, tool: Tool, archive: Path, ids: tuple[str, ...]) -> None:
        asked = ("image", "inspect", "--format", "{{.Id}}")
        self._was_there = any(tool.run(*asked, name)[0] == 0 for name in ids)
        super().__init__(peer, tool, archive)
        try:
            data = self._graph("image", self.image)
        except HarnessError:
            self.close()
            raise
        folders = [data.get("UpperDir", ""), *data.get("LowerDir", "").split(":")]
        self.image_paths = tuple(Path(folder) for folder in folders if folder)
        self.image_parts = tuple(
            measure(path, "docker's layer", Sharing.SHARED) for path in self.image_paths
        )

    def close(self) -> None:
        """Remove the image. Idempotent."""
        if not self._was_there:
            self.tool.run("image", "rm", self.image)
            self._was_there = True

    def facts(self) -> dict[str, str]:
        """The daemon's version, which is not the client's."""
        code, said = self.tool.run("version", "--format", "{{.Server.Version}}")
        return {"daemon": said if code == 0 else "unknown"}

    def first_pid(self, identifier: str) -> int | None:
        """The daemon's answer; None once it has ended."""
        code, said = self.tool.run("inspect", "--format", "{{.State.Pid}}", identifier)
        return int(said) or None if code == 0 and said.isdecimal() else None

    def failure(self, identifier: str) -> str | None:
        """The daemon's error, if the container was made and its start failed."""
        form = "{{.State.StartedAt}} {{.State.Error}}"
        code, said = self.tool.run("container", "inspect", "--format", form, identifier)
        # The zero of Go's time.Time stands for "never".
        if code != 0 or not said.startswith("0001-"):
            return None
        return said.partition(" ")[2]

    def measure(self, identifier: str) -> tuple[DiskPart, ...]:
        """Its upper and work folder."""
        upper = self._graph("container", identifier).get("UpperDir")
        if not upper:
            raise HarnessError("docker does not say where the container's writable layer is")
        return (measure(os.path.dirname(upper), "writable layer", Sharing.EXCLUSIVE),)

    def _graph(self, kind: str, name: str) -> dict[str, str]:
        """Where the storage driver overlay2 has the folders of an image or a container."""
        code, said = self.tool.run(kind, "inspect", "--format", "{{json .GraphDriver.Data}}", name)
        if code != 0:
            raise HarnessError(f"docker cannot describe {name}: {said}")
        return dict(json.loads(said) or {})


def podman_environment(
    directory: str, oci_runtime: str, environment: Mapping[str, str]
) -> dict[str, str]:
    """Configure podman to keep everything in a folder, and return the variables that say so.

    Besides the places there are three settings, each for hosts where podman would not start
    otherwise or would need a service: control groups by files, events to a file, and the limits
    that it has itself for its containers (it asks for higher ones, which needs CAP_SYS_RESOURCE).
    """
    settings = {
        "containers.conf": (
            "[containers]\n"
            "default_ulimits = []\n"
            "[engine]\n"
            f"runtime = {json.dumps(oci_runtime)}\n"
            'cgroup_manager = "cgroupfs"\n'
            'events_logger = "file"\n'
            f'tmp_dir = "{PRIVATE_MEMORY}/libpod"\n'
            f'runtime_flags = ["root={PRIVATE_MEMORY}/oci"]\n'
        ),
        "storage.conf": (
            "[storage]\n"
            'driver = "overlay"\n'
            f'graphroot = "{SHORT_NAME}/root"\n'
            f'runroot = "{SHORT_NAME}/run"\n'
        ),
    }
    for name, text in settings.items():
        Path(directory, name).write_text(text)
    return {
        **environment,
        "CONTAINERS_CONF": f"{directory}/containers.conf",
        "CONTAINERS_STORAGE_CONF": f"{directory}/storage.conf",
    }


def saved(image: runtime.Image, store: runtime.ImageStore, directory: str) -> Path:
    """The image as an archive that engines load (docker-save(1)), without any name.

    Under its name it would take the place of a user's image in an engine that others use too.

    Raises:
        PrepareError: It cannot be written.
    """
    named, nameless = Path(directory, "named.tar"), Path(directory, "image.tar")
    try:
        runtime.save_images([image.reference], named, store=store)
        with tarfile.open(named) as source, tarfile.open(nameless, "w") as target:
            for member in source:
                # What the other format, OCI's, says of the same blobs has names as well.
                if member.name in ("index.json", "oci-layout"):
                    continue
                content = source.extractfile(member)
                if member.name == "manifest.json" and content is not None:
                    entries = json.load(content)
                    text = json.dumps([entry | {"RepoTags": None} for entry in entries]).encode()
                    member.size, content = len(text), io.BytesIO(text)
                target.addfile(member, content)
    except (runtime.ContainerError, OSError, tarfile.TarError) as error:
        raise PrepareError(f"cannot write the image for the engine: {error}") from error
    finally:
        named.unlink(missing_ok=True)
    return nameless
