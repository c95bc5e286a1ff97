"""The thread that stays in a namespace and works there for others."""

from __future__ import annotations

import threading

import pytest

from runtime.linux.namespace_thread import NamespaceThread, ThreadClosedError


def alive(name: str) -> bool:
    return name in {thread.name for thread in threading.enumerate()}


def test_it_enters_first_and_then_runs_everything_in_that_one_thread() -> None:
    seen: list[int] = []
    thread = NamespaceThread(lambda: seen.append(threading.get_native_id()), name="under test")
    try:
        seen += [thread.call(threading.get_native_id) for _ in range(3)]
        assert alive("under test")
    finally:
        thread.close()
    assert len(seen) == 4
    assert set(seen) != {threading.get_native_id()}
    assert len(set(seen)) == 1
    assert not alive("under test")


def test_what_a_function_raises_is_the_callers_and_the_thread_goes_on() -> None:
    thread = NamespaceThread(lambda: None, name="under test")
    try:
        with pytest.raises(ZeroDivisionError):
            thread.call(lambda: 1 // 0)
        assert thread.call(lambda: 7) == 7
    finally:
        thread.close()


def test_a_namespace_that_cannot_be_entered_leaves_no_thread() -> None:
    def refuse() -> None:
        raise PermissionError("setns: Operation not permitted")

    with pytest.raises(PermissionError, match="setns"):
        NamespaceThread(refuse, name="under test")
    assert not alive("under test")


def test_a_closed_one_says_so_instead_of_waiting_for_ever() -> None:
    thread = NamespaceThread(lambda: None, name="under test")
    thread.close()
    thread.close()
    with pytest.raises(ThreadClosedError, match="'under test' has been closed"):
        thread.call(lambda: None)
