"""JUnit XML: a suite a scenario, a case for each metric of each arm.

Only elements and attributes that the schema of Jenkins' xUnit plugin has, which GitHub's and
GitLab's readers take as well. Worse is a `failure`. "Cannot tell" is `skipped`, since it is neither
a pass nor a failure, or a `failure` where that is wanted. What was not judged at all is an `error`.
Elapsed times are 0: a case is a verdict, with values in its text.
"""

from __future__ import annotations

import re
from itertools import groupby
from xml.etree import ElementTree as ET

from harness.analysis.judgement import Finding, Judgement, Verdict
from harness.report.judgement.words import headline


def render(judgement: Judgement, *, cannot_tell_fails: bool = False) -> str:
    """See `harness.report.judgement.render`.

    Args:
        judgement: Of any command.
        cannot_tell_fails: Whether "cannot tell" is a `failure`, and not `skipped`.
    """
    kinds = {
        Verdict.WORSE: "failure",
        Verdict.CANNOT_TELL: "failure" if cannot_tell_fails else "skipped",
    }
    root = ET.Element("testsuites", name="steelyard")
    findings = sorted(judgement.findings, key=lambda finding: finding.scenario)
    for scenario, group in groupby(findings, key=lambda finding: finding.scenario):
        cases = [_case(finding, kinds.get(finding.verdict)) for finding in group]
        _suite(root, scenario, cases)
    if judgement.refusals:
        _suite(root, "not judged", [_refused(text) for text in judgement.refusals])
    elif not judgement.findings:
        _suite(root, "nothing", [_refused("nothing was judged")])
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    root.set("time", "0")
    ET.indent(root)
    body = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- {_comment(judgement)} -->\n{body}\n'


def _suite(root: ET.Element, name: str, cases: list[ET.Element]) -> None:
    suite = ET.SubElement(
        root,
        "testsuite",
        name=name,
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
        time="0",
    )
    suite.extend(cases)


def _case(finding: Finding, kind: str | None) -> ET.Element:
    classname, message = f"{finding.scenario}.{finding.arm}", finding.sentence
    case = ET.Element("testcase", classname=classname, name=finding.metric, time="0")
    if kind is None:
        ET.SubElement(case, "system-out").text = f"{finding.word}: {message}"
    else:
        problem = ET.SubElement(case, kind, message=message, type=finding.word)
        problem.text = f"{finding.source}: {message}" if finding.source else message
    return case


def _refused(text: str) -> ET.Element:
    case = ET.Element("testcase", classname="steelyard", name=text[:120], time="0")
    ET.SubElement(case, "error", message=text, type="not judged").text = text
    return case


def _comment(judgement: Judgement) -> str:
    # Two hyphens would end an XML comment.
    return re.sub("-(?=-)", "- ", f"{judgement.question}; {headline(judgement)}")
