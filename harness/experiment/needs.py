"""What only the machine can have: programs that come with no Python package.

The table is `needs.txt`, which the script `steelyard` reads too, before there is any Python.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

_SYSTEM = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where programs such as mke2fs are, and an ordinary user does not look."""


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that the machine must have.

    Attributes:
        kind: Who needs it: `run` is Steelyard, `build` its installation, `test` its tests.
        proof: A command in PATH, or a path; where it is, the need is met.
        package: The Debian package that holds it.
        purpose: What it is for, in a few words.
    """

    kind: str
    proof: str
    package: str
    purpose: str

    @property
    def is_met(self) -> bool:
        """Whether it is on this machine."""
        if self.proof.startswith("/"):
            return os.path.exists(self.proof)
        return shutil.which(self.proof, path=f"{os.environ.get('PATH', '')}:{_SYSTEM}") is not None


def read_needs() -> tuple[Need, ...]:
    """Read the table, in its order."""
    table = files("harness.experiment").joinpath("needs.txt").read_text(encoding="ascii")
    lines = table.splitlines()
    return tuple(Need(*line.split(maxsplit=3)) for line in lines if not line.startswith("#"))


def missing_needs(kinds: Sequence[str]) -> tuple[Need, ...]:
    """List the needs of some kinds that this machine does not meet."""
    return tuple(need for need in read_needs() if need.kind in kinds and not need.is_met)


def install_line(missing: Sequence[Need]) -> str:
    """Say how to install all that is missing; empty if nothing is."""
    packages = " ".join(dict.fromkeys(need.package for need in missing))
    if not packages:
        return ""
    if shutil.which("apt-get") is None:
        return f"install what these Debian packages hold: {packages}"
    return f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install {packages}"
