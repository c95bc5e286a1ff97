"""An arm's options change a machine spec, and say what they do not know."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from harness.backends.vm.accelerator import (
    AcceleratorVerdict,
    choose,
    find_firmware,
    kvm_verdict,
    qemu_version,
)
from harness.backends.vm.arms import MICRO, AcceleratorChoice, DiskKind
from harness.backends.vm.backend import VmBackend
from harness.backends.vm.guest.kernel import Kernel
from harness.backends.vm.network import netmask
from harness.model import Arm
from harness.model.errors import BackendUnavailableError, PrepareError
from runtime import cache_home
from tests.support.scenarios import scenario

needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="there is no qemu-system-x86_64"
)
KERNEL = Kernel("6.1", "6.1-1", Path("bzimage"), Path("elf"), Path("modules"), "0" * 64)
NO_FIRMWARE = dataclasses.replace(MICRO, firmware="nosuch.rom")


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


WORKS, DOES_NOT = (
    AcceleratorVerdict(True, "a guest booted on it"),
    AcceleratorVerdict(False, "there is no /dev/kvm"),
)


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
    assert verdict == AcceleratorVerdict(False, "there is no /dev/kvm")
    assert verdict.accelerator == "tcg"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"key": 3}', '{"key": {"usable": 1}}'])
def test_a_damaged_file_of_verdicts_is_no_verdict(tmp_path: Path, content: str) -> None:
    from harness.backends.vm.accelerator import _read

    file = tmp_path / "accelerators.json"
    file.write_text(content)
    assert _read(file) == {}
    file.write_text(json.dumps({"key": {"usable": True, "reason": "why"}}))
    assert _read(file) == {"key": AcceleratorVerdict(True, "why")}


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


@needs_qemu
def test_firmware_is_a_file_of_qemu_or_a_path(tmp_path: Path) -> None:
    found = find_firmware(MICRO.firmware)
    assert found is not None
    assert found.is_file()
    own = tmp_path / "own.rom"
    own.write_bytes(b"firmware")
    assert find_firmware(str(own)) == own
    assert find_firmware("nosuch.rom") is None
    with pytest.raises(BackendUnavailableError, match="there is no /nosuch/qemu"):
        find_firmware(MICRO.firmware, "/nosuch/qemu")


@needs_qemu
def test_an_arm_without_its_firmware_is_told_before_anything_is_made() -> None:
    usable = VmBackend("vm-micro", NO_FIRMWARE).availability()
    assert not usable.usable
    if all(shutil.which(tool) for tool in ("qemu-img", "mke2fs", "debugfs", "dumpe2fs")):
        assert usable.reason == "there is no nosuch.rom in QEMU's data folders"
    asked = scenario(Arm("odd", "vm-micro", {"firmware": "nosuch.rom"}))
    with pytest.raises(PrepareError, match=r"arm odd: there is no nosuch\.rom in the data folders"):
        VmBackend("vm-micro", MICRO).prepare(asked, asked.arms[0], None, print)


@needs_qemu
def test_without_firmware_nothing_is_said_of_kvm_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path))
    monkeypatch.setattr("harness.backends.vm.accelerator.KVM_DEVICE", Path("/dev/null"))
    monkeypatch.setattr("harness.backends.vm.accelerator.MICRO", NO_FIRMWARE)
    verdict = kvm_verdict(lambda: KERNEL, print)
    assert not verdict.usable
    assert "no nosuch.rom to try it with" in verdict.reason
    assert cache_home() == tmp_path
    assert not (tmp_path / "accelerators.json").exists()


@needs_qemu
def test_a_verdict_lasts_as_long_as_its_firmware_and_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.backends.vm.accelerator import _key

    monkeypatch.setattr("harness.backends.vm.accelerator.KVM_DEVICE", Path("/dev/null"))
    one, two = tmp_path / "one.rom", tmp_path / "two.rom"
    one.write_bytes(b"one")
    two.write_bytes(b"two")
    key = _key(KERNEL, one)
    assert key == _key(KERNEL, one)
    assert key != _key(KERNEL, two)
    monkeypatch.setattr("harness.backends.vm.accelerator.MICRO", NO_FIRMWARE)
    assert key != _key(KERNEL, one)
