"""`API.md` says what the docstrings say."""

from __future__ import annotations

import os
from pathlib import Path

import harness
import runtime
from tests.support import api_page

PAGE = Path(__file__).resolve().parents[2] / "API.md"


def test_the_page_is_what_the_docstrings_say() -> None:
    text = api_page.render(
        {"Measuring and judging: `harness`": harness, "Containers and images: `runtime`": runtime}
    )
    if os.environ.get("STEELYARD_UPDATE_GOLDEN"):
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text
