"""The page and summary of a comparison: the verdict first, then the run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.analysis.judgement import Finding, Judgement, Verdict
from harness.analysis.summary import Summary, summarise
from harness.report import render
from harness.stats import Interval, Method
from tests.support.synthetic import synthetic_run

HOSTILE = "<b>\x1b[2J|`*@me ]]>"
WORSE = Finding(
    "hello", "container-b", "ready", Verdict.WORSE,
    "time until ready: within a block B takes typically 6.1 % longer than A",
    value=38e6, reference=33.5e6, ratio=1.061,
    interval=Interval(1.012, 1.098, 0.99, Method.SEQUENTIAL), blocks=120,
)  # fmt: skip
SAME = Finding("hello", "container-b", "disk", Verdict.SAME, "exactly 4 kB in both", ratio=1.0)
JUDGEMENT = Judgement(
    "is B (app:2) worse than A (app:1)?", (SAME, WORSE), (f"nothing meters {HOSTILE}",),
    {"A": "app:1 (container-a)", "B": "app:2 (container-b)"},
)  # fmt: skip
PLAIN = summarise(synthetic_run(blocks=8))
COMPARISON = replace(PLAIN, judgement=JUDGEMENT)


def text_of(summary: Summary, form: str) -> str:
    return render([summary], form, {}).decode().replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_the_verdict_comes_first_and_the_run_behind_it(form: str) -> None:
    text = text_of(COMPARISON, form)
    places = [
        text.index(part)
        for part in (
            "Is B (app:2) worse than A (app:1)?",
            "regressed: 1 worse, 1 same, 1 not judged",
            WORSE.sentence,
            SAME.sentence,
            "+1.2 % to +9.8 %",
            "38.0 ms",
            PLAIN.tables[0].scenario.question,
        )
    ]
    # The page names A and B above the findings, the summary below.
    assert places == sorted(places)
    assert "app:1 (container-a)" in text
    assert "app:2 (container-b)" in text


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_the_runs_own_answer_does_not_speak_against_the_verdict(form: str) -> None:
    plain = text_of(PLAIN, form)
    assert "95 % intervals" in plain
    assert "Verdict" not in plain
    text = text_of(COMPARISON, form)
    assert "(95 % intervals from" not in text
    assert "How sure is that?" not in text
    assert "What the box costs" not in text


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_what_a_sentence_holds_is_no_markup(form: str) -> None:
    text = text_of(COMPARISON, form)
    assert "<b>" not in text
    assert "\x1b" not in text


def test_an_open_verdict_is_no_decided_one() -> None:
    opened = replace(JUDGEMENT, findings=(replace(WORSE, verdict=Verdict.CANNOT_TELL),))
    text = text_of(replace(PLAIN, judgement=opened), "html")
    assert '<span class="badge unsure">open</span>' in text
    assert '<span class="badge sure">decided</span>' in text_of(COMPARISON, "html")
