"""Image in, running container out. Usable alone; knows nothing of measuring.

The names below are the whole public interface. They are loaded on first use, so that importing one
of them costs what it needs and no more: the launch path is part of what Steelyard measures.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "ContainerError": "runtime.errors",
    "ImageError": "runtime.errors",
    "ImageNotFoundError": "runtime.errors",
    "LaunchError": "runtime.errors",
    "CommandNotFoundError": "runtime.errors",
    "UnsupportedError": "runtime.errors",
    "Session": "runtime.containers.session",
    "dead_sessions": "runtime.containers.session",
    "remove_tree": "runtime.linux.files",
    "data_home": "runtime.paths",
    "output_file": "runtime.linux.output_file",
    "cache_home": "runtime.paths",
    "new_network_namespace": "runtime.linux.syscalls",
    "enter_network_namespace": "runtime.linux.syscalls",
    "resident_bytes": "runtime.linux.syscalls",
    "MountNamespace": "runtime.containers.mounts",
    "mount_folder": "runtime.containers.mounts",
    "mount_rootfs": "runtime.containers.mounts",
    "mount_tmpfs": "runtime.containers.mounts",
    "unmount": "runtime.containers.mounts",
    "save_images": "runtime.images.archive.save",
    "BuildRequest": "runtime.build.build",
    "build_image": "runtime.build.build",
    "Image": "runtime.images",
    "ImageConfig": "runtime.images",
    "ImageStore": "runtime.images",
    "Layer": "runtime.images",
    "SHIPPED_IMAGES": "runtime.build.shipped",
    "ensure_image": "runtime.build.shipped",
    "ContainerSpec": "runtime.launch.spec",
    "DirectoryRoot": "runtime.launch.spec",
    "NetworkSpec": "runtime.launch.spec",
    "ResourceLimits": "runtime.launch.spec",
    "Volume": "runtime.launch.spec",
    "Namespace": "runtime.launch.spec",
    "Container": "runtime.containers.container",
    "launch_container": "runtime.containers.container",
    "plan_container": "runtime.containers.container",
    "rehearse_container": "runtime.containers.container",
    "ExitStatus": "runtime.containers.container",
    "Launcher": "runtime.launch.launcher",
    "default_launcher": "runtime.launch.launcher",
    "find_layout": "runtime.linux.cgroup_mounts",
    "Layout": "runtime.linux.cgroup_mounts",
    "Plan": "runtime.launch.plan",
    "spec_for_image": "runtime.containers.container",
    "Features": "runtime.linux.features",
    "probe_features": "runtime.linux.features",
    "Leftover": "runtime.containers.leftovers",
    "find_leftovers": "runtime.containers.leftovers",
    "groups_of_others": "runtime.containers.leftovers",
    "kept_images": "runtime.containers.kept_containers",
    "parse_size": "runtime.units",
}

__all__ = [
    "SHIPPED_IMAGES",
    "BuildRequest",
    "CommandNotFoundError",
    "Container",
    "ContainerError",
    "ContainerSpec",
    "DirectoryRoot",
    "ExitStatus",
    "Features",
    "Image",
    "ImageConfig",
    "ImageError",
    "ImageNotFoundError",
    "ImageStore",
    "LaunchError",
    "Launcher",
    "Layer",
    "Layout",
    "Leftover",
    "MountNamespace",
    "Namespace",
    "NetworkSpec",
    "Plan",
    "ResourceLimits",
    "Session",
    "UnsupportedError",
    "Volume",
    "build_image",
    "cache_home",
    "data_home",
    "dead_sessions",
    "default_launcher",
    "ensure_image",
    "enter_network_namespace",
    "find_layout",
    "find_leftovers",
    "groups_of_others",
    "kept_images",
    "launch_container",
    "mount_folder",
    "mount_rootfs",
    "mount_tmpfs",
    "new_network_namespace",
    "output_file",
    "parse_size",
    "plan_container",
    "probe_features",
    "rehearse_container",
    "remove_tree",
    "resident_bytes",
    "save_images",
    "spec_for_image",
    "unmount",
]


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module 'runtime' has no attribute {name!r}") from None
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


if TYPE_CHECKING:
    from runtime.build.build import BuildRequest, build_image
    from runtime.build.shipped import SHIPPED_IMAGES, ensure_image
    from runtime.containers.container import (
        Container,
        ExitStatus,
        launch_container,
        plan_container,
        rehearse_container,
        spec_for_image,
    )
    from runtime.containers.kept_containers import kept_images
    from runtime.containers.leftovers import Leftover, find_leftovers, groups_of_others
    from runtime.containers.mounts import (
        MountNamespace,
        mount_folder,
        mount_rootfs,
        mount_tmpfs,
        unmount,
    )
    from runtime.containers.session import Session, dead_sessions
    from runtime.errors import (
        CommandNotFoundError,
        ContainerError,
        ImageError,
        ImageNotFoundError,
        LaunchError,
        UnsupportedError,
    )
    from runtime.images import Image, ImageConfig, ImageStore, Layer
    from runtime.images.archive.save import save_images
    from runtime.launch.launcher import Launcher, default_launcher
    from runtime.launch.plan import Plan
    from runtime.launch.spec import (
        ContainerSpec,
        DirectoryRoot,
        Namespace,
        NetworkSpec,
        ResourceLimits,
        Volume,
    )
    from runtime.linux.cgroup_mounts import Layout, find_layout
    from runtime.linux.features import Features, probe_features
    from runtime.linux.files import remove_tree
    from runtime.linux.output_file import output_file
    from runtime.linux.syscalls import (
        enter_network_namespace,
        new_network_namespace,
        resident_bytes,
    )
    from runtime.paths import cache_home, data_home
    from runtime.units import parse_size
