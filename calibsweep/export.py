"""`calibsweep export`: a measured trial as a checkpoint, also the one that a recommendation leads to.

    calibsweep export --best --results results/mine --model my-model --method "GPTQ 4-bit g128" --out my-model-4bit

With `--best` the analysis is asked which trial to ship (`analysis.pick`), and its sentences go onto the model card.
Everything else is `python -m sweep.export`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from analysis.answers import MATTERS_HELP, parse_matters
from analysis.frames import load
from analysis.pick import pick
from calib.commandline import Parser
from calib.settings import SettingsError, one_line
from sweep import export
from sweep.results import ResultsError


def main(argv: Sequence[str] | None = None) -> int:
    """Export a trial, with `--best` the one that a recommendation leads to. Returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    asks = "--best" in given and (given.index("--best") + 1 == len(given) or _is_flag(given[given.index("--best") + 1]))
    if not asks:
        return export.main(given, "calibsweep export")
    parser = Parser(
        prog="calibsweep export --best",
        description=__doc__,
        epilog="--out, --format, --device, --why and --no-data are those of calibsweep export --help.",
    )
    parser.add_argument("--best", action="store_true", help="The trial of the recommended source.")
    parser.add_argument("--results", required=True, help="Folder or URI of the results.")
    parser.add_argument("--model", required=True, help="A model of the study.")
    parser.add_argument("--method", help="A method's name or label, if the model has several.")
    parser.add_argument("--tasks", default="", help="Tasks that matter, separated by commas.")
    parser.add_argument("--measure", help="accuracy, perplexity_increase, js_divergence, ...")
    parser.add_argument("--matters", default="", help=MATTERS_HELP)
    asked, rest = parser.parse_known_args(given)  # what is left is the export's
    wanted = [task for task in asked.tasks.replace(",", " ").split() if task]
    try:
        found = pick(
            load(asked.results), asked.model, asked.method, wanted, asked.measure, parse_matters(asked.matters)
        )
    except (ResultsError, SettingsError) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    for sentence in found.sentences:
        print(sentence)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        answer.write_text(json.dumps(asdict(found)), encoding="utf-8")
        return export.main([*rest, "--results", asked.results, "--best", str(answer)], "calibsweep export")


def _is_flag(word: str) -> bool:
    return word.startswith("--")


if __name__ == "__main__":
    sys.exit(main())
