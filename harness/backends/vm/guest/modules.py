"""Which kernel modules a guest needs, and in which order they must be loaded.

A kernel package that was unpacked and not installed has no `modules.dep`, because depmod(8) runs
when it is installed. But each module says itself what it depends on, in its `.modinfo` section
(`depends=a,b`, include/linux/module.h), and that is what depmod would have put there.
"""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

from harness.backends.vm.guest.bzimage import decompressed_by
from harness.model.errors import PrepareError

_SUFFIXES = (".ko", ".ko.gz", ".ko.xz", ".ko.zst")


class ModuleTree:
    """The modules of one kernel: `lib/modules/<release>`.

    Attributes:
        directory: That folder.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._paths: dict[str, Path] = {}
        for path in (directory / "kernel").rglob("*.ko*"):
            if path.name.endswith(_SUFFIXES):
                self._paths[_canonical(path.name.partition(".")[0])] = path
        builtin = directory / "modules.builtin"
        listed = builtin.read_text().splitlines() if builtin.exists() else []
        self._builtin = {_canonical(Path(line).stem) for line in listed}

    def load_order(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """The wanted modules and all that they depend on, each after its dependencies.

        Built-in ones are left out: there is nothing to load.

        Raises:
            PrepareError: A module is neither there nor built in.
        """
        order: list[str] = []
        for name in wanted:
            self._visit(_canonical(name), order, ())
        return tuple(order)

    def read(self, name: str) -> bytes:
        """The module as an uncompressed ELF object, as insmod(8) without compression takes it."""
        path = self._paths[_canonical(name)]
        data = path.read_bytes()
        match path.suffix:
            case ".gz":
                return gzip.decompress(data)
            case ".xz":
                return lzma.decompress(data)
            case ".zst":
                return decompressed_by(("zstd", "-dcq"), data, str(path))
            case _:
                return data

    def _visit(self, name: str, order: list[str], above: tuple[str, ...]) -> None:
        if name in order or name in self._builtin:
            return
        if name not in self._paths:
            needed = f" (needed by {above[-1]})" if above else ""
            raise PrepareError(
                f"kernel module {name}{needed} is neither built in nor below {self.directory}; "
                "use a kernel that has the virtio drivers"
            )
        if name in above:
            raise PrepareError(f"kernel modules depend on each other in a circle: {(*above, name)}")
        for dependency in dependencies(self.read(name)):
            self._visit(dependency, order, (*above, name))
        order.append(name)


def dependencies(module: bytes) -> tuple[str, ...]:
    """What a module's `.modinfo` says it depends on, in its own order."""
    start = module.find(b"\0depends=")
    if start < 0:
        return ()
    start += len(b"\0depends=")
    listed = module[start : module.index(b"\0", start)].decode("ascii", "replace")
    return tuple(_canonical(name) for name in listed.split(",") if name)


def _canonical(name: str) -> str:
    """Module names spell `-` and `_` as they like; the kernel takes them for the same."""
    return name.replace("-", "_")
