"""Cut the reference kit's text and tasks from a larger collection of openly licensed data.

    python -m sweep.reference.kit DATA

`DATA` holds `corpus/calib` and `corpus/heldout` (Parquet, one file a domain, with `licence` and `origin` columns) and
`tasks` (JSON lines). Written are the calibration text and the held-out text under `calib/reference/`, and the tasks
under `sweep/reference/tasks/`: JSON lines beside lm-eval YAML, so that `lm_eval --include_path sweep/reference/tasks
--tasks reference` runs them too.

Small models know little of the world but much of how their domains go on, so one task is made here: *continuation
choice*, 300 characters of a held-out document and then the true next 100 characters against three passages from
elsewhere in the same document.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer
import yaml

HELDOUT_BYTES = 500_000  # of text per domain: some 130,000 tokens, ten times what any bundled study reads
CONTEXT, CONTINUATION, CHOICES = 300, 100, 4  # characters, characters, passages to choose from
BLIMP = (
    "adjunct_island",
    "anaphor_number_agreement",
    "animate_subject_passive",
    "determiner_noun_agreement_1",
    "irregular_past_participle_verbs",
    "left_branch_island_simple_question",
    "npi_present_1",
    "principle_A_domain_1",
    "regular_plural_subject_verb_agreement_1",
    "wh_questions_subject_gap",
)
EXAMPLES = {"blimp": 200, "continuation": 100, "lambada": 400, "arc_easy": 300, "piqa": 300, "hellaswag": 300}
ACC = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
ACC_NORM = {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}
PERPLEXITY = {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}


def cut_text(source: Path, target: Path, limit: int | None = None) -> None:
    """Copy the first rows, up to `limit` bytes of text, with their licences. Rows come in a random, stable order."""
    table = pq.read_table(source)
    if limit is not None:
        sizes = np.cumsum([len(text.encode()) for text in table["text"].to_pylist()])
        table = table.slice(0, int(np.searchsorted(sizes, limit)) + 1)
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, target, compression="zstd", compression_level=19)


def continuation_items(texts: list[str], domain: str, count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """`count` items, at most eight from one document; passages do not overlap each other or the context."""
    items: list[dict[str, Any]] = []
    for round_number in range(8):
        for number in rng.permutation(len(texts)):
            item = _continuation_item(texts[number], rng)
            if item is not None:
                items.append({"id": f"{domain}-{number}-{round_number}", **item})
            if len(items) == count:
                return items
    raise ValueError(f"{domain}: only {len(items)} of {count} items; give more held-out text")


def _continuation_item(text: str, rng: np.random.Generator) -> dict[str, Any] | None:
    if len(text) < CONTEXT + 12 * CONTINUATION:
        return None
    words = [i + 1 for i, char in enumerate(text) if char == " "]  # passages begin at a word
    begin = int(rng.integers(0, len(text) - CONTEXT - CONTINUATION))
    split = next((i for i in words if i >= begin + CONTEXT), None)
    if split is None or split + CONTINUATION > len(text):
        return None
    taken = [(begin, split + CONTINUATION)]
    passages = [text[split : split + CONTINUATION]]
    for start in rng.permutation(words):
        if len(passages) == CHOICES:
            break
        end = int(start) + CONTINUATION
        if (
            end <= len(text)
            and "\n\n" not in text[start:end]
            and all(end <= low or start >= high for low, high in taken)
        ):
            taken.append((int(start), end))
            passages.append(text[start:end])
    if len(set(passages)) < CHOICES or "\n\n" in passages[0]:
        return None
    order = rng.permutation(CHOICES)
    return {
        "query": text[begin : split - 1],
        "choices": [passages[i] for i in order],
        "gold": int(np.flatnonzero(order == 0)[0]),
    }


def write_task(folder: Path, name: str, items: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    """One JSON-lines file and the lm-eval YAML that reads it."""
    with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    head = f"task: {name}\ncustom_dataset: !function loader.load_items\n"
    body = {
        "dataset_kwargs": {"file": f"{name}.jsonl"},
        "test_split": "test",
        "num_fewshot": 0,
        **settings,
        "metadata": {"version": 1.0},
    }
    (folder / f"{name}.yaml").write_text(head + yaml.safe_dump(body, sort_keys=False, allow_unicode=True))


def write_group(folder: Path, name: str, members: list[str], metric: str = "acc") -> None:
    """A group that reports the plain mean of `metric` over its members."""
    settings = {
        "group": name,
        "task": members,
        "aggregate_metric_list": [{"metric": metric, "aggregation": "mean", "weight_by_size": False}],
        "metadata": {"version": 1.0},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


def write_tasks(source: Path, heldout: dict[str, list[str]], folder: Path, seed: int) -> None:
    """All tasks of the kit and their groups. The first items of a file are taken: files are in hash order."""
    folder.mkdir(parents=True, exist_ok=True)

    def items(name: str, count: int) -> list[dict[str, Any]]:
        with open(source / f"{name}.jsonl", encoding="utf-8") as file:
            return [json.loads(line) for line, _ in zip(file, range(count), strict=False)]

    choice = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
    }
    pair = {
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "target_delimiter": "",
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "doc_to_target": 0,
        "metric_list": [ACC],
    }
    last_word = {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + target}}",
        "metric_list": [ACC, PERPLEXITY],
    }
    groups: dict[str, list[str]] = {"reference_blimp": [], "reference_continuation": []}
    for paradigm in BLIMP:
        groups["reference_blimp"].append(f"reference_blimp_{paradigm}")
        write_task(folder, groups["reference_blimp"][-1], items(f"blimp_{paradigm}", EXAMPLES["blimp"]), pair)
    for domain, texts in heldout.items():
        name = f"reference_continuation_{domain}"
        rng = np.random.default_rng([seed, len(groups["reference_continuation"])])
        groups["reference_continuation"].append(name)
        made = continuation_items(texts, domain, EXAMPLES["continuation"], rng)
        write_task(folder, name, made, {**choice, "metric_list": [ACC, ACC_NORM]})
    write_task(folder, "reference_lambada", items("lambada_openai", EXAMPLES["lambada"]), last_word)
    for name in ("arc_easy", "piqa", "hellaswag"):
        write_task(folder, f"reference_{name}", items(name, EXAMPLES[name]), {**choice, "metric_list": [ACC, ACC_NORM]})
    for name, members in groups.items():
        write_group(folder, name, members)
    singles = ["reference_lambada", "reference_arc_easy", "reference_piqa", "reference_hellaswag"]
    write_group(folder, "reference", [*groups, *singles])


def main(data: Annotated[Path, typer.Argument(help="folder with corpus/ and tasks/")], seed: int = 0) -> None:
    """Write the kit's text and tasks into this checkout."""
    project = Path(__file__).resolve().parents[2]
    heldout: dict[str, list[str]] = {}
    for path in sorted((data / "corpus" / "calib").glob("*.parquet")):
        cut_text(path, project / "calib" / "reference" / "calib" / path.name)
        whole = data / "corpus" / "heldout" / path.name
        cut_text(whole, project / "calib" / "reference" / "heldout" / path.name, HELDOUT_BYTES)
        heldout[path.stem] = pq.read_table(whole)["text"].to_pylist()
    write_tasks(data / "tasks", heldout, project / "sweep" / "reference" / "tasks", seed)


if __name__ == "__main__":
    typer.run(main)
