"""JSON for programs: the judgement as it is, with the unit of each value beside it."""

from __future__ import annotations

import json
import math

from harness.analysis.judgement import Finding, Judgement
from harness.report.judgement.words import HEADLINES, name_of

SCHEMA = 1


def render(judgement: Judgement) -> str:
    """See `harness.report.judgement.render`."""
    document = {
        "schema": SCHEMA,
        "question": judgement.question,
        "verdict": HEADLINES[judgement.exit_code],
        "exit_code": int(judgement.exit_code),
        "findings": [_finding(finding) for finding in judgement.findings],
        "refusals": list(judgement.refusals),
        "facts": dict(judgement.facts),
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _finding(finding: Finding) -> dict[str, object]:
    interval = finding.interval
    return {
        "name": name_of(finding),
        "scenario": finding.scenario,
        "arm": finding.arm,
        "metric": finding.metric,
        "unit": finding.quantity.unit.value,
        "verdict": finding.word,
        "sentence": finding.sentence,
        **{name: _number(getattr(finding, name)) for name in ("value", "reference", "ratio")},
        "interval": None
        if interval is None
        else {
            "of": "ratio" if finding.ratio is not None else "value",
            "low": _number(interval.low),
            "high": _number(interval.high),
            "coverage": interval.coverage,
            "method": interval.method.value,
        },
        "limit": _number(finding.limit),
        "detectable": _number(finding.detectable),
        "blocks": finding.blocks,
        "source": finding.source or None,
    }


def _number(value: float | None) -> float | str | None:
    """Write a value that was not reached as the string `infinity`: JSON has no infinity."""
    if value is None or math.isnan(value):
        return None
    if math.isfinite(value):
        return value
    return "infinity" if value > 0 else "-infinity"
