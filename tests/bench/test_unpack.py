"""Unpacking a large layer against GNU tar, and listing many images: interleaved, as ratios.

    pytest -m bench tests/bench/test_unpack.py -s

Ours does more in its time than `tar -xzf`: it hashes the layer packed and unpacked, keeps the
blob, and has all of it on the disk at the end. What the disk alone takes is in the third row, where
tar flushes as well.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.images import ImageStore
from runtime.images.store.writer import file_digest
from tests.support.images import add_image, layer_tar

ROUNDS = int(os.environ.get("STEELYARD_BENCH_UNPACKS", "7"))
LISTINGS = 21
LAYER_BYTES = 220 << 20
MEMORY_LIMIT_BYTES = 150 << 20
PROJECT = Path(__file__).parents[2]

pytestmark = [pytest.mark.bench, pytest.mark.timeout(590)]

ADD = r"""
import json, os, re, sys, time
from pathlib import Path
from runtime.images import ImageStore, adding
root, blob, digest, diff_id = sys.argv[1:]
with ImageStore(Path(root)).adding() as adder, open(blob, "rb") as file:
    started = time.monotonic_ns()
    adder.add_layer(file, digest, os.stat(blob).st_size, diff_id)
    ended = time.monotonic_ns()
# Not ru_maxrss, which a child has from its parent (linux: fs/exec.c, setmax_mm_hiwater_rss).
peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({"ns": ended - started, "peak_bytes": peak}))
"""


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Part of this machine's /usr as one layer of some 220 MB, gzipped; with digest and diff ID."""
    folder = tmp_path_factory.mktemp("layer")
    tar, names, total = folder / "layer.tar", folder / "names", 0
    chance = random.Random(1)
    files = sorted(
        path for part in ("bin", "lib", "share") for path in Path("/usr", part).rglob("*")
        if path.is_file() or path.is_symlink()
    )  # fmt: skip
    chance.shuffle(files)
    with names.open("wb") as listing:
        for path in files:
            total += path.lstat().st_size
            listing.write(os.fsencode(path) + b"\0")
            if total > LAYER_BYTES:
                break
    assert total > 200 << 20, "this machine has too little in /usr"
    command = ["tar", "--null", "-T", names, "-P", "--transform", "s,^/,,", "-cf", tar]
    subprocess.run(command, check=True, capture_output=True)
    diff_id = file_digest(tar)
    subprocess.run(["gzip", "-6", tar], check=True)
    packed = folder / "layer.tar.gz"
    return packed, file_digest(packed), diff_id


def test_unpacking_against_tar(layer: tuple[Path, str, str], tmp_path: Path) -> None:
    packed, digest, diff_id = layer
    peaks = []

    def tar(folder: Path) -> int:
        started = time.monotonic_ns()
        subprocess.run(["tar", "-xzf", packed, "-C", folder], check=True)
        return time.monotonic_ns() - started

    def tar_and_flush(folder: Path) -> int:
        started = time.monotonic_ns()
        tar(folder)
        subprocess.run(["sync", "--file-system", folder], check=True)
        return time.monotonic_ns() - started

    def ours(folder: Path) -> int:
        command = [sys.executable, "-c", ADD, folder / "images", packed, digest, diff_id]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        result = json.loads(done.stdout)
        peaks.append(result["peak_bytes"])
        return int(result["ns"])

    contenders: dict[str, Callable[[Path], int]] = {
        "tar -xzf": tar, "steelyard": ours, "tar -xzf, sync": tar_and_flush,
    }  # fmt: skip
    samples: dict[str, list[int]] = {name: [] for name in contenders}
    order = random.Random(2)
    for block in range(-1, ROUNDS):
        for name in order.sample(sorted(contenders), len(contenders)):
            folder = tmp_path / "unpacked"
            folder.mkdir()
            # Each starts with nothing of the others' waiting to be written.
            os.sync()
            taken = contenders[name](folder)
            if block >= 0:
                samples[name].append(taken)
            shutil.rmtree(folder)
    print(f"\n{packed.stat().st_size >> 20} MiB packed, {ROUNDS} interleaved rounds, p50 seconds")
    for name, values in samples.items():
        print(f"  {name:15} {statistics.median(values) / 1e9:6.2f}   min {min(values) / 1e9:6.2f}")
    speed = {
        name: statistics.median(
            theirs / mine for theirs, mine in zip(samples[name], samples["steelyard"], strict=True)
        )
        for name in ("tar -xzf", "tar -xzf, sync")
    }
    for name, ratio in speed.items():
        print(f"  speed / {name}: {ratio:.2f}")
    print(f"  peak memory: {max(peaks) >> 20} MiB")
    assert speed["tar -xzf"] >= 0.8
    assert max(peaks) < MEMORY_LIMIT_BYTES


def test_listing_200_images(tmp_path: Path) -> None:
    """`image ls`, the whole command, against the bare `--help`: what the store itself costs."""
    home = tmp_path / "home"
    store = ImageStore(home / "images")
    base = layer_tar(0)
    for number in range(200):
        add_image(store, f"app:{number:03}", [base, layer_tar(number + 1)], "plain")
    environment = {**os.environ, "STEELYARD_HOME": str(home)}
    program = [sys.executable, "-c", "from harness.cli.main import main; main()", "image", "ls"]
    samples: dict[str, list[int]] = {"ls": [], "--help": []}
    for _ in range(LISTINGS):
        for name, argv in (("ls", program), ("--help", [*program, "--help"])):
            started = time.monotonic_ns()
            done = subprocess.run(argv, cwd=PROJECT, env=environment, capture_output=True,
                                  text=True, check=True)  # fmt: skip
            samples[name].append(time.monotonic_ns() - started)
            if name == "ls":
                assert len(done.stdout.splitlines()) == 201
    p50 = {name: statistics.median(values) / 1e9 for name, values in samples.items()}
    print(f"\nimage ls of 200 images: p50 {p50['ls']:.3f} s, min {min(samples['ls']) / 1e9:.3f} s")
    print(f"  of which starting (image ls --help): {p50['--help']:.3f} s")
    assert p50["ls"] < 0.3
