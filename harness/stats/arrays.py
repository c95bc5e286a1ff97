"""numpy, imported at its first use: `--help` and a launch do without it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Samples = Sequence[float] | Array
else:

    class _LateNumpy:
        def __getattr__(self, name: str) -> object:
            return getattr(import_module("numpy"), name)

    np = _LateNumpy()
    Array = Integers = Samples = Any

__all__ = ["Array", "Integers", "Samples", "np"]
