"""Containers of dead sessions at docker's daemon, which keeps them when their owner is gone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import runtime
from harness.backends.peers.command import run_peer
from harness.backends.peers.table import DOCKER
from harness.backends.peers.trying import find_program


@dataclass(frozen=True, slots=True)
class DockerLeftover:
    """One container that a dead session left, by docker's name for it."""

    name: str
    session: str
    kind: str = "docker container"

    def remove(self) -> None:
        """End it and take it away. Gone already is fine.

        Raises:
            OSError: The daemon does not do so.
        """
        code, said = _docker("rm", "--force", self.name)
        if code != 0 and "No such container" not in said:
            raise OSError(said)


def docker_leftovers() -> Iterator[DockerLeftover]:
    """Containers with our label whose session is dead; none where no daemon answers.

    Dead is a session whose folder is in this data home and whose lock is free: the containers of
    another home's sessions, and of those in a copied home, are left alone.
    """
    label = f"label={DOCKER.run[DOCKER.run.index('--label') + 1]}"
    code, said = _docker("ps", "--all", "--filter", label, "--format", "{{.Names}}")
    if code != 0:
        return
    dead = runtime.proven_dead()
    for name in said.splitlines():
        session = name.split("-")[0]
        if session in dead:
            yield DockerLeftover(name, session)


def _docker(*arguments: str) -> tuple[int, str]:
    program = find_program(DOCKER)
    if program is None:
        return -1, "docker is not installed"
    return run_peer([program, *arguments], os.environ)
