"""A judgement in every form: what each reader finds in it, and that no name breaks out of it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from harness.analysis.judgement import ExitCode, Finding, Judgement, Verdict
from harness.model.errors import HarnessError
from harness.report.judgement import FORMATS, render_judgement
from harness.stats import Interval, Method

RATIO = Interval(1.06, 1.14, 0.98, Method.ORDER_STATISTICS)
WORSE = Finding(
    "hello", "container", "ready", Verdict.WORSE,
    "ready after 4.42 ms, 10.2 % more than 4.01 ms; at most 5 % is allowed",
    value=4.42e6, reference=4.01e6, ratio=1.102, interval=RATIO, limit=1.05, detectable=0.03,
    blocks=67, source="scenarios/hello.toml:31",
)  # fmt: skip
SAME = Finding(
    "hello", "container", "disk", Verdict.SAME, "24.6 kB, as before",
    value=24576.0, reference=24576.0, ratio=1.0, blocks=67,
)  # fmt: skip
UNKNOWN = Finding(
    "python-http", "vm-micro", "ready", Verdict.CANNOT_TELL,
    "5 blocks find no change below 20 %; take 40", value=math.inf,
)  # fmt: skip
BETTER = Finding("hello", "vm-micro", "pss", Verdict.BETTER, "8 MB less", ratio=0.9)
HOSTILE = "](x) <b>|`*@me\n::error::x\x1b[2J\ud800 %0A -- ]]>"
REFUSAL = "the baseline is from another host; take one here"
ALL = Judgement(
    "results/x against its budgets",
    (WORSE, SAME, UNKNOWN, BETTER),
    (REFUSAL,),
    {"seed": "7"},
)
BAD = Judgement(
    HOSTILE,
    (Finding(HOSTILE, HOSTILE, "ready", Verdict.WORSE, HOSTILE, source=f"{HOSTILE}:3"),),
    (HOSTILE,),
    {HOSTILE: HOSTILE},
)
JUDGEMENTS = {
    "all": ALL,
    "fine": Judgement("q", (SAME,)),
    "nothing": Judgement("q", ()),
    "refused": Judgement("q", (), (REFUSAL,)),
    "hostile": BAD,
}

# Of the schema that Jenkins' xUnit plugin validates with (junit-10.xsd): element -> which children,
# which attributes, and which of these must be there.
JUNIT: Mapping[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": ({"testsuite"}, {"name", "time", "tests", "failures", "errors"}, set()),
    "testsuite": (
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
        {"name", "tests", "failures", "errors", "group", "time", "skipped", "timestamp",
         "hostname", "id", "package", "file", "log", "url"},
        {"name", "tests", "failures", "errors"},
    ),
    "testcase": (
        {"skipped", "error", "failure", "system-out", "system-err"},
        {"name", "time", "classname", "group"},
        {"name"},
    ),
    "failure": (set(), {"type", "message"}, set()),
    "error": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"type", "message"}, set()),
    "system-out": (set(), set(), set()),
}  # fmt: skip


@pytest.mark.parametrize(
    ("judgement", "code"),
    [
        ("all", ExitCode.REGRESSED),
        ("fine", ExitCode.FINE),
        ("nothing", ExitCode.CANNOT_TELL),
        ("refused", ExitCode.CANNOT_TELL),
    ],
)
def test_exit_codes(judgement: str, code: ExitCode) -> None:
    assert JUDGEMENTS[judgement].exit_code is code


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("judgement", JUDGEMENTS)
def test_every_form_takes_every_judgement(name: str, judgement: str) -> None:
    text = render_judgement(JUDGEMENTS[judgement], name)
    assert text.endswith("\n")
    assert text == render_judgement(JUDGEMENTS[judgement], name)
    assert "nan" not in text.lower().split()
    assert "\x1b" not in text
    text.encode()


def test_an_unknown_form() -> None:
    with pytest.raises(HarnessError, match=r"no output format 'markdwon'.*markdown"):
        render_judgement(ALL, "markdwon")


def test_terminal() -> None:
    text = render_judgement(ALL, "terminal")
    assert "▲ hello, container: ready: worse\n" in text
    assert WORSE.sentence in text
    assert f"not judged: {REFUSAL}" in text
    assert text.splitlines()[-1] == (
        "regressed: 1 worse, 1 cannot tell, 1 better, 1 same, 1 not judged"
    )


@pytest.mark.parametrize("judgement", JUDGEMENTS)
def test_junit_keeps_to_the_schema(judgement: str) -> None:
    root = ET.fromstring(render_judgement(JUDGEMENTS[judgement], "junit"))
    assert root.tag == "testsuites"
    for element in root.iter():
        children, attributes, needed = JUNIT[element.tag]
        assert {child.tag for child in element} <= children
        assert needed <= set(element.attrib) <= attributes
    for suite in (root, *root):
        tags = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
        for name, tag in tags.items():
            if name == "skipped" and suite is root:
                continue
            assert int(suite.attrib[name]) == len(list(suite.iter(tag)))


def test_junit_as_junitparser_reads_it(tmp_path: Path) -> None:
    from junitparser import Failure, JUnitXml, Skipped

    path = tmp_path / "j.xml"
    path.write_text(render_judgement(ALL, "junit"))
    read = JUnitXml.fromfile(str(path))
    assert (read.tests, read.failures, read.errors, read.skipped) == (5, 1, 1, 1)
    cases = {(case.classname, case.name): case for suite in read for case in suite}
    (failure,) = cases["hello.container", "ready"].result
    assert isinstance(failure, Failure)
    assert failure.message == WORSE.sentence
    (skipped,) = cases["python-http.vm-micro", "ready"].result
    assert isinstance(skipped, Skipped)
    assert (skipped.message, skipped.type) == (UNKNOWN.sentence, "cannot tell")
    assert cases["hello.container", "disk"].is_passed


def test_junit_fails_where_it_cannot_be_told_and_that_is_wanted() -> None:
    suites = ET.fromstring(render_judgement(ALL, "junit", cannot_tell_fails=True))
    found = [case.get("type") for case in suites.iter("failure")]
    assert found == ["worse", "cannot tell"]
    assert (suites.get("failures"), suites.get("errors")) == ("2", "1")
    assert not list(suites.iter("skipped"))


def test_junit_as_junit2html_shows_it(tmp_path: Path) -> None:
    path, page = tmp_path / "j.xml", tmp_path / "j.html"
    path.write_text(render_judgement(ALL, "junit"))
    subprocess.run([sys.executable, "-m", "junit2htmlreport", path, page], check=True)
    text = page.read_text()
    assert "10.2 % more than 4.01 ms" in text
    assert REFUSAL in text


def test_github_annotations_stand_at_the_budget() -> None:
    lines = render_judgement(ALL, "github").splitlines()
    assert lines[0] == (
        "::error file=scenarios/hello.toml,line=31,title=hello%2C container%3A ready%3A worse::"
        "ready after 4.42 ms, 10.2 %25 more than 4.01 ms; at most 5 %25 is allowed"
    )
    assert [line.split(" ")[0] for line in lines[1:4]] == ["::warning", "::warning", "::notice"]
    assert not lines[-1].startswith("::")
    hostile = render_judgement(BAD, "github").splitlines()
    assert len(hostile) == 3
    assert [line[:8] for line in hostile] == ["::error ", "::warnin", "regresse"]


def test_markdown_is_short_first() -> None:
    open_part, _, folded = render_judgement(ALL, "markdown").partition("<details>")
    assert open_part.startswith("### Steelyard: regressed: 1 worse")
    assert "🔴 **hello, container: ready: worse.** ready after 4.42 ms" in open_part
    assert "24.6 kB" not in open_part
    assert "| ▲ worse | hello | container | ready | 4.42 ms | 4.01 ms | +10.2 % |" in folded
    assert "+6.0 % to +14.0 %" in folded
    marks = [line.split()[1] for line in folded.splitlines() if line.startswith("| ")][2:]
    assert marks == ["▲", "?", "▼", "="]  # the gravest first
    assert open_part.index("🔴") < open_part.index("🟡") < open_part.index("🟢")


def test_a_paired_ratio_does_not_stand_beside_medians_as_if_it_were_theirs() -> None:
    paired = replace(WORSE, interval=replace(RATIO, method=Method.SEQUENTIAL))
    text = render_judgement(Judgement("q", (paired, SAME)), "markdown")
    assert "| within a block | 95 % interval or wider | blocks | over the run: B | A |" in text
    assert "| ready | +10.2 % | +6.0 % to +14.0 % | 67 | 4.42 ms | 4.01 ms |" in text


def many(number: int, sentence: str = "it is so") -> Judgement:
    """Judge so many arms the same, and one of the last as worse."""
    findings = [
        Finding("hello", f"arm-{place}", "ready", Verdict.CANNOT_TELL, sentence, ratio=1.0)
        for place in range(number)
    ]
    findings[-2] = replace(findings[-2], verdict=Verdict.WORSE)
    return Judgement("q", tuple(findings), tuple(f"refusal {n}" for n in range(number)), {"a": "b"})


@pytest.mark.parametrize("sentence", ["it is so", "ü[" * 2_000])
def test_markdown_fits_into_a_comment_and_counts_what_it_leaves_out(sentence: str) -> None:
    text = render_judgement(many(2_000, sentence), "markdown")
    assert 30_000 < len(text.encode()) < 60_000
    assert text.splitlines()[4].startswith("- 🔴 **hello, arm-1998: ready: worse.**")
    shown = sum(line.startswith(("- 🔴", "- 🟡", "- **not")) for line in text.splitlines())
    assert f"\n- and {4_000 - shown} more\n" in text
    rows = sum(line.startswith(("| ▲", "| ?")) for line in text.splitlines())
    assert f"\nand {2_000 - rows} more\n" in text
    assert "\n- a: b\n" in text
    small = render_judgement(many(20), "markdown")
    assert "more" not in small


def test_github_has_ten_annotations_a_level_of_which_the_last_counts_the_rest() -> None:
    lines = render_judgement(many(30), "github").splitlines()
    warnings = [line for line in lines if line.startswith("::warning")]
    assert len(warnings) == 10
    assert warnings[-1].startswith("::warning title=Steelyard::and 50 more")  # 29 and 30, less 9
    assert sum(line.startswith("::error") for line in lines) == 1
    assert lines[0].startswith("::error")
    exactly = replace(many(11), refusals=())
    texts = render_judgement(exactly, "github")
    assert texts.count("::warning") == 10
    assert "more" not in texts


@pytest.mark.parametrize("word", ["same", "within"])
def test_a_verdict_has_one_word_in_every_form(word: str) -> None:
    judgement = Judgement("q", (replace(SAME, same=word),))
    assert f"= hello, container: disk: {word}\n" in render_judgement(judgement, "terminal")
    assert f"| = {word} |" in render_judgement(judgement, "markdown")
    assert f"{word}: 24.6 kB, as before" in render_judgement(judgement, "junit")
    (finding,) = json.loads(render_judgement(judgement, "json"))["findings"]
    assert finding["verdict"] == word
    assert render_judgement(judgement, "github") == f"fine: 1 {word}\n"
    other = Judgement("q", (replace(SAME, same=word, verdict=Verdict.CANNOT_TELL),))
    assert "title=hello%2C container%3A disk%3A cannot tell" in render_judgement(other, "github")


def test_markdown_as_it_is_rendered() -> None:
    from markdown_it import MarkdownIt

    render_html = MarkdownIt("gfm-like", {"linkify": False}).render
    page = render_html(render_judgement(ALL, "markdown"))
    assert page.count("<tr>") == 5
    assert "<strong>hello, container: ready: worse.</strong>" in page
    hostile = render_html(render_judgement(BAD, "markdown"))
    assert "<b>" not in hostile
    assert "<a " not in hostile
    assert hostile.count("<tr>") == 2


def test_json_has_units_and_no_infinity() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(render_judgement(ALL, "json"), parse_constant=refuse)
    assert document["exit_code"] == 1
    first, _, third, _ = document["findings"]
    assert (first["metric"], first["unit"], first["value"]) == ("ready", "ns", 4.42e6)
    assert first["interval"] == {
        "of": "ratio", "low": 1.06, "high": 1.14, "coverage": 0.98,
        "method": "exact, order statistics",
    }  # fmt: skip
    assert third["value"] == "infinity"


@pytest.mark.parametrize("judgement", JUDGEMENTS)
def test_the_badge_is_an_image_that_can_be_read(judgement: str) -> None:
    root = ET.fromstring(render_judgement(JUDGEMENTS[judgement], "badge"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    title = root.findtext("{http://www.w3.org/2000/svg}title")
    assert title in {"steelyard: regressed", "steelyard: fine", "steelyard: cannot tell"}
