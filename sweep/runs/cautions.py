"""What only a person can see to before the first trial: data fetched by hand, terms to accept, weights beyond one GPU.

The plan says it, so that nobody learns it from an error on a machine that costs money. Nothing is asked over the
network: names, the models' sizes and this machine's cache tell, so a gated model of a publisher that is not named here
is only said to be downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweep.evaluation.tasks.names import local_folders
from sweep.evaluation.tasks.yamlfiles import Index
from sweep.models import ModelRef, cached_snapshot
from sweep.plan import Trial
from sweep.runs.estimate import known_parameters

TERMS = ("meta-llama/", "google/gemma", "CohereForAI/", "CohereLabs/", "bigcode/starcoder")  # to accept on the hub
BY_HAND = {
    "storycloze": "is not on the hub: ask for it at https://cs.rochester.edu/nlp/rocstories and give a local copy in a "
    "task file under `task_path`; the preset paper_a_without_storycloze does without"
}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
GPU = 80e9  # bytes of one, of the kind that the estimates are for


def cautions(trials: Sequence[Trial]) -> list[str]:
    """A line for each thing to see to before these trials run, without a full stop."""
    models = list({trial.model.name: trial for trial in trials}.values())
    return [*_by_hand(trials), *_downloads(models), *(line for trial in models for line in _too_large(trial))]


def _by_hand(trials: Sequence[Trial]) -> Iterator[str]:
    evaluations = {id(trial.evaluation): trial.evaluation for trial in trials}.values()
    for name in dict.fromkeys(name for evaluation in evaluations for name in evaluation.task_names):
        why = next((why for start, why in BY_HAND.items() if name.startswith(start)), None)
        folders = {evaluation.task_path for evaluation in evaluations if name in evaluation.task_names}
        if why and any(name not in Index.read(local_folders(folder)).files for folder in folders):
            yield f"the data of task {name} {why}"


def _downloads(models: Sequence[Trial]) -> Iterator[str]:
    """`models`: a trial of each."""
    absent = [trial for trial in models if trial.model.on_hub and not _here(trial.model)]
    if absent:
        sizes = [_bytes(trial) for trial in absent]
        known = sum(size for size in sizes if size is not None)
        amount = f"{known / 1e9:,.0f} GB" if known >= 1e9 else f"{known / 1e6:,.0f} MB"
        size = f", about {amount}" if all(sizes) else ""
        names = ", ".join(trial.model.name for trial in absent)
        yield f"{len(absent)} of {len(models)} models are not on this machine and will be downloaded{size}: {names}"
    if gated := [trial.model.path for trial in absent if trial.model.path.startswith(TERMS)]:
        yield f"accept the terms of {', '.join(gated)} on the hub, and log in on every machine (`hf auth login`)"


def _too_large(trial: Trial) -> Iterator[str]:
    size = _bytes(trial)
    if size is not None and size > GPU and trial.model.placement != "streamed":
        yield (
            f"model {trial.model.name} has about {size / 1e9:,.0f} GB of weights, more than one GPU of {GPU / 1e9:.0f} "
            "GB holds: each trial reads them block by block from disk, which wants a fast one; generation tasks "
            "and fwsvd cannot be run so"
        )


def _here(model: ModelRef) -> bool:
    return cached_snapshot(model.path, model.revision or "main") is not None


def _bytes(trial: Trial) -> float | None:
    """Of the weights on a GPU."""
    parameters = known_parameters(trial)
    return None if parameters is None else parameters * BYTES.get(trial.model.expected_dtype("cuda") or "bfloat16", 2)
