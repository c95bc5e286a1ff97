"""From an image and what was asked to a `ContainerSpec`, as docker-run(1) combines them.

An image's configuration gives the defaults (OCI image specification, config.md). What is asked for
is checked here, before anything is made; each complaint names its argument.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from runtime.errors import ContainerError, InvalidArgumentError
from runtime.launch.spec import (
    DEFAULT_PATH,
    ContainerSpec,
    DirectoryRoot,
    NetworkSpec,
    OverlayRoot,
    ResourceLimits,
    Volume,
)
from runtime.linux.accepted import limit_problems, variable_problem, word_problem

if TYPE_CHECKING:
    from runtime.images import Image, ImageStore

NO_LIMITS = ResourceLimits()
NO_NETWORK = NetworkSpec()
NETWORKS = ("none", "host")

_HOSTNAME_BYTES = 64
"""__NEW_UTS_LEN of linux/utsname.h."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def spec_for_image(
    image: Image,
    store: ImageStore,
    *,
    command: Sequence[str] = (),
    entrypoint: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
    working_directory: str | None = None,
    hostname: str = "steelyard",
    limits: ResourceLimits = NO_LIMITS,
    network: NetworkSpec = NO_NETWORK,
    volumes: tuple[Volume, ...] = (),
    read_only_root: bool = False,
    stdio: tuple[int, int, int] = (0, 1, 2),
    new_session: bool = True,
    directory_root: str | None = None,
) -> ContainerSpec:
    """Combine an image's defaults with what the user asked for, as docker-run(1) does.

    A given command replaces the image's CMD; a given entrypoint replaces ENTRYPOINT and drops CMD.

    Raises:
        ContainerError: There is nothing to run, or the user is not in the image's /etc/passwd.
        InvalidArgumentError: A variable is none.
    """
    config = image.config
    start = config.entrypoint if entrypoint is None else entrypoint
    rest = command or (config.command if entrypoint is None else ())
    argv = (*start, *rest)
    if not argv:
        raise ContainerError(f"image {image.reference} names no command; give one after it")
    from runtime.containers.users import resolve_user

    wanted = config.user if user is None else user
    home, numbers = resolve_user(wanted, lambda path: store.read_file(image, path))
    merged = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, "HOME": home}
    merged |= config.environment
    merged |= check_environment(environment or {})
    root: OverlayRoot | DirectoryRoot = OverlayRoot(
        tuple(map(os.fspath, image.lowerdirs)), "", "", ""
    )
    if directory_root is not None:
        root = DirectoryRoot(directory_root)
    return ContainerSpec(
        root=root,
        command=argv,
        environment=merged,
        hostname=hostname,
        working_directory=working_directory or config.working_directory or "/",
        user=numbers,
        network=network,
        limits=limits,
        volumes=volumes,
        read_only_root=read_only_root,
        stdio=stdio,
        new_session=new_session,
    )


def check_words(argument: str, words: Sequence[str]) -> tuple[str, ...]:
    """A command line; a single string is none, since nothing here splits it as a shell would.

    Raises:
        InvalidArgumentError: It is a string, or a word is none of execve(2).
    """
    if isinstance(words, str):
        raise InvalidArgumentError(
            argument, f"{words!r} is a string: give a list of words, as in ['sh', '-c', 'ls']"
        )
    for word in words:
        if problem := word_problem(word):
            raise InvalidArgumentError(argument, problem)
    return tuple(words)


def check_environment(variables: Mapping[str, str]) -> Mapping[str, str]:
    """Refuse variables that no environment can hold.

    Raises:
        InvalidArgumentError: One of them is none.
    """
    for name, value in variables.items():
        if problem := variable_problem(name, value):
            raise InvalidArgumentError("environment", problem)
    return variables


def check_name(name: str | None) -> None:
    """Refuse what is no name for a container; None is one that is made up.

    Raises:
        InvalidArgumentError: It is no name.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            "name",
            f"{name!r} is no container name: use up to 63 letters, digits, '_', '.' and '-'",
        )


def check_options(
    hostname: str | None, working_directory: str | None, limits: ResourceLimits, network: str
) -> NetworkSpec:
    """Refuse what the kernel would, and limits in which nothing runs; give the network.

    Raises:
        InvalidArgumentError: One of them makes no sense; says which.
    """

    def check(argument: str, sound: bool, text: str) -> None:
        if not sound:
            raise InvalidArgumentError(argument, text)

    check(
        "hostname",
        hostname is None or 0 < len(os.fsencode(hostname)) <= _HOSTNAME_BYTES,
        f"a host name has 1 to {_HOSTNAME_BYTES} bytes (sethostname(2)), not {len(hostname or '')}",
    )
    check(
        "working_directory",
        working_directory is None or working_directory.startswith("/"),
        f"{working_directory!r} is not absolute",
    )
    for _, problem in limit_problems(limits.memory_bytes, limits.cpus, limits.pids):
        check("limits", False, problem)
    check(
        "network",
        network in NETWORKS,
        f"{network!r} is no network: use 'none' (loopback alone) or 'host'",
    )
    return NetworkSpec(network)


def check_volume(volume: Volume | str) -> Volume:
    """A volume whose source is absolute and there.

    Args:
        volume: As a value, or as `SOURCE:TARGET[:ro|rw]`; a relative source is one from here.

    Raises:
        InvalidArgumentError: It is not of that form, hides the whole container, or has no source.
    """
    if isinstance(volume, Volume):
        shown = f"{volume.source}:{volume.target}"
    else:
        shown = volume
        source, _, rest = volume.partition(":")
        target, _, mode = rest.partition(":")
        if not source or mode not in ("", "ro", "rw"):
            target = ""
        volume = Volume(source, target, mode == "ro")
    if not volume.target.startswith("/"):
        text = f"{shown!r} is not SOURCE:TARGET[:ro], where TARGET is absolute"
        raise InvalidArgumentError("volumes", text)
    if not volume.target.strip("/"):
        text = f"{shown!r} would hide the whole container: TARGET cannot be /"
        raise InvalidArgumentError("volumes", text)
    source = os.path.abspath(volume.source)
    if not os.path.exists(source):
        text = f"{source} does not exist on this machine; make it first"
        raise InvalidArgumentError("volumes", text)
    return replace(
        volume,
        source=source,
        target=os.path.normpath(volume.target),
        is_directory=os.path.isdir(source),
    )
