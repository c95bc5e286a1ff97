"""The plan by which a command joins a running container: what comes before what."""

from __future__ import annotations

from dataclasses import replace

from runtime.launch.lower import lower_entry
from runtime.launch.plan import Plan
from runtime.launch.spec import ContainerSpec, DirectoryRoot, NetworkSpec, OverlayRoot, User
from runtime.linux import abi
from runtime.linux.features import probe_features

BOX = ContainerSpec(
    OverlayRoot(("/lower",), "/upper", "/work", "/rootfs"), ("probe",), user=User(1000, 1000)
)


def index(plan: Plan, call: str, *arguments: object) -> int:
    """Where a call with these first arguments stands."""
    return next(
        number
        for number, step in enumerate(plan.steps)
        if step.syscall == call and step.arguments[: len(arguments)] == arguments
    )


def test_nobody_can_look_in_and_nothing_is_open_before_the_image_matters() -> None:
    plan = lower_entry(BOX, probe_features(), 7, (9,))
    inside = (
        abi.CLONE_NEWNS | abi.CLONE_NEWUTS | abi.CLONE_NEWIPC | abi.CLONE_NEWNET
        | abi.CLONE_NEWCGROUP
    )  # fmt: skip
    order = [
        index(plan, "prctl", abi.PR_SET_PDEATHSIG, 9),
        index(plan, "prctl", abi.PR_SET_DUMPABLE, 0),
        index(plan, "write", 9, "0"),
        index(plan, "setns", 7, inside),
        index(plan, "close_range", 3, 0xFFFFFFFF),
        index(plan, "fchdir"),
        index(plan, "setgroups"),
        index(plan, "setuid", 1000),
        index(plan, "prctl", abi.PR_SET_NO_NEW_PRIVS, 1),
        index(plan, "execve"),
    ]
    assert order == sorted(order)
    assert plan.clone_flags == 0
    assert not [step for step in plan.steps if "mount" in step.syscall or "mkdir" in step.syscall]


def test_a_process_with_another_root_is_joined_by_that_and_its_network() -> None:
    box = replace(BOX, root=DirectoryRoot("/copy"), namespaces=frozenset(), user=User())
    plan = lower_entry(box, probe_features(), 7)
    assert index(plan, "chroot", "/copy") < index(plan, "execve")
    assert "setns" not in [step.syscall for step in plan.steps]
    joined = replace(box, network=NetworkSpec("join", 5))
    plan = lower_entry(joined, probe_features(), 7)
    assert index(plan, "setns", 7, abi.CLONE_NEWNET) < index(plan, "chroot", "/copy")
