"""Named suites: the tasks of the published studies, as data.

A preset adds to its tasks the plain mean of their accuracies under the preset's name, the number that the papers
report (every task counts the same, whatever its size). StoryCloze needs a manual download, so `paper_a` also gives the
mean of the other nine, and `paper_a_without_storycloze` asks for those alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mean:
    """An unweighted mean of `metric` over `tasks`, reported as a group called `name`."""

    name: str
    tasks: tuple[str, ...]
    metric: str = "acc"


@dataclass(frozen=True)
class Preset:
    tasks: tuple[str, ...]
    means: tuple[Mean, ...]
    source: str


_NINE = (
    "arc_easy",
    "arc_challenge",
    "boolq",
    "hellaswag",
    "lambada_openai",
    "openbookqa",
    "piqa",
    "rte",
    "winogrande",
)
_TEN = (*_NINE, "storycloze_2016")
_NINE_MEAN = Mean("paper_a_without_storycloze", _NINE)
_ADVERSARIAL = (
    *("anli_r1", "anli_r2", "anli_r3", "paws_en"),
    *(f"advglue_{task}" for task in ("sst2", "qqp", "mnli", "qnli", "rte")),
)
_COMMONSENSE = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge")

PRESETS: dict[str, Preset] = {
    "paper_a": Preset(
        tasks=(*_TEN, "wikitext"),
        means=(Mean("paper_a", _TEN), _NINE_MEAN),
        source="Williams & Aletras, arXiv 2311.09755, section 4: ten zero-shot tasks and WikiText",
    ),
    "paper_a_without_storycloze": Preset(
        tasks=(*_NINE, "wikitext"),
        means=(_NINE_MEAN,),
        source="the same without StoryCloze, whose data is not on the hub",
    ),
    "paper_b": Preset(
        tasks=("arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande", "openbookqa"),
        means=(Mean("paper_b", ("arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande", "openbookqa")),),
        source="after Khanal & Capone, arXiv 2409.11233; the paper's own list of tasks is not public, ours is a choice",
    ),
    "beware": Preset(
        tasks=(*_COMMONSENSE, "mmlu"),
        means=(Mean("beware", _COMMONSENSE),),
        source="Ji et al., arXiv 2410.17711: six zero-shot tasks and MMLU with five examples",
    ),
    "adversarial": Preset(
        tasks=_ADVERSARIAL,
        means=(Mean("adversarial", _ADVERSARIAL),),
        source="ANLI, PAWS and AdvGLUE: examples made to mislead; bundled, without the hub: reference_adversarial",
    ),
    "parametric_knowledge": Preset(
        tasks=("triviaqa", "nq_open", "truthfulqa_mc1", "truthfulqa_mc2", "mmlu"),
        means=(Mean("parametric_recall", ("triviaqa", "nq_open"), "exact_match"),),  # MMLU has a group of its own
        source="TriviaQA, Natural Questions, TruthfulQA and MMLU: what the weights know; bundled: reference_facts",
    ),
}

# MMLU is a five-shot task in "Beware of Calibration Data" (main_dclm.py:146), the six others are zero-shot. TriviaQA,
# Natural Questions and MMLU have five examples wherever base models are compared (LLaMA, arXiv 2302.13971, section 3).
PRESET_FEWSHOT: dict[str, dict[str, int]] = {
    "beware": {"mmlu": 5},
    "parametric_knowledge": {"mmlu": 5, "triviaqa": 5, "nq_open": 5},
}


def expand_tasks(names: Iterable[str]) -> list[str]:
    """Presets replaced by their tasks; order kept, repeats dropped. `reference` is an lm-eval group of its own."""
    expanded: list[str] = []
    for name in names:
        expanded.extend(PRESETS[name].tasks if name in PRESETS else (name,))
    return list(dict.fromkeys(expanded))


def means_of(names: Iterable[str]) -> list[Mean]:
    """The means that the presets among `names` report."""
    return list(dict.fromkeys(mean for name in names if name in PRESETS for mean in PRESETS[name].means))


def fewshot_of(names: Iterable[str]) -> dict[str, int]:
    """Examples in the prompt that a preset fixes for single tasks or groups."""
    return {task: shots for name in names for task, shots in PRESET_FEWSHOT.get(name, {}).items()}
