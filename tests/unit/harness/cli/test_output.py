"""What goes to the standard output and what to files: one rule for all commands."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from harness.analysis.judgement import Finding, Judgement, Verdict
from harness.cli.main import cli
from harness.cli.output import Formats, emit, on_stdout, output_options
from harness.cli.progress import make_console


def asked(*words: str, files: tuple[str, ...] = ()) -> Result:
    @click.command()
    @output_options(("terminal", "json", "csv"), files)
    def command(formats: Formats) -> None:
        click.echo(repr(formats))

    return CliRunner().invoke(command, words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ()),
        ("--format json", (("json", ""),)),
        ("--format json=-", (("json", ""),)),
        ("--export csv=t.csv", (("terminal", ""), ("csv", "t.csv"))),
        ("--format csv=t.csv", (("terminal", ""), ("csv", "t.csv"))),
        (
            "--format json --export csv=t.csv --export json=a=b",
            (("json", ""), ("csv", "t.csv"), ("json", "a=b")),
        ),
        ("--export parquet=all", (("terminal", ""), ("parquet", "all"))),
        ("--export x=1.parquet", (("terminal", ""), ("parquet", "x=1.parquet"))),
    ],
)
def test_one_form_goes_to_the_standard_output_and_others_to_files(
    words: str, expected: Formats
) -> None:
    done = asked(*words.split(), files=("parquet",))
    assert (done.exit_code, done.output) == (0, f"{expected!r}\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--format jsn", "there is no 'jsn'; did you mean 'json'?"),
        ("--format json=", "'json=' names no file; write json=PATH"),
        ("--export json", "'json' names no file; write json=PATH"),
        ("--export json=-", "'json=-': json goes to a file; write json=PATH"),
        ("--format parquet", "'parquet' names no file; write parquet=PATH"),
        ("--format json --format csv", "only one of them can go to the standard output"),
    ],
)
def test_what_names_no_form_or_no_place_is_refused(words: str, sentence: str) -> None:
    done = asked(*words.split(), files=("parquet",))
    assert done.exit_code == 2
    assert sentence in " ".join(done.output.split())


def test_a_judgement_goes_to_each_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "found.json"
    formats = (("markdown", ""), ("json", str(path)))
    assert on_stdout(formats) == "markdown"
    emit(Judgement("which?", ()), formats)
    assert capsys.readouterr().out.startswith("### Steelyard: ")
    assert path.read_text().startswith('{\n "schema"')


@pytest.mark.parametrize("columns", ["0", "", "000"])
def test_columns_of_zero_are_as_unset(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    unset = make_console().width
    monkeypatch.setenv("COLUMNS", columns)
    assert make_console().width == unset > 0
    monkeypatch.setenv("COLUMNS", "57")
    assert make_console().width == 57


@pytest.mark.parametrize("is_workspace", [True, False])
def test_annotations_name_files_from_the_top_of_the_repository(
    is_workspace: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GitHub drops an annotation whose file is not there, seen from the top."""
    folder = tmp_path / "sub dir"
    folder.mkdir()
    if is_workspace:
        monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    else:
        monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
        (tmp_path / ".git").mkdir()
    monkeypatch.chdir(folder)
    places = ("p.toml:3", "./p.toml:4", str(folder / "p.toml:5"), "/elsewhere/p.toml:6", "")
    findings = tuple(
        Finding("s", "arm", "ready", Verdict.WORSE, "slower", source=place) for place in places
    )
    emit(Judgement("which?", findings), (("github", ""),))
    lines = capsys.readouterr().out.splitlines()
    files = [re.search(r"file=(.*?),line=(\d)", line) for line in lines[:-1]]
    assert [found and found.groups() for found in files] == [
        ("sub dir/p.toml", "3"),
        ("sub dir/p.toml", "4"),
        ("sub dir/p.toml", "5"),
        ("/elsewhere/p.toml", "6"),
        None,
    ]


@pytest.mark.parametrize("name", ["check", "compare", "history"])
def test_a_command_that_judges_can_say_what_junit_makes_of_an_open_verdict(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--format", "--export", "--cannot-tell"} <= options
