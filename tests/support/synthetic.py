"""Runs that never ran, with the shape of real ones: for whatever reads records.

Durations are log-normal around figures measured on a two-core host under TCG, every VM milestone
follows the one before it, some trials fail if asked to, and the same seed gives the same run.
Meters read what such boxes show, and where a real one has no value, theirs have none and say why.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from types import MappingProxyType

from harness.model import (
    SCHEMA_VERSION,
    Arm,
    ArmRecord,
    CacheState,
    DiskPart,
    GrowthPoint,
    Limits,
    Meter,
    Milestone,
    NoiseFloor,
    Outcome,
    Readiness,
    ReadinessKind,
    Reading,
    RunInfo,
    Scale,
    Scenario,
    Sharing,
    Trial,
    Workload,
)
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.records import Run

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

# Of an arm's memory: what each instance has alone, what all map together, and what the kernel
# charges beyond both; then its CPU time in ms, user and system.
MEMORY = {
    "process": (180_224, 1_100_000, 0),
    "container": (311_296, 1_150_000, 290_000),
    "vm-micro": (96 * MB, 21 * MB, 9 * MB),
    "vm-classic": (131 * MB, 24 * MB, 14 * MB),
}
CPU_MS = {
    "process": (0.3, 0.6),
    "container": (0.5, 2.1),
    "vm-micro": (1900.0, 160.0),
    "vm-classic": (3600.0, 240.0),
}
WARM = "the page cache was warm: nothing counts what a container reads from it"

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
    cold: bool = False,
    again: str | None = None,
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
        cold: Every arm once more as `NAME-cold`, with the image evicted from the page cache.
        again: This arm once more, as an A/A comparison, and its noise floor.
    """
    dice = random.Random(seed)
    meters = random.Random(seed + 1)  # of its own: times stay the same, whatever is metered
    variants = [Arm(arm, arm) for arm in arms]
    variants += [Arm(f"{arm}-cold", arm, cache=CacheState.COLD) for arm in arms if cold]
    variants += [Arm(f"{again}-again", again, repeats=again)] if again else []
    backends = {arm.name: arm for arm in variants}
    questions = tuple(scenario(name, tuple(variants)) for name in scenarios)
    trials = []
    for question in questions:
        for block in range(-warmup_blocks, blocks):
            order = list(backends)
            dice.shuffle(order)
            # What disturbs a block, disturbs every arm of it.
            weather = dice.lognormvariate(0, 0.04)
            for position, arm in enumerate(order):
                fate = dice.random()
                trial = one_trial(dice, question.name, backends[arm].backend, weather)
                readings = readings_of(meters, question.name, backends[arm])
                trial = dataclasses.replace(
                    trial, arm=arm, block=block, position=position, readings=readings
                )
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
        arms=tuple(arm_record(name, arm) for name in scenarios for arm in variants),
        environment=MappingProxyType(ENVIRONMENT),
        environment_missing=MappingProxyType(
            {"cpu_governor": "this host has no cpufreq in /sys/devices/system/cpu/cpu0"}
        ),
        diagnostics=(Diagnostic(DiagnosticCode.LOADED_HOST, "load average was 1.4 on 2 CPUs"),),
        interrupted=interrupted,
        noise=tuple(floor for name in scenarios for floor in noise_floors(name, again, blocks)),
    )
    return Run(info=info, trials=tuple(trials))


def synthetic_scale_run(
    *,
    seed: int = 1,
    blocks: int = 3,
    arms: tuple[str, ...] = ("container", "vm-micro"),
    instances: tuple[int, ...] = (1, 2, 4, 8),
    together: tuple[int, ...] = (1, 2, 4),
    most: Mapping[str, int] | None = None,
    full_at: int | None = None,
) -> Run:
    """Make up a run of a scale scenario: slopes and intercepts are `SLOPES`, but for the noise.

    Args:
        seed: Decides everything that is random.
        blocks: Counted blocks.
        arms: Which of `ARMS`.
        instances: Numbers at which the footprint is read.
        together: Numbers that are started at the same time.
        most: Fewer for some arms.
        full_at: The number of living VMs at which the next one cannot be started.
    """
    base = synthetic_run(seed=seed, blocks=0, warmup_blocks=0, scenarios=("hello",), arms=arms)
    scale = Scale(instances, together, MappingProxyType(dict(most or {})))
    question = dataclasses.replace(base.info.scenarios[0], scale=scale)
    dice, trials, points = random.Random(seed), [], []
    for block in range(blocks):
        for position, arm in enumerate(dice.sample(arms, len(arms))):
            limit = min((most or {}).get(arm, instances[-1]), instances[-1])
            taken = _ramp(dice, question, arm, limit, full_at if arm.startswith("vm") else None)
            alive = sum(trial.outcome is Outcome.OK for trial in taken)
            points += [
                dataclasses.replace(growth_point(dice, arm, number), block=block)
                for number in instances
                if number <= alive
            ]
            taken += [
                dataclasses.replace(_slower(one_trial(dice, "hello", arm, 1.0), n), together=n)
                for n in together
                if n <= limit
                for _ in range(n)
            ]
            trials += [dataclasses.replace(t, block=block, position=position) for t in taken]
    info = dataclasses.replace(base.info, scenarios=(question,), blocks=blocks)
    return Run(info=info, trials=tuple(trials), growth=tuple(points))


SLOPES: Mapping[str, Mapping[Meter, tuple[float, float]]] = MappingProxyType(
    {
        arm: {
            Meter.PSS_BYTES: (own, common),
            Meter.USS_BYTES: (own, 0.0),
            Meter.CGROUP_CURRENT_BYTES: (own + extra, common),
            Meter.AVAILABLE_DELTA_BYTES: (own + 2 * extra, common),
        }
        for arm, (own, common, extra) in MEMORY.items()
    }
)
"""Bytes of each further instance and of what is shared, per arm and meter of a scale run."""


def _ramp(
    dice: random.Random, question: Scenario, arm: str, limit: int, full_at: int | None
) -> list[Trial]:
    taken: list[Trial] = []
    for alive in range(limit):
        trial = dataclasses.replace(
            _slower(one_trial(dice, question.name, arm, 1.0), 1 + alive / 20), alive=alive
        )
        if full_at is not None and alive >= full_at:
            return [*taken, dataclasses.replace(failed(dice, trial), error="no memory is left")]
        taken.append(trial)
    return taken


def _slower(trial: Trial, factor: float) -> Trial:
    at = {mark: int(stamp * factor) for mark, stamp in trial.milestones_ns.items()}
    return dataclasses.replace(trial, milestones_ns=MappingProxyType(at))


def growth_point(dice: random.Random, arm: str, instances: int) -> GrowthPoint:
    """What so many instances have together; its block is still to be set."""
    own = [part for _ in range(instances) for part in own_disk(arm, dice)]
    together = [
        DiskPart(
            own[0].name,
            Sharing.EXCLUSIVE,
            sum(part.apparent_bytes for part in own),
            sum(part.allocated_bytes for part in own),
        )
    ] * bool(own)
    readings = tuple(
        Reading(meter, int((each * instances + once) * dice.gauss(1, 0.002)), "all instances")
        for meter, (each, once) in SLOPES[arm].items()
    )
    static = arm_record("hello", Arm(arm, arm)).disk
    return GrowthPoint("hello", arm, 0, instances, (*static, *together), readings)


def readings_of(dice: random.Random, name: str, arm: Arm) -> tuple[Reading, ...]:
    """What the meters say of one instance."""
    own, common, extra = MEMORY[arm.backend]
    own += 9 * MB if name == "python-http" else 0
    is_vm, is_cold = arm.backend.startswith("vm"), arm.cache is CacheState.COLD
    whose = "QEMU" if is_vm else "workload"
    spread = dice.gauss(1, 0.01)
    user, system = (
        milliseconds * dice.lognormvariate(0, 0.1) for milliseconds in CPU_MS[arm.backend]
    )
    current = int((own + common + extra) * spread)
    image = 2_244_608 if name == "hello" else 52_629_504
    read = Reading(Meter.IMAGE_READ_BYTES, int(image * 0.6) // 4096 * 4096, "root disk")
    if not is_vm:
        read = (
            Reading(Meter.IMAGE_READ_BYTES, int(image * 0.4) // 4096 * 4096, "page cache")
            if is_cold
            else Reading(Meter.IMAGE_READ_BYTES, None, "page cache", WARM)
        )
    charged = [(Meter.CGROUP_CURRENT_BYTES, current), (Meter.CGROUP_PEAK_BYTES, current + 65_536)]
    no_cgroup = "the process has no cgroup of its own"
    return (
        Reading(Meter.CPU_NS, int(user * MS) + int(system * MS), whose),
        Reading(Meter.CPU_USER_NS, int(user * MS), whose),
        Reading(Meter.CPU_SYSTEM_NS, int(system * MS), whose),
        Reading(Meter.PSS_BYTES, int((own + common / 3) * spread), whose),
        Reading(Meter.USS_BYTES, int(own * spread), whose),
        *(
            Reading(meter, None, "cgroup", no_cgroup)
            if arm.backend == "process"
            else Reading(meter, value, "cgroup")
            for meter, value in charged
        ),
        Reading(Meter.AVAILABLE_DELTA_BYTES, int(own * dice.gauss(1.2, 0.3)), "host"),
        read,
        Reading(Meter.IMAGE_TOTAL_BYTES, image, "image"),
        Reading(Meter.LEFT_BEHIND, 0, "host"),
    )


def noise_floors(name: str, again: str | None, blocks: int) -> tuple[NoiseFloor, ...]:
    """What an A/A comparison of that arm would leave."""
    if again is None:
        return ()
    floors = {"ready": (0.21, 0.04), "pss": (0.02, 0.004), "disk": (0.0, 0.0)}
    return tuple(
        NoiseFloor(name, again, metric, blocks, floor, detectable, "20261124T120335Z-1a2b3c")
        for metric, (floor, detectable) in floors.items()
    )


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


def scenario(name: str, arms: tuple[Arm, ...]) -> Scenario:
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
        arms=arms,
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
    milestones[Milestone.STOPPING] = int(now * MS) + 600_000  # the meters
    now += 0.6
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
        readings=(),
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


def arm_record(name: str, variant: Arm) -> ArmRecord:
    """What was prepared for an arm."""
    arm = variant.backend
    rootfs = 2_244_608 if name == "hello" else 52_629_504
    disk = [DiskPart("layer", Sharing.SHARED, rootfs - 900, rootfs)]
    facts = {"launcher": "native", "plan_sha256": "3f" * 32} if arm == "container" else {}
    diagnostics: tuple[Diagnostic, ...] = ()
    initial: tuple[DiskPart, ...] = ()
    if arm == "container":
        initial = (DiskPart("upperdir", Sharing.EXCLUSIVE, 4096, 8192),)
    if arm.startswith("vm"):
        micro = arm == "vm-micro"
        start = ("overlay", 196_608) if micro else ("disk copy", 118 * MB)
        initial = (DiskPart(start[0], Sharing.EXCLUSIVE, 512 << 20, start[1]),)
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
        arm=variant,
        prepare_ns=(4200 if arm.startswith("vm") else 310) * MS,
        disk=tuple(disk),
        facts=MappingProxyType(facts),
        diagnostics=diagnostics,
        initial_disk=initial,
    )
