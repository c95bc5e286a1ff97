"""Charts are the same bytes wherever and whenever they are drawn."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

from harness.analysis.summary import summarise
from harness.report.charts import charts_by_scenario
from tests.support.synthetic import synthetic_run


def test_the_same_records_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    """Also with another hash seed and with a matplotlibrc of the user's."""
    code = (
        "from tests.integration.test_report_bytes import digest; "
        "import matplotlib as mpl; mpl.rcParams.update({'font.size': 20, 'svg.fonttype': 'path'}); "
        "print(digest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "PYTHONHASHSEED": "77",
            "PATH": "",
            "HOME": "/nonexistent",
            "MPLCONFIGDIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert other.stdout.strip() == digest()


def digest() -> str:
    run = synthetic_run(blocks=7, scenarios=("hello",), failure_rate=0.2, again="container")
    found = [chart for found in charts_by_scenario(summarise(run)).values() for chart in found]
    return " ".join(
        f"{zlib.crc32(c.svg + c.inline_narrow.encode()):x}/{zlib.crc32(c.png):x}" for c in found
    )
