"""The keys of `[readiness]`: what each kind takes, and the line and sentence for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.model import Readiness, ReadinessKind, Scenario
from harness.model.errors import ScenarioError
from harness.scenario.parse import parse_scenario
from harness.scenario.validate import require_valid
from tests.support.scenarios import fake, scenario

HEAD = 'question = "q?"\nimage = "busybox"\narms = ["container"]\n[readiness]\n'


def read(keys: str) -> Scenario:
    return parse_scenario(HEAD + keys, Path("asked.toml"))


@pytest.mark.parametrize(
    ("keys", "readiness"),
    [
        ('kind = "tcp"\nport = 1\naddress = "::1"',
         Readiness(ReadinessKind.TCP, port=1, address="::1")),
        ('kind = "tcp"\nsocket = "/run/a.sock"',
         Readiness(ReadinessKind.TCP, socket="/run/a.sock")),
        ('kind = "http"\nsocket = "/run/a.sock"\npath = "/up"',
         Readiness(ReadinessKind.HTTP, socket="/run/a.sock", path="/up")),
        ('kind = "http"\nport = 443\ntls = true',
         Readiness(ReadinessKind.HTTP, port=443, tls=True)),
        ('kind = "command"\ncommand = ["pg_isready", "-q"]',
         Readiness(ReadinessKind.COMMAND, command=("pg_isready", "-q"))),
    ],
)  # fmt: skip
def test_keys_become_a_readiness_that_may_be_run(keys: str, readiness: Readiness) -> None:
    asked = read(keys)
    assert asked.readiness == readiness
    require_valid([asked])


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ('kind = "tcp"\nport = 1\naddress = "10.0.0.1"',
         "asked.toml:7: readiness.address: '10.0.0.1' is no loopback address"),
        ('kind = "tcp"\nport = 1\naddress = "localhost"',
         "asked.toml:7: readiness.address: 'localhost' is no loopback address"),
        ('kind = "http"\nsocket = "run/a.sock"',
         "asked.toml:6: readiness.socket: 'run/a.sock' is not an absolute path"),
        ('kind = "http"\nsocket = "/a"\nport = 80',
         "asked.toml:7: readiness.port: does nothing beside 'socket'"),
        ('kind = "tcp"\nport = 80\ntls = true',
         "asked.toml:7: readiness.tls: does nothing for readiness 'tcp'"),
        ('kind = "http"\nport = 80\ntls = "yes"',
         "asked.toml:7: readiness.tls: should be true or false, is 'yes'"),
        ('kind = "command"', "readiness.command: is missing; readiness 'command' needs it"),
        ('kind = "command"\ncommand = []', "asked.toml:6: readiness.command: is empty"),
        ('kind = "command"\ncommand = "up"',
         "asked.toml:6: readiness.command: should be a list, is 'up'"),
        ('kind = "exit"\ncommand = ["up"]',
         "asked.toml:6: readiness.command: does nothing for readiness 'exit'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(keys: str, problem: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        read(keys)
    assert [one for one in caught.value.problems if problem in one], caught.value.problems


@pytest.mark.parametrize(
    ("readiness", "problem"),
    [
        (Readiness(ReadinessKind.TCP, port=1, address="1.2.3.4"), "no loopback address"),
        (Readiness(ReadinessKind.TCP, socket="a"), "not an absolute path"),
        (Readiness(ReadinessKind.HTTP), "needs one, 1 to 65535"),
        (Readiness(ReadinessKind.COMMAND), "readiness.command: is empty"),
    ],
)
def test_what_is_made_in_python_is_held_to_the_same(readiness: Readiness, problem: str) -> None:
    with pytest.raises(ScenarioError, match=problem):
        require_valid([scenario(fake(), readiness=readiness)])
