"""The parser of the commands that argparse parses."""

from __future__ import annotations

import pytest

from calib.commandline import Parser


@pytest.fixture
def parser() -> Parser:
    made = Parser(prog="tool", description="Does it.")
    made.add_argument("file", help="A file.")
    made.add_argument("--count", type=int, required=True, help="How many.")
    made.add_argument("--source", help="A source.")
    return made


def test_help_reads_as_that_of_the_other_commands(parser: Parser) -> None:
    assert parser.format_help().splitlines()[0] == "Usage: tool [OPTIONS] {file}"
    assert [line for line in parser.format_help().splitlines() if line.endswith(":")] == ["Arguments:", "Options:"]
    assert "--count <int>   How many. [required]" in parser.format_help()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["x"], "error: the following arguments are required: --count; tool --help lists all flags"),
        (["x", "--count", "1", "--sour", "y"], "error: unrecognized arguments: --sour y; tool --help lists all flags"),
        (["x", "--count", "one"], "error: argument --count: invalid int value: 'one'; tool --help lists all flags"),
    ],
)
def test_an_error_is_one_line(
    parser: Parser, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"{told}\n"
