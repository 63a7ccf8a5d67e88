"""Write the reference models' card: how they were trained and what they can do, measured by this project's own code.

    python -m sweep.reference.card

Every model in `sweep/reference/models/` is evaluated, dense, on all bundled tasks (`evaluation.json` beside its
weights; kept when it is there), and the card `README.md` is made from that and from `training.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from methods.lazy import torch
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.suite import Evaluator, build_evaluation
from sweep.models import resolve_model
from sweep.weights.dense import DenseModel

FOLDER = Path(__file__).parent / "models"
SUITES = {"BLiMP": "reference_blimp", "continuation choice": "reference_continuation", "LAMBADA": "reference_lambada"}
SINGLES = {"PIQA": "reference_piqa", "HellaSwag": "reference_hellaswag", "ARC-easy": "reference_arc_easy"}
INTRODUCTION = """# Reference models

Small LLaMA-architecture language models for studies that run on a laptop. One byte-level BPE tokenizer with 8,192
tokens serves all of them; windows of 512 tokens; embeddings tied; weights in bfloat16, loaded by plain transformers.
They were trained by `sweep/reference/train.py` (seed 0) on openly licensed text in nine domains
(`calib/reference/README.md`); neither the calibration text nor the held-out text was trained on.

They are instruments, not assistants: use them to see effects of calibration data, not to generate text. The models
are licensed under Apache-2.0; the licences of their training text are listed beside the bundled text.

## Training
"""
RECIPE = """Muon for the matrices inside the blocks, AdamW for embeddings and norms; warm-up over 2 % of
the steps, then a linear decay to zero."""
CHANCE = {"BLiMP": 0.5, "continuation choice": 0.25, "LAMBADA": 0.0, "PIQA": 0.5, "HellaSwag": 0.25, "ARC-easy": 0.25}


def evaluate(name: str) -> list[dict[str, Any]]:
    """Accuracy rows (task, value, stderr, n) of one dense model on every bundled task, in float32."""
    torch.set_num_threads(1)
    dense = DenseModel(resolve_model(name, "model"), "cpu", "float32")
    data = build_evaluation(EvaluationSettings(tasks=["reference"]), dense.tokenizer, dense.ref.max_length or 512)
    result = Evaluator(data, dense.model, dense.tokenizer, "cpu").evaluate(dense.model)
    keep = ("task", "value", "stderr", "n")
    return [{key: row[key] for key in keep} for row in result.metrics if row["metric"] == "acc"]


def load(name: str) -> dict[str, Any]:
    """The training report of a model with its accuracies added."""
    path = FOLDER / name / "evaluation.json"
    if not path.exists():
        path.write_text(json.dumps(evaluate(name), indent=1))
    training = json.loads((FOLDER / name / "training.json").read_text())
    return {**training, "accuracy": {row["task"]: row for row in json.loads(path.read_text())}}


def accuracy_table(models: list[dict[str, Any]]) -> list[str]:
    """One line a task: accuracy ± half the 95 % interval, for each model."""
    lines = ["| task | chance | " + " | ".join(model["model"] for model in models) + " |"]
    lines.append("|---|---:|" + "---:|" * len(models))
    for label, task in {**SUITES, **SINGLES}.items():
        cells = [f"{m['accuracy'][task]['value']:.3f} ± {1.96 * m['accuracy'][task]['stderr']:.3f}" for m in models]
        lines.append(
            f"| {label} ({models[0]['accuracy'][task]['n']} items) | {CHANCE[label]:.2f} | {' | '.join(cells)} |"
        )
    for task in sorted(task for task in models[0]["accuracy"] if task.startswith("reference_continuation_")):
        cells = [f"{m['accuracy'][task]['value']:.2f} ± {1.96 * m['accuracy'][task]['stderr']:.2f}" for m in models]
        lines.append(f"| continuation, {task.removeprefix('reference_continuation_')} | 0.25 | {' | '.join(cells)} |")
    return lines


def perplexity_table(models: list[dict[str, Any]]) -> list[str]:
    domains = sorted(models[0]["heldout_perplexity"])
    lines = ["| model | " + " | ".join(domains) + " |", "|---|" + "---:|" * len(domains)]
    lines += [
        f"| {m['model']} | " + " | ".join(f"{m['heldout_perplexity'][domain]:.1f}" for domain in domains) + " |"
        for m in models
    ]
    return lines


def training_table(models: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| model | parameters | hidden, layers, heads, MLP | tokens (corpus) | peak rate | minutes | final loss |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for m in models:
        size = m["size"]
        shape = ", ".join(str(size[key]) for key in ("hidden_size", "layers", "heads", "intermediate_size"))
        lines.append(
            f"| {m['model']} | {m['parameters'] / 1e6:.2f} M | {shape} | {size['tokens'] / 1e6:.0f} M "
            f"({m['corpus_tokens'] / 1e6:.1f} M) | {size['learning_rate']:g} | {m['minutes']:.1f} "
            f"| {m['loss_curve'][-1][1]:.3f} |"
        )
    return lines


def curve_table(models: list[dict[str, Any]]) -> list[str]:
    """Training loss at ten shares of each model's budget."""
    shares = [i / 10 for i in range(1, 11)]
    lines = ["| share of the budget | " + " | ".join(f"{share:.0%}" for share in shares) + " |", "|---|" + "---:|" * 10]
    for m in models:
        curve = m["loss_curve"]
        points = [curve[max(round(share * len(curve)) - 1, 0)][1] for share in shares]
        lines.append(f"| {m['model']} | " + " | ".join(f"{loss:.3f}" for loss in points) + " |")
    return lines


def write_card() -> Path:
    """Evaluate what is missing and write `models/README.md`."""
    names = sorted((path.parent.name for path in FOLDER.glob("*/training.json")), key=lambda name: _parameters(name))
    models = [load(name) for name in names]
    parts = [
        INTRODUCTION,
        *training_table(models),
        "",
        f"One {models[0]['device']}, shared by models trained side by side, so the minutes are upper bounds. Batches\n"
        f"of {models[0]['batch_tokens']:,} tokens; {RECIPE} Training loss in nats per token:",
        "",
        *curve_table(models),
        "",
        "## Held-out perplexity",
        "",
        "Per token, over non-overlapping windows of 512 tokens of the whole held-out text of each domain.",
        "",
        *perplexity_table(models),
        "",
        "## Accuracy on the bundled tasks",
        "",
        "Zero-shot, all bundled items, ± half the 95 % interval over items (lm-eval's standard error).",
        "",
        *accuracy_table(models),
        "",
        "The knowledge tasks stay near chance at these sizes and say little; BLiMP, continuation choice and LAMBADA\n"
        "are far above it.",
        "",
    ]
    card = FOLDER / "README.md"
    card.write_text("\n".join(parts))
    return card


def _parameters(name: str) -> int:
    return int(json.loads((FOLDER / name / "training.json").read_text())["parameters"])


if __name__ == "__main__":
    print(f"wrote {write_card()}")
