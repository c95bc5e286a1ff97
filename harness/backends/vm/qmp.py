"""QEMU's control protocol over an inherited socket, for a caller that is not asynchronous.

The event loop runs only while a command is under way; nothing is done in the background, so that no
thread competes with the guest being measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

from qemu.qmp import QMPClient, QMPError

from harness.model.errors import HarnessError

T = TypeVar("T")

# What it has to say arrives as exceptions; without a handler Python prints it on stderr as well.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class QmpMonitor:
    """A QMP session with one QEMU process.

    Every method raises HarnessError when QEMU refuses, hangs up, or does not answer in time.

    Args:
        connection: The host's end of the socket pair; the monitor owns it from now on.
        name: Of the session, in logs.
    """

    def __init__(self, connection: socket.socket, name: str) -> None:
        self._connection = connection
        self._client = QMPClient(name)
        self._loop = asyncio.new_event_loop()
        self._connected = False

    def connect(self, timeout_s: float) -> None:
        """Take the greeting and negotiate; QEMU answers once its machine is built."""
        self._run(self._client.connect(self._connection), timeout_s)
        self._connected = True

    def execute(self, command: str, timeout_s: float) -> Any:
        """Run one command without arguments and return what QEMU returned."""
        return self._run(self._client.execute(command), timeout_s)

    def accelerator(self, timeout_s: float) -> str:
        """The accelerator that really runs: `kvm` or `tcg`."""
        return "kvm" if self.execute("query-kvm", timeout_s)["enabled"] else "tcg"

    def disk_read_bytes(self, drive: str, timeout_s: float) -> int:
        """What the guest has read of a drive so far (QMP `query-blockstats`, `rd_bytes`)."""
        for device in self.execute("query-blockstats", timeout_s):
            if device.get("device") == drive:
                return int(device["stats"]["rd_bytes"])
        raise HarnessError(f"QEMU knows no drive {drive}")

    def close(self) -> None:
        """Hang up. QEMU may have done so before: after `quit` that is its way to answer."""
        if self._loop.is_closed():
            return
        if self._connected:
            with contextlib.suppress(Exception):
                self._run(self._client.disconnect(), 1.0)
        self._connection.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        # One turn more, in which transports and cancelled tasks let go.
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        try:
            return self._loop.run_until_complete(asyncio.wait_for(work, timeout_s))
        except TimeoutError:
            raise HarnessError(f"QEMU did not answer within {timeout_s:g} s") from None
        except (QMPError, EOFError, OSError) as error:
            raise HarnessError(str(error) or type(error).__name__) from None
