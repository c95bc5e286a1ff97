"""The grammar of Containerfiles: what is read from the text, and what is refused with its line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.build.containerfile import BuildError, Instruction, parse_containerfile
from runtime.build.expand import expand, expand_document, split_words


def one(text: str) -> Instruction:
    """The instruction after a FROM on line 1."""
    (instruction,) = parse_containerfile(f"FROM scratch\n{text}").stages[0].instructions
    return instruction


@pytest.mark.parametrize(
    ("text", "words", "is_exec"),
    [
        ("RUN echo a  b", ("echo a  b",), False),
        ('RUN ["a", "b c"]', ("a", "b c"), True),
        ("RUN ['a']", ("['a']",), False),
        ("run x", ("x",), False),
        ("COPY a b c/", ("a", "b", "c/"), False),
        ('COPY ["a b", "c"]', ("a b", "c"), True),
        ("CMD []", (), True),
        ('SHELL ["sh", "-c"]', ("sh", "-c"), True),
        ("WORKDIR /a b", ("/a b",), False),
        ("EXPOSE 80 90/udp", ("80", "90/udp"), False),
        ('VOLUME ["/a", "/b"]', ("/a", "/b"), True),
        ("RUN a \\\n  b \\\n# comment\n\n  c", ("a   b   c",), False),
        ("RUN a \\  \n b", ("a  b",), False),
        ("RUN echo \\\\\nUSER x", None, False),
    ],
)
def test_words(text: str, words: tuple[str, ...] | None, is_exec: bool) -> None:
    if words is None:
        # Two escape characters at the end are one that was meant: the line does not go on.
        instructions = parse_containerfile(f"FROM scratch\n{text}").stages[0].instructions
        assert [each.keyword for each in instructions] == ["RUN", "USER"]
        return
    instruction = one(text)
    assert (instruction.words, instruction.is_exec) == (words, is_exec)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("ENV a=b", (("a", "b"),)),
        ("ENV a b c", (("a", "b c"),)),
        ("ENV a=\"b c\" d='e f' g=h\\ i", (("a", '"b c"'), ("d", "'e f'"), ("g", "h\\ i"))),
        ("ENV a=", (("a", ""),)),
        ("ARG a", (("a", None),)),
        ("ARG a= b=c d", (("a", ""), ("b", "c"), ("d", None))),
        ('LABEL "a.b"="c=d"', (('"a.b"', '"c=d"'),)),
    ],
)
def test_pairs(text: str, pairs: tuple[tuple[str, str | None], ...]) -> None:
    assert one(text).pairs == pairs


def test_flags() -> None:
    instruction = one("COPY --from=x --chown=1:2 a b")
    assert (instruction.flag("from"), instruction.flag("chown"), instruction.flag("chmod")) == (
        "x", "1:2", "",
    )  # fmt: skip
    assert instruction.words == ("a", "b")


def test_stages_and_global_arguments() -> None:
    file = parse_containerfile(
        "# syntax=docker/dockerfile:1\n# escape=`\nARG v=1\nFROM --platform=$P a:$v AS One\n"
        "RUN x `\n y\nFROM one\n"
    )
    assert file.escape == "`"
    assert [argument.pairs for argument in file.arguments] == [(("v", "1"),)]
    assert [(stage.name, stage.base.words[0], stage.base.line) for stage in file.stages] == [
        ("one", "a:$v", 4),
        ("", "one", 7),
    ]
    assert file.stages[0].instructions[0].words == ("x  y",)
    assert file.stages[0].instructions[0].line == 5


def test_a_directive_after_a_comment_is_a_comment() -> None:
    assert parse_containerfile("# hello\n# escape=`\nFROM a").escape == "\\"


def test_heredocs() -> None:
    text = "RUN <<-EOF cat\n\techo $a\n\t\tb\n\tEOF"
    assert [(h.name, h.content, h.expands) for h in one(text).heredocs] == [
        ("EOF", "echo $a\nb\n", True)
    ]
    copy = one("COPY <<'A' <<B /x/\n1\nA\n2\nB")
    assert [(h.name, h.content, h.expands) for h in copy.heredocs] == [
        ("A", "1\n", False),
        ("B", "2\n", True),
    ]
    # What a shell does with << inside quotes or numbers is its business.
    assert one('RUN echo "a <<EOF" $((1<<2))').heredocs == ()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 0, "no FROM"),
        ("RUN x", 1, "RUN: only ARG may stand before FROM"),
        ("FROM a\nRUM x", 2, "RUM: there is no such instruction"),
        ("FROM a\n\n# c\nHEALTHCHECK CMD x", 4, "HEALTHCHECK: is not supported"),
        ("FROM a\nONBUILD RUN x", 2, "ONBUILD: is not supported"),
        ("FROM a b", 1, "FROM IMAGE AS NAME"),
        ("FROM a AS x\nFROM b AS X", 2, "there is a stage 'x' already"),
        ("FROM a AS -", 1, "no name for a stage"),
        ("FROM a\nCOPY a", 2, "at least one source"),
        ("FROM a\nCOPY --link a b", 2, "--link is not supported"),
        ("FROM a\nRUN --mount=type=cache,target=/x y", 2, "--mount is not supported"),
        ("FROM a\nCOPY --from a b", 2, "--from needs a value"),
        ("FROM a\nENV a=b c", 2, "'c' is not name=value"),
        ("FROM a\nENV a", 2, "a has no value"),
        ("FROM a\nENV a='b", 2, "a ' is not closed"),
        ("FROM a\nRUN", 2, "an argument is missing"),
        ("FROM a\nSHELL sh", 2, "wants a JSON list"),
        ("FROM a\nRUN <<X\nabc", 2, "not ended by a line X"),
        ("# escape=x\nFROM a", 1, "escape character"),
        ("FROM a\n=", 2, "no such instruction"),
    ],
)
def test_mistakes_are_named_with_file_and_line(text: str, line: int, message: str) -> None:
    with pytest.raises(BuildError) as caught:
        parse_containerfile(text, "some/file")
    assert caught.value.line == line
    assert str(caught.value).startswith(f"some/file:{line}: " if line else "some/file: ")
    assert message in str(caught.value)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(BuildError):
        assert parse_containerfile("FROM a\n" + text).stages[0].base.line == 1


VARIABLES = {"a": "A", "empty": "", "b_1": "B b"}


@pytest.mark.parametrize(
    ("word", "result"),
    [
        ("$a", "A"), ("${a}x", "Ax"), ("$ax", ""), ("$a-$b_1", "A-B b"), ("'$a'", "$a"),
        ('"$a"', "A"), (r"\$a", "$a"), (r"a\b", "ab"), (r'"a\b\"\$"', 'a\\b"$'), ("$", "$"),
        ("a$ b", "a$ b"), ("${a:-x}", "A"), ("${no:-x}", "x"), ("${empty:-x}", "x"),
        ("${empty-x}", ""), ("${no-x}", "x"), ("${a:+x}", "x"), ("${empty:+x}", ""),
        ("${empty+x}", "x"), ("${no+x}", ""), ("${no:-${a}}", "A"), ("${no:-'}'}", "}"),
        ("${a:?gone}", "A"), ("pre'mid'\"post\"", "premidpost"), ("", ""),
    ],
)  # fmt: skip
def test_expansion(word: str, result: str) -> None:
    assert expand(word, VARIABLES) == result


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("${a", "supported"), ("${no:?must be given}", "no: must be given"), ("${", "name"),
        ("${a#x}", "not supported"), ("'a", "not closed"), ('"a', "not closed"),
        ("${no:-x", "a } is missing"),
    ],
)  # fmt: skip
def test_expansions_that_are_refused(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("}", r"\}")):
        expand(word, VARIABLES)


def test_a_document_keeps_its_quotes() -> None:
    assert expand_document('it\'s $a "$a" \\$a \\n\n', VARIABLES) == 'it\'s A "A" $a \\n\n'


def test_the_other_escape_character() -> None:
    assert expand(r"C:\$a`$a", VARIABLES, "`") == r"C:\A$a"


@given(st.text(max_size=100))
def test_splitting_loses_nothing_but_blanks(text: str) -> None:
    try:
        words = split_words(text)
    except ValueError:
        return
    assert "".join("".join(words).split()) == "".join(text.split())
