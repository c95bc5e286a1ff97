"""A mount namespace for other people's container tools, and what is mounted in it for them.

What is mounted in such a namespace is seen by nobody else, and the kernel takes it away with the
last process in it, however that process ends. A thread enters for good (see `MountNamespace.enter`)
and starts the tools from there.
"""

from __future__ import annotations

import errno
import os

from runtime.linux import abi
from runtime.linux.syscalls import in_new_thread, mount, setns, umount, unshare


class MountNamespace:
    """A private copy of this process's mounts; lives until closed and left by all (setns(2)).

    Args:
        hidden: Mount points that are unmounted in it. An empty tmpfs takes their place: the folder
            below belongs to another filesystem, of the host, into which a tool might write.

    Raises:
        OSError: This user may not make mount namespaces, or a mount cannot be taken away.
    """

    def __init__(self, hidden: tuple[str, ...] = ()) -> None:
        def make() -> int:
            unshare(abi.CLONE_NEWNS)
            # Otherwise what is mounted here would spread to the host (mount_namespaces(7)).
            mount(None, "/", None, abi.MS_REC | abi.MS_PRIVATE)
            for path in hidden:
                umount(path, abi.MNT_DETACH)
                mount_tmpfs(path)
            return os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

        self._fd = in_new_thread(make)

    def enter(self) -> None:
        """Move the calling thread, and only it, here: call this in a thread that was made for it.

        Threads of one process share root and working folder (CLONE_FS), and such a thread may not
        change its mount namespace (setns(2), EINVAL): it lets go of them first, for good.
        """
        unshare(abi.CLONE_FS)
        setns(self._fd, abi.CLONE_NEWNS)

    def close(self) -> None:
        """Let it go; those who are in it stay. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def mount_tmpfs(path: str) -> None:
    """Mount an empty filesystem in memory on a folder."""
    mount("tmpfs", path, "tmpfs", abi.MS_NOSUID | abi.MS_NODEV, "mode=755")


def mount_folder(source: str, target: str) -> None:
    """Let a folder be seen in another place as well (mount(2), MS_BIND)."""
    mount(source, target, None, abi.MS_BIND)


def unmount(path: str) -> None:
    """Unmount all that is mounted on a path; nothing mounted there is fine."""
    while True:
        try:
            umount(path, abi.MNT_DETACH)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno == errno.EINVAL:  # not a mount point (umount(2))
                return
            raise
