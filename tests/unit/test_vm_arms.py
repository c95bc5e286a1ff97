"""An arm's options change a machine spec, and say what they do not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.backends.vm.accelerator import Verdict, choose, kvm_verdict, qemu_version
from harness.backends.vm.arms import MICRO, AcceleratorChoice, DiskKind
from harness.backends.vm.network import netmask
from harness.model.errors import BackendUnavailableError, PrepareError


def test_options_replace_fields_with_their_types() -> None:
    spec = MICRO.with_options(
        {"disk": "copy", "memory_bytes": 1 << 29, "kernel": "/boot/x", "devices": ["a", "b"]}, "arm"
    )
    assert spec.disk is DiskKind.COPY
    assert spec.memory_bytes == 1 << 29
    assert spec.kernel == Path("/boot/x")
    assert spec.devices == ("a", "b")
    assert spec.machine == MICRO.machine


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"memory": 1}, r"no option 'memory'; there are accelerator, bus"),
        ({"disk": "tape"}, "'tape' is none of copy, overlay"),
        ({"vcpus": 0}, "no positive integer"),
        ({"vcpus": True}, "no positive integer"),
        ({"kernel_arguments": "quiet"}, "no list of strings"),
        ({"machine": 3}, "no string"),
        ({"kernel": ""}, "no string"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(PrepareError, match=rf"arm odd: .*{complaint}"):
        MICRO.with_options(options, "odd")


WORKS, DOES_NOT = Verdict(True, "a guest booted on it"), Verdict(False, "there is no /dev/kvm")


def test_the_accelerator_is_what_works_or_what_was_asked_for() -> None:
    assert choose(AcceleratorChoice.AUTO, WORKS, "vm-micro") == "kvm"
    assert choose(AcceleratorChoice.AUTO, DOES_NOT, "vm-micro") == "tcg"
    assert choose(AcceleratorChoice.TCG, WORKS, "vm-micro") == "tcg"
    assert choose(AcceleratorChoice.KVM, WORKS, "vm-micro") == "kvm"
    with pytest.raises(BackendUnavailableError, match="no /dev/kvm"):
        choose(AcceleratorChoice.KVM, DOES_NOT, "vm-micro")


def test_without_a_device_no_kernel_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.backends.vm.accelerator.KVM_DEVICE", tmp_path / "kvm")

    def no_kernel() -> None:
        raise AssertionError

    verdict = kvm_verdict(no_kernel, print)  # type: ignore[arg-type]
    assert verdict == Verdict(False, "there is no /dev/kvm")
    assert verdict.accelerator == "tcg"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"key": 3}', '{"key": {"usable": 1}}'])
def test_a_damaged_file_of_verdicts_is_no_verdict(tmp_path: Path, content: str) -> None:
    from harness.backends.vm.accelerator import _read

    file = tmp_path / "accelerators.json"
    file.write_text(content)
    assert _read(file) == {}
    file.write_text(json.dumps({"key": {"usable": True, "reason": "why"}}))
    assert _read(file) == {"key": Verdict(True, "why")}


@pytest.mark.parametrize(("length", "mask"), [(16, "255.255.0.0"), (24, "255.255.255.0")])
def test_netmask(length: int, mask: str) -> None:
    assert netmask(length) == mask


def test_a_qemu_by_its_path_stays_a_path() -> None:
    spec = MICRO.with_options({"qemu": "./qemu"}, "arm")
    assert spec.qemu == Path.cwd() / "qemu"
    assert MICRO.with_options({"qemu": "qemu-other"}, "arm").qemu == Path("qemu-other")


def test_a_qemu_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="there is no /nosuch/qemu; check the path"):
        qemu_version("/nosuch/qemu")
    (tmp_path / "qemu").write_text("")
    with pytest.raises(BackendUnavailableError, match="cannot be run: permission denied"):
        qemu_version(str(tmp_path / "qemu"))
