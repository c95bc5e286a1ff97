"""The instructions that change how an image is run and nothing in it, and what they change.

Also what `container commit --change` understands. Pure: an OCI configuration in, the same changed.
"""

from __future__ import annotations

import posixpath
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.build.containerfile import BuildError, Instruction, parse_containerfile
from runtime.build.expand import expand, expand_document
from runtime.images.store.assembly import Document

DEFAULT_SHELL = ("/bin/sh", "-c")
_PORT = re.compile(r"([0-9]+)(?:-([0-9]+))?(?:/([A-Za-z]+))?")
_LAST_PORT = 65535


@dataclass(slots=True)
class ConfigurationState:
    """A configuration being changed, and what is known only while it is.

    Attributes:
        document: The OCI image configuration.
        escape: The Containerfile's escape character.
        arguments: ARGs in scope.
        command_set: Whether CMD has been given in this stage.
        warnings: Sentences for the user.
    """

    document: Document
    escape: str = "\\"
    arguments: dict[str, str] = field(default_factory=dict)
    command_set: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        """The `config` object."""
        config: dict[str, Any] = self.document["config"]
        return config

    @property
    def environment(self) -> dict[str, str]:
        """ENV as a mapping."""
        pairs = (item.partition("=") for item in self.config.get("Env") or ())
        return {name: value for name, _, value in pairs}

    @property
    def variables(self) -> Mapping[str, str]:
        """What `$name` means: ENV goes before ARG."""
        return {**self.arguments, **self.environment}

    @property
    def working_directory(self) -> str:
        """Absolute."""
        return str(self.config.get("WorkingDir") or "/")

    @property
    def shell(self) -> tuple[str, ...]:
        """What RUN, CMD and ENTRYPOINT put before their shell form."""
        return tuple(self.config.get("Shell") or DEFAULT_SHELL)

    def expand(self, word: str) -> str:
        """Replace variables in a word."""
        return expand(word, self.variables, self.escape)

    def expand_document(self, text: str) -> str:
        """Replace variables in a here-document."""
        return expand_document(text, self.variables, self.escape)

    def command_line(self, instruction: Instruction) -> tuple[str, ...]:
        """What a RUN, CMD or ENTRYPOINT executes."""
        if instruction.is_exec:
            return instruction.words
        return (*self.shell, *instruction.words)


def change(state: ConfigurationState, text: str) -> None:
    """Apply an instruction given as text, as `commit --change` does.

    Raises:
        BuildError: It is malformed, or none of those that change how an image is run.
    """
    file = parse_containerfile(f"FROM scratch\n{text}\n", "--change")
    for instruction in file.stages[0].instructions:
        try:
            apply(state, instruction)
        except KeyError:
            problem = f"cannot be used here; known are {', '.join(sorted(APPLIED))}"
            raise BuildError("--change", 0, instruction.keyword, problem) from None
        except ValueError as error:
            raise BuildError("--change", 0, instruction.keyword, str(error)) from None


def apply(state: ConfigurationState, instruction: Instruction) -> str:
    """Change the configuration as the instruction says.

    Returns:
        The instruction with its variables replaced, for the history.

    Raises:
        ValueError: What is wrong with its arguments.
        KeyError: It is none of `APPLIED`.
    """
    text = APPLIED[instruction.keyword](state, instruction)
    # Empty fields are not in the configurations that others write.
    for name in [name for name, value in state.config.items() if not value]:
        del state.config[name]
    return f"{instruction.keyword} {text}"


def _env(state: ConfigurationState, instruction: Instruction) -> str:
    pairs = _pairs(state, instruction)
    environment = state.environment | dict(pairs)
    state.config["Env"] = [f"{name}={value}" for name, value in environment.items()]
    return _joined(pairs)


def _label(state: ConfigurationState, instruction: Instruction) -> str:
    pairs = _pairs(state, instruction)
    state.config["Labels"] = {**(state.config.get("Labels") or {}), **dict(pairs)}
    return _joined(pairs)


def _workdir(state: ConfigurationState, instruction: Instruction) -> str:
    path = state.expand(instruction.words[0])
    if not path:
        raise ValueError("the path is empty")
    whole = posixpath.normpath(posixpath.join(state.working_directory, path))
    # Two slashes at the beginning are all that normpath keeps.
    state.config["WorkingDir"] = whole[1:] if whole.startswith("//") else whole
    return str(state.config["WorkingDir"])


def _user(state: ConfigurationState, instruction: Instruction) -> str:
    user = state.expand(instruction.words[0])
    if not user:
        raise ValueError("the user is empty")
    state.config["User"] = user
    return user


def _cmd(state: ConfigurationState, instruction: Instruction) -> str:
    state.config["Cmd"] = list(state.command_line(instruction))
    state.command_set = True
    return _listed(state.config["Cmd"])


def _entrypoint(state: ConfigurationState, instruction: Instruction) -> str:
    state.config["Entrypoint"] = list(state.command_line(instruction))
    # The command of the base was meant for the base's entry point.
    if not state.command_set:
        state.config["Cmd"] = []
    return _listed(state.config["Entrypoint"])


def _shell(state: ConfigurationState, instruction: Instruction) -> str:
    state.config["Shell"] = list(instruction.words)
    return _listed(state.config["Shell"])


def _expose(state: ConfigurationState, instruction: Instruction) -> str:
    ports = [port for word in instruction.words for port in state.expand(word).split()]
    exposed = dict(state.config.get("ExposedPorts") or {})
    for port in ports:
        exposed |= {key: {} for key in _ports(port)}
    state.config["ExposedPorts"] = exposed
    return " ".join(ports)


def _ports(text: str) -> list[str]:
    match = _PORT.fullmatch(text)
    protocol = (match[3] or "tcp").lower() if match else ""
    if match is None or protocol not in ("tcp", "udp", "sctp"):
        raise ValueError(f"{text!r} is no port; write 80, 80/udp or 8000-8010")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 0 < first <= last <= _LAST_PORT:
        raise ValueError(f"{text!r} is no port: they go from 1 to {_LAST_PORT}")
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _volume(state: ConfigurationState, instruction: Instruction) -> str:
    paths = [state.expand(word) for word in instruction.words]
    if not all(paths):
        raise ValueError("a path is empty")
    volumes = state.config.get("Volumes") or {}
    state.config["Volumes"] = {**volumes, **{path: {} for path in paths}}
    return _listed(paths)


def _stop_signal(state: ConfigurationState, instruction: Instruction) -> str:
    name = state.expand(instruction.words[0])
    full = name if name.startswith("SIG") else f"SIG{name}"
    known = full in signal.Signals.__members__ or full.startswith(("SIGRTMIN", "SIGRTMAX"))
    if not known and not (name.isdecimal() and 0 < int(name) < signal.NSIG):
        raise ValueError(f"{name!r} is no signal; write SIGTERM or 15")
    state.config["StopSignal"] = name
    return name


def _maintainer(state: ConfigurationState, instruction: Instruction) -> str:
    state.document["author"] = instruction.words[0]
    state.warnings.append(
        "MAINTAINER is deprecated; write LABEL org.opencontainers.image.authors=…"
    )
    return instruction.words[0]


def _pairs(state: ConfigurationState, instruction: Instruction) -> list[tuple[str, str]]:
    # All on one line see what was there before the line (Dockerfile reference, "ENV").
    return [(state.expand(name), state.expand(value or "")) for name, value in instruction.pairs]


def _joined(pairs: list[tuple[str, str]]) -> str:
    return " ".join(f"{name}={value}" for name, value in pairs)


def _listed(words: list[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


APPLIED: Mapping[str, Callable[[ConfigurationState, Instruction], str]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
"""Keyword -> what changes the configuration; WORKDIR's folder is made by who builds."""
