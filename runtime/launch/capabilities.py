"""Linux capabilities (capabilities(7)): names, numbers and the steps that give them up."""

from __future__ import annotations

from runtime.launch.plan import PackedBytes, Step
from runtime.linux import abi

NUMBERS: dict[str, int] = {
    name: number
    for number, name in enumerate(
        (
            "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
            "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE",
            "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
            "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
            "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
            "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
            "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE",
            "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ",
            "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
        )
    )
}  # fmt: skip
"""Name -> number, linux/capability.h."""


def mask(names: tuple[str, ...]) -> int:
    """The capability set as a bit mask. Raises KeyError for a name that is none."""
    return sum(1 << NUMBERS[name] for name in set(names))


def drop_bounding_set(keep: int, effective: int, last: int) -> list[Step]:
    """Take everything but `keep` out of the bounding set, so that no execve brings it back.

    `effective` is what the caller has: only a holder of CAP_SETPCAP may drop. `last` is the highest
    number this kernel knows (/proc/sys/kernel/cap_last_cap).
    """
    if not effective >> NUMBERS["CAP_SETPCAP"] & 1:
        return []
    names = {number: name for name, number in NUMBERS.items()}
    return [
        Step("prctl", (abi.PR_CAPBSET_DROP, number, 0, 0, 0),
             f"take {names.get(number, f'capability {number}')} out of the bounding set")
        for number in range(last + 1)
        if not keep >> number & 1
    ]  # fmt: skip


def set_capabilities(permitted: int) -> Step:
    """Make `permitted` the permitted and effective set; nothing is inheritable (capset(2))."""
    low, high = permitted & 0xFFFFFFFF, permitted >> 32
    header = PackedBytes(
        abi.cap_header.pack(abi._LINUX_CAPABILITY_VERSION_3, 0), "{_LINUX_CAPABILITY_VERSION_3, 0}"
    )
    data = PackedBytes(abi.cap_data.pack(low, low, 0, high, high, 0), f"{{0x{permitted:x}}}")
    return Step("capset", (header, data), "set capabilities")
