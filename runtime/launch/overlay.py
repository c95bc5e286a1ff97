"""Overlayfs mount options (Documentation/filesystems/overlayfs.rst)."""

from __future__ import annotations

import os
from dataclasses import replace

from runtime.launch.spec import OverlayRoot

OPTIONS_LIMIT_BYTES = os.sysconf("SC_PAGESIZE") - 1
"""mount(2) copies at most one page of options, its NUL included."""


def escape(path: str) -> str:
    """Make a path safe in an overlay option: comma ends an option, colon a lowerdir."""
    return path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def options(root: OverlayRoot) -> str:
    """The option string of mount(2): lowerdirs topmost first, then the two writable folders."""
    lowerdir = ":".join(escape(path) for path in root.lowerdirs)
    # upperdir and workdir take no list: a colon needs no escape there, and would keep it.
    upperdir, workdir = (
        path.replace("\\", "\\\\").replace(",", "\\,") for path in (root.upperdir, root.workdir)
    )
    text = f"lowerdir={lowerdir},upperdir={upperdir},workdir={workdir}"
    return text + (",volatile" if root.volatile else "")


def fits_one_page(root: OverlayRoot) -> bool:
    """Whether mount(2) can take the options of this root."""
    return len(os.fsencode(options(root))) <= OPTIONS_LIMIT_BYTES


def short_names(root: OverlayRoot) -> dict[str, str]:
    """A name of one to three characters for each lowerdir, topmost first."""
    return {f"{number:x}": path for number, path in enumerate(root.lowerdirs)}


def with_short_names(root: OverlayRoot) -> OverlayRoot:
    """The root with its short names for lowerdirs, to be mounted where they lead to them."""
    return replace(root, lowerdirs=tuple(short_names(root)))
