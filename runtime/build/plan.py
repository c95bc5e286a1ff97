"""What a build is asked for, which stages of the Containerfile it needs, what each stands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from runtime.build.containerfile import BuildError, Containerfile, Instruction, Stage
from runtime.build.expand import expand
from runtime.images.store.assembly import this_architecture

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
PROXY_ARGUMENTS = frozenset((*_PROXIES, *(name.upper() for name in _PROXIES)))
"""Build arguments that RUN gets without an ARG, and that no key depends on, as docker has it."""
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build.

    Attributes:
        context: The folder that COPY and ADD take files from.
        containerfile: The file; by default `Containerfile`, else `Dockerfile`, in the context.
        tags: Names for the image.
        arguments: Values for ARGs.
        target: Name or number of the stage to build; empty is the last one.
        labels: On top of the Containerfile's.
        contexts: Further folders that `COPY --from` can name.
        use_cache: Whether steps of earlier builds count.
        network: Of RUN: `none` or `host`.
        epoch_s: `SOURCE_DATE_EPOCH`: no time in the image is later, and all that the build itself
            would set is this one.
        output: Descriptors that RUN's stdout and stderr go to.
    """

    context: Path
    containerfile: Path | None = None
    tags: tuple[str, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    target: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    contexts: Mapping[str, Path] = field(default_factory=dict)
    use_cache: bool = True
    network: str = "none"
    epoch_s: int | None = None
    output: tuple[int, int] = (1, 2)


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What will be built.

    Attributes:
        stages: In order; the target is the last.
        bases: What each of them is based on: the number of an earlier stage, or an image.
        globals: ARGs before the first FROM, and those that every build has.
        used_arguments: Build arguments that those took.
        names: Stage names with their numbers, up to the target.
    """

    stages: tuple[Stage, ...]
    bases: Mapping[int, int | str]
    globals: Mapping[str, str]
    used_arguments: frozenset[str]
    names: Mapping[str, int]

    def stage_named(self, name: str) -> int | None:
        """The number of a stage given by name or number; None if that is no stage."""
        return self.names.get(name.lower())


def plan_build(file: Containerfile, target: str, arguments: Mapping[str, str]) -> BuildPlan:
    """Find out which stages the wanted one needs; the arguments are those of `BuildRequest`.

    Raises:
        BuildError: There is no such stage, or a FROM is wrong.
    """
    values, used = _global_arguments(file, arguments)
    wanted = _target(file, target)
    names: dict[str, int] = {}
    bases: dict[int, int | str] = {}
    needs: dict[int, set[int]] = {}
    for stage in file.stages[: wanted.index + 1]:
        try:
            base = expand(stage.base.words[0], values, file.escape)
            _check_platform(stage.base, values, file.escape)
        except ValueError as error:
            raise BuildError(file.path, stage.base.line, "FROM", str(error)) from None
        if not base:
            problem = f"{stage.base.words[0]} is empty; give it with --build-arg"
            raise BuildError(file.path, stage.base.line, "FROM", problem)
        # Only by name: an image may be called 0.
        earlier = names.get(base.lower()) if not base.isdecimal() else None
        bases[stage.index] = base if earlier is None else earlier
        needs[stage.index] = set() if earlier is None else {earlier}
        for instruction in stage.instructions:
            source = instruction.flag("from").lower() if instruction.keyword == "COPY" else ""
            if source in names:
                needs[stage.index].add(names[source])
            elif source.isdecimal():
                problem = f"there is no stage {source} before this one"
                raise BuildError(file.path, instruction.line, "COPY", problem)
        if stage.name:
            names[stage.name] = stage.index
        names[str(stage.index)] = stage.index
    reached, pending = set(), [wanted.index]
    while pending:
        index = pending.pop()
        if index not in reached:
            reached.add(index)
            pending += needs[index]
    stages = tuple(stage for stage in file.stages if stage.index in reached)
    return BuildPlan(stages, bases, values, frozenset(used), names)


def _target(file: Containerfile, target: str) -> Stage:
    if not target:
        return file.stages[-1]
    for stage in file.stages:
        if target.lower() in (stage.name, str(stage.index)):
            return stage
    known = ", ".join(stage.name or str(stage.index) for stage in file.stages)
    raise BuildError(file.path, 0, "", f"has no stage {target!r} (there: {known})")


def _global_arguments(
    file: Containerfile, arguments: Mapping[str, str]
) -> tuple[dict[str, str], set[str]]:
    architecture = this_architecture()
    values: dict[str, str] = {}
    platform = {"PLATFORM": f"linux/{architecture}", "OS": "linux", "ARCH": architecture}
    for kind in ("TARGET", "BUILD"):
        values |= {f"{kind}{name}": value for name, value in {**platform, "VARIANT": ""}.items()}
    used = set()
    for instruction in file.arguments:
        for name, default in instruction.pairs:
            try:
                value = None if default is None else expand(default, values, file.escape)
            except ValueError as error:
                raise BuildError(file.path, instruction.line, "ARG", str(error)) from None
            if name in arguments:
                used.add(name)
                value = arguments[name]
            if value is not None:
                values[name] = value
    return values, used


def _check_platform(base: Instruction, values: Mapping[str, str], escape: str) -> None:
    wanted = expand(base.flag("platform"), values, escape)
    ours = f"linux/{this_architecture()}"
    # A variant, as in linux/arm64/v8, is taken on trust.
    if wanted and wanted != ours and not wanted.startswith(f"{ours}/"):
        raise ValueError(f"--platform={wanted} cannot be built here, only {ours}")
