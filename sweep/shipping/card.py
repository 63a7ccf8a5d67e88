"""README.md of a shipped model: what was compressed, with which text, what was measured, and how to load it.

Numbers are those of the trial's rows beside those of the dense model; nothing is measured here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from methods.blockwise import CompressionReport
from sweep.formats.catalog import DENSE
from sweep.formats.format import Format
from sweep.formats.writer import Written
from sweep.shipping.choose import Chosen

MEASURES = {  # metrics shown, with the direction that is better
    "acc": "up",
    "acc_norm": "up",
    "exact_match": "up",
    "perplexity": "down",
    "js_divergence": "down",
    "kl_divergence": "down",
    "top1_agreement": "up",
}
WORST = 5  # linears that are named


def card(chosen: Chosen, report: CompressionReport, written: Written, packed: Format | None) -> str:
    """The model card as Markdown with its YAML header."""
    row = chosen.row
    parts = [
        _header(row, packed),
        f"# {row['model']} · {row['method_label']}\n",
        _what(chosen, written, packed),
        "## What was measured\n",
        _measured(chosen),
        "## Loading\n",
        _loading(packed),
        "## Layers\n",
        _layers(report),
        "## How it was made\n",
        _made(row),
    ]
    return "\n".join(parts)


def _header(row: Mapping[str, Any], packed: Format | None) -> str:
    kind = DENSE if packed is None else packed.name
    return "\n".join(
        [
            "---",
            f"base_model: {json.dumps(row['model'])}",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags:",
            f"- {row['method']}",
            f"- {kind}",
            "- calibration-sweep",
            "---",
            "",
        ]
    )


def _what(chosen: Chosen, written: Written, packed: Format | None) -> str:
    row = chosen.row
    data = "No calibration data was used."
    if chosen.trial.spec is not None:
        data = (
            f"Calibrated on **{row['source']}**, set {row['set']}: {row['nsamples']} windows of {row['seqlen']} tokens "
            f"from {row['calibration_documents']} documents (`{row['calibration_id']}`, sha256 of the tokens "
            f"`{row['calibration_hash']}`)."
        )
    stored = f"{written.bytes / 2**20:,.1f} MiB of tensors"
    if written.bits_per_weight is not None and packed is not None:
        stored += (
            f"; its {written.packed_linears} packed linears take {written.bits_per_weight:.3f} bits a weight in "
            f"`{packed.name}`, the trial counted {row['average_bits']:.3f}"
        )
    zeros = f" {row['achieved_sparsity']:.1%} of the weights in scope are zero." if row["achieved_sparsity"] else ""
    return f"{data} The weights are, to the bit, those that were evaluated ({stored}).{zeros}\n"


def _measured(chosen: Chosen) -> str:
    keys = ["kind", "task", "metric"]
    dense = chosen.dense.select(*keys, dense="value")
    frame = chosen.metrics.filter(pl.col("metric").is_in(list(MEASURES)) & pl.col("value").is_not_null())
    if frame.is_empty():
        return "The study evaluated nothing.\n"
    lines = ["| task or text | metric | better | compressed | dense | n |", "|---|---|---|---:|---:|---:|"]
    for line in frame.join(dense, on=keys, how="left").sort(keys).iter_rows(named=True):
        reference = "" if line["dense"] is None else f"{line['dense']:.4g}"
        count = "" if line["n"] is None else f"{line['n']:,}"
        lines.append(
            f"| {line['task']} | {line['metric']} | {MEASURES[line['metric']]} | {line['value']:.4g} | {reference} | "
            f"{count} |"
        )
    return "\n".join(lines) + "\n"


def _loading(packed: Format | None) -> str:
    if packed is None:
        return "Plain weights: `transformers.AutoModelForCausalLM.from_pretrained(FOLDER)`, vLLM, or anything else.\n"
    return f"Format `{packed.name}`, read by {packed.loaders}.\n"


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


def _made(row: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in json.loads(row["versions"] or "{}").items())
    return (
        f"Trial `{row['trial_id']}` of the study `{row['study']}`, on {row['device']}, in {row['dtype']}. Settings: "
        f"`{row['settings']}`. Versions: {versions}; commit `{row['commit']}`. Hash of the evaluated weights: "
        f"`{row['weights_hash']}`. `recipe.yaml` is a study that measures this trial again "
        "(`python -m sweep.launch recipe.yaml`); `calibration.parquet`, where it is here, holds the very tokens "
        "(`python -m calib verify calibration.parquet`). The licences of the base model and of the text apply.\n"
    )
