"""A plan as memory: the structs that both launchers read, with everything at its final address.

An array of `struct step`, and the strings and structs that it points to (`_launch.c`).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from functools import lru_cache

from runtime.errors import ContainerError
from runtime.launch.plan import SLOTS, PackedBytes, Plan, ResultSlot, Step, Strings
from runtime.linux import abi

STEP = struct.Struct("@iiI5i6Q")
WORD = (1 << 64) - 1


class _CloneArgs(ctypes.Structure):
    """struct clone_args, linux/sched.h."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size",
            "tls", "set_tid", "set_tid_size", "cgroup",
        )
    ]  # fmt: skip


class Launch(ctypes.Structure):
    """struct launch, runtime/launch/_launch.c."""

    _fields_ = [
        ("clone", _CloneArgs),
        ("steps", ctypes.c_void_p),
        ("count", ctypes.c_uint64),
        ("stamps", ctypes.c_void_p),
        ("slots", ctypes.c_int64 * SLOTS),
        ("started", ctypes.c_uint64),
        ("reached", ctypes.c_int32),
        ("error", ctypes.c_int32),
    ]


class MemoryImage:
    """A plan as memory: everything at its final address, ready to be run.

    Attributes:
        frame: `struct launch`.
        stamps: One a step.
        pid: For the forked launcher: the process that was made, or -errno.
    """

    def __init__(self, plan: Plan) -> None:
        # Kept as long as the image: the records hold addresses inside the other half.
        self._encoded = [_encode_step(step) for step in plan.steps]
        records = bytearray().join([record for record, _ in self._encoded])
        # Shared, so that the forked child's writes reach us too.
        size = ctypes.sizeof(Launch) + 8 * len(plan.steps)
        shared = mmap.mmap(-1, size + ctypes.sizeof(ctypes.c_int))
        self.frame = Launch.from_buffer(shared)
        self.stamps = (ctypes.c_uint64 * len(plan.steps)).from_buffer(shared, ctypes.sizeof(Launch))
        self.pid = ctypes.c_int.from_buffer(shared, size)
        self._records = (ctypes.c_char * len(records)).from_buffer(records)
        self.frame.steps = ctypes.addressof(self._records)
        self.frame.count = len(plan.steps)
        self.frame.stamps = ctypes.addressof(self.stamps)


@lru_cache(maxsize=1024)
def _encode_step(step: Step) -> tuple[bytes, tuple[bytes, ...]]:
    """One `struct step`, and the memory that it points to.

    Cached, because all but a few steps are the same in every launch, and encoding them anew would
    cost more than the kernel takes to carry them out.
    """
    from_slot = 0
    words: list[int] = []
    memory: list[bytes] = []
    for position, argument in enumerate(step.arguments):
        match argument:
            case None:
                words.append(0)
            case int():
                words.append(int(argument) & WORD)
            case str():
                words.append(_place(_c_string(argument), memory))
            case PackedBytes(data, _):
                words.append(_place(data, memory))
            case ResultSlot(number):
                from_slot |= 1 << position
                words.append(number)
            case Strings(values):
                addresses = [_place(_c_string(value), memory) for value in values]
                pointers = struct.pack(f"@{len(addresses) + 1}Q", *addresses, 0)
                words.append(_place(pointers, memory))
    words += [0] * (6 - len(words))
    accept = step.accept + (0,) * (5 - len(step.accept))
    if step.syscall == "check_executable":
        call = abi.CHECK_EXECUTABLE
    else:
        call = abi.SYSCALL_NUMBERS[step.syscall]
    slot = -1 if step.result is None else step.result
    return STEP.pack(call, slot, from_slot, *accept, *words), tuple(memory)


def _place(data: bytes, memory: list[bytes]) -> int:
    """Keep `data` in `memory` and return the address of its first byte.

    A bytes object never moves; its buffer is 16-byte aligned but for the object's header, which
    leaves it aligned for words on every platform that CPython runs on.
    """
    memory.append(data)
    address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
    assert address is not None
    return address


def _c_string(text: str) -> bytes:
    data = os.fsencode(text)
    if b"\0" in data:
        raise ContainerError(f"a NUL byte in {text!r}: neither a path nor an argument can have one")
    return data + b"\0"
