"""`import steelyard`: the names of both packages under one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import harness
import runtime
import steelyard

NAMES = {
    package: {name for name in getattr(package, "__all__", ()) if not name.startswith("_")}
    for package in (harness, runtime)
}


def test_every_exported_name_is_the_packages_own() -> None:
    assert set(steelyard.__all__) == NAMES[harness] | NAMES[runtime]
    assert set(steelyard.__all__) <= set(dir(steelyard))
    for package, names in NAMES.items():
        for name in names:
            assert getattr(steelyard, name) is getattr(package, name)
    assert steelyard.__version__ == harness.__version__


def test_no_name_is_exported_by_both_packages() -> None:
    assert NAMES[harness] & NAMES[runtime] == set()


def test_a_name_is_loaded_on_first_use() -> None:
    program = (
        "import sys, steelyard\n"
        "assert 'runtime.images' not in sys.modules\n"
        "steelyard.ImageStore\n"
        "assert 'runtime.images' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_name_that_nobody_exports_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'steelyard' has no attribute 'ImageStor'"):
        _ = steelyard.ImageStor


def test_a_type_checker_knows_the_names_and_no_others(tmp_path: Path) -> None:
    source = tmp_path / "user.py"
    source.write_text(
        "import steelyard\n"
        "from steelyard import ImageStore\n"
        "from pathlib import Path\n"
        "store: steelyard.ImageStore = ImageStore(Path('x'))\n"
        "number: int = store\n"
        "steelyard.ImageStor\n"
    )
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "steelyard").symlink_to(Path(steelyard.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-incremental",
         "--follow-imports=silent", source],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"MYPYPATH": f"{folder}:{Path(harness.__file__).parents[1]}"},
    )  # fmt: skip
    wrong_type, unknown_name = done.stdout.splitlines()
    assert wrong_type.startswith("user.py:5: error: Incompatible types in assignment")
    assert '"ImageStore"' in wrong_type
    assert unknown_name.startswith('user.py:6: error: Module has no attribute "ImageStor"')
