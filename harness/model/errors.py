"""What can go wrong while measuring, as one small tree below `HarnessError`.

The library raises, the command line prints. Every class has the facts as attributes.
"""

from __future__ import annotations


class HarnessError(Exception):
    """A problem in one sentence: what was wrong, where, and what to do."""


class ScenarioError(HarnessError):
    """A scenario file is wrong.

    Attributes:
        problems: One sentence for each problem, each naming file, line and field.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class RecordError(HarnessError):
    """A run folder cannot be read or written."""


class BackendUnavailableError(HarnessError):
    """This host cannot run an arm.

    Attributes:
        backend: The backend's name.
        reason: Why not.
        remedy: What would make it usable.
    """

    def __init__(self, backend: str, reason: str, remedy: str = "") -> None:
        super().__init__(f"{backend}: {reason}" + (f"; {remedy}" if remedy else ""))
        self.backend = backend
        self.reason = reason
        self.remedy = remedy


class PrepareError(HarnessError):
    """The image, kernel or disk of an arm could not be made."""


class MeterError(HarnessError):
    """A meter's value cannot be had: it is missing, with this reason."""


class InstanceError(HarnessError):
    """One instance did not do what its trial needs.

    Attributes:
        console: The last lines that the guest's console or the workload printed, for post-mortems.
    """

    def __init__(self, message: str, console: str = "") -> None:
        super().__init__(message)
        self.console = console


class LaunchFailedError(InstanceError):
    """The instance never came up."""


class ReadinessTimeoutError(InstanceError):
    """The instance came up and was not ready within the scenario's timeout."""


class UnexpectedExitError(InstanceError):
    """The workload ended before, or otherwise than, its readiness condition allows."""
