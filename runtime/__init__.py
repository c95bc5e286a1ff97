"""Image in, running container out. Usable alone; knows nothing of measuring.

    import runtime

    status = runtime.run_container("busybox", ["echo", "hello"], capture_output=True)
    with runtime.start_container("busybox", ["sleep", "60"]) as box:
        box.send_signal(15)

`__all__` is the library: its names stay, and raise the errors listed there with one sentence each.
`HARNESS_NAMES` are imported from here by `harness` as well; they may change with it. All are loaded
on first use, so that importing one of them costs what it needs and no more: the launch path is part
of what Steelyard measures.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LIBRARY = {
    # Images.
    "ImageStore": "runtime.images",
    "Image": "runtime.images",
    "Layer": "runtime.images",
    "ImageConfig": "runtime.images",
    "ensure_image": "runtime.build.shipped",
    "build_image": "runtime.library.images",
    "BuildRequest": "runtime.build.plan",
    "pull_image": "runtime.library.images",
    "push_image": "runtime.library.images",
    "load_images": "runtime.library.images",
    "save_images": "runtime.library.images",
    # Containers.
    "run_container": "runtime.library.containers",
    "start_container": "runtime.library.containers",
    "container_spec": "runtime.library.containers",
    "launch_container": "runtime.containers.container",
    "plan_container": "runtime.containers.container",
    "Container": "runtime.containers.container",
    "ExitStatus": "runtime.containers.container",
    "Plan": "runtime.launch.plan",
    "ContainerSpec": "runtime.launch.spec",
    "ResourceLimits": "runtime.launch.spec",
    "Volume": "runtime.launch.spec",
    # Containers that are kept after their end.
    "kept_containers": "runtime.containers.kept_containers",
    "kept_images": "runtime.containers.kept_containers",
    "kept_changes": "runtime.library.kept",
    "commit_container": "runtime.library.kept",
    "remove_container": "runtime.containers.kept_containers",
    # Errors.
    "ContainerError": "runtime.errors",
    "InvalidArgumentError": "runtime.errors",
    "LaunchError": "runtime.errors",
    "CommandNotFoundError": "runtime.errors",
    "CommandNotExecutableError": "runtime.errors",
    "ContainerTimeoutError": "runtime.errors",
    "UnsupportedError": "runtime.errors",
    "ImageError": "runtime.errors",
    "ImageNotFoundError": "runtime.errors",
    "BuildError": "runtime.build.containerfile",
}

_SHARED = {
    "Session": "runtime.containers.session",
    "mount_rootfs": "runtime.containers.mounts",
    "dead_sessions": "runtime.containers.session",
    "spec_for_image": "runtime.containers.from_image",
    "rehearse_container": "runtime.containers.container",
    "find_leftovers": "runtime.containers.leftovers",
    "groups_of_others": "runtime.containers.leftovers",
    "SHIPPED_IMAGES": "runtime.build.shipped",
    "DirectoryRoot": "runtime.launch.spec",
    "NetworkSpec": "runtime.launch.spec",
    "Launcher": "runtime.launch.launcher",
    "default_launcher": "runtime.launch.launcher",
    "cache_home": "runtime.paths",
    "data_home": "runtime.paths",
    "parse_size": "runtime.units",
}

HARNESS_NAMES = frozenset(_SHARED)
"""What the harness needs besides the library: where things lie, whose they are, how it launches."""

__all__ = [
    "BuildError",
    "BuildRequest",
    "CommandNotExecutableError",
    "CommandNotFoundError",
    "Container",
    "ContainerError",
    "ContainerSpec",
    "ContainerTimeoutError",
    "ExitStatus",
    "Image",
    "ImageConfig",
    "ImageError",
    "ImageNotFoundError",
    "ImageStore",
    "InvalidArgumentError",
    "LaunchError",
    "Layer",
    "Plan",
    "ResourceLimits",
    "UnsupportedError",
    "Volume",
    "build_image",
    "commit_container",
    "container_spec",
    "ensure_image",
    "kept_changes",
    "kept_containers",
    "kept_images",
    "launch_container",
    "load_images",
    "plan_container",
    "pull_image",
    "push_image",
    "remove_container",
    "run_container",
    "save_images",
    "start_container",
]


def __getattr__(name: str) -> Any:
    module = _LIBRARY.get(name) or _SHARED.get(name)
    if module is None:
        raise AttributeError(f"module 'runtime' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})


if TYPE_CHECKING:
    from runtime.build.containerfile import BuildError
    from runtime.build.plan import BuildRequest
    from runtime.build.shipped import SHIPPED_IMAGES as SHIPPED_IMAGES
    from runtime.build.shipped import ensure_image
    from runtime.containers.container import Container, ExitStatus, launch_container, plan_container
    from runtime.containers.container import rehearse_container as rehearse_container
    from runtime.containers.from_image import spec_for_image as spec_for_image
    from runtime.containers.kept_containers import kept_containers, kept_images, remove_container
    from runtime.containers.leftovers import find_leftovers as find_leftovers
    from runtime.containers.leftovers import groups_of_others as groups_of_others
    from runtime.containers.mounts import mount_rootfs as mount_rootfs
    from runtime.containers.session import Session as Session
    from runtime.containers.session import dead_sessions as dead_sessions
    from runtime.errors import (
        CommandNotExecutableError,
        CommandNotFoundError,
        ContainerError,
        ContainerTimeoutError,
        ImageError,
        ImageNotFoundError,
        InvalidArgumentError,
        LaunchError,
        UnsupportedError,
    )
    from runtime.images import Image, ImageConfig, ImageStore, Layer
    from runtime.launch.launcher import Launcher as Launcher
    from runtime.launch.launcher import default_launcher as default_launcher
    from runtime.launch.plan import Plan
    from runtime.launch.spec import ContainerSpec, ResourceLimits, Volume
    from runtime.launch.spec import DirectoryRoot as DirectoryRoot
    from runtime.launch.spec import NetworkSpec as NetworkSpec
    from runtime.library.containers import container_spec, run_container, start_container
    from runtime.library.images import build_image, load_images, pull_image, push_image, save_images
    from runtime.library.kept import commit_container, kept_changes
    from runtime.paths import cache_home as cache_home
    from runtime.paths import data_home as data_home
    from runtime.units import parse_size as parse_size
