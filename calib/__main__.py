"""`python -m calib`: build, read, compare, publish and verify calibration sets.

build    one set, written to a file or folder (`--count` says how many sets the source can give)
show     the text of a set, with the borders of its documents
diff     two sets: settings, what they share, how their tokens differ
export   a set in another format: .parquet, .jsonl, .json, or a folder for `datasets` with a card
verify   that a file is whole and, with a tokenizer, that its source still gives these tokens
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from calib.build import build, count_sets
from calib.commandline import Parser
from calib.compare import compare
from calib.export import add_arguments, read_set, run, spec_of, write_set
from calib.reading import told_weights, windows_as_text
from calib.settings import SettingsError, one_line
from calib.source import get_source
from calib.spec import CalibrationSet
from calib.tokenizer import find_tokenizer, load_tokenizer
from calib.writer import AskedModel

Shipped = Mapping[str, Path]
Ask = Callable[[str], AskedModel]  # by the name of a model
CELL = 60  # characters of a value that stand beside each other


def main(
    argv: Sequence[str] | None = None,
    shipped: Shipped | None = None,
    ask: Ask | None = None,
    prog: str = "python -m calib",
) -> int:
    """Returns the exit code: 0, 1 when a set is not what it should be, 2 when the arguments cannot be used.

    `shipped` has folders of tokenizers that are known by name; `ask` loads models, for sets that need one.
    """
    arguments = _parser(prog, with_models=ask is not None).parse_args(argv)
    try:
        named = getattr(arguments, "model", None)
        arguments.asked = ask(named) if ask is not None and named is not None else None
        return int(arguments.command(arguments, shipped or {}))
    except SettingsError as error:
        print(*error.lines, sep="\n", file=sys.stderr)
        return 2


def _parser(prog: str, *, with_models: bool) -> Parser:
    parser = Parser(prog=prog, description="Build, read, compare, publish and verify calibration sets.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", prog=prog)

    def add(name: str, command: Callable[[argparse.Namespace, Shipped], int], about: str) -> Parser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(command=command)
        return added

    build = add("build", _build, "Build one calibration set.")
    add_arguments(build)
    build.add_argument(
        "--count", action="store_true", help="Say how many such sets the source can give, write nothing."
    )
    show = add("show", _show, "Read the text of a set.")
    show.add_argument("file")
    show.add_argument("--tokenizer", help="Shows each piece of a document by itself.")
    show.add_argument("--window", type=int, help="This window alone.")
    show.add_argument("--width", type=int, help="Characters of each text (all).")
    diff = add("diff", _diff, "Compare two sets.")
    diff.add_argument("one")
    diff.add_argument("other")
    export = add("export", _export, "Write a set in another format.")
    export.add_argument("file")
    export.add_argument("out", help=".parquet, .jsonl, .json, or a new folder")
    verify = add("verify", _verify, "Check a set against its hash, and against its source.")
    verify.add_argument("file")
    verify.add_argument("--tokenizer", help="Builds the set again from its source.")
    verify.add_argument("--path", help="Where the text of the source lies here, if it is a local file.")
    for command in (build, verify) if with_models else ():
        command.add_argument("--model", help="The model that writes the text, or is asked which windows to choose.")
    return parser


def _build(arguments: argparse.Namespace, shipped: Shipped) -> int:
    if not arguments.count:
        run(arguments, shipped, arguments.asked)
        return 0
    spec = spec_of(arguments)
    count = count_sets(spec, load_tokenizer(find_tokenizer(arguments.tokenizer, shipped)))
    print(f"source '{spec.source.label}': {count:,} sets of {spec.nsamples} windows of {spec.seqlen} tokens")
    return 0


def _show(arguments: argparse.Namespace, shipped: Shipped) -> int:
    built = read_set(arguments.file)
    windows, length = built.tokens.shape
    if arguments.window is not None and not 0 <= arguments.window < windows:
        raise SettingsError(f"--window: expected 0 to {windows - 1}, got {arguments.window}")
    tokenizer = load_tokenizer(find_tokenizer(arguments.tokenizer, shipped)) if arguments.tokenizer else None
    print(
        f"{built.id}: {windows} windows of {length} tokens of {one_line(built.spec.source.label)}, set {built.spec.set}"
    )
    if told := told_weights(built):
        print(told)
    shown = -1
    for line in windows_as_text(built, tokenizer, arguments.width):
        shown += line.startswith("=== window ")
        if arguments.window in (None, shown):
            print(line)
    return 0


def _diff(arguments: argparse.Namespace, shipped: Shipped) -> int:
    one, other = read_set(arguments.one), read_set(arguments.other)
    rows = [("", arguments.one, arguments.other), *compare(one, other)]
    cells = [[one_line(cell)[:CELL] for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0 if _counted(one) == _counted(other) else 1


def _counted(built: CalibrationSet) -> tuple[object, ...]:
    """The tokens of a set and how often each counts, to be compared."""
    return built.hash, built.spec.part, built.spec.length_weights


def _export(arguments: argparse.Namespace, shipped: Shipped) -> int:
    built = read_set(arguments.file)
    print(f"{write_set(built, arguments.out)}: {len(built.tokens)} windows, sha256 {built.hash}")
    return 0


def _verify(arguments: argparse.Namespace, shipped: Shipped) -> int:
    built = read_set(arguments.file)
    print(f"{arguments.file}: whole, its tokens have the hash {built.hash}")
    if arguments.tokenizer is None:
        return 0
    ref = find_tokenizer(arguments.tokenizer, shipped)
    spec = built.spec
    if arguments.path is not None:
        spec = replace(spec, source=get_source({**spec.source.to_dict(), "path": arguments.path}, "--path"))
    tools = {} if arguments.asked is None else arguments.asked.tools()
    again = build(spec, load_tokenizer(ref), ref.id, **tools)
    if again.hash == built.hash:
        print(f"the source gives these tokens: revision {again.revision}{_other_files(ref.id, built)}")
        return 0
    now = f"the source gives other tokens now: revision {again.revision}, was {built.revision}"
    print(f"{now}{_other_files(ref.id, built)}", file=sys.stderr)
    return 1


def _other_files(tokenizer_id: str, built: CalibrationSet) -> str:
    """A remark where the tokenizer's files are not those of the set: saving a tokenizer again changes them."""
    same = tokenizer_id == built.tokenizer_id
    return "" if same else f"; the tokenizer's files are others ({tokenizer_id}, were {built.tokenizer_id})"


if __name__ == "__main__":
    sys.exit(main())
