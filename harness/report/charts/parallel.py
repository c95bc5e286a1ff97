"""Charts drawn by all processors at once, before a page asks for them one by one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess

from harness.report.charts.drawing import Chart

MOST_PROCESSES = 8
"""More are no help for some ten charts."""


def draw_in_parallel(charts: Sequence[Chart], forms: Sequence[str]) -> None:
    """Draw charts and keep the drawings where the properties of each chart find them.

    The helpers are forked, so they have the data already, and are gone when this returns. Nothing
    is lost without them (one processor; or another thread runs, whose locks fork(2) would copy as
    they are), or when one dies: a chart draws what is not there yet.

    Args:
        charts: To be drawn.
        forms: Names of properties of `Chart`: `svg`, `png`, `inline_wide`, `inline_narrow`.
    """
    # A place in the queue is a byte.
    charts = charts[:256]
    many = min(len(os.sched_getaffinity(0)), MOST_PROCESSES, len(charts)) - 1
    if many < 1 or not forms or threading.active_count() > 1:
        return
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # noqa: F401  # once, and not in each helper

    context = get_context("fork")
    queue, filling = os.pipe()  # of charts: a helper that is free takes the next
    os.write(filling, bytes(range(len(charts))))
    os.close(filling)
    helpers: list[ForkProcess] = []
    started: list[Connection] = []
    try:
        for _ in range(many):
            ours, theirs = context.Pipe(duplex=False)
            started.append(ours)
            arguments = (queue, charts, forms, theirs, started)
            helper = context.Process(target=_help, args=arguments, daemon=True)
            helper.start()
            theirs.close()
            helpers.append(helper)
        _draw_from(queue, charts, forms)
        for ours in started:
            _take(ours, charts)
    finally:
        os.close(queue)
        for ours in started:
            ours.close()
        for helper in helpers:
            helper.kill()
            helper.join()
            helper.close()


def _help(
    queue: int,
    charts: Sequence[Chart],
    forms: Sequence[str],
    result: Connection,
    ends: Sequence[Connection],
) -> None:
    # A helper that holds the reading end itself gets no EPIPE: if the parent were killed, it would
    # wait for a reader for ever.
    for end in ends:
        end.close()
    # An interrupt from the keyboard reaches the helpers too; only the parent answers it.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        result.send(_draw_from(queue, charts, forms))
    except Exception:  # the parent meets the same when it draws that chart, and reports it
        result.close()


def _draw_from(
    queue: int, charts: Sequence[Chart], forms: Sequence[str]
) -> dict[int, dict[str, bytes | str]]:
    """Draw charts until none is left; returns what was drawn, by the chart's place."""
    drawn = {}
    while place := os.read(queue, 1):
        chart = charts[place[0]]
        drawn[place[0]] = {form: getattr(chart, form) for form in forms}
    return drawn


def _take(result: Connection, charts: Sequence[Chart]) -> None:
    with contextlib.suppress(EOFError, OSError):
        for place, found in result.recv().items():
            vars(charts[place]).update(found)  # where cached_property keeps its value
