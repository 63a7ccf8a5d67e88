"""The bundled kit is whole: models that plain transformers loads, tasks that are sound, text with its licences."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[3]
MODELS = PROJECT / "sweep" / "reference" / "models"
TASKS = PROJECT / "sweep" / "reference" / "tasks"
TEXT = PROJECT / "calib" / "reference"
NAMES = ("reference-2m", "reference-5m", "reference-17m")
DOMAINS = (
    "books",
    "code",
    "dialogue_qa",
    "encyclopedia",
    "legal",
    "multilingual",
    "news_blogs",
    "tech_proposals",
    "web_docs",
)


def test_everything_shipped_stays_below_60_megabytes() -> None:
    shipped = [path for folder in (TEXT, TASKS, MODELS) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in shipped) < 60_000_000


@pytest.mark.parametrize("name", NAMES)
def test_plain_transformers_loads_every_model(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODELS / name)
    tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
    assert model.dtype == torch.bfloat16
    assert len(tokenizer) == model.config.vocab_size == 8192
    text = "The court held that naïve “quotes” — and 漢字 — survive."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_heldout_perplexity_falls_with_size_in_every_domain() -> None:
    reports = [json.loads((MODELS / name / "training.json").read_text()) for name in NAMES]
    for domain in DOMAINS:
        small, middle, large = (report["heldout_perplexity"][domain] for report in reports)
        assert small > middle > large


def test_accuracy_on_lambada_and_continuations_rises_with_size_and_is_far_above_chance() -> None:
    for task, chance in (("reference_lambada", 0.0), ("reference_continuation", 0.25), ("reference_blimp", 0.5)):
        rows = []
        for name in NAMES:
            evaluation = json.loads((MODELS / name / "evaluation.json").read_text())
            rows.append(next(row for row in evaluation if row["task"] == task))
        values = [row["value"] for row in rows]
        assert values == sorted(values), task
        assert values[0] > chance + 5 * rows[0]["stderr"], task


@pytest.mark.parametrize("domain", DOMAINS)
def test_text_carries_its_licence_and_splits_share_no_document(domain: str) -> None:
    texts = []
    for split in ("calib", "heldout"):
        table = pq.read_table(TEXT / split / f"{domain}.parquet")
        assert all(table["licence"].to_pylist())
        assert all(table["origin"].to_pylist())
        texts.append(set(table["text"].to_pylist()))
    assert texts[0]
    assert texts[1]
    assert not texts[0] & texts[1]


def test_every_task_has_sound_items_and_belongs_to_the_group() -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    configs = [yaml.load(path.read_text(), Loader) for path in TASKS.glob("*.yaml")]
    groups = {config["group"]: config["task"] for config in configs if "group" in config}
    asked = ("reference", "reference_facts", "reference_bytes")
    members = {leaf for group in asked for name in groups[group] for leaf in groups.get(name, [name])}
    tasks = {config["task"]: config for config in configs if "group" not in config}
    assert set(tasks) == {*members, "reference_adversarial"}
    for name, config in tasks.items():
        assert config["custom_dataset"] == "loader.load_items"
        if name.startswith("reference_bytes_"):
            continue
        items = [json.loads(line) for line in (TASKS / config["dataset_kwargs"]["file"]).read_text().splitlines()]
        assert len(items) >= (100 if name in members - set(groups["reference_facts"]) else 70)
        for item in items:
            if "choices" in item:
                assert 0 <= item["gold"] < len(item["choices"])
                assert len(set(item["choices"])) > 1, name


def test_the_right_continuation_is_no_more_often_in_one_place() -> None:
    for path in TASKS.glob("reference_continuation_*.jsonl"):
        gold = [json.loads(line)["gold"] for line in path.read_text().splitlines()]
        assert all(10 <= gold.count(place) <= 45 for place in range(4))
