"""The kernel's binary interface: numbers, flags and structs, each with the header it comes from.

Names are the kernel's, verbatim. Structs are `struct.Struct` packers of native order with the C
spelling in their docstring, so that a plan can carry them as plain bytes.
"""

from __future__ import annotations

import platform
import struct

# --- asm/unistd_64.h and asm-generic/unistd.h: system call numbers ---
_SYSCALLS_X86_64 = {
    "write": 1, "close": 3, "rt_sigaction": 13, "rt_sigprocmask": 14, "ioctl": 16, "socket": 41,
    "execve": 59, "chdir": 80, "fchdir": 81, "umask": 95, "setuid": 105, "setgid": 106,
    "setsid": 112, "setgroups": 116, "capset": 126, "pivot_root": 155, "prctl": 157, "chroot": 161,
    "mount": 165, "umount2": 166, "sethostname": 170, "mkdirat": 258, "mknodat": 259,
    "symlinkat": 266, "unshare": 272, "dup3": 292,
    "perf_event_open": 298, "setns": 308, "pidfd_send_signal": 424,
    "open_tree": 428, "move_mount": 429, "clone3": 435, "close_range": 436, "openat2": 437,
    "mount_setattr": 442,
}  # fmt: skip
_SYSCALLS_GENERIC = {
    "dup3": 24, "ioctl": 29, "mknodat": 33, "mkdirat": 34, "symlinkat": 36, "umount2": 39,
    "mount": 40, "pivot_root": 41, "chdir": 49, "fchdir": 50, "chroot": 51, "close": 57,
    "write": 64, "capset": 91, "unshare": 97, "rt_sigaction": 134, "rt_sigprocmask": 135,
    "setgid": 144, "setuid": 146, "setsid": 157, "setgroups": 159, "sethostname": 161, "umask": 166,
    "prctl": 167, "socket": 198, "execve": 221, "perf_event_open": 241,
    "setns": 268, "pidfd_send_signal": 424,
    "open_tree": 428, "move_mount": 429, "clone3": 435, "close_range": 436, "openat2": 437,
    "mount_setattr": 442,
}  # fmt: skip
SYSCALL_NUMBERS: dict[str, int] = (
    _SYSCALLS_X86_64 if platform.machine() == "x86_64" else _SYSCALLS_GENERIC
)
"""System call name -> number on this machine."""

CHECK_EXECUTABLE = -1
"""Not a system call: the one composite operation of a plan; see `runtime/launch/_launch.c`."""

# --- linux/sched.h: clone(2), unshare(2), setns(2) ---
CLONE_VM = 0x00000100
CLONE_FS = 0x00000200
CLONE_PIDFD = 0x00001000
CLONE_VFORK = 0x00004000
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_PARENT_SETTID = 0x00100000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_CLEAR_SIGHAND = 0x100000000
CLONE_INTO_CGROUP = 0x200000000

clone_args = struct.Struct("@11Q")
"""struct clone_args { flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls,
set_tid, set_tid_size, cgroup } — linux/sched.h, clone(2)."""

# --- linux/mount.h: mount(2), umount2(2), open_tree(2), move_mount(2), mount_setattr(2) ---
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2
OPEN_TREE_CLONE = 0x1
MOVE_MOUNT_F_EMPTY_PATH = 0x00000004
MOVE_MOUNT_T_EMPTY_PATH = 0x00000040
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NODEV = 0x4

mount_attr = struct.Struct("@4Q")
"""struct mount_attr { attr_set, attr_clr, propagation, userns_fd } — linux/mount.h."""

# --- linux/fcntl.h, linux/openat2.h ---
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
O_RDONLY = 0o0
O_NONBLOCK = 0o4000
O_CLOEXEC = 0o2000000
O_PATH = 0o10000000
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10

open_how = struct.Struct("@3Q")
"""struct open_how { flags, mode, resolve } — linux/openat2.h, openat2(2)."""

# --- linux/prctl.h ---
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38

# --- linux/capability.h, capset(2) ---
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
cap_header = struct.Struct("@Ii")
"""struct __user_cap_header_struct { version, pid }."""
cap_data = struct.Struct("@6I")
"""struct __user_cap_data_struct[2]: { effective, permitted, inheritable } low, then high words."""

# --- linux/perf_event.h, perf_event_open(2) ---
PERF_TYPE_TRACEPOINT = 2
PERF_SAMPLE_TID = 0x2
PERF_SAMPLE_TIME = 0x4
PERF_SAMPLE_IDENTIFIER = 0x10000
PERF_RECORD_LOST = 2
PERF_RECORD_SAMPLE = 9
PERF_ATTR_USE_CLOCKID = 1 << 25
PERF_FLAG_FD_CLOEXEC = 0x8
PERF_EVENT_IOC_SET_OUTPUT = 0x2405
PERF_EVENT_IOC_ID = 0x80082407

perf_event_attr = struct.Struct("=2I5Q2I4QIiQI2H")
"""struct perf_event_attr, PERF_ATTR_SIZE_VER5 { type, size, config, sample_period, sample_type,
read_format, flags, wakeup_events, bp_type, config1, config2, branch_sample_type, sample_regs_user,
sample_stack_user, clockid, sample_regs_intr, aux_watermark, sample_max_stack, reserved }."""

# --- asm/signal.h ---
SIG_DFL = 0
SIG_SETMASK = 2
SIGNAL_SET_BYTES = 8
kernel_sigaction = struct.Struct("@4Q")
"""struct kernel_sigaction { handler, flags, restorer, mask }; the order is x86-64's."""

# --- linux/if.h, linux/sockios.h, netdevice(7) ---
AF_INET = 2
SOCK_DGRAM = 2
SOCK_CLOEXEC = 0o2000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
ifreq_flags = struct.Struct("@16sh22x")
"""struct ifreq { ifr_name, ifr_flags }."""

# --- linux/fs.h: ioctl_iflags(2); the kernel transfers an int, whatever the number says ---
FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_TOPDIR_FL = 0x00020000

S_IFCHR = 0o020000
