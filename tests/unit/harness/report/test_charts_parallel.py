"""Charts drawn ahead by several processes: the same bytes, and nothing lost when a helper dies."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.report.charts.drawing import Chart, add_panel, new_figure
from harness.report.charts.parallel import draw_in_parallel
from harness.report.text.tables import Grid

FORMS = ("svg", "png", "inline_wide", "inline_narrow")

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="one processor alone draws nothing ahead"
)


class Draw:
    """Draws a line, and says in a file by which process."""

    def __init__(self, folder: Path, dies_in_helpers: bool = False) -> None:
        self.folder, self.parent, self.dies = folder, os.getpid(), dies_in_helpers

    def __call__(self, width: float):  # type: ignore[no-untyped-def]
        (self.folder / f"{os.getpid()}").touch()
        until = time.monotonic() + 30
        while len(list(self.folder.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.005)  # the parent leaves something to do for a helper
        if self.dies and os.getpid() != self.parent:
            os._exit(1)
        figure = new_figure(width, 1.5)
        add_panel(figure, 0.2, 1.0).plot([0.0, width], [0.5, 0.5])
        return figure


def charts(draw: Draw, number: int = 6) -> list[Chart]:
    grid = Grid(("arm",), (("container",),))
    return [
        Chart(f"chart-{place}", f"Chart {place}", "A line.", "It is one.", grid, "All", draw)
        for place in range(number)
    ]


@contextmanager
def another_thread() -> Iterator[None]:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def test_what_is_drawn_ahead_is_what_a_chart_draws_itself(tmp_path: Path) -> None:
    draw = Draw(tmp_path)
    ahead, alone = charts(draw), charts(draw)
    draw_in_parallel(ahead, FORMS)
    for first, second in zip(ahead, alone, strict=True):
        assert set(FORMS) <= vars(first).keys(), "nothing is left to be drawn"
        assert [getattr(first, form) for form in FORMS] == [getattr(second, form) for form in FORMS]
    assert len(list(tmp_path.iterdir())) > 1, "a helper has drawn too"


def test_a_helper_that_dies_costs_time_and_nothing_else(tmp_path: Path) -> None:
    ahead = charts(Draw(tmp_path, dies_in_helpers=True))
    draw_in_parallel(ahead, ["svg"])
    assert len(list(tmp_path.iterdir())) > 1, "there was one"
    assert any("svg" not in vars(chart) for chart in ahead), "it took one chart with it"
    assert all(chart.svg.startswith(b"<?xml") for chart in ahead)


def test_nothing_is_forked_beside_another_thread(tmp_path: Path) -> None:
    ahead = charts(Draw(tmp_path))
    with another_thread():
        draw_in_parallel(ahead, ["svg"])
    assert list(tmp_path.iterdir()) == []
