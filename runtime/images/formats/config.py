"""What an image says about how to run it (OCI image-spec, config.md)."""

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
    """How to run the image when nobody says otherwise.

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
        """Entry point and command: what runs when no command is given."""
        return self.entrypoint + self.command

    def to_oci(self) -> dict[str, Any]:
        """The `config` object of an OCI image configuration; empty fields are left out."""
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
        """Read the `config` object; absent and null fields are empty.

        Raises:
            StoreError: It is no object, or a field has the wrong shape; names it.
        """
        if not isinstance(document, dict):
            raise StoreError("image configuration: its config is not an object")
        environment = {}
        for item in _strings(document, "Env"):
            name, _, value = item.partition("=")
            environment[name] = value
        return cls(
            environment=MappingProxyType(environment),
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
    """RFC 3339 in UTC, to the second: `2025-01-01T00:00:00Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str | None) -> datetime | None:
    """Read RFC 3339, with any number of digits of a second's fraction; None for what is no time."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
