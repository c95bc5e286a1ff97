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
    "runtime.images": "Image ImageConfig ImageStore Layer",
    "runtime.build.shipped": "ensure_image",
    "runtime.build.plan": "BuildRequest",
    "runtime.build.containerfile": "BuildError",
    "runtime.library.images": "build_image pull_image push_image load_images save_images",
    "runtime.library.containers": "run_container start_container container_spec",
    "runtime.containers.container": "Container ExitStatus launch_container plan_container",
    "runtime.launch.plan": "Plan",
    "runtime.launch.spec": "ContainerSpec ResourceLimits Volume",
    # Containers that are kept after their end.
    "runtime.containers.kept_containers": "kept_containers kept_images remove_container",
    "runtime.library.kept": "kept_changes commit_container",
    "runtime.errors": (
        "ContainerError InvalidArgumentError LaunchError CommandNotFoundError ImageError "
        "CommandNotExecutableError ContainerTimeoutError UnsupportedError ImageNotFoundError"
    ),
}

_SHARED = {
    "runtime.containers.session": "Session proven_dead",
    "runtime.containers.mounts": "mount_rootfs",
    "runtime.containers.from_image": "spec_for_image",
    "runtime.containers.container": "rehearse_container",
    "runtime.containers.entrance": "Entrance",
    "runtime.containers.leftovers": "find_leftovers groups_of_others",
    "runtime.build.shipped": "SHIPPED_IMAGES",
    "runtime.launch.spec": "DirectoryRoot NetworkSpec",
    "runtime.launch.launcher": "Launcher default_launcher",
    "runtime.paths": "cache_home data_home",
    "runtime.units": "parse_size",
}

HARNESS_NAMES = frozenset(" ".join(_SHARED.values()).split())
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
    for module, names in (*_LIBRARY.items(), *_SHARED.items()):
        if name in names.split():
            value = globals()[name] = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module 'runtime' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})


if TYPE_CHECKING:
    from runtime.build.containerfile import BuildError
    from runtime.build.plan import BuildRequest
    from runtime.build.shipped import SHIPPED_IMAGES as SHIPPED_IMAGES
    from runtime.build.shipped import ensure_image
    from runtime.containers.container import Container, ExitStatus, launch_container, plan_container
    from runtime.containers.container import rehearse_container as rehearse_container
    from runtime.containers.entrance import Entrance as Entrance
    from runtime.containers.from_image import spec_for_image as spec_for_image
    from runtime.containers.kept_containers import kept_containers, kept_images, remove_container
    from runtime.containers.leftovers import find_leftovers as find_leftovers
    from runtime.containers.leftovers import groups_of_others as groups_of_others
    from runtime.containers.mounts import mount_rootfs as mount_rootfs
    from runtime.containers.session import Session as Session
    from runtime.containers.session import proven_dead as proven_dead
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
