"""Start a container from an image, run one to its end, or write down what would be started.

The image may be a reference, looked up in the store, where one that comes with Steelyard is made
first; or an `Image`. While the container exists its image is leased: no removal takes its layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from runtime.containers import from_image
from runtime.containers.container import Container, ExitStatus, launch_container
from runtime.containers.streams import Stream, Streams
from runtime.errors import ImageNotFoundError
from runtime.images.formats.image import Image
from runtime.images.store.store import ImageStore
from runtime.launch.spec import ContainerSpec, ResourceLimits, Volume

if TYPE_CHECKING:
    from typing import Unpack

Progress = Callable[[str], None]


class ContainerOptions(TypedDict, total=False):
    """The options that the three calls share; `container_spec` says what each means."""

    store: ImageStore | None
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
    progress: Progress | None


def container_spec(
    image: str | Image,
    command: Sequence[str] = (),
    *,
    stdio: tuple[int, int, int] = (0, 1, 2),
    **options: Unpack[ContainerOptions],
) -> ContainerSpec:
    """Combine an image's defaults with what is asked for, as docker-run(1) does.

    For `plan_container` and `launch_container`. A spec holds no lease: who launches it keeps
    `ImageStore.lease` while it runs, as `start_container` does.

    Args:
        image: A reference, or an image of the store.
        command: In place of the image's CMD.
        stdio: The descriptors of this process that become 0, 1 and 2.
        **options: All that follow; each may be left out.
        store: Where the image is; by default the user's.
        entrypoint: In place of the image's ENTRYPOINT, whose CMD then goes too; `()` is none.
        environment: On top of the image's. Nothing else is inherited.
        user: `NAME[:GROUP]` as in the image's /etc/passwd, or numbers; by default the image's.
        working_directory: Absolute, in the container; by default the image's.
        hostname: At most 64 bytes; by default the name, else `steelyard`.
        name: Of the container; made up if None.
        limits: For all its processes together.
        volumes: Files and folders of the host that it sees: values, or `SOURCE:TARGET[:ro]`.
        network: `none` (the default), which has loopback alone, or `host`.
        read_only_root: Whether the root filesystem cannot be written.
        progress: Called with each message about the making of the image, if it has to be made.

    Raises:
        InvalidArgumentError: An argument makes no sense; says which.
        ImageNotFoundError: There is no such image.
        ContainerError: There is nothing to run, or the image does not know the user.
    """
    return _prepare(image, command, stdio, **options)[2]


def start_container(
    image: str | Image,
    command: Sequence[str] = (),
    *,
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
    **options: Unpack[ContainerOptions],
) -> Container:
    """Start a container and return when its workload runs; remove it, or use it in a `with` block.

        with start_container("busybox", ["sleep", "60"]) as box:
            print(box.pid, box.wait(timeout_s=0.1))

    The workload dies with the thread that calls this (PR_SET_PDEATHSIG in prctl(2)).

    Args:
        image: A reference, or an image of the store.
        command: In place of the image's CMD.
        stdin: A descriptor, an open file, `subprocess.DEVNULL`; None is this process's own.
        stdout: The same for standard output.
        stderr: The same for standard error.
        **options: As for `container_spec`.

    Raises:
        InvalidArgumentError: An argument makes no sense; says which.
        ImageNotFoundError: There is no such image.
        LaunchError: A step failed, and nothing is left. `CommandNotFoundError` and
            `CommandNotExecutableError` are the two that are about the command.
        UnsupportedError: This host, or this user, cannot do what was asked.
    """
    with Streams(stdin, stdout, stderr) as streams, contextlib.ExitStack() as stack:
        store, found, spec = _prepare(image, command, streams.stdio, **options)
        stack.enter_context(store.lease(found))
        container = launch_container(spec, name=options.get("name"))
        container.on_remove.push(stack.pop_all())
    return container


def run_container(
    image: str | Image,
    command: Sequence[str] = (),
    *,
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
    input: bytes | None = None,  # noqa: A002 - the name that subprocess gives it
    capture_output: bool = False,
    timeout_s: float | None = None,
    keep: bool = False,
    forward_signals: bool = False,
    **options: Unpack[ContainerOptions],
) -> ExitStatus:
    """Run a command in a new container, wait for its end, and remove the container.

        status = run_container("busybox", ["echo", "hello"], capture_output=True)
        assert (status.code, status.stdout.strip()) == (0, b"hello")

    Args:
        image: A reference, or an image of the store.
        command: In place of the image's CMD.
        stdin: As for `start_container`, and so are the two that follow.
        stdout: Standard output.
        stderr: Standard error.
        input: What the workload reads, in place of `stdin`.
        capture_output: Keep what it writes, in the status. Of a notebook or a test, descriptors 1
            and 2 are not what `print` writes to: there, this is the way to see the output.
        timeout_s: How long it may run from its exec on; None is without end.
        keep: Keep what it wrote, for `kept_changes` and `commit_container`; a name that was made up
            is reported to `progress`.
        forward_signals: Send signals that come meanwhile to the workload (docker's --sig-proxy); in
            the main thread alone. That the workload ignores an interrupt is said on stderr.
        **options: As for `container_spec`.

    Returns:
        How it ended. That the command fails is no error: see `ExitStatus.code` and `.signal`.

    Raises:
        InvalidArgumentError: An argument makes no sense; says which.
        ImageNotFoundError: There is no such image.
        LaunchError: As for `start_container`, and so is UnsupportedError.
        ContainerTimeoutError: It ran longer than `timeout_s` and was ended.
    """
    name = options.get("name")
    with contextlib.ExitStack() as stack:
        streams = stack.enter_context(
            Streams(stdin, stdout, stderr, input=input, capture_output=capture_output)
        )
        store, found, spec = _prepare(image, command, streams.stdio, **options)
        stack.enter_context(store.lease(found))
        if forward_signals:
            from runtime.containers.signals import SignalProxy

            proxy = stack.enter_context(SignalProxy())
        if keep:
            from runtime.library.kept import start_kept

            kept = start_kept(spec, found, name, options.get("progress"))
            container = stack.enter_context(kept)
        else:
            container = stack.enter_context(launch_container(spec, name=name))
        if forward_signals:
            proxy.forward_to(container)
        return streams.wait(container, timeout_s)


def _prepare(
    image: str | Image,
    command: Sequence[str],
    stdio: tuple[int, int, int],
    *,
    store: ImageStore | None = None,
    entrypoint: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
    working_directory: str | None = None,
    hostname: str | None = None,
    name: str | None = None,
    limits: ResourceLimits = from_image.NO_LIMITS,
    volumes: Iterable[Volume | str] = (),
    network: str = "none",
    read_only_root: bool = False,
    progress: Progress | None = None,
) -> tuple[ImageStore, Image, ContainerSpec]:
    """Check what was asked, and only then find the image, which may have to be made."""
    from_image.check_name(name)
    network_spec = from_image.check_options(hostname, working_directory, limits, network)
    words = from_image.check_words("command", command)
    if entrypoint is not None:
        entrypoint = from_image.check_words("entrypoint", entrypoint)
    checked_volumes = tuple(map(from_image.check_volume, volumes))
    store = store or ImageStore.default()
    if isinstance(image, Image):
        found = image
    else:
        try:
            found = store.get(image)
        except ImageNotFoundError:
            # What makes images is loaded only where one may have to be made.
            from runtime.build.shipped import ensure_image

            found = ensure_image(image, store=store, progress=progress)
    spec = from_image.spec_for_image(
        found, store, command=words, entrypoint=entrypoint, environment=environment, user=user,
        working_directory=working_directory, hostname=hostname or name or "steelyard",
        limits=limits, network=network_spec, volumes=checked_volumes,
        read_only_root=read_only_root, stdio=stdio,
    )  # fmt: skip
    return store, found, spec
