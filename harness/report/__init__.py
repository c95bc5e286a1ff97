"""Pages from records: charts, `report.html`, `summary.md`, tables. Light until one is made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.analysis.summary import Summary
    from harness.records import Run
    from harness.records.dataset import RunData
    from harness.report.charts.drawing import Chart

TEXTS: Mapping[str, str] = MappingProxyType(
    {
        "html": "report.html",
        "markdown": "summary.md",
        "csv": "trials.csv",
        "json": "summary.json",
    }
)
"""Formats that are one text: name -> its file in a run's folder."""

CHARTS = ("svg", "png")
"""Formats of the charts, which lie in a folder of their own."""

PAGES = ("html", "markdown", *CHARTS)
"""Formats of the pages that every run has."""


def write_report(
    run: Run | RunData | Summary, directory: Path, forms: Collection[str] = PAGES
) -> tuple[Path, ...]:
    """Write the pages of a run into a folder; works for any run, also one without a trial.

    The same records give the same bytes. Each file is replaced as a whole.

    Args:
        run: As `harness.records.read_run` gives it, or summarised already.
        directory: Where to; made if it is not there.
        forms: Of `TEXTS` and `CHARTS`.

    Returns:
        `report.html`, `summary.md`, then `charts/*.svg` and `charts/*.png` of each scenario.

    Raises:
        RecordError: A file cannot be written.
    """
    from harness.analysis.summary import Summary, summarise
    from harness.report.charts import charts_by_scenario
    from harness.report.charts.parallel import draw_in_parallel

    _make_folder(directory)  # before the work, so that a mistyped place is reported at once
    summary = run if isinstance(run, Summary) else summarise(run)
    drawn = [form for form in CHARTS if form in forms]
    charts = charts_by_scenario(summary) if drawn or "html" in forms else {}
    all_charts = [chart for found in charts.values() for chart in found]
    inline = ["inline_wide", "inline_narrow"] if "html" in forms else []
    draw_in_parallel(all_charts, [*inline, *drawn])
    files = {
        # A summary alone has no charts beside it to name.
        directory / name: render([summary], form, charts if drawn or form == "html" else {})
        for form, name in TEXTS.items()
        if form in forms
    }
    for chart in all_charts:
        for form in drawn:
            files[directory / "charts" / f"{chart.name}.{form}"] = getattr(chart, form)
    write_files(files)
    return tuple(files)


def render(
    summaries: Sequence[Summary], form: str, charts: Mapping[str, list[Chart]] | None = None
) -> bytes:
    """Make a text of runs.

    Args:
        summaries: One; or several, of a format that can hold them: not `html`.
        form: A key of `TEXTS`.
        charts: As `harness.report.charts.charts_by_scenario` draws them. Markdown names them as
            files in `charts/`; a page draws its own if there are none given.
    """
    from harness.report import export
    from harness.report.charts import charts_by_scenario
    from harness.report.html import render_html
    from harness.report.markdown import render_markdown

    if form == "csv":
        text = export.render_csv(summaries)
    elif form == "json":
        text = export.render_json(summaries)
    elif form == "markdown":
        text = "\n".join(render_markdown(summary, charts or {}) for summary in summaries)
    else:
        (summary,) = summaries
        text = render_html(summary, charts_by_scenario(summary) if charts is None else charts)
    return text.encode()


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files, their folders made, each replaced as a whole; RecordError where that fails."""
    from harness.records import write_atomically

    for path, data in files.items():
        _make_folder(path.parent)
        write_atomically(path, data)


def _make_folder(path: Path) -> None:
    from harness.model.errors import RecordError
    from runtime.linux.caller import make_folders

    try:
        make_folders(path)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror or error}") from error
