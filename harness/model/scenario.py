"""The question as frozen values: what is started, when it is ready, and in which arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class ReadinessKind(StrEnum):
    """How one sees from the host that a workload is usable."""

    EXIT = "exit"
    OUTPUT = "output"
    TCP = "tcp"
    HTTP = "http"
    COMMAND = "command"


def _argv(command: Sequence[str]) -> tuple[str, ...]:
    if isinstance(command, str):
        raise TypeError(f"a command is a list of words, like ['echo', 'hello'], not {command!r}")
    return tuple(command)


@dataclass(frozen=True, slots=True)
class Readiness:
    """What makes the workload ready.

    Attributes:
        kind: Which of the conditions.
        output: For `output`: a regular expression (on text, decoded as UTF-8) that must be in
            what the workload printed. For `exit`: if given, must also be found in the output.
        exit_code: For `exit`: the code the workload must end with.
        port: For `tcp` and `http`, where `socket` is not given.
        address: For `tcp` and `http`: a loopback address, asked from inside the box's network;
            None: the box's address in the private network.
        socket: For `tcp` and `http`: absolute path of a Unix socket in the box.
        tls: For `http`: whether it is asked over TLS; no certificate is verified.
        path: For `http`: the path to GET.
        status: For `http`: the status that counts.
        command: For `command`: argv of a program that is run inside the box, again and again; it
            is ready when that ends with code 0.
    """

    kind: ReadinessKind
    output: str | None = None
    exit_code: int = 0
    port: int | None = None
    path: str = "/"
    status: int = 200
    address: str | None = None
    socket: str | None = None
    tls: bool = False
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Take the kind's name for the kind; a name that is none is refused where it is used."""
        object.__setattr__(self, "command", _argv(self.command))
        if self.kind in tuple(ReadinessKind):
            object.__setattr__(self, "kind", ReadinessKind(self.kind))

    @property
    def needs_network(self) -> bool:
        """Whether the prober must reach the instance by IP."""
        return self.kind in (ReadinessKind.TCP, ReadinessKind.HTTP)

    @property
    def is_inside(self) -> bool:
        """Whether the prober asks from inside the box: at its loopback address or a Unix socket."""
        return self.address is not None or self.socket is not None


@dataclass(frozen=True, slots=True)
class Workload:
    """What runs inside the box.

    Attributes:
        command: argv; empty means the image's own entry point and command.
        environment: Variables on top of the image's.
        user: `uid`, `uid:gid` or a name in the image; None means the image's.
        working_directory: Absolute path in the image; None means the image's.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    user: str | None = None
    working_directory: str | None = None

    def __post_init__(self) -> None:
        """Take a list for a tuple."""
        object.__setattr__(self, "command", _argv(self.command))


@dataclass(frozen=True, slots=True)
class Limits:
    """Resources of one instance, the same on both sides: guest memory = memory limit, vCPUs = cpus.

    A limit of None is no limit in a container; a VM then takes its arm's default.
    """

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None


class CacheState(StrEnum):
    """What the page cache holds of the image when a trial begins."""

    WARM = "warm"
    """Whatever earlier trials left there: after the warm-up, all that a start reads."""
    COLD = "cold"
    """Nothing: the files are evicted before t0 (posix_fadvise(2)), and that is checked."""


ARM_SETTINGS = ("cache", "command", "image")
"""What an arm has of its own beside the options of its backend."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A backend with its options in a run.

    Attributes:
        name: What tables and charts call it; unique in a run.
        backend: A key of `harness.backends.BACKENDS`; by default the arm's name.
        options: Backend-specific settings.
        cache: State of the page cache before each trial; an arm has one state, so that cold and
            warm starts are two arms and are never mixed in one figure.
        image: Instead of the scenario's; None is the scenario's own.
        command: Instead of the scenario's; None is the scenario's own.
        repeats: Name of the arm of which this is the same once more (an A/A comparison), or None.
        anchors: Name of the arm that this is the anchor of, or None: an arm of the same kind on an
            image that is pinned by digest. Runs differ among themselves in both alike, so that the
            ratio of the two travels from run to run.
    """

    name: str
    backend: str = ""
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    cache: CacheState = CacheState.WARM
    image: str | None = None
    command: tuple[str, ...] | None = None
    repeats: str | None = None
    anchors: str | None = None

    def __post_init__(self) -> None:
        """Name the backend after the arm where none is given; take the state's name for it."""
        object.__setattr__(self, "backend", self.backend or self.name)
        if self.cache in tuple(CacheState):
            object.__setattr__(self, "cache", CacheState(self.cache))
        if self.command is not None:
            object.__setattr__(self, "command", _argv(self.command))


@dataclass(frozen=True, slots=True)
class Hooks:
    """Shell commands of the user around the trials, as hyperfine has them; never inside one.

    Attributes:
        setup: Once before the first trial of the scenario.
        prepare: Before each trial, before t0.
        conclude: After each trial, once its instance is removed.
        cleanup: Once after the last trial, however the run ends.
    """

    setup: str | None = None
    prepare: str | None = None
    conclude: str | None = None
    cleanup: str | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """How far a scenario lets the number of instances grow, instead of one after the other.

    Attributes:
        instances: Numbers of living instances at which the footprint is read, rising.
        together: Numbers of instances that are requested at the same time, rising; empty: none.
        most: Arm name -> the most instances of that arm, below the last of the two lists.
    """

    instances: tuple[int, ...]
    together: tuple[int, ...] = ()
    most: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        """Take lists for tuples."""
        object.__setattr__(self, "instances", tuple(self.instances))
        object.__setattr__(self, "together", tuple(self.together))


BASELINE = "baseline"
"""In a budget's `of`: the same arm in the run that the check is held against."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a metric of an arm may at most be.

    Attributes:
        arm: Arm name.
        metric: A key of `harness.model.metrics.METRICS`.
        most: In the metric's unit; for a relative budget: how many times `of` it may be.
        of: None: absolute. Another arm of the scenario: compared within blocks. `BASELINE`: the
            same arm in another run.
        line: Of the scenario file, from 1, for annotations.
    """

    arm: str
    metric: str
    most: float
    of: str | None = None
    line: int = 1

    def place_in(self, path: str) -> str:
        """Name the line of its scenario's file; empty where there is no file."""
        return f"{path}:{self.line}" if path else ""


DEFAULT_TIMEOUT_NS = 60_000_000_000
"""How long a trial may take from request to ready where nothing else is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A question: what is started, when it is ready, and in which arms. Often read from a file.

    Attributes:
        name: Short name; the file's stem.
        question: One sentence, printed above the answer; by default what the box costs.
        image: Image reference in the store, or the name of an image that comes with Steelyard.
        workload: What runs.
        readiness: When it counts as usable.
        limits: Resources of each instance.
        arms: In the order in which they are reported.
        timeout_ns: How long one trial may take from request to ready.
        source: The file's text, kept with the records; empty for one made in Python.
        path: Where it was read from; empty for one made in Python.
        hooks: Commands around the trials.
        scale: Let many instances live at once; None: one after the other.
        budgets: What `steelyard check` holds a run against.
    """

    name: str
    question: str = ""
    image: str
    workload: Workload = Workload(())
    readiness: Readiness
    limits: Limits = Limits()
    arms: tuple[Arm, ...]
    timeout_ns: int = DEFAULT_TIMEOUT_NS
    source: str = ""
    path: str = ""
    hooks: Hooks = Hooks()
    scale: Scale | None = None
    budgets: tuple[Budget, ...] = ()

    def __post_init__(self) -> None:
        """Take lists for tuples; ask what nobody asked."""
        question = self.question or f"what does a box around {self.image} cost?"
        object.__setattr__(self, "question", question)
        object.__setattr__(self, "arms", tuple(self.arms))
        object.__setattr__(self, "budgets", tuple(self.budgets))

    def for_arm(self, arm: Arm) -> Scenario:
        """The scenario as one arm asks it: with its own image and command where it has them."""
        workload = self.workload
        if arm.command is not None:
            workload = replace(workload, command=arm.command)
        return replace(self, image=arm.image or self.image, workload=workload)
