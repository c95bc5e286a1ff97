"""JUnit XML: a suite a scenario, a case for each metric of each arm.

Only elements and attributes that the schema of Jenkins' xUnit plugin has, which GitHub's and
GitLab's readers take as well. Worse is a `failure`, an unknown verdict an `error`: both make a
pipeline red, and are distinct. Elapsed times are 0: a case is a verdict, with values in its text.
"""

from __future__ import annotations

import re
from itertools import groupby
from xml.etree import ElementTree as ET

from harness.analysis.judgement import Finding, Judgement, Verdict
from harness.report.judgement.words import headline


def render(judgement: Judgement) -> str:
    """See `harness.report.judgement.render`."""
    root = ET.Element("testsuites", name="steelyard")
    findings = sorted(judgement.findings, key=lambda finding: finding.scenario)
    for scenario, group in groupby(findings, key=lambda finding: finding.scenario):
        _suite(root, scenario, [_case(finding) for finding in group])
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
        skipped="0",
        time="0",
    )
    suite.extend(cases)


def _case(finding: Finding) -> ET.Element:
    classname, message = f"{finding.scenario}.{finding.arm}", finding.sentence
    case = ET.Element("testcase", classname=classname, name=finding.metric, time="0")
    kind = {Verdict.WORSE: "failure", Verdict.CANNOT_TELL: "error"}.get(finding.verdict)
    if kind is None:
        ET.SubElement(case, "system-out").text = f"{finding.word}: {message}"
    else:
        problem = ET.SubElement(case, kind, message=message, type=finding.verdict.value)
        problem.text = f"{finding.source}: {message}" if finding.source else message
    return case


def _refused(text: str) -> ET.Element:
    case = ET.Element("testcase", classname="steelyard", name=text[:120], time="0")
    ET.SubElement(case, "error", message=text, type="not judged").text = text
    return case


def _comment(judgement: Judgement) -> str:
    # Two hyphens would end an XML comment.
    return re.sub("-(?=-)", "- ", f"{judgement.question}; {headline(judgement)}")
