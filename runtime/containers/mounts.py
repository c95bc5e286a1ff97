"""An image's root filesystem, mounted for other people's container tools."""

from __future__ import annotations

import os
from dataclasses import replace

from runtime.launch import overlay
from runtime.launch.spec import OverlayRoot
from runtime.linux import abi
from runtime.linux.mounts import mount_tmpfs
from runtime.linux.syscalls import mount


def make_writable(root: OverlayRoot, directory: str) -> OverlayRoot:
    """Make an empty writable layer for `root` in a folder: `upper`, and `work` beside it."""
    root = replace(root, upperdir=f"{directory}/upper", workdir=f"{directory}/work")
    os.mkdir(root.upperdir)
    os.chmod(root.upperdir, 0o755)  # noqa: S103 - it becomes the mode of "/" in the container
    os.mkdir(root.workdir, 0o700)
    return root


def mount_rootfs(directory: str, lowerdirs: tuple[str, ...]) -> str:
    """Mount read-only layers with an empty writable one above them, as a launch of ours would.

    Call it in a thread that entered a `MountNamespace`: the working folder is used on the way.

    Args:
        directory: An existing folder; gets `upper`, `work` and `rootfs`, which is returned.
        lowerdirs: Absolute paths, topmost first.

    Raises:
        OSError: A folder cannot be made, or overlayfs refuses.
    """
    root = OverlayRoot(lowerdirs, "", "", f"{directory}/rootfs")
    root = make_writable(root, directory)
    os.mkdir(root.mountpoint, 0o700)
    if not overlay.fits_one_page(root):
        # As in runtime.launch.lower: short relative names for the layers, in a tmpfs that gets
        # buried.
        mount_tmpfs(root.mountpoint)
        os.chdir(root.mountpoint)
        for name, path in overlay.short_names(root).items():
            os.symlink(path, name)
        root = overlay.with_short_names(root)
    try:
        mount("overlay", root.mountpoint, "overlay", abi.MS_NODEV, overlay.options(root))
    finally:
        os.chdir("/")
    return root.mountpoint
