"""Files that are open and have no name, of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.meters.unlinked import unlinked_bytes

SIZE = 300_000

HOLDER = f"""
import os, sys
folder = sys.argv[1]
descriptors = []
for name in ("named", "gone"):
    descriptors.append(os.open(f"{{folder}}/{{name}}", os.O_CREAT | os.O_RDWR))
    os.write(descriptors[-1], b"x" * {SIZE})
os.unlink(f"{{folder}}/gone")
descriptors.append(os.dup(descriptors[-1]))  # the same inode again
memory = os.memfd_create("memory")
os.write(memory, b"x" * {SIZE})
if "tmpfile" in sys.argv:
    nameless = os.open(folder, os.O_TMPFILE | os.O_RDWR)
    os.write(nameless, b"x" * {SIZE})
if "fork" in sys.argv:
    child = os.fork()  # with the same files
    if child == 0:
        sys.stdin.readline()
        os._exit(0)
    print(child)
print("ready", flush=True)
sys.stdin.readline()
"""


def held(folder: Path, *words: str) -> int:
    """What a process holds, and its child, if it has one."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        pids = [process.pid]
        while (line := process.stdout.readline()) != "ready\n":
            pids.append(int(line))
        found = unlinked_bytes(pids)
        assert process.stdin is not None
        process.stdin.write("\n\n")
        process.stdin.close()
    return found


def blocks(folder: Path) -> int:
    return os.stat(folder / "named").st_blocks * 512


def test_what_was_unlinked_counts_once_and_memory_does_not(tmp_path: Path) -> None:
    assert held(tmp_path) == blocks(tmp_path) >= SIZE


def test_files_that_never_had_a_name_count(tmp_path: Path) -> None:
    assert held(tmp_path, "tmpfile") == 2 * blocks(tmp_path)


def test_two_processes_with_the_same_file_have_it_once(tmp_path: Path) -> None:
    assert held(tmp_path, "fork") == blocks(tmp_path)


def test_a_process_that_has_ended_has_nothing() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()
    assert unlinked_bytes([process.pid]) == 0
