"""The card quotes the rows, and claims no more than what was done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from calib.source import get_source
from methods.blockwise import CompressionReport
from sweep.formats.format import GridSpec
from sweep.formats.writer import Written
from sweep.results import Results
from sweep.shipping.card import card
from sweep.shipping.choose import Chosen, Wanted, choose

EVALUATED = "to the bit, those that were evaluated"


@pytest.fixture(scope="module")
def chosen(finished: Path) -> Chosen:
    return choose(Results(finished), Wanted(method="gptq", source="rivers"))


def written(kind: str = "dense") -> Written:
    return Written(Path("x"), kind, bytes=2**20, grids=(GridSpec(4, True, 16),))


def test_every_number_is_that_of_the_rows_with_its_error_and_the_dense_one(chosen: Chosen) -> None:
    text = card(chosen, CompressionReport(), written())
    dense = {(row["task"], row["metric"]): row["value"] for row in chosen.dense.iter_rows(named=True)}
    for row in chosen.metrics.filter(pl.col("metric").is_in(["acc", "perplexity"])).iter_rows(named=True):
        reference = dense[row["task"], row["metric"]]
        start = (
            f"| {row['task']} | {row['metric']} | {'up' if row['metric'] == 'acc' else 'down'} | {row['value']:.4g} |"
        )
        (line,) = [line for line in text.splitlines() if line.startswith(start)]
        assert line.endswith(f" {row['stderr']:.2g} | {reference:.4g} | {row['n']} |")
    assert chosen.row["weights_hash"] in text
    assert chosen.row["calibration_hash"] in text
    assert EVALUATED in text


def test_a_mixture_is_told_by_its_parts_whatever_it_is_called(chosen: Chosen) -> None:
    parts = [{"source": "books", "share": 0.75}, {"source": "code", "share": 0.25}]
    source = get_source({"source": "mixture", "label": "the best", "parts": parts})
    assert chosen.trial.spec is not None
    trial = replace(chosen.trial, spec=replace(chosen.trial.spec, source=source))
    text = card(replace(chosen, trial=trial), CompressionReport(), written())
    assert " (75.0% books, 25.0% code), set 0: " in text
    assert "Calibrated on **rivers**, set 0: " in card(chosen, CompressionReport(), written())


def test_the_card_says_how_lm_eval_measures_the_tasks(chosen: Chosen) -> None:
    text = card(chosen, CompressionReport(), written())
    assert " && lm_eval --model hf --model_args pretrained=" in text
    assert ",dtype=bfloat16,softmax_dtype=float32 --tasks tiny " in text
    assert "`recipe.yaml` gives the very numbers" in text
    own = card(chosen, CompressionReport(), written("spqr"))
    assert "`lm_eval --model hf` does not open this format" in own and "--model_args" not in own
    bare = replace(chosen, metrics=chosen.metrics.clear())
    assert "lm_eval --model" not in card(bare, CompressionReport(), written())


def test_groups_come_first_and_many_subtasks_are_folded_away(chosen: Chosen) -> None:
    first = chosen.metrics.filter(pl.col("kind") == "task").head(1)
    assert "<details>" not in card(chosen, CompressionReport(), written())
    subtasks = [first.with_columns(task=pl.lit(f"tiny_{number}")) for number in range(20)]
    alone = first.with_columns(task=pl.lit("another"))
    text = card(replace(chosen, metrics=pl.concat([*subtasks, alone, chosen.metrics])), CompressionReport(), written())
    shown, _, folded = text.partition("<details>")
    assert "| tiny |" in shown
    assert "| another |" in shown
    assert "| tiny_7 |" not in shown
    assert "| tiny_7 |" in folded


def test_the_base_model_is_named_where_it_is_on_the_hub(chosen: Chosen) -> None:
    assert "base_model" not in card(chosen, CompressionReport(), written())
    model = replace(chosen.trial.model, path="org/tiny", on_hub=True, revision="main", name="a name of the study")
    on_hub = replace(chosen, trial=replace(chosen.trial, model=model))
    assert '\nbase_model: "org/tiny"\n' in card(on_hub, CompressionReport(), written())


def test_without_an_evaluation_nothing_is_claimed(chosen: Chosen) -> None:
    text = card(
        replace(chosen, metrics=chosen.metrics.clear(), dense=chosen.dense.clear()), CompressionReport(), written()
    )
    assert EVALUATED not in text
    assert "Nothing was evaluated." in text


def test_multiplied_factors_are_said_to_be_rounded(chosen: Chosen) -> None:
    merged = replace(written(), merged=["a", "b"])
    text = card(chosen, CompressionReport(), merged)
    assert "The two factors of 2 linears were multiplied and rounded to bfloat16" in text
    assert EVALUATED not in text


def test_the_reason_and_the_pattern_are_quoted(chosen: Chosen) -> None:
    text = card(chosen, CompressionReport(), written("gptq"), why="0.4 points\nbetter", pattern="2:4")
    assert "> 0.4 points better\n" in text
    assert "Every compressed linear keeps to the pattern 2:4" in text
    assert "Format `gptq`, read by vLLM (Marlin)" in text


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (GridSpec(4, True, 128), "read by vLLM, transformers with the package compressed-tensors (0.18 or newer)."),
        (GridSpec(3, True, 128), "read by transformers with the package compressed-tensors (0.18 or newer)."),
        (GridSpec(4, False, 128), "read by vLLM, transformers with the package compressed-tensors (0.18 or newer)."),
        (GridSpec(4, True, 128, True), "read by transformers with the package compressed-tensors 0.18 (0.19 and vLLM"),
        (GridSpec(4, False, 128, True), "read by transformers 5.19 with the package compressed-tensors 0.18 (0.19"),
    ],
)
def test_loaders_are_those_that_read_these_grids(chosen: Chosen, grid: GridSpec, expected: str) -> None:
    packed = replace(written("compressed-tensors"), grids=(grid,))
    assert expected in card(chosen, CompressionReport(), packed)
