"""The backends by name. Each is imported when it is first asked for: together they are heavy."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import cast

from harness.model.backend import Backend
from harness.model.errors import HarnessError

BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "process": "harness.backends.process:ProcessBackend",
        "container": "harness.backends.container:ContainerBackend",
        "vm-micro": "harness.backends.vm.backend:MicroBackend",
        "vm-classic": "harness.backends.vm.backend:ClassicBackend",
        "runc": "harness.backends.peers.backend:RuncBackend",
        "crun": "harness.backends.peers.backend:CrunBackend",
        "bwrap": "harness.backends.peers.backend:BwrapBackend",
        "podman": "harness.backends.peers.backend:PodmanBackend",
        "docker": "harness.backends.peers.backend:DockerBackend",
        "null": "harness.backends.null:NullBackend",
        "fake": "harness.backends.fake:FakeBackend",
    }
)
"""Name, as scenario files and `--arm` spell it -> `module:class`."""

NOT_FOR_COMPARISON = frozenset({"null", "fake"})
"""Backends that are no box: they work when asked for by name, and are never proposed."""


def known_names() -> tuple[str, ...]:
    """The backends that are proposed to users, in the order in which they are listed."""
    return tuple(name for name in BACKENDS if name not in NOT_FOR_COMPARISON)


def get_backend(name: str) -> Backend:
    """The backend called `name`.

    Raises:
        HarnessError: There is none.
    """
    try:
        module, _, attribute = BACKENDS[name].partition(":")
    except KeyError:
        message = f"no backend is called {name!r}; there are: {', '.join(known_names())}"
        raise HarnessError(message) from None
    return cast("Backend", getattr(import_module(module), attribute)())
