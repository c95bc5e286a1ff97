"""What the peers are told, word for word: their command lines, and the OCI bundle's configuration.

`STEELYARD_UPDATE_GOLDEN=1` writes them anew: read the difference.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from harness.backends.peers.argv import Start, filled, oci_config, run_argv
from harness.backends.peers.table import PEERS
from runtime import ContainerSpec, DirectoryRoot, ResourceLimits
from runtime.launch.spec import User

SPEC = ContainerSpec(
    DirectoryRoot(""),
    ("sh", "-c", "echo 'hello there'"),
    {"PATH": "/usr/bin:/bin", "GREETING": "a b=c"},
    capabilities=("CAP_CHOWN", "CAP_KILL"),
    limits=ResourceLimits(256 << 20, 1.5, 64),
)
START = Start(
    program="/usr/bin/PEER",
    identifier="0123456789ab-hello-0",
    directory="/data/instances/0123456789ab/hello-0",
    state="/data/instances/0123456789ab/peer-1/state",
    spec=SPEC,
    image="localhost/busybox:latest",
    hidden=("/proc/kcore", "/sys/firmware"),
    read_only=("/proc/sys",),
)
JOINED = dataclasses.replace(START, network="/proc/4711/fd/12")
OTHER_USER = dataclasses.replace(
    START,
    spec=dataclasses.replace(
        SPEC,
        user=User(1000, 1000, (20, 44)),
        limits=ResourceLimits(),
        working_directory="/srv",
        read_only_root=True,
    ),
)


def check(name: str, text: str) -> None:
    golden = Path(__file__).with_name(name)
    if os.environ.get("STEELYARD_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def lines(words: list[str]) -> str:
    return "\n".join(words) + "\n"


@pytest.mark.parametrize("peer", PEERS)
def test_command_lines(peer: str) -> None:
    told = PEERS[peer]
    start = dataclasses.replace(START, program=f"/usr/bin/{peer}")
    sections = [lines(run_argv(told, start))]
    sections += [lines(filled(words, start)) for words in (told.kill, told.delete) if words]
    check(f"peer-{peer}.argv", "\n".join(sections))


@pytest.mark.parametrize("peer", ["bwrap", "podman"])
def test_command_lines_in_a_network(peer: str) -> None:
    check(f"peer-{peer}-network.argv", lines(run_argv(PEERS[peer], JOINED)))


@pytest.mark.parametrize("peer", ["podman", "docker"])
def test_command_lines_for_another_user_without_limits(peer: str) -> None:
    check(f"peer-{peer}-user.argv", lines(run_argv(PEERS[peer], OTHER_USER)))


@pytest.mark.parametrize(
    ("name", "start"), [("limits", START), ("network", JOINED), ("user", OTHER_USER)]
)
def test_bundle(name: str, start: Start) -> None:
    check(f"peer-oci-{name}.json", json.dumps(oci_config(start), indent=2) + "\n")


def test_no_command_line_of_the_table_has_a_field_that_nobody_fills() -> None:
    for peer in PEERS.values():
        for words in (run_argv(peer, START), filled(peer.kill, START), filled(peer.delete, START)):
            assert not any("{" in word or "…" in word for word in words)
