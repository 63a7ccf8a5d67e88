"""What the published studies say, beside what this study found.

Every published number carries how well it is known: [P] the paper's own text or README, [S] public notes on the paper,
[U] our inference. A number is only held against trials that match it: model, method, settings, pattern, context. What
they claim (an order, a direction) can be asked of any study: `analysis.claims`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from analysis.cells import range_table, source_table
from analysis.claims import PAPER_A
from analysis.frames import Study
from analysis.measures import MEAN
from analysis.page.render import number

GPTQ_README = "GPTQ README"
WANDA_README = "Wanda README"


@dataclass(frozen=True)
class Anchor:
    """A published number. `statistic`: mean | sd (over sets) | range (over all sets); `low` equals `high` for one
    number.

    `settings` must be among the method's settings. `seqlen` is the length in tokens of the windows behind a published
    perplexity: the same model has 5.47 at 2,048 and 5.12 at 4,096 tokens, so other lengths are never compared.
    `tasks` is how many tasks a published mean is over; the table says it where this study has another number.
    """

    where: str
    mark: str
    model: str
    method: str
    statistic: str
    measure: str
    task: str
    low: float
    high: float
    bits: float | None = None
    pattern: str | None = None
    sparsity: float | None = None
    source: str | None = None
    seqlen: int | None = None
    tasks: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def _paper_a() -> list[Anchor]:
    models = [
        f"{family}-{size}"
        for family, sizes in (("llama", "7b 13b 33b"), ("vicuna", "7b 13b 33b"), ("opt", "6.7b 13b 30b"))
        for size in sizes.split()
    ]
    spreads: dict[str, tuple[tuple[float, float], tuple[float, float], dict[str, Any]]] = {
        "gptq": ((0.2, 0.4), (0.9, 1.6), {"bits": 4.0}),
        "spqr": ((0.1, 0.2), (0.6, 1.0), {"bits": 4.0}),
        "wanda": ((0.1, 0.4), (0.6, 2.9), {"pattern": "2:4"}),
        "sparsegpt": ((0.1, 0.6), (2.4, 4.8), {"pattern": "2:4"}),
    }
    found = []
    for model in models:
        for method, (sd, spread, kind) in spreads.items():
            found.append(Anchor(PAPER_A, "S", model, method, "sd", "accuracy", MEAN, *sd, tasks=10, **kind))
            found.append(Anchor(PAPER_A, "S", model, method, "range", "accuracy", MEAN, *spread, tasks=10, **kind))
    perplexities: dict[str, tuple[float, dict[str, Any]]] = {
        "gptq": (5.90, {"bits": 4.0}),
        "sparsegpt": (11.12, {"pattern": "2:4"}),
        "wanda": (11.56, {"pattern": "2:4"}),
        "spqr": (5.74, {"bits": 4.0}),
    }
    for method, (value, kind) in perplexities.items():
        found.append(_wikitext(PAPER_A, "S", "llama-7b", method, value, 2048, source="c4", **kind))
    return found


def _readmes() -> list[Anchor]:
    found = []
    tricks = {"act_order": True, "true_sequential": True}
    rows: dict[str, tuple[float, ...]] = {
        "llama-7b": (6.29, 6.09, 25.54, 8.07),
        "llama-13b": (5.53, 5.36, 11.40, 6.63),
        "llama-30b": (4.54, 4.45, 14.89, 5.69),
    }
    kinds: tuple[tuple[str, float, dict[str, Any]], ...] = (
        ("rtn", 4.0, {}),
        ("gptq", 4.0, tricks),
        ("rtn", 3.0, {}),
        ("gptq", 3.0, tricks),
    )
    for model, values in rows.items():
        for (method, bits, settings), value in zip(kinds, values, strict=True):
            plain = {"group_size": None, **settings}
            found.append(_wikitext(GPTQ_README, "P", model, method, value, 2048, bits=bits, settings=plain))
    sizes = ("llama-2-7b", "llama-2-13b", "llama-2-70b")
    pruned = {
        (None, "magnitude"): (14.89, 6.37, 4.98),
        (None, "sparsegpt"): (6.51, 5.63, 3.98),
        (None, "wanda"): (6.42, 5.56, 3.98),
        ("4:8", "magnitude"): (16.48, 6.76, 5.58),
        ("4:8", "sparsegpt"): (8.12, 6.60, 4.59),
        ("4:8", "wanda"): (7.97, 6.55, 4.47),
        ("2:4", "magnitude"): (54.59, 8.33, 6.33),
        ("2:4", "sparsegpt"): (10.17, 8.32, 5.40),
        ("2:4", "wanda"): (11.02, 8.27, 5.16),
    }
    for (pattern, method), values in pruned.items():
        kind: dict[str, Any] = {"pattern": pattern} if pattern else {"sparsity": 0.5}
        found += [_wikitext(WANDA_README, "P", m, method, v, 4096, **kind) for m, v in zip(sizes, values, strict=True)]
    dense = zip(sizes, (5.12, 4.57, 3.12), strict=True)
    return found + [_wikitext(WANDA_README, "P", model, "dense", value, 4096) for model, value in dense]


def _wikitext(where: str, mark: str, model: str, method: str, value: float, seqlen: int, **kind: Any) -> Anchor:
    """A mean perplexity on WikiText2."""
    return Anchor(where, mark, model, method, "mean", "perplexity", "wikitext2", value, value, seqlen=seqlen, **kind)


ANCHORS = (*_paper_a(), *_readmes())


def canonical(model: str) -> str | None:
    """`llama-2-7b` from `meta-llama/Llama-2-7b-hf`; None for a model that no anchor is about."""
    text = re.sub(r"[^a-z0-9.]+", "-", model.lower())
    size = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)b(?![a-z0-9])", text)
    if size is None or re.search(r"chat|instruct|reference", text):
        return None
    number_ = (
        {"30": "33"}.get(size.group(1), size.group(1)) if "llama" in text and "gptq" not in text else size.group(1)
    )
    if "vicuna" in text:
        return f"vicuna-{number_}b"
    if re.search(r"llama-?2", text):
        return f"llama-2-{number_}b"
    if re.search(r"llama-?[34](?![0-9b])|code-?llama|tiny-?llama|open-?llama", text):
        return None
    if "llama" in text:
        return f"llama-{number_}b"
    return f"opt-{size.group(1)}b" if re.search(r"(^|-)opt-", text) else None


ANCHOR_SCHEMA = {
    **dict.fromkeys(["model", "method_label", "source", "quantity", "published", "mark", "where"], pl.String),
    "ours": pl.Float64,
    "n": pl.Int64,
    "inside": pl.Boolean,
}


def anchor_table(study: Study) -> pl.DataFrame:
    """Published numbers that trials of this study match, and ours: empty when none does.

    `inside` says whether ours lies in the published interval, or within 2 % of a single published number. Perplexities
    of windows of another length are left out; `other_windows` says so.
    """
    found: list[dict[str, object]] = []
    for model, anchor in _candidates(study):
        if anchor.seqlen in (None, study.heldout_seqlen):
            found += _compare(study, model, anchor)
    return pl.DataFrame(found, ANCHOR_SCHEMA).sort("model", "method_label", "quantity", "source")


def other_windows(study: Study) -> str:
    """A sentence about the published perplexities that match but for the length of their windows; empty when none."""
    apart = [
        anchor
        for model, anchor in _candidates(study)
        if anchor.seqlen not in (None, study.heldout_seqlen) and _compare(study, model, anchor)
    ]
    if not apart:
        return ""
    lengths = " and ".join(f"{seqlen:,}" for seqlen in sorted({anchor.seqlen or 0 for anchor in apart}))
    ours = (
        "study.yaml does not say how long this study's windows are"
        if study.heldout_seqlen is None
        else f"this study's windows have {study.heldout_seqlen:,}"
    )
    return (
        f"{len(apart)} published perplexities are not compared: they are over windows of {lengths} tokens, and {ours}."
    )


def _candidates(study: Study) -> Iterator[tuple[str, Anchor]]:
    """(model of the study, a number published for it)."""
    for model in study.trials["model"].unique().sort():
        name = canonical(model)
        for anchor in ANCHORS:
            if anchor.model in (name, "llama-30b" if name == "llama-33b" else name):
                yield model, anchor


def _compare(study: Study, model: str, anchor: Anchor) -> list[dict[str, object]]:
    """This study's value beside one anchor, for each label that matches it."""
    settings = study.trials.filter(pl.col("model") == model, pl.col("method") == anchor.method)
    labels = sorted({t["method_label"] for t in settings.iter_rows(named=True) if _matches(t, anchor)})
    tasks = {"wikitext", "wikitext2"} if anchor.task == "wikitext2" else {anchor.task}
    known = set(study.main.filter(pl.col("measure") == anchor.measure, pl.col("model") == model)["task"].unique())
    detail = f", windows of {anchor.seqlen:,} tokens" if anchor.seqlen else ""
    if anchor.tasks not in (None, len(known - {MEAN})):
        detail = f", tasks: {len(known - {MEAN})} here, {anchor.tasks} there"
    found: list[dict[str, object]] = []
    for label in labels:
        for task in sorted(tasks & known):
            chosen = pl.col("model") == model, pl.col("method_label") == label
            if anchor.statistic == "range":
                rows = (
                    range_table(study, anchor.measure, task)
                    .filter(*chosen)
                    .select(pl.lit(None, pl.String).alias("source"), "range", "n")
                )
            else:
                table = source_table(study, anchor.measure, task).filter(*chosen)
                rows = table.select("source", "sd" if anchor.statistic == "sd" else "mean", "n")
            for source, ours, n in rows.iter_rows():
                if ours is None or (anchor.source is not None and source != anchor.source):
                    continue
                slack = 0.02 * anchor.high if anchor.low == anchor.high else 1e-9
                span = number(anchor.low) if anchor.low == anchor.high else f"{anchor.low} to {anchor.high}"
                found.append(
                    {
                        "model": model,
                        "method_label": label,
                        "source": source,
                        "quantity": f"{anchor.statistic} of {task} {anchor.measure}{detail}",
                        "published": span,
                        "mark": f"[{anchor.mark}]",
                        "where": anchor.where,
                        "ours": ours,
                        "n": n,
                        "inside": anchor.low - slack <= ours <= anchor.high + slack,
                    }
                )
    return found


def _matches(trial: dict[str, Any], anchor: Anchor) -> bool:
    """Whether a trial was run with what the number was published for."""
    settings = json.loads(trial["settings"] or "{}")
    settings = settings if isinstance(settings, dict) else {}
    wanted = {"bits": anchor.bits, "sparsity": anchor.sparsity}
    if any(value is not None and trial[name] != value for name, value in wanted.items()):
        return False
    if anchor.pattern != trial["pattern"]:
        return False
    return all(settings.get(name) == value for name, value in anchor.settings.items())
