"""README.md of a shipped model: what was compressed, with which text, what was measured, and how to load it.

Numbers are those of the trial's rows beside those of the dense model; nothing is measured here. A benchmark with many
subtasks is shown as its groups, with the subtasks folded away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from methods.blockwise import CompressionReport
from sweep.formats import bitsandbytes, factored, spqr
from sweep.formats.catalog import DENSE, FACTORED, PACKED, SPQR
from sweep.formats.writer import Written
from sweep.shipping.choose import Chosen
from sweep.shipping.licences import model_licence, text_licences
from sweep.shipping.lmeval import lm_eval_commands, lm_eval_note

MEASURES = {  # metrics shown, with the direction that is better
    "acc": "up",
    "acc_norm": "up",
    "exact_match": "up",
    "perplexity": "down",
    "js_divergence": "down",
    "kl_divergence": "down",
    "top1_agreement": "up",
}
KINDS = ("group", "task", "perplexity", "divergence")  # in the order of the table
OWN_LOADER = (FACTORED, SPQR)  # formats that transformers does not open
WORST = 5  # linears that are named
SHOWN = 8  # rows of single tasks that are not folded away
COLUMNS = "| task or text | metric | better | compressed | ± | dense | n |\n|---|---|---|---:|---:|---:|---:|"


def card(
    chosen: Chosen, report: CompressionReport, written: Written, *, why: str | None = None, pattern: str | None = None
) -> str:
    """The model card as Markdown with its YAML header.

    why: the reason for this choice, in the reader's words or those of a recommendation. pattern: the n:m pattern that
    all compressed linears were found to keep to.
    """
    row = chosen.row
    parts = [
        _header(chosen, written),
        f"# {row['model']} · {row['method_label']}\n",
        *([f"> {' '.join(why.split())}\n"] if why else []),
        _data(chosen),
        _weights(chosen, written, pattern),
        "## What was measured\n",
        _measured(chosen),
        *_lm_eval(chosen, written),
        "## Loading\n",
        _loading(written),
        "## Layers\n",
        _layers(report),
        "## Licence\n",
        _licence(chosen),
        "## How it was made\n",
        _made(row),
    ]
    return "\n".join(parts)


def _header(chosen: Chosen, written: Written) -> str:
    model = chosen.trial.model
    licence = model_licence(model)
    return "\n".join(
        [
            "---",
            *([f"license: {json.dumps(licence)}"] if licence else []),
            *([f"base_model: {json.dumps(model.path)}"] if model.on_hub else []),
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags:",
            f"- {json.dumps(chosen.row['method'])}",
            f"- {written.format}",
            "- calibration-sweep",
            "---",
            "",
        ]
    )


def _data(chosen: Chosen) -> str:
    row = chosen.row
    if chosen.trial.spec is None:
        return "No calibration data was used.\n"
    parts = chosen.trial.spec.source.components()
    mixed = f" ({', '.join(f'{share:.1%} {part.label}' for part, share in parts)})" if len(parts) > 1 else ""
    return (
        f"Calibrated on **{row['source']}**{mixed}, set {row['set']}: {row['nsamples']} windows of {row['seqlen']} "
        f"tokens from {row['calibration_documents']} documents (`{row['calibration_id']}`, sha256 of the tokens "
        f"`{row['calibration_hash']}`).\n"
    )


def _weights(chosen: Chosen, written: Written, pattern: str | None) -> str:
    """How the stored weights stand to those that were evaluated, and what they take."""
    row = chosen.row
    parts = []
    if written.merged:
        parts.append(
            f"The two factors of {len(written.merged)} linears were multiplied and rounded to {row['dtype']}, so the "
            f"model is as large as the dense one and computes what the factors do to that rounding (`{FACTORED}` keeps "
            "them)."
        )
    elif chosen.evaluated:
        parts.append("The weights are, to the bit, those that were evaluated.")
    else:
        parts.append("The weights are stored as the method left them, to the bit.")
    parts.append(f"The tensors take {written.bytes / 2**20:,.1f} MiB.")
    if written.bits_per_weight is not None:
        parts.append(
            f"The {written.packed_linears} packed linears take {written.bits_per_weight:.3f} bits a weight in "
            f"`{written.format}`; the method counts {row['average_bits']:.3f}."
        )
    if row["achieved_sparsity"]:
        parts.append(f"{row['achieved_sparsity']:.1%} of the weights in scope are zero.")
    if pattern is not None:
        parts.append(f"Every compressed linear keeps to the pattern {pattern}: checked when it was written.")
    return " ".join(parts) + "\n"


def _measured(chosen: Chosen) -> str:
    keys = ["kind", "task", "metric"]
    dense = chosen.dense.select(*keys, dense="value")
    frame = chosen.metrics.filter(pl.col("metric").is_in(list(MEASURES)) & pl.col("value").is_not_null())
    if frame.is_empty():
        return "Nothing was evaluated.\n"
    frame = frame.join(dense, on=keys, how="left").sort(pl.col("kind").cast(pl.Enum(KINDS)), "task", "metric")
    folded = _parts_of_groups(frame)
    lines = ["± is the standard error.\n", _table(frame.filter(~folded))]
    if folded.any():
        tasks = frame.filter(folded)
        lines += ["<details>", f"<summary>{tasks['task'].n_unique()} tasks</summary>\n", _table(tasks), "</details>\n"]
    return "\n".join(lines)


def _lm_eval(chosen: Chosen, written: Written) -> list[str]:
    """How lm_eval measures the same tasks; nothing where there are none."""
    evaluation, dtype = chosen.study.evaluation, chosen.row["dtype"]
    if not chosen.evaluated or not evaluation.tasks:
        return []
    if written.format in OWN_LOADER:
        return [
            "`lm_eval --model hf` does not open this format; in Python its `HFLM(pretrained=load(FOLDER), "
            "tokenizer=...)` takes the model.\n"
        ]
    typed = lm_eval_commands(chosen.trial.model, dtype, evaluation, written.folder)
    return ["lm_eval measures the tasks, typed in this folder:\n", "```", *typed, "```\n", f"{lm_eval_note(dtype)}\n"]


def _parts_of_groups(frame: pl.DataFrame) -> pl.Series:
    """Which rows are single tasks of a group, by their names, where there are too many to be shown."""
    groups = tuple(f"{name}_" for name in frame.filter(pl.col("kind") == "group")["task"].unique())
    tasks = frame.get_column("kind") == "task"
    named = pl.Series([task.startswith(groups) for task in frame["task"]], dtype=pl.Boolean)
    return tasks & named & (tasks.sum() > SHOWN)


def _table(frame: pl.DataFrame) -> str:
    lines = [COLUMNS]
    for line in frame.iter_rows(named=True):
        cells = [line["task"], line["metric"], MEASURES[line["metric"]], f"{line['value']:.4g}"]
        cells += [_number(line["stderr"], ".2g"), _number(line["dense"], ".4g"), _number(line["n"], ",")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _loading(written: Written) -> str:
    if written.format == DENSE:
        return "Plain weights: `transformers.AutoModelForCausalLM.from_pretrained(FOLDER)`, vLLM, or anything else.\n"
    if written.format == FACTORED:
        return (
            f"`from {factored.__name__} import load; model = load(FOLDER)`. transformers has no class for two factors "
            f"in the place of a linear, so their file is called `{factored.WEIGHTS}` and it does not open it.\n"
        )
    if written.format == SPQR:
        return (
            f"`from {spqr.__name__} import load; model = load(FOLDER)`, as a model of plain weights. No other package "
            "reads it.\n"
        )
    packed = PACKED.get(written.format)
    loaders = bitsandbytes.LOADERS if packed is None else packed.loaders(written.grids)
    return (
        f"Format `{written.format}`, read by {loaders}. Without any of these, "
        "`from sweep.formats.loading import load; model = load(FOLDER)` multiplies the codes out.\n"
    )


def _layers(report: CompressionReport) -> str:
    known = [layer for layer in report.final if layer.relative_error is not None]
    if not known:
        return "No layer errors were recorded.\n"
    worst = sorted(known, key=lambda layer: -(layer.relative_error or 0.0))[:WORST]
    named = ", ".join(f"block {layer.block} `{layer.linear}` {layer.relative_error:.3g}" for layer in worst)
    return (
        f"Mean relative output error over {len(known)} linears {report.layer_error:.4g}; largest: {named}. All of them "
        f"are in `layers.parquet`. Numerical fallbacks: {report.fallbacks}.\n"
    )


def _licence(chosen: Chosen) -> str:
    model = model_licence(chosen.trial.model)
    parts = [f"Of the base model: {model or 'its files name none, so look it up'}."]
    if chosen.trial.spec is not None:
        found = text_licences(chosen.trial.spec.source)
        parts.append(f"Of the calibration text: {'; '.join(found) or 'its source names none, so look it up'}.")
    return " ".join(parts) + "\n"


def _made(row: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in json.loads(row["versions"] or "{}").items())
    return (
        f"Trial `{row['trial_id']}` of the study `{row['study']}`, on {row['device']}, in {row['dtype']}. Settings: "
        f"`{row['settings']}`. Versions: {versions}; commit `{row['commit']}`. Hash of the compressed weights: "
        f"`{row['weights_hash']}`. `recipe.yaml` is a study that measures this trial again "
        "(`cd` here, then `python -m sweep.launch ./recipe.yaml`); `calibration.parquet`, where it is here, holds the "
        "very tokens (`python -m calib verify calibration.parquet`).\n"
    )
