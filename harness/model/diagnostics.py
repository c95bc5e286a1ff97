"""The warnings that travel with the samples, and what to do about each.

What weakens a figure is attached as a `Diagnostic` to the trial, the arm or the run; the report
prints it with its remedy. The order of the codes is that of the report: what spoils a comparison
as a whole comes first, what surrounds every run on such a host last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class DiagnosticCode(StrEnum):
    """A kind of warning; the value is stable in records. The remedy is in `REMEDIES`."""

    # What was compared.
    RESPONSE_DIFFERS = "response-differs"
    ACCELERATOR_MIX = "accelerator-mix"
    TCG = "emulated-cpu"
    CACHE_MIX = "cache-mix"
    KERNEL_FORMAT = "kernel-format-mix"
    NESTED = "nested-virtualisation"
    USER_NETWORK = "user-network"
    NOT_LIMITED = "not-limited"
    NO_NATIVE_LAUNCH = "forked-launch"
    LATE_STAMPS = "late-stamps"
    ARM_SKIPPED = "arm-skipped"
    RECORDS = "records-damaged"
    # What the samples show.
    FAILED_TRIALS = "failed-trials"
    FEW_BLOCKS = "few-blocks"
    NOISE_UNKNOWN = "noise-unknown"
    PROBER_COST = "prober-cost"
    BIMODAL = "bimodal"
    DRIFT = "drift"
    DEPENDENT = "dependent-samples"
    # What happened in a trial.
    CACHE_NOT_EVICTED = "cache-not-evicted"
    FORCED_STOP = "forced-stop"
    LEFTOVER = "leftover"
    NO_CGROUP = "no-cgroup"
    NOT_FLUSHED = "not-flushed"
    UNLINKED_FILES = "unlinked-files"
    MISSING = "missing-value"
    # What happened on the host meanwhile.
    HARNESS_STOPPED = "harness-stopped"
    LOADED_HOST = "loaded-host"
    CPU_STOLEN = "cpu-stolen"
    CGROUP_THROTTLED = "cgroup-throttled"
    MEMORY_PRESSURE = "memory-pressure"
    SWAPPING = "swapping"
    SLOW_FOLDERS = "slow-folders"
    THERMAL = "thermal-throttling"
    SUSPENDED = "host-suspended"
    # How the host is set.
    GOVERNOR = "cpu-governor"
    TURBO = "cpu-turbo"
    SMT = "cpu-smt"
    KSM = "same-page-merging"
    THP = "transparent-huge-pages"
    CLOCK_SOURCE = "clock-source"


REMEDIES: Mapping[DiagnosticCode, str] = MappingProxyType(
    {
        DiagnosticCode.RESPONSE_DIFFERS: "arms did not answer with the same bytes, so they did "
        "not run the same thing: make the workload answer the same everywhere before comparing",
        DiagnosticCode.ACCELERATOR_MIX: "VMs of one scenario ran on different accelerators (KVM "
        "and emulation, TCG): their difference is that of the accelerators; give all VM arms the "
        "same one",
        DiagnosticCode.TCG: "VMs ran under emulation (TCG): compare them with each other, and read "
        "their distance to the containers as an upper bound; run on a host with working KVM",
        DiagnosticCode.CACHE_MIX: "arms with a cold and with a warm page cache stand side by side: "
        "part of their difference is reading the image from the disk; compare arms of one state, "
        "or take every arm in both with --cache both",
        DiagnosticCode.KERNEL_FORMAT: "arms entered their kernels in different formats (bzImage "
        "and uncompressed ELF): part of their difference is decompression; choose kernels of one "
        "format to compare the machines alone",
        DiagnosticCode.NESTED: "VMs ran on KVM inside another VM: each exit of the guest costs "
        "several on the outer host, so VMs look slower than on bare metal; repeat there before "
        "generalising",
        DiagnosticCode.USER_NETWORK: "the VM used QEMU's user network: readiness is judged by the "
        "reply, and the network path is not the container's; allow /dev/net/tun",
        DiagnosticCode.NOT_LIMITED: "a limit of the scenario does not apply in this arm, so it may "
        "use more than the others: leave the limit out, or leave the arm out",
        DiagnosticCode.NO_NATIVE_LAUNCH: "containers were started by the slower forked launcher; "
        "install a C compiler and reinstall, so that the native one is built",
        DiagnosticCode.RECORDS: "the records are not as the run left them: figures rest on what "
        "is there; copy the folder again from where it was made",
        DiagnosticCode.LATE_STAMPS: "`started`, and `ready` where it is the workload's end, are "
        "when the harness woke up, on a loaded host milliseconds after the fact: run as root, on a "
        "kernel with tracepoints (perf_event_open(2)), while few other processes come and go",
        DiagnosticCode.ARM_SKIPPED: "an arm of the scenario cannot run here; `steelyard doctor` "
        "says what it lacks",
        DiagnosticCode.FAILED_TRIALS: "some trials failed; they count as longer than all that "
        "succeeded and are never dropped: read their errors in trials.jsonl, repair, repeat",
        DiagnosticCode.FEW_BLOCKS: "too few blocks for an interval of 95 %: take it as a first "
        "look, and raise --blocks for a statement",
        DiagnosticCode.NOISE_UNKNOWN: "no arm was compared with itself on this host, so it is not "
        "known which differences are mere noise: run once with --aa",
        DiagnosticCode.PROBER_COST: "measuring took more than 1 % of the shortest start and is "
        "part of each figure: look at differences of arms rather than at ratios, or choose a "
        "longer workload",
        DiagnosticCode.BIMODAL: "the samples fall into two groups, and the median may lie in the "
        "gap between them: look at every sample in the chart and find what the groups differ in "
        "before quoting one figure",
        DiagnosticCode.DRIFT: "the samples rise or fall in the course of the run: raise --warmup, "
        "let the host cool down or settle, and repeat; ratios within blocks suffer less than "
        "medians",
        DiagnosticCode.DEPENDENT: "each sample resembles the one before it, so there is less in "
        "them than their number says, and intervals of medians are too narrow: trust ratios within "
        "blocks more, and repeat the run at another time",
        DiagnosticCode.CACHE_NOT_EVICTED: "part of the image stayed in the page cache, so the "
        "start was not wholly cold: stop other programs that have its files open or mapped",
        DiagnosticCode.FORCED_STOP: "an instance did not stop when asked and was killed: its stop "
        "time is that of the patience, not of the box; make the workload end on SIGTERM",
        DiagnosticCode.LEFTOVER: "something was left behind; `steelyard doctor --clean` removes it",
        DiagnosticCode.NO_CGROUP: "no cgroup could be made, so limits and accounting are missing: "
        "run as root, or in a cgroup that is yours (systemd-run --user --scope -p Delegate=yes)",
        DiagnosticCode.NOT_FLUSHED: "the guest did not write out what it held in memory, so what "
        "it takes on disk is not known and stands as missing: let the workload write less, and "
        "not end the guest's own processes (`kill -9 -1`)",
        DiagnosticCode.UNLINKED_FILES: "the workload has files on disk that are open and have no "
        "name (O_TMPFILE, or removed while open): they are in no disk figure; add the size in the "
        "detail, or let the workload keep the names",
        DiagnosticCode.MISSING: "a value could not be had and stands as missing, not as zero: do "
        "what the reason in its detail asks for if you need it",
        DiagnosticCode.HARNESS_STOPPED: "Steelyard itself was stopped in the middle of a trial "
        "(SIGSTOP, a debugger, a frozen control group, or the machine around this one), and the "
        "pause is part of what was timed: let it run, and repeat",
        DiagnosticCode.LOADED_HOST: "other work was running on the host: stop it, wait until it "
        "is quiet, and repeat",
        DiagnosticCode.CPU_STOLEN: "the hypervisor around this host gave its CPUs to others "
        "(steal): repeat at another time, or on a host with CPUs of its own",
        DiagnosticCode.CGROUP_THROTTLED: "Steelyard itself runs in a cgroup with a CPU quota and "
        "was made to wait: raise or remove the quota, and repeat",
        DiagnosticCode.MEMORY_PRESSURE: "processes waited for memory: free memory on the host, "
        "or raise the scenario's memory limit if the instance was what ran short",
        DiagnosticCode.SWAPPING: "memory went to or came from swap: free memory, or turn swap off "
        "(swapoff -a), and repeat",
        DiagnosticCode.SLOW_FOLDERS: "new folders are slow where instances are kept: a container "
        "makes about ten files and folders and carries the whole factor, `process` none of it and "
        "a VM little, so container/process is too large by it, and container/VM too; wait a minute "
        "in which nobody deletes many files there, or point STEELYARD_HOME to ext4 with a journal "
        "or to a tmpfs, and repeat",
        DiagnosticCode.THERMAL: "the CPU slowed itself down because of heat: improve the cooling "
        "or take fewer blocks at a time, and repeat",
        DiagnosticCode.SUSPENDED: "the host was suspended in the middle of the trial: repeat with "
        "sleep inhibited (systemd-inhibit steelyard run …)",
        DiagnosticCode.GOVERNOR: "the CPU frequency follows the load, so short starts run at a "
        "frequency that depends on what came before: cpupower frequency-set -g performance",
        DiagnosticCode.TURBO: "turbo makes the CPU's speed depend on heat and on how many CPUs "
        "are busy: turn it off for the run (write 1 to intel_pstate/no_turbo, or 0 to "
        "cpufreq/boost) if small differences matter",
        DiagnosticCode.SMT: "CPUs share cores (SMT), so what runs beside an instance slows it: "
        "turn it off for the run (write off to /sys/devices/system/cpu/smt/control) if small "
        "differences matter",
        DiagnosticCode.KSM: "the kernel merges equal pages (KSM): it takes CPU time, and memory "
        "of VMs looks smaller the longer they live; turn it off for the run (write 2 to "
        "/sys/kernel/mm/ksm/run, which also undoes the merging)",
        DiagnosticCode.THP: "transparent huge pages back memory in pieces of 2 MiB, so memory "
        "figures are larger than what was touched, of VMs above all: compare with `never` in "
        "/sys/kernel/mm/transparent_hugepage/enabled before quoting memory",
        DiagnosticCode.CLOCK_SOURCE: "reading this clock is slow, which is part of each milestone: "
        "boot with a faster clock source (tsc, or kvm-clock in a guest)",
    }
)


@dataclass(frozen=True, slots=True, order=True)
class Diagnostic:
    """A warning about a trial, an arm or a run."""

    code: DiagnosticCode
    detail: str = ""

    @property
    def remedy(self) -> str:
        """Say what it means for the reader and what to do about it."""
        return REMEDIES[self.code]
