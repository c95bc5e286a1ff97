"""`steelyard container …`: docker's words for docker's things, on Steelyard's own runtime.

Imports nothing but click at the top: this is on the launch path.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from runtime.cli.assignments import assignments
from runtime.units import parse_size

if TYPE_CHECKING:
    from runtime.containers.container import Container, ExitStatus
    from runtime.launch.spec import ContainerSpec, Volume

    _IntType = click.ParamType[int]
else:
    _IntType = click.ParamType  # generic only in newer versions of click

_SMALLEST_MEMORY_BYTES = 1 << 20
_MOST_CPUS = 8192  # NR_CPUS of the largest distribution kernels
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1,
              signal.SIGUSR2, signal.SIGWINCH)  # fmt: skip


class _Size(_IntType):
    """`512m`, `1g`, `1GiB`: docker's sizes; units are powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        try:
            size: int = parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if size < _SMALLEST_MEMORY_BYTES:
            self.fail(f"{value} is less than 1m, in which nothing runs", param, ctx)
        return size


def _volumes(values: tuple[str, ...]) -> tuple[Volume, ...]:
    """`SOURCE:TARGET[:ro|rw]`, both absolute or, for the source, relative to here."""
    from runtime.launch.spec import Volume

    volumes = []
    for value in values:
        source, _, rest = value.partition(":")
        target, _, mode = rest.partition(":")
        if not source or not target.startswith("/") or mode not in ("", "ro", "rw"):
            text = f"{value!r} is not SOURCE:TARGET[:ro], where TARGET is absolute"
            raise click.BadParameter(text, param_hint="-v")
        if not target.strip("/"):
            text = f"{value!r} would hide the whole container: TARGET cannot be /"
            raise click.BadParameter(text, param_hint="-v")
        source = os.path.abspath(source)
        if not os.path.exists(source):
            text = f"{source} does not exist on this machine; make it first"
            raise click.BadParameter(text, param_hint="-v")
        volumes.append(
            Volume(source, os.path.normpath(target), mode == "ro", os.path.isdir(source))
        )
    return tuple(volumes)


def _launch_options(command: Any) -> Any:
    """The options that `run` and `plan` share, in docker's spelling."""
    for option in reversed(
        (
            click.option("-e", "--env", "environment", multiple=True, metavar="NAME[=VALUE]",
                         help="Set a variable; without a value, take the caller's."),
            click.option("-w", "--workdir", metavar="PATH", help="Working directory."),
            click.option("-u", "--user", metavar="USER[:GROUP]", help="Name or number."),
            click.option("-v", "--volume", "volumes", multiple=True, metavar="SOURCE:TARGET[:ro]",
                         help="Show a folder or file of the host."),
            click.option("-m", "--memory", type=_Size(), help="Memory limit, as in 512m."),
            click.option("--cpus", type=click.FloatRange(min=0.01, max=_MOST_CPUS),
                         help="CPU limit, as in 1.5."),
            click.option("--pids-limit", type=click.IntRange(min=1),
                         help="Limit of processes and threads."),
            click.option("--hostname", metavar="NAME", help="The container's host name."),
            click.option("--name", metavar="NAME",
                         help="Name; also the host name where none is given."),
            click.option("--network", type=click.Choice(["none", "host"]), default="none",
                         show_default=True, help="none: loopback only. host: no isolation."),
            click.option("--read-only", is_flag=True, help="Mount the rootfs read-only."),
            click.option("--entrypoint", metavar="PROGRAM", help="In place of the image's."),
            click.argument("image"),
            click.argument("command", nargs=-1, type=click.UNPROCESSED),
        )
    ):  # fmt: skip
        command = option(command)
    return command


_HOSTNAME_BYTES = 64
"""__NEW_UTS_LEN of linux/utsname.h."""
_FAILED = 125
"""docker-run(1): the tool itself failed, its usage included, and not the command in the box."""
_NOT_YET = {
    "-i": "standard input is connected anyway: leave it out",
    "--interactive": "standard input is connected anyway: leave it out",
    "-t": "containers get no terminal of their own yet: leave it out",
    "--tty": "containers get no terminal of their own yet: leave it out",
    "-d": "containers do not run in the background yet: put & behind the command",
    "--detach": "containers do not run in the background yet: put & behind the command",
    "-p": "ports are not forwarded yet: --network host shares the host's",
    "--publish": "ports are not forwarded yet: --network host shares the host's",
}
"""What hands used to docker type, and what to do instead."""


class _RunUsageError(click.UsageError):
    exit_code = _FAILED


class _DockerLike(click.Command):
    """A command whose usage errors end with docker's exit code, and know docker's options."""

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        with _explained():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        with _explained():
            return super().invoke(ctx)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        text = error.format_message()
        if isinstance(error, click.NoSuchOption) and error.option_name in _NOT_YET:
            text = f"{error.message} {_NOT_YET[error.option_name]}"
        raise _RunUsageError(text, error.ctx) from None


_CONTEXT = {"ignore_unknown_options": False, "allow_interspersed_args": False}


# What only kept containers need is loaded when one of its commands is named.
_ELSEWHERE = ("commit", "diff", "ls", "rm")


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        from runtime.cli import kept

        command = getattr(kept, cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Commands)
def container() -> None:
    """Run containers with Steelyard's own runtime."""


@container.command(cls=_DockerLike, context_settings=_CONTEXT)
@click.option(
    "--rm", is_flag=True, help="Remove it afterwards; done anyway, unless --keep is given."
)
@click.option(
    "--keep", is_flag=True, help="Keep what it wrote, for `container diff` and `container commit`."
)
@_launch_options
def run(rm: bool, keep: bool, **options: Any) -> None:
    """Run COMMAND in a new container of IMAGE, and end with its exit code.

    Exit codes are docker's: 125 Steelyard failed, 126 the command cannot be executed, 127 it does
    not exist, 128 + N a signal ended it. Signals go to the command; if it does not handle an
    interrupt, a second one ends the container.
    """
    if rm and keep:
        raise click.UsageError("--rm and --keep exclude each other")
    from runtime.containers.container import launch_container
    from runtime.images import ImageStore

    store = ImageStore.default()
    spec, image = _specification(store, options)
    with store.lease(image):
        if keep:
            from runtime.cli.kept import run_kept

            status = run_kept(spec, image, options["name"], _run_forwarding_signals)
            raise click.exceptions.Exit(status.shell_code)
        status = _run_forwarding_signals(lambda: launch_container(spec, name=options["name"]))
    raise click.exceptions.Exit(status.shell_code)


@container.command(context_settings=_CONTEXT)
@_launch_options
def plan(**options: Any) -> None:
    """Print the launch plan of `run`: every system call between clone and exec, and why."""
    from runtime.containers.container import plan_container
    from runtime.images import ImageStore
    from runtime.launch.cgroups import describe_limits

    spec, _ = _specification(ImageStore.default(), options)
    for line in describe_limits(spec.limits):
        click.echo(f"{line}  # before the clone, in the container's cgroup")
    click.echo(plan_container(spec).describe(), nl=False)


def _specification(store: Any, options: dict[str, Any]) -> tuple[ContainerSpec, Any]:
    from runtime.build.shipped import ensure_image
    from runtime.containers.container import spec_for_image
    from runtime.launch.spec import ALL_NAMESPACES, Namespace, NetworkSpec, ResourceLimits

    name, entrypoint = options["name"], options["entrypoint"]
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name):
        text = f"{name!r} is no container name: use up to 63 letters, digits, '_', '.' and '-'"
        raise click.BadParameter(text, param_hint="--name")
    hostname = options["hostname"]
    if hostname is not None and not 0 < len(os.fsencode(hostname)) <= _HOSTNAME_BYTES:
        text = f"a host name has 1 to {_HOSTNAME_BYTES} bytes (sethostname(2)), not {len(hostname)}"
        raise click.BadParameter(text, param_hint="--hostname")
    workdir = options["workdir"]
    if workdir is not None and not workdir.startswith("/"):
        raise click.BadParameter(f"{workdir!r} is not absolute", param_hint="-w")
    variables, volumes = assignments(options["environment"], "-e"), _volumes(options["volumes"])
    image = ensure_image(store, options["image"], lambda text: click.echo(text, err=True))
    spec = spec_for_image(
        image,
        store,
        command=options["command"],
        # An empty one takes the image's away.
        entrypoint=None if entrypoint is None else tuple(filter(None, [entrypoint])),
        environment=variables,
        user=options["user"],
        working_directory=workdir,
        hostname=options["hostname"] or name or "steelyard",
        limits=ResourceLimits(options["memory"], options["cpus"], options["pids_limit"]),
        network=NetworkSpec(options["network"]),
        volumes=volumes,
        read_only_root=options["read_only"],
    )
    if options["network"] == "host":
        from dataclasses import replace

        spec = replace(spec, namespaces=ALL_NAMESPACES - {Namespace.NET})
    return spec, image


def _run_forwarding_signals(start: Callable[[], Container]) -> ExitStatus:
    """Run the workload to its end; signals to us meanwhile go to it, as docker's --sig-proxy.

    The first process of a pid namespace ignores signals that it has no handler for
    (pid_namespaces(7)): that is said, and a second interrupt ends the container by force.
    """
    interrupts = 0
    running: Container | None = None
    early: list[int] = []

    def forward(number: int, _frame: FrameType | None = None) -> None:
        nonlocal interrupts
        if running is None:
            early.append(number)
            return
        if number in (signal.SIGINT, signal.SIGTERM):
            interrupts += 1
            if interrupts == 1 and not _handles(running.launched.pid, number):
                _say_ignored(number)
        running.send_signal(signal.SIGKILL if interrupts > 1 else number)

    # Before the launch: the workload may ask for a signal as soon as it runs.
    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        running = start()
        for number in early:
            forward(number)
        status = running.wait()
    finally:
        if running is not None:
            running.remove()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert status is not None
    return status


def _handles(pid: int, number: int) -> bool:
    """Whether a process catches a signal (SigCgt in proc(5)); True if that cannot be known."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return True


def _say_ignored(number: int) -> None:
    name = signal.Signals(number).name
    text = f"steelyard: the container's first process does not handle {name}; once more ends it\n"
    with contextlib.suppress(OSError):
        # Unbuffered: this runs in a signal handler, perhaps in the middle of a print.
        os.write(2, text.encode())
