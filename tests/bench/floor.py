"""Writes a C program that makes the system calls of a plan, one after the other, and nothing else.

It is the floor that a launch can be held against: the kernel's own time for the same container,
with no interpreter, no plan and no loop. Generated from the plan, so that it cannot fall behind it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from runtime.launch.plan import Argument, PackedBytes, Plan, ResultSlot, Strings
from runtime.linux import abi

_HEAD = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long slots[64];

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(int step) { _exit(step < 100 ? 100 + step : 255); }

static void child(void)
{
    long r;
"""

_TAIL = r"""
    _exit(99);
}

int main(void)
{
    static struct clone_args args;
    uint64_t requested = now();
    if (mkdir(INSTANCE, 0700) || mkdir(INSTANCE "/upper", 0755) || mkdir(INSTANCE "/work", 0700))
        return 2;
    if (CGROUP[0]) {
        if (mkdir(CGROUP, 0755))
            return 3;
        args.cgroup = (uint64_t)open(CGROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        args.flags |= CLONE_INTO_CGROUP;
    }
    args.flags |= FLAGS | CLONE_VFORK | CLONE_CLEAR_SIGHAND;
    args.exit_signal = SIGCHLD;
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0)
        child();
    uint64_t started = now();
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || status)
        return WIFEXITED(status) ? WEXITSTATUS(status) : 4;
    uint64_t stopped = now();
    if (CGROUP[0])
        while (rmdir(CGROUP) && errno == EBUSY)
            ;
    rmdir(INSTANCE "/upper");
    unlink(INSTANCE "/work/work/incompat/volatile/dirty");
    rmdir(INSTANCE "/work/work/incompat/volatile");
    rmdir(INSTANCE "/work/work/incompat");
    rmdir(INSTANCE "/work/work");
    rmdir(INSTANCE "/work");
    if (rmdir(INSTANCE))
        return 5;
    uint64_t removed = now();
    printf("%lu %lu %lu\n", started - requested, stopped - requested, removed - requested);
    return 0;
}
"""


def _bytes(data: bytes) -> str:
    return '"' + "".join(f"\\{byte:03o}" for byte in data) + '"'


def _argument(argument: Argument) -> str:
    match argument:
        case None:
            return "0L"
        case ResultSlot(number):
            return f"slots[{number}]"
        case PackedBytes(data, _):
            return _bytes(data)
        case Strings(values):
            members = ", ".join(_bytes(os.fsencode(value)) for value in values)
            return f"(char *[]){{{members}, 0}}" if values else "(char *[]){0}"
        case str():
            return _bytes(os.fsencode(argument))
        case _:
            return f"{argument}L"


def floor_source(plan: Plan, instance: str, cgroup: str | None) -> str:
    """The C program for a plan whose writable layer is made in `instance`."""
    lines = []
    for number, step in enumerate(plan.steps):
        if step.syscall == "check_executable":
            continue
        arguments = ", ".join(_argument(argument) for argument in step.arguments)
        call = f"syscall({abi.SYSCALL_NUMBERS[step.syscall]}{', ' if arguments else ''}{arguments})"
        accepted = "".join(f" && errno != {error}" for error in step.accept)
        lines.append(f"    r = {call}; if (r < 0{accepted}) fail({number});")
        if step.result is not None:
            lines.append(f"    slots[{step.result}] = r;")
    head = (
        f"#define INSTANCE {_bytes(os.fsencode(instance))}\n"
        f"#define CGROUP {_bytes(os.fsencode(cgroup or ''))}\n"
        f"#define FLAGS {plan.clone_flags}UL\n"
    )
    return head + _HEAD + "\n".join(lines) + _TAIL


def build_floor(plan: Plan, instance: str, cgroup: str | None, folder: Path) -> Path:
    """Compile the program; returns its path."""
    source, program = folder / "floor.c", folder / "floor"
    source.write_text(floor_source(plan, instance, cgroup))
    subprocess.run(["gcc", "-O2", "-static", "-o", program, source], check=True)
    return program
