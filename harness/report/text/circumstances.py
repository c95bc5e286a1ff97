"""The circumstances of a run in words: workload, host, number of trials, repetition. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from harness.analysis.summary import ScenarioTable
from harness.model import Limits, Readiness, ReadinessKind, RunInfo, Scenario, units
from harness.report.text import wording


def command(scenario: Scenario) -> str:
    """Return the workload's command line, as a shell would take it."""
    return shlex.join(scenario.workload.command) or "the image's own command"


def readiness(condition: Readiness) -> str:
    """Say in a sentence when the workload counts as ready."""
    asked = "asked from the host's side of a private network, by one prober for all arms."
    place = f"port {condition.port}"
    if condition.is_inside:
        asked = "asked from inside the box."
        if condition.socket is not None:
            place = f"the socket {condition.socket}"
        else:
            place = f"port {condition.port} of {condition.address}"
    if condition.kind is ReadinessKind.HTTP:
        request = f"GET {condition.path} on {place}{' over TLS' if condition.tls else ''}"
        return f"Ready when {request} first answers {condition.status}; {asked}"
    if condition.kind is ReadinessKind.TCP:
        return f"Ready when {place} first accepts a connection; {asked}"
    if condition.kind is ReadinessKind.COMMAND:
        probe = shlex.join(condition.command)
        return f"Ready when {probe!r}, run again and again inside the box, first ends with code 0."
    if condition.kind is ReadinessKind.OUTPUT:
        return f"Ready when its output first matches {condition.output!r}, as seen by the host."
    printed = f" and its output matches {condition.output!r}" if condition.output else ""
    return f"Ready when it has exited with code {condition.exit_code}{printed}, seen by the host."


def limits(given: Limits) -> str:
    """Say what an instance may use."""
    words = []
    if given.memory_bytes is not None:
        words.append(f"{given.memory_bytes / 2**20:g} MiB of memory")
    if given.cpus is not None:
        words.append(f"{given.cpus:g} CPU{'' if given.cpus == 1 else 's'}")
    if given.pids is not None:
        words.append(f"{given.pids} process{'' if given.pids == 1 else 'es'}")
    return wording.listed(words) or "no limits"


def how_often(info: RunInfo, table: ScenarioTable) -> str:
    """Say how many trials there were and in what order."""
    arms = sum(1 for row in table.rows if row.trials)
    asked = f"of the {info.asked_blocks} asked for"
    if table.blocks == info.asked_blocks < (info.wanted_blocks or 0):
        # Ended by time, by --until, or because a comparison was decided.
        asked = f"(it could have gone on to {info.wanted_blocks})"
    warmup = f", after {units.count(info.warmup_blocks, 'warm-up block')} (in no figure)"
    return (
        f"{units.count(table.trials, 'trial')} of {units.count(arms, 'arm')}: "
        f"{units.count(table.blocks, 'block')} {asked}, each with {_of_each(info, table)} in an "
        f"order drawn with seed {info.seed}{warmup if info.warmup_blocks else ''}."
    )


def _of_each(info: RunInfo, table: ScenarioTable) -> str:
    """Say how many trials of each arm a block has."""
    for often in info.repetitions:
        if often.scenario == table.scenario.name:
            heavy = wording.listed(list(often.heavy))
            light = f"{often.count} of every other arm" if often.count > 1 else "of every other arm"
            return (
                f"one trial of {heavy} and {light} (their median counts; one more, right after a "
                "long one, does not)"
            )
    return "one trial of every arm"


def repeat_command(info: RunInfo) -> str:
    """Return the command line that repeats the run, with seed and blocks made explicit."""
    name, *arguments = info.command or ("steelyard", "run")
    words = [name, *arguments]
    for option, value in (("--blocks", info.asked_blocks), ("--seed", info.seed)):
        if not any(word == option or word.startswith(f"{option}=") for word in words):
            words += [option, str(value)]
    return shlex.join(words)


def again(info: RunInfo) -> list[tuple[str, str]]:
    """List what repeats a run, by label and value."""
    facts = [("Seed", str(info.seed)), ("Blocks asked for", str(info.asked_blocks))]
    if info.until:
        wanted = [f"{metric} to ± {width * 100:g} %" for metric, width in info.until.items()]
        facts.append(("Could end earlier with", wording.listed(wanted)))
    if info.resumed_at:
        facts.append(("Taken up again", wording.listed([_stamp(at) for at in info.resumed_at])))
    facts.append(("This page again, from records", f"steelyard report {shlex.quote(info.run_id)}"))
    return facts


def environment(info: RunInfo) -> list[tuple[str, str]]:
    """List the facts about the host by label and value; what could not be had says why."""
    known = [(_label(name), _fact(name, value, info)) for name, value in info.environment.items()]
    return known + [
        (_label(name), f"not known: {reason}")
        for name, reason in info.environment_missing.items()
        if name not in info.environment
    ]


def facts(given: Mapping[str, str]) -> list[tuple[str, str]]:
    """List what ran in an arm by label and value."""
    return [(_label(name), value) for name, value in given.items()]


def when(info: RunInfo) -> str:
    """Say when the run was made, in UTC."""
    start = _stamp(info.started_at)
    end = info.ended_at
    if end is None:
        return f"{start}, without a proper end"
    return f"{start} to {end.split('T')[-1].replace('+00:00', '').replace('Z', '')}"


def _stamp(at: str) -> str:
    return at.replace("T", " ").replace("+00:00", " UTC").replace("Z", " UTC")


def _label(name: str) -> str:
    words = name.removesuffix("_bytes").removesuffix("_ns").replace("_", " ").replace(".", " ")
    acronyms = {word: word.upper() for word in ("cpu", "qemu", "kvm", "ksm", "smt", "rcu")}
    acronyms["cpus"] = "CPUs"
    words = " ".join(acronyms.get(word, word) for word in words.split(" "))
    return words[:1].upper() + words[1:]


def _fact(name: str, value: str | float | bool | None, info: RunInfo) -> str:
    if value is None:
        return f"not known: {info.environment_missing.get(name, 'no reason was recorded')}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and name.endswith("_bytes"):
        return wording.size(value)
    if isinstance(value, int | float) and name.endswith("_ns"):
        return wording.duration(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
