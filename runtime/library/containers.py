"""Start a container from an image, run one to its end, or write down what would be started.

The image may be a reference, looked up in the store, where one that comes with Steelyard is made
first; or an `Image`. While the container exists its image is leased: no removal takes its layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from runtime.containers.container import Container, ExitStatus, launch_container
from runtime.containers.from_image import (
    NO_LIMITS,
    check_limits,
    check_name,
    check_places,
    check_volume,
    check_words,
    network_spec,
    spec_for_image,
)
from runtime.containers.streams import Stream, Streams
from runtime.errors import ImageNotFoundError
from runtime.images.formats.image import Image
from runtime.images.store.store import ImageStore
from runtime.launch.spec import ContainerSpec, ResourceLimits, Volume

if TYPE_CHECKING:
    from runtime.containers.signals import SignalProxy

Progress = Callable[[str], None]


def container_spec(
    image: str | Image,
    command: Sequence[str] = (),
    *,
    store: ImageStore | None = None,
    entrypoint: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
    working_directory: str | None = None,
    hostname: str | None = None,
    name: str | None = None,
    limits: ResourceLimits = NO_LIMITS,
    volumes: Iterable[Volume | str] = (),
    network: str = "none",
    read_only_root: bool = False,
    stdio: tuple[int, int, int] = (0, 1, 2),
    progress: Progress | None = None,
) -> ContainerSpec:
    """Combine an image's defaults with what is asked for, as docker-run(1) does.

    For `plan_container` and `launch_container`. A spec holds no lease: who launches it keeps
    `ImageStore.lease` while it runs, as `start_container` does.

    Args:
        image: A reference, or an image of the store.
        command: In place of the image's CMD.
        store: Where the image is; by default the user's.
        entrypoint: In place of the image's ENTRYPOINT, whose CMD then goes too; `()` is none.
        environment: On top of the image's. Nothing else is inherited.
        user: `NAME[:GROUP]` as in the image's /etc/passwd, or numbers; by default the image's.
        working_directory: Absolute, in the container; by default the image's.
        hostname: At most 64 bytes; by default the name, else `steelyard`.
        name: Of the container.
        limits: For all its processes together.
        volumes: Files and folders of the host that it sees: values, or `SOURCE:TARGET[:ro]`.
        network: `none`, which has loopback alone, or `host`.
        read_only_root: Whether the root filesystem cannot be written.
        stdio: The descriptors of this process that become 0, 1 and 2.
        progress: Told what is being made, if the image has to be.

    Raises:
        InvalidArgumentError: An argument makes no sense; says which.
        ImageNotFoundError: There is no such image.
        ContainerError: There is nothing to run, or the image does not know the user.
    """
    options = _Options(
        entrypoint=entrypoint, environment=environment, user=user,
        working_directory=working_directory, hostname=hostname, name=name, limits=limits,
        volumes=volumes, network=network, read_only_root=read_only_root, stdio=stdio,
    )  # fmt: skip
    return _prepare(image, command, store or ImageStore.default(), progress, options)[1]


def start_container(
    image: str | Image,
    command: Sequence[str] = (),
    *,
    store: ImageStore | None = None,
    entrypoint: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
    working_directory: str | None = None,
    hostname: str | None = None,
    name: str | None = None,
    limits: ResourceLimits = NO_LIMITS,
    volumes: Iterable[Volume | str] = (),
    network: str = "none",
    read_only_root: bool = False,
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
    progress: Progress | None = None,
) -> Container:
    """Start a container and return when its workload runs; remove it, or use it in a `with` block.

        with start_container("busybox", ["sleep", "60"]) as box:
            print(box.pid, box.wait(timeout_s=0.1))

    The workload dies with the thread that calls this (PR_SET_PDEATHSIG in prctl(2)).

    Args:
        image: A reference, or an image of the store.
        command: In place of the image's CMD.
        store: Where the image is; by default the user's.
        entrypoint: In place of the image's ENTRYPOINT, whose CMD then goes too; `()` is none.
        environment: On top of the image's. Nothing else is inherited.
        user: `NAME[:GROUP]` or numbers; by default the image's.
        working_directory: Absolute, in the container; by default the image's.
        hostname: At most 64 bytes; by default the name, else `steelyard`.
        name: Of the container; made up if None.
        limits: For all its processes together.
        volumes: Files and folders of the host that it sees: values, or `SOURCE:TARGET[:ro]`.
        network: `none`, which has loopback alone, or `host`.
        read_only_root: Whether the root filesystem cannot be written.
        stdin: A descriptor, an open file, `subprocess.DEVNULL`; None is this process's own.
        stdout: The same for standard output.
        stderr: The same for standard error.
        progress: Told what is being made, if the image has to be.

    Raises:
        InvalidArgumentError: An argument makes no sense; says which.
        ImageNotFoundError: There is no such image.
        LaunchError: A step failed, and nothing is left. `CommandNotFoundError` and
            `CommandNotExecutableError` are the two that are about the command.
        UnsupportedError: This host, or this user, cannot do what was asked.
    """
    store = store or ImageStore.default()
    with Streams(stdin, stdout, stderr) as streams, contextlib.ExitStack() as stack:
        options = _Options(
            entrypoint=entrypoint, environment=environment, user=user,
            working_directory=working_directory, hostname=hostname, name=name, limits=limits,
            volumes=volumes, network=network, read_only_root=read_only_root, stdio=streams.stdio,
        )  # fmt: skip
        found, spec = _prepare(image, command, store, progress, options)
        stack.enter_context(store.lease(found))
        container = launch_container(spec, name=name)
        container.on_remove.push(stack.pop_all())
    return container


def run_container(
    image: str | Image,
    command: Sequence[str] = (),
    *,
    store: ImageStore | None = None,
    entrypoint: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
    working_directory: str | None = None,
    hostname: str | None = None,
    name: str | None = None,
    limits: ResourceLimits = NO_LIMITS,
    volumes: Iterable[Volume | str] = (),
    network: str = "none",
    read_only_root: bool = False,
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
    input: bytes | None = None,  # noqa: A002 - the name that subprocess gives it
    capture_output: bool = False,
    timeout_s: float | None = None,
    keep: bool = False,
    forward_signals: bool = False,
    progress: Progress | None = None,
) -> ExitStatus:
    """Run a command in a new container, wait for its end, and remove the container.

        status = run_container("busybox", ["echo", "hello"], capture_output=True)
        assert (status.code, status.stdout.strip()) == (0, b"hello")

    Args:
        image: A reference, or an image of the store.
        command: In place of the image's CMD.
        store: Where the image is; by default the user's.
        entrypoint: In place of the image's ENTRYPOINT, whose CMD then goes too; `()` is none.
        environment: On top of the image's. Nothing else is inherited.
        user: `NAME[:GROUP]` or numbers; by default the image's.
        working_directory: Absolute, in the container; by default the image's.
        hostname: At most 64 bytes; by default the name, else `steelyard`.
        name: Of the container; made up if None.
        limits: For all its processes together.
        volumes: Files and folders of the host that it sees: values, or `SOURCE:TARGET[:ro]`.
        network: `none`, which has loopback alone, or `host`.
        read_only_root: Whether the root filesystem cannot be written.
        stdin: A descriptor, an open file, `subprocess.DEVNULL`; None is this process's own.
        stdout: The same for standard output.
        stderr: The same for standard error.
        input: What the workload reads, in place of `stdin`.
        capture_output: Keep what it writes, in the status. Of a notebook or a test, descriptors 1
            and 2 are not what `print` writes to: there, this is the way to see the output.
        timeout_s: How long it may run from its exec on; None is without end.
        keep: Keep what it wrote, for `kept_changes` and `commit_container`; a name that was made up
            is told by `progress`.
        forward_signals: Send signals that come meanwhile to the workload (docker's --sig-proxy); in
            the main thread alone. That the workload ignores an interrupt is said on stderr.
        progress: Told what is being made, if the image has to be, and the made-up name.

    Returns:
        How it ended. That the command fails is no error: see `ExitStatus.code` and `.signal`.

    Raises:
        InvalidArgumentError: An argument makes no sense; says which.
        ImageNotFoundError: There is no such image.
        LaunchError: As for `start_container`, and so is UnsupportedError.
        ContainerTimeoutError: It ran longer than `timeout_s` and was ended.
    """
    store = store or ImageStore.default()
    with contextlib.ExitStack() as stack:
        streams = stack.enter_context(
            Streams(stdin, stdout, stderr, input=input, capture_output=capture_output)
        )
        options = _Options(
            entrypoint=entrypoint, environment=environment, user=user,
            working_directory=working_directory, hostname=hostname, name=name, limits=limits,
            volumes=volumes, network=network, read_only_root=read_only_root, stdio=streams.stdio,
        )  # fmt: skip
        found, spec = _prepare(image, command, store, progress, options)
        stack.enter_context(store.lease(found))
        proxy = stack.enter_context(_signal_proxy()) if forward_signals else None
        if keep:
            from runtime.library.kept import start_kept

            container = stack.enter_context(start_kept(spec, found, name, progress))
        else:
            container = stack.enter_context(launch_container(spec, name=name))
        if proxy is not None:
            proxy.forward_to(container)
        return streams.wait(container, timeout_s)


class _Options(TypedDict):
    """What the three calls share; see `container_spec`."""

    entrypoint: Sequence[str] | None
    environment: Mapping[str, str] | None
    user: str | None
    working_directory: str | None
    hostname: str | None
    name: str | None
    limits: ResourceLimits
    volumes: Iterable[Volume | str]
    network: str
    read_only_root: bool
    stdio: tuple[int, int, int]


def _prepare(
    image: str | Image,
    command: Sequence[str],
    store: ImageStore,
    progress: Progress | None,
    options: _Options,
) -> tuple[Image, ContainerSpec]:
    """Check what was asked, and only then find the image, which may have to be made."""
    check_name(options["name"])
    check_places(options["hostname"], options["working_directory"])
    check_limits(options["limits"])
    words = check_words("command", command)
    entrypoint = options["entrypoint"]
    volumes = tuple(map(check_volume, options["volumes"]))
    network = network_spec(options["network"])
    found = _find_image(image, store, progress)
    spec = spec_for_image(
        found,
        store,
        command=words,
        entrypoint=None if entrypoint is None else check_words("entrypoint", entrypoint),
        environment=options["environment"],
        user=options["user"],
        working_directory=options["working_directory"],
        hostname=options["hostname"] or options["name"] or "steelyard",
        limits=options["limits"],
        network=network,
        volumes=volumes,
        read_only_root=options["read_only_root"],
        stdio=options["stdio"],
    )
    return found, spec


def _find_image(image: str | Image, store: ImageStore, progress: Progress | None) -> Image:
    """The image of a reference, or the one given."""
    if isinstance(image, Image):
        return image
    try:
        return store.get(image)
    except ImageNotFoundError:
        # What makes images is loaded only where one may have to be made.
        from runtime.build.shipped import ensure_image

        return ensure_image(image, store=store, progress=progress)


def _signal_proxy() -> SignalProxy:
    from runtime.containers.signals import SignalProxy

    return SignalProxy()
