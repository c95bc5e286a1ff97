"""How an image is to be run (OCI image-spec, config.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from runtime.errors import StoreError

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """Says how to run the image by default.

    Attributes:
        environment: Variables.
        entrypoint: First part of argv.
        command: Second part of argv; what a user's command replaces.
        working_directory: Absolute; empty means `/`.
        user: `uid`, `uid:gid`, or names looked up in the image; empty means root.
        labels: Free annotations.
        exposed_ports: `8080/tcp` and the like; documentation only.
        stop_signal: Signal that asks the workload to end, `SIGTERM` when empty.
        volumes: Paths the image wants outside its layers; documentation only.
    """

    environment: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    working_directory: str = ""
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    exposed_ports: tuple[str, ...] = ()
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        """Entry point and command, which run when no command is given."""
        return self.entrypoint + self.command

    def to_oci(self) -> dict[str, Any]:
        """Return the `config` object of an OCI image configuration, without empty fields."""
        values: dict[str, Any] = {
            "User": self.user,
            "ExposedPorts": {port: {} for port in self.exposed_ports},
            "Env": [f"{name}={value}" for name, value in self.environment.items()],
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.command),
            "Volumes": {volume: {} for volume in self.volumes},
            "WorkingDir": self.working_directory,
            "Labels": dict(self.labels),
            "StopSignal": self.stop_signal,
        }
        return {name: value for name, value in values.items() if value}

    @classmethod
    def from_oci(cls, document: object) -> ImageConfig:
        """Read the `config` object, null fields as empty; StoreError names a malformed field."""
        if not isinstance(document, dict):
            raise StoreError("image configuration: its config is not an object")
        pairs = (item.partition("=") for item in _strings(document, "Env"))
        return cls(
            environment=MappingProxyType({name: value for name, _, value in pairs}),
            entrypoint=_strings(document, "Entrypoint"),
            command=_strings(document, "Cmd"),
            working_directory=_string(document, "WorkingDir"),
            user=_string(document, "User"),
            labels=MappingProxyType(dict(_mapping(document, "Labels"))),
            exposed_ports=tuple(_mapping(document, "ExposedPorts")),
            stop_signal=_string(document, "StopSignal"),
            volumes=tuple(_mapping(document, "Volumes")),
        )


def _string(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name) or ""
    if not isinstance(value, str):
        raise StoreError(
            f"image configuration: {name} must be a string, not {type(value).__name__}"
        )
    return value


def _strings(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = document.get(name) or []
    # Old docker files have a bare string for Entrypoint and Cmd.
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise StoreError(f"image configuration: {name} must be a list of strings")
    return tuple(value)


def _mapping(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name) or {}
    if not isinstance(value, dict):
        raise StoreError(f"image configuration: {name} must be an object")
    if name == "Labels" and not all(isinstance(item, str) for item in value.values()):
        raise StoreError("image configuration: Labels must have strings as values")
    return value


def format_time(moment: datetime) -> str:
    """Write RFC 3339 in UTC, to the second: `2025-01-01T00:00:00Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str | None) -> datetime | None:
    """Read RFC 3339 with any fraction of a second; None for what is no time."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
