"""Says what the kernel takes of what a user asks for: words, variables, limits of a control group.

One rule for the command line, the library and scenario files. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

SMALLEST_MEMORY_BYTES = 1 << 20
FEWEST_CPUS = 0.01
"""docker-run(1); cpu.max has a smallest quota of 1 ms (kernel: Documentation/…/cgroup-v2.rst)."""
MOST_CPUS = 8192
"""NR_CPUS of the largest distribution kernels."""
MOST_PIDS = 1 << 22
"""PID_MAX_LIMIT of linux/threads.h; pids.max refuses more."""


def word_problem(word: str) -> str | None:
    """Say why a word cannot be one of execve(2); None if it can."""
    if "\0" in word:
        return f"{word!r} holds a NUL, at which the kernel would end it; take it out"
    return None


def variable_problem(name: str, value: str) -> str | None:
    """Say why a variable cannot be in an environment (environ(7)); None if it can."""
    if not name:
        return f"the variable with the value {value!r} has no name; give it one"
    if "=" in name:
        return f"{name!r} cannot name a variable: a name ends at '='; take it out of the name"
    if "\0" in name + value:
        return f"the variable {name!r} holds a NUL, at which the kernel would end it; take it out"
    return None


def limit_problems(
    memory_bytes: int | None, cpus: float | None, pids: int | None
) -> Iterator[tuple[str, str]]:
    """Find limits in which nothing runs, or that the kernel refuses.

    Yields:
        `memory`, `cpus` or `pids`, and what is wrong with it.
    """
    if memory_bytes is not None and memory_bytes < SMALLEST_MEMORY_BYTES:
        yield "memory", f"{memory_bytes} bytes is less than 1m, in which nothing runs; give 64m"
    if cpus is not None and not FEWEST_CPUS <= cpus <= MOST_CPUS:
        yield "cpus", f"{cpus} CPUs is no limit; use {FEWEST_CPUS} to {MOST_CPUS}"
    if pids is not None and not 1 <= pids <= MOST_PIDS:
        yield "pids", f"{pids} processes is no limit; use 1 to {MOST_PIDS}"
