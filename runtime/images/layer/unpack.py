"""Unpacking a layer's tar into a folder of its own, whatever the archive says.

The folder is new and nobody else's, so only the archive could lay a trap in it. Hence one rule:
**no symlink is ever followed**. The parents of each entry are opened component by component with
O_NOFOLLOW from the folder's descriptor; an entry below a symlink, or with `..` in its name, is
refused; a leading `/` is dropped, as tar does. The source of a hard link is found the same way.

Whiteouts (OCI image-spec, layer.md) become overlayfs's own (kernel: filesystems/overlayfs.rst):

    .wh.<name>       character device 0:0 called <name>
    .wh..wh..opq     xattr trusted.overlay.opaque=y on its folder (an ordinary user: user.overlay)

Whiteouts hide entries of layers *below*, wherever in the archive they stand: an entry of the same
name in the same layer stays, and a folder of the same name becomes opaque.

Modes, times and owners of folders are set at the end, since filling a folder changes its times and
a read-only one cannot be filled.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from runtime.errors import LayerError
from runtime.images.formats import tar_reader
from runtime.images.formats.digest import BLOCK_BYTES, ByteSource
from runtime.images.formats.tar_fields import show
from runtime.images.formats.tar_reader import TarEntry, TarReader
from runtime.images.layer.attributes import (
    Attributes,
    Devices,
    UnpackOptions,
    set_by_fd,
    set_by_name,
)
from runtime.images.layer.view import (
    OPAQUE_MARK,
    OVERLAY_XATTRS,
    WHITEOUT_PREFIX,
    Parts,
    split_name,
)

_CONTENT_LIMIT_BYTES = 1 << 36
"""64 GiB for all files of a layer as programs see them: holes are free in an archive alone."""
_ENTRIES_LIMIT = 1 << 22
"""Members of one archive; the largest real layers have some hundred thousand."""
_FOLDERS_LIMIT = 1 << 17
"""Folders and whiteouts of one archive, kept in memory until its end: about 100 MB."""
_PARENTS_KEPT_OPEN = 64
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NODE_TYPES = {
    tar_reader.FIFO: stat.S_IFIFO,
    tar_reader.CHARACTER: stat.S_IFCHR,
    tar_reader.BLOCK: stat.S_IFBLK,
}
_ZERO_BLOCK = bytes(BLOCK_BYTES)
_T = TypeVar("_T")


@dataclass(slots=True)
class UnpackResult:
    """Counts what was unpacked.

    Attributes:
        entries: Members of the archive that were made.
        whiteouts: How many whiteouts and opaque marks there were.
        skipped_devices: Device nodes left out.
        newest_ns: Latest modification time of any member, nanoseconds since the epoch.
        implied: Folders that no entry describes, the root as an empty name; see
            `runtime.images.store.implied`.
    """

    entries: int = 0
    whiteouts: int = 0
    skipped_devices: int = 0
    newest_ns: int = 0
    implied: list[bytes] = field(default_factory=list)


def unpack(
    source: ByteSource, folder_fd: int, options: UnpackOptions, *, needs_end: bool = True
) -> UnpackResult:
    """Unpack an uncompressed tar stream into an empty folder, reading the stream to its end.

    `source.read(n)` must give n bytes except at the end; `folder_fd` stays open; `needs_end` is as
    `TarReader` takes it.

    Raises:
        LayerError: Malformed, hostile, or more than this user or filesystem can do. The folder is
            then half filled: the caller removes it.
    """
    unpacker = _Unpacker(folder_fd, options)
    reader = TarReader(source, needs_end=needs_end)
    entry: TarEntry | None = None
    try:
        for entry in reader:
            unpacker.add(entry, reader)
        entry = None
        unpacker.finish()
    except OSError as error:
        where = f"{show(entry.name)}: " if entry else ""
        raise LayerError(f"{where}cannot be unpacked: {error.strerror}") from error
    finally:
        unpacker.close()
    return unpacker.result


class _Unpacker:
    def __init__(self, root: int, options: UnpackOptions) -> None:
        self.result = UnpackResult()
        self._members = 0
        self._content_bytes = 0
        self._root = root
        self._options = options
        # The owner of everything made below: one chown(2) less for most files. The folder's group
        # counts as well, since a filesystem may hand it down (mount(8), grpid).
        status = os.fstat(root)
        self._creator: tuple[int, int] | None = (os.geteuid(), os.getegid())
        if (status.st_uid, status.st_gid) != self._creator or status.st_mode & stat.S_ISGID:
            self._creator = None
        self._parents: dict[Parts, int] = {(): root}
        self._folders: dict[Parts, Attributes] = {(): Attributes()}
        self._whiteouts: set[Parts] = set()

    def add(self, entry: TarEntry, reader: TarReader) -> None:
        self._count(entry)
        path = split_name(entry.name)
        self.result.newest_ns = max(self.result.newest_ns, entry.mtime_ns)
        if path and path[-1].startswith(WHITEOUT_PREFIX):
            self._whiteout(path, entry.mtime_ns)
            return
        # An archive must not speak to overlayfs: `redirect` and `metacopy` could point into other
        # layers.
        for xattr in [name for name in entry.xattrs if name.startswith(OVERLAY_XATTRS)]:
            del entry.xattrs[xattr]
        self.result.entries += 1
        if entry.kind == tar_reader.DIRECTORY:
            self._directory(path, entry)
        elif not path:
            raise LayerError("the root of a layer must be a folder")
        elif entry.kind == tar_reader.REGULAR:
            self._file(path, entry, reader)
        elif entry.kind == tar_reader.SYMLINK:
            self._symlink(path, entry)
        elif entry.kind == tar_reader.HARD_LINK:
            self._hard_link(path, entry)
        else:
            self._node(path, entry)

    def _count(self, entry: TarEntry) -> None:
        """Hold the archive to the limits."""
        self._members += 1
        self._content_bytes += entry.size_bytes
        for what, number, limit in (
            ("entries", self._members, _ENTRIES_LIMIT),
            ("folders", len(self._folders) + len(self._whiteouts), _FOLDERS_LIMIT),
            ("bytes in files", self._content_bytes, _CONTENT_LIMIT_BYTES),
        ):
            if number > limit:
                raise LayerError(f"{show(entry.name)}: more than {limit} {what} in one layer")

    def finish(self) -> None:
        """Give the folders their owners, xattrs, modes and times, the inner before the outer."""
        for path in sorted(self._folders, reverse=True):
            try:
                if path:
                    parent = self._parent(path, make=False)
                    fd = os.open(path[-1], _DIRECTORY_FLAGS, dir_fd=parent)
                else:
                    fd = os.dup(self._root)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    # A later entry took the place of this folder or of one above it.
                    continue
                raise
            try:
                set_by_fd(fd, self._folders[path], self._options, self._creator)
            finally:
                os.close(fd)
            if self._folders[path].implied:
                self.result.implied.append(b"/".join(path))

    def close(self) -> None:
        for fd in self._parents.values():
            if fd != self._root:
                os.close(fd)
        self._parents = {(): self._root}

    # Finding the parent.

    def _parent(self, path: Parts, *, make: bool = True) -> int:
        """Descriptor of the folder that holds `path`, made if missing. Belongs to the cache."""
        parent = path[:-1]
        fd = self._parents.get(parent)
        if fd is None:
            fd = self._walk(parent, make=make)
            if len(self._parents) > _PARENTS_KEPT_OPEN:
                self.close()
            self._parents[parent] = fd
        return fd

    def _walk(self, path: Parts, *, make: bool) -> int:
        """Open a folder from the root, never through a symlink, making what is missing."""
        fd = os.dup(self._root)
        try:
            for depth, part in enumerate(path, 1):
                try:
                    below = os.open(part, _DIRECTORY_FLAGS, dir_fd=fd)
                except OSError as error:
                    if not make:
                        raise
                    self._make_parent(fd, path[:depth], error)
                    below = os.open(part, _DIRECTORY_FLAGS, dir_fd=fd)
                os.close(fd)
                fd = below
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _make_parent(self, fd: int, path: Parts, error: OSError) -> None:
        """Make a folder that an entry needs and the archive did not bring, if the way is clear."""
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise error
        if error.errno != errno.ENOENT and path not in self._whiteouts:
            text = f"{show(b'/'.join(path))} is not a folder, but an entry is said to be in it"
            raise LayerError(text) from error
        self._make_directory(fd, path)

    # Making entries.

    def _directory(self, path: Parts, entry: TarEntry) -> None:
        if path:
            self._make_directory(self._parent(path), path)
        folder = self._folders[path]
        if self._opaque_name in folder.xattrs:
            entry.xattrs[self._opaque_name] = b"y"
        self._folders[path] = Attributes(
            entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.xattrs, implied=False
        )

    def _make_directory(self, parent: int, path: Parts) -> None:
        """mkdir; an earlier folder stays, an earlier something else gives way."""
        name = path[-1]
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                return
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o700, dir_fd=parent)
        self._folders[path] = Attributes()
        if path in self._whiteouts:
            self._whiteouts.discard(path)
            self._folders[path].xattrs[self._opaque_name] = b"y"

    def _file(self, path: Parts, entry: TarEntry, reader: TarReader) -> None:
        parent = self._parent(path)
        fd = self._replacing(
            parent, path, lambda: os.open(path[-1], _CREATE_FLAGS, 0o600, dir_fd=parent)
        )
        try:
            if entry.sparse is not None:
                _write_sparse_content(fd, entry, reader)
            elif entry.stored_bytes:
                _write_content(fd, entry.stored_bytes, reader)
            set_by_fd(fd, entry, self._options, self._creator)
        finally:
            os.close(fd)

    def _symlink(self, path: Parts, entry: TarEntry) -> None:
        parent = self._parent(path)
        self._replacing(parent, path, lambda: os.symlink(entry.link, path[-1], dir_fd=parent))
        set_by_name(parent, path[-1], entry, self._options, self._creator)

    def _hard_link(self, path: Parts, entry: TarEntry) -> None:
        source = split_name(entry.link)
        where = f"{show(entry.name)}: a hard link to"
        if not source:
            raise LayerError(f"{where} the root of the layer")
        if source == path:
            return
        if source in self._whiteouts:
            raise LayerError(f"{where} {show(entry.link)}, which is deleted")
        # A copy: the cache may close one parent while it opens the other.
        parent = os.dup(self._parent(path))

        def link() -> None:
            folder = self._parent(source)
            os.link(source[-1], path[-1], src_dir_fd=folder, dst_dir_fd=parent,
                    follow_symlinks=False)  # fmt: skip

        try:
            self._replacing(parent, path, link)
        except (FileNotFoundError, PermissionError) as error:
            raise LayerError(f"{where} {show(entry.link)}, no file of this layer") from error
        finally:
            os.close(parent)

    def _node(self, path: Parts, entry: TarEntry) -> None:
        """Make a FIFO or a device."""
        is_device = entry.kind != tar_reader.FIFO
        if is_device and self._options.devices is Devices.REFUSE:
            raise LayerError(f"{show(entry.name)}: device nodes are not allowed here")
        if is_device and self._options.devices is Devices.SKIP:
            self.result.skipped_devices += 1
            return
        mode, device = _NODE_TYPES[entry.kind] | 0o600, os.makedev(*entry.device)
        parent = self._parent(path)
        self._replacing(parent, path, lambda: os.mknod(path[-1], mode, device, dir_fd=parent))
        set_by_name(parent, path[-1], entry, self._options, self._creator)

    def _whiteout(self, path: Parts, mtime_ns: int) -> None:
        parent = self._parent(path)
        if path[-1] == OPAQUE_MARK:
            self._folders[path[:-1]].xattrs[self._opaque_name] = b"y"
            self.result.whiteouts += 1
            return
        name = path[-1][len(WHITEOUT_PREFIX) :]
        if name.startswith(WHITEOUT_PREFIX):
            # Other `.wh..wh.` names were aufs's own bookkeeping; every reader skips them.
            return
        if name in (b"", b".", b".."):
            raise LayerError(f"{show(b'/'.join(path))}: a whiteout of nothing")
        hidden = (*path[:-1], name)
        self.result.whiteouts += 1
        try:
            os.mknod(name, stat.S_IFCHR | 0o000, os.makedev(0, 0), dir_fd=parent)
            # Nobody sees it, but a layer unpacked twice must be the same both times.
            os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)
            self._whiteouts.add(hidden)
        except FileExistsError:
            # The same layer has it again: a file hides what is below anyway, a folder needs a mark.
            if stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                self._folders[hidden].xattrs[self._opaque_name] = b"y"

    def _replacing(self, parent: int, path: Parts, make: Callable[[], _T]) -> _T:
        """Make an entry; an earlier one of the same archive gives way."""
        try:
            return make()
        except FileExistsError:
            self._whiteouts.discard(path)
        try:
            os.unlink(path[-1], dir_fd=parent)
        except IsADirectoryError:
            for known in [known for known in self._parents if known[: len(path)] == path]:
                os.close(self._parents.pop(known))
            shutil.rmtree(path[-1], dir_fd=parent)
        return make()

    @property
    def _opaque_name(self) -> str:
        return self._options.overlay_xattr + ".opaque"


def _write_content(fd: int, size: int, reader: TarReader) -> None:
    """Write a file; whole blocks of zeros become holes (they read the same)."""
    hole = False
    for chunk in reader.chunks():
        hole = len(chunk) == BLOCK_BYTES and chunk == _ZERO_BLOCK
        if hole:
            os.lseek(fd, len(chunk), os.SEEK_CUR)
        else:
            _write_all(fd, chunk)
    if hole:
        os.ftruncate(fd, size)


def _write_sparse_content(fd: int, entry: TarEntry, reader: TarReader) -> None:
    """Write the pieces of a sparse file to their places; all between them are holes."""
    assert entry.sparse is not None
    os.ftruncate(fd, entry.size_bytes)
    pieces = iter(entry.sparse)
    left = 0
    for chunk in reader.chunks():
        view = memoryview(chunk)
        while view:
            while not left:
                offset, left = next(pieces)
                os.lseek(fd, offset, os.SEEK_SET)
            taken = min(left, len(view))
            _write_all(fd, view[:taken])
            view = view[taken:]
            left -= taken


def _write_all(fd: int, data: bytes | memoryview) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])
