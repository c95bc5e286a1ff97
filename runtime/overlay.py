"""Overlayfs mount options (Documentation/filesystems/overlayfs.rst)."""

from __future__ import annotations

import os

from runtime.spec import OverlayRoot

OPTIONS_LIMIT_BYTES = os.sysconf("SC_PAGESIZE") - 1
"""mount(2) copies at most one page of options, its NUL included."""


def escape(path: str) -> str:
    """Make a path safe in an overlay option: comma ends an option, colon a lowerdir."""
    return path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def options(root: OverlayRoot) -> str:
    """The option string of mount(2): lowerdirs topmost first, then the two writable folders."""
    lowerdir = ":".join(escape(path) for path in root.lowerdirs)
    # upperdir and workdir take no list: a colon needs no escape there, and would keep it.
    upperdir = root.upperdir.replace("\\", "\\\\").replace(",", "\\,")
    workdir = root.workdir.replace("\\", "\\\\").replace(",", "\\,")
    text = f"lowerdir={lowerdir},upperdir={upperdir},workdir={workdir}"
    return text + (",volatile" if root.volatile else "")


def settings(root: OverlayRoot) -> list[tuple[str, str]]:
    """The same as key and value pairs of fsconfig(2), which has no page to fit in.

    `lowerdir+` adds one layer (Linux 6.8) and takes its path as it is; in the other two the kernel
    still undoes backslashes.
    """
    return [
        ("source", "overlay"),
        *(("lowerdir+", path) for path in root.lowerdirs),
        ("upperdir", root.upperdir.replace("\\", "\\\\")),
        ("workdir", root.workdir.replace("\\", "\\\\")),
    ]


def fits_one_page(text: str) -> bool:
    """Whether mount(2) can take the options; longer ones go by fsconfig(2), piece by piece."""
    return len(os.fsencode(text)) <= OPTIONS_LIMIT_BYTES
