"""Pages from records: charts, `report.html`, `summary.md`. Light until one is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.model import Run


def write_report(run: Run, directory: Path) -> tuple[Path, ...]:
    """Write every page of a run into its folder; works for any run, also one without a trial.

    The same records give the same bytes. Each file is replaced as a whole.

    Args:
        run: As `harness.records.read_run` gives it.
        directory: Where to; made if it is not there.

    Returns:
        `report.html`, `summary.md`, then `charts/*.svg` and `charts/*.png` of each scenario.

    Raises:
        RecordError: A file cannot be written.
    """
    from harness.errors import RecordError
    from harness.records import write_atomically
    from harness.report.charts import charts_by_scenario
    from harness.report.html import render_html
    from harness.report.markdown import render_markdown
    from harness.report.tables import summarise

    summary = summarise(run)
    charts = charts_by_scenario(summary)
    files = {
        directory / "report.html": render_html(summary, charts).encode(),
        directory / "summary.md": render_markdown(summary, charts).encode(),
    }
    for chart in (chart for found in charts.values() for chart in found):
        files[directory / "charts" / f"{chart.name}.svg"] = chart.svg
        files[directory / "charts" / f"{chart.name}.png"] = chart.png
    try:
        (directory / "charts").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"cannot write {directory}: {error.strerror or error}") from error
    for path, data in files.items():
        write_atomically(path, data)
    return tuple(files)
