"""Folders that are locked by those who change what is in them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from runtime.linux.files import directory_lock


def is_locked(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def test_a_locked_folder_is_made_and_nobody_elses_until_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "kernels"
    with directory_lock(folder):
        assert is_locked(folder)
    assert not is_locked(folder)


def test_an_error_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), directory_lock(tmp_path):
        assert 1 // 0
    assert not is_locked(tmp_path)
