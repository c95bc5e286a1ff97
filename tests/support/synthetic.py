"""Runs that never ran, with the shape of real ones: for whatever reads records.

Durations are log-normal around figures measured on a two-core host under TCG, every VM milestone
follows the one before it, some trials fail if asked to, and the same seed gives the same run.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from types import MappingProxyType

from harness.diagnostics import Diagnostic, DiagnosticCode
from harness.model import (
    SCHEMA_VERSION,
    Arm,
    ArmRecord,
    DiskPart,
    Limits,
    Milestone,
    Outcome,
    Readiness,
    ReadinessKind,
    Run,
    RunInfo,
    Scenario,
    Sharing,
    Trial,
    Workload,
)

MS = 1_000_000
MB = 1_000_000
ARMS = ("process", "container", "vm-micro", "vm-classic")

# Median of each phase in milliseconds, in the order in which they follow one another.
PHASES: Mapping[str, Mapping[Milestone, float]] = MappingProxyType(
    {
        "process": {Milestone.STARTED: 0.8, Milestone.READY: 0.35},
        "container": {Milestone.ISOLATED: 1.9, Milestone.STARTED: 0.45, Milestone.READY: 0.6},
        "vm-micro": {
            Milestone.ISOLATED: 118.0,
            Milestone.KERNEL: 340.0,
            Milestone.USERSPACE: 1480.0,
            Milestone.STARTED: 430.0,
            Milestone.READY: 21.0,
        },
        "vm-classic": {
            Milestone.ISOLATED: 131.0,
            Milestone.KERNEL: 1240.0,
            Milestone.USERSPACE: 1910.0,
            Milestone.STARTED: 690.0,
            Milestone.READY: 24.0,
        },
    }
)
STOPPING_MS = {"process": 0.4, "container": 0.7, "vm-micro": 35.0, "vm-classic": 48.0}
REMOVING_MS = {"process": 0.3, "container": 1.6, "vm-micro": 2.5, "vm-classic": 11.0}
SPREAD = {"process": 0.18, "container": 0.15, "vm-micro": 0.05, "vm-classic": 0.06}

SOURCES = {
    "hello": (
        'question = "What does it cost to start the smallest program?"\n'
        'image = "busybox"\n'
        'command = ["/bin/busybox", "echo", "hello"]\n'
        "[readiness]\n"
        'kind = "exit"\n'
        'output = "hello"\n'
    ),
    "python-http": (
        'question = "How long until a web server answers its first request?"\n'
        'image = "debian-python"\n'
        'command = ["/usr/bin/python3", "-m", "http.server", "8000"]\n'
        "[readiness]\n"
        'kind = "http"\n'
        "port = 8000\n"
    ),
}


def synthetic_run(
    *,
    seed: int = 1,
    blocks: int = 20,
    scenarios: tuple[str, ...] = ("hello", "python-http"),
    arms: tuple[str, ...] = ARMS,
    failure_rate: float = 0.0,
    interrupted: bool = False,
    warmup_blocks: int = 1,
) -> Run:
    """Make up a run.

    Args:
        seed: Decides everything that is random.
        blocks: Counted blocks.
        scenarios: `hello`, `python-http` or both.
        arms: Which of `ARMS`, in the order of the report.
        failure_rate: Share of trials that fail or run into their timeout; 1.0 means all.
        interrupted: Leave out the last third of the trials, and say so.
        warmup_blocks: Blocks with negative numbers before the others.
    """
    dice = random.Random(seed)
    questions = tuple(scenario(name, arms) for name in scenarios)
    trials = []
    for question in questions:
        for block in range(-warmup_blocks, blocks):
            order = list(arms)
            dice.shuffle(order)
            # What disturbs a block, disturbs every arm of it.
            weather = dice.lognormvariate(0, 0.04)
            for position, arm in enumerate(order):
                fate = dice.random()
                trial = one_trial(dice, question.name, arm, weather)
                trial = dataclasses.replace(trial, block=block, position=position)
                trials.append(failed(dice, trial) if fate < failure_rate else trial)
    if interrupted:
        trials = trials[: len(trials) * 2 // 3]
    info = RunInfo(
        schema=SCHEMA_VERSION,
        steelyard="0.1.0",
        run_id="20261124T120335Z-1a2b3c",
        started_at="2026-11-24T12:03:35Z",
        ended_at="2026-11-24T12:09:58Z",
        command=("/usr/bin/steelyard", "run", *(f"scenarios/{name}.toml" for name in scenarios)),
        seed=seed,
        blocks=blocks,
        warmup_blocks=warmup_blocks,
        scenarios=questions,
        arms=tuple(arm_record(name, arm) for name in scenarios for arm in arms),
        environment=MappingProxyType(ENVIRONMENT),
        environment_missing=MappingProxyType(
            {"cpu_governor": "this host has no cpufreq in /sys/devices/system/cpu/cpu0"}
        ),
        diagnostics=(Diagnostic(DiagnosticCode.LOADED_HOST, "load average was 1.4 on 2 CPUs"),),
        interrupted=interrupted,
    )
    return Run(info=info, trials=tuple(trials))


ENVIRONMENT: dict[str, str | int | float | bool | None] = {
    "hostname": "bench",
    "cpu_model": "AMD EPYC 7B13",
    "cpus": 2,
    "cpu_governor": None,
    "memory_bytes": 8_336_134_144,
    "kernel": "6.1.0-42-cloud-amd64",
    "distribution": "Debian GNU/Linux 12 (bookworm)",
    "qemu": "7.2.22",
    "python": "3.11.2",
    "cgroup_layout": "hybrid",
    "filesystem": "ext4",
    "load_average": 1.4,
    "root": True,
}


def scenario(name: str, arms: tuple[str, ...]) -> Scenario:
    """One of the two questions."""
    http = name == "python-http"
    return Scenario(
        name=name,
        question=SOURCES[name].split('"')[1],
        image="debian-python" if http else "busybox",
        workload=Workload(
            ("/usr/bin/python3", "-m", "http.server", "8000")
            if http
            else ("/bin/busybox", "echo", "hello")
        ),
        readiness=Readiness(ReadinessKind.HTTP, port=8000)
        if http
        else Readiness(ReadinessKind.EXIT, output="hello"),
        limits=Limits(memory_bytes=256 << 20, cpus=1.0),
        arms=tuple(Arm(arm, arm) for arm in arms),
        timeout_ns=60_000 * MS,
        source=SOURCES[name],
        path=f"scenarios/{name}.toml",
    )


def one_trial(dice: random.Random, name: str, arm: str, weather: float) -> Trial:
    """A trial that went well; its block and position are still to be set."""
    now = 0.0
    milestones = {Milestone.REQUESTED: 0}
    for milestone, median in PHASES[arm].items():
        if milestone is Milestone.READY and name == "python-http":
            median += 1500.0 if arm.startswith("vm") else 100.0
        now += median * weather * dice.lognormvariate(0, SPREAD[arm])
        if dice.random() < 0.02:
            now += median  # somebody else wanted the processor
        milestones[milestone] = int(now * MS)
    for milestone, medians in (
        (Milestone.STOPPED, STOPPING_MS),
        (Milestone.REMOVED, REMOVING_MS),
    ):
        now += medians[arm] * dice.lognormvariate(0, 0.2)
        milestones[milestone] = int(now * MS)
    return Trial(
        scenario=name,
        arm=arm,
        block=0,
        position=0,
        outcome=Outcome.OK,
        milestones_ns=MappingProxyType(milestones),
        exit_code=0 if name == "hello" else None,
        output_sha256="5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        response_sha256="0b" * 32 if name == "python-http" else None,
        disk=own_disk(arm, dice),
    )


def failed(dice: random.Random, trial: Trial) -> Trial:
    """What the trial would look like, had its workload never become ready."""
    timeout = dice.random() < 0.5
    kept = (Milestone.REQUESTED, Milestone.ISOLATED, Milestone.KERNEL)
    at = {name: stamp for name, stamp in trial.milestones_ns.items() if name in kept}
    at[Milestone.STOPPED] = (60_000 if timeout else 900) * MS
    at[Milestone.REMOVED] = at[Milestone.STOPPED] + 2 * MS
    return dataclasses.replace(
        trial,
        outcome=Outcome.TIMEOUT if timeout else Outcome.FAILED,
        milestones_ns=MappingProxyType(at),
        error="not ready within 60 s" if timeout else "the guest <panicked> | and was gone",
        console="Kernel panic - not syncing: Attempted to kill init! <exitcode=0x7f>",
        exit_code=None,
        output_sha256=None,
        response_sha256=None,
        disk=(),
        diagnostics=(Diagnostic(DiagnosticCode.FORCED_STOP, "SIGKILL after 5 s"),),
    )


def own_disk(arm: str, dice: random.Random) -> tuple[DiskPart, ...]:
    """What an instance alone has on disk."""
    if arm == "container":
        return (DiskPart("upperdir", Sharing.EXCLUSIVE, 4096, 4096 * dice.randint(3, 4)),)
    if arm == "vm-micro":
        size = 4096 * dice.randint(420, 460)
        return (DiskPart("overlay", Sharing.EXCLUSIVE, size + 196_608, size),)
    if arm == "vm-classic":
        return (DiskPart("disk copy", Sharing.EXCLUSIVE, 512 << 20, 118 * MB + 4096),)
    return ()


def arm_record(name: str, arm: str) -> ArmRecord:
    """What was prepared for an arm."""
    rootfs = 2_244_608 if name == "hello" else 52_629_504
    disk = [DiskPart("layer", Sharing.SHARED, rootfs - 900, rootfs)]
    facts = {"launcher": "native", "plan_sha256": "3f" * 32} if arm == "container" else {}
    diagnostics: tuple[Diagnostic, ...] = ()
    if arm.startswith("vm"):
        micro = arm == "vm-micro"
        disk = [
            DiskPart("kernel", Sharing.SHARED, 39 * MB, 39 * MB + 2048),
            DiskPart("initramfs", Sharing.SHARED, 4 * MB, 4 * MB + 1024),
            DiskPart("backing file", Sharing.SHARED, 512 << 20, rootfs + 9 * MB),
        ]
        facts = {
            "accelerator": "tcg",
            "kernel": "6.1.0-42-cloud-amd64 " + ("ELF" if micro else "bzImage"),
            "qemu": "7.2.22",
            "argv": "qemu-system-x86_64 -M " + ("microvm,rtc=on" if micro else "q35") + " -m 256",
        }
        diagnostics = (
            Diagnostic(DiagnosticCode.TCG, "QMP query-kvm: present, not enabled"),
            Diagnostic(DiagnosticCode.KERNEL_FORMAT, "vm-micro ELF, vm-classic bzImage"),
        )
    return ArmRecord(
        scenario=name,
        arm=Arm(arm, arm),
        prepare_ns=(4200 if arm.startswith("vm") else 310) * MS,
        disk=tuple(disk),
        facts=MappingProxyType(facts),
        diagnostics=diagnostics,
    )
