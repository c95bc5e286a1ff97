"""`steelyard container …`: docker's words for docker's things, on Steelyard's own runtime.

Imports nothing but click at the top: this is on the launch path.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import click

from runtime.cli.common import LazyGroup, assignments, with_options
from runtime.errors import InvalidArgumentError
from runtime.linux.accepted import FEWEST_CPUS, MOST_CPUS, MOST_PIDS, SMALLEST_MEMORY_BYTES
from runtime.units import parse_size


def memory_size(_context: object, _parameter: object, text: str | None) -> int | None:
    """Read `512m`, `1g`, `1GiB`: docker's sizes; units are powers of 1024."""
    if text is None:
        return None
    try:
        size_bytes = parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if size_bytes < SMALLEST_MEMORY_BYTES:
        raise click.BadParameter(f"{text} is less than 1m, in which nothing runs")
    return size_bytes


_launch_options = with_options(
    click.option("-e", "--env", "environment", multiple=True, metavar="NAME[=VALUE]",
                 help="Set a variable; without a value, take the caller's."),
    click.option("-w", "--workdir", "working_directory", metavar="PATH", help="Working directory."),
    click.option("-u", "--user", metavar="USER[:GROUP]", help="Name or number."),
    click.option("-v", "--volume", "volumes", multiple=True, metavar="SOURCE:TARGET[:ro]",
                 help="Show a folder or file of the host."),
    click.option("-m", "--memory", callback=memory_size, metavar="SIZE",
                 help="Memory limit, as in 512m."),
    click.option("--cpus", type=click.FloatRange(FEWEST_CPUS, MOST_CPUS),
                 help="CPU limit, as in 1.5."),
    click.option("--pids-limit", type=click.IntRange(1, MOST_PIDS),
                 help="Limit of processes and threads."),
    click.option("--hostname", metavar="NAME", help="The container's host name."),
    click.option("--name", metavar="NAME", help="Name; also the host name where none is given."),
    click.option("--network", type=click.Choice(["none", "host"]), default="none",
                 show_default=True, help="none: loopback only. host: no isolation."),
    click.option("--read-only", "read_only_root", is_flag=True, help="Mount the rootfs read-only."),
    click.option("--entrypoint", metavar="PROGRAM", help="In place of the image's."),
    click.argument("image"),
    click.argument("command", nargs=-1, type=click.UNPROCESSED),
)  # fmt: skip

_FAILED = 125
"""docker-run(1): the tool itself failed, its usage included, and not the command in the box."""
_NOT_YET = {
    ("-i", "--interactive"): "standard input is connected anyway: leave it out",
    ("-t", "--tty"): "containers get no terminal of their own yet: leave it out",
    ("-d", "--detach"): "containers do not run in the background yet: put & behind the command",
    ("-p", "--publish"): "ports are not forwarded yet: --network host shares the host's",
}
"""Options that users of docker type, and what to do instead."""


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
        for names, advice in _NOT_YET.items():
            if isinstance(error, click.NoSuchOption) and error.option_name in names:
                text = f"{error.message} {advice}"
        raise _RunUsageError(text, error.ctx) from None


_CONTEXT = {"allow_interspersed_args": False}


@click.group(
    cls=LazyGroup,
    # What only kept containers need is loaded when one of its commands is named.
    elsewhere=dict.fromkeys(("commit", "diff", "ls", "rm"), "runtime.cli.kept"),
)
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
    from runtime.library.containers import run_container

    with _named_options():
        status = run_container(
            **_arguments(options), keep=keep, forward_signals=True, progress=_echo
        )
    raise click.exceptions.Exit(status.shell_code)


@container.command(context_settings=_CONTEXT)
@_launch_options
def plan(**options: Any) -> None:
    """Print the launch plan of `run`: every system call between clone and exec, and why."""
    from runtime.containers.container import plan_container
    from runtime.launch.cgroups import describe_limits
    from runtime.library.containers import container_spec

    with _named_options():
        spec = container_spec(**_arguments(options), progress=_echo)
    for line in describe_limits(spec.limits):
        click.echo(f"{line}  # before the clone, in the container's cgroup")
    click.echo(plan_container(spec).describe(), nl=False)


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    """The options as arguments of the library."""
    from runtime.launch.spec import ResourceLimits

    options["environment"] = assignments(options["environment"], "-e")
    if options["entrypoint"] is not None:
        # An empty one takes the image's away.
        options["entrypoint"] = tuple(filter(None, [options["entrypoint"]]))
    options["limits"] = ResourceLimits(
        options.pop("memory"), options.pop("cpus"), options.pop("pids_limit")
    )
    return options


_OPTION_NAMES = {"hostname": "--hostname", "name": "--name", "volumes": "-v",
                 "working_directory": "-w"}  # fmt: skip


@contextlib.contextmanager
def _named_options() -> Iterator[None]:
    """Report what the library refuses as click reports what it refuses: with the option's name."""
    try:
        yield
    except InvalidArgumentError as error:
        hint = _OPTION_NAMES.get(error.argument, error.argument)
        raise click.BadParameter(str(error), param_hint=hint) from None


def _echo(text: str) -> None:
    click.echo(text, err=True)
