"""The library under the name of the command: all that `harness` and `runtime` export.

`import steelyard` loads neither measuring nor containers: a name is loaded on first use. In the
clone this is the folder `harness/_steelyard`, since a script named `steelyard` stands at the top;
setup.py maps it to its name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from harness import __version__ as __version__

if TYPE_CHECKING:
    # A type checker reads `__all__` of both packages, as the other branch does at run time.
    from harness import *  # noqa: F403
    from runtime import *  # noqa: F403
else:
    # Hidden from type checkers, for which a module with `__getattr__` has every name there is.
    _HOMES = {
        name: package
        for package in ("harness", "runtime")
        for name in getattr(import_module(package), "__all__", ())
        if not name.startswith("_")
    }

    __all__ = sorted(_HOMES)  # noqa: PLE0605 - a list of names, which no linter can foresee

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'steelyard' has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*__all__, *globals()})
