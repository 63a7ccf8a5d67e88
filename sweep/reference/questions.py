"""Make the bundled questions that ask what compression does beyond ordinary text, from the bundled held-out text alone.

    python -m sweep.reference.questions

Three groups are written to `sweep/reference/tasks/`, each the same at every run on the same kind of processor:

*adversarial*: the questions of continuation choice, with the wrong passages that `reference-17m` finds likeliest of
fourteen from the same document in place of any three (adversarial filtering; Zellers et al. 2018, arXiv 1808.05326).
*facts*: a sentence of the held-out encyclopedia up to a name or a year that it has not told yet, which is to be ranked
among nine others of the same kind, from the same document where it has enough.
*bytes*: numbers as hex digits, which no text of the bundled sources looks like: a noisy wave, a walk and pure noise, of
which no model can make less than 8 bits a number: 2.67 bits per byte of its text, two digits and a blank.

The hard case is the adversary's own view. The passages are chosen by the dense model, so `reference-17m` is worse at
these questions than a model of its quality would be; what compressed copies of one model lose is compared on the same
passages, whichever calibration set they saw. No calibration text is used, so no source can hold a question.
"""

from __future__ import annotations

import calendar
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from calib.sampling import raw_numbers
from methods.lazy import torch
from sweep.models import MODELS
from sweep.reference.kit import ACC, CONTINUATION, write_group, write_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TASKS = MODELS.parent / "tasks"
HELDOUT = MODELS.parents[2] / "calib" / "reference" / "heldout"
ADVERSARY = "reference-17m"
PER_DOMAIN, POOL, WRONG = 16, 14, 3  # questions of a domain, passages the adversary reads, those it keeps
FACTS = {"names": 240, "years": 70}
CANDIDATES = 10  # answers to rank, the right one among them
PER_DOCUMENT, PER_ANSWER = 24, 2  # facts, so that no article and no name is most of the task
SHORTEST, LONGEST = 60, 300  # characters of the sentence before the answer
BYTES = {"wave": 64, "walk": 64, "noise": 32}  # documents
NUMBERS = 96  # to a document: two hex digits each

SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
# a word of small letters, then the whole of a name of one to three words, or a year
NAME = re.compile(r"\b[a-z]+,? ([A-Z][a-z]{2,}(?: [A-Z][a-z]{2,}){0,2})(?=[ ,.;:])(?! [A-Z])")
YEAR = re.compile(r"\b[a-z]+,? ((?:1[4-9]|20)\d{2})(?=[ ,.;:])")
NO_NAMES = (
    frozenset(calendar.month_name) | frozenset(calendar.day_name) | {"Figure", "Table", "Chapter", "Link"}
)  # told by grammar
CHOICE: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{query}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
}
Score = Callable[[str, Sequence[str]], np.ndarray]  # (prompt, answers) -> log-likelihoods in nats, float64 [answers]


def rivals(query: str, answer: str, text: str, score: Score, random: Callable[[int], np.ndarray]) -> list[str]:
    """The `WRONG` passages of `text` that `score` finds likeliest after `query`, of `POOL` drawn ones.

    None overlaps the query, the answer or another, and all begin at a word. Raises ValueError for a text too short.
    """
    asked = text.index(query)
    taken = [(asked, text.index(answer, asked + len(query)) + CONTINUATION)]
    starts = [i + 1 for i, char in enumerate(text) if char == " " and i + 1 + CONTINUATION <= len(text)]
    found: list[str] = []
    for place in np.argsort(random(len(starts)), kind="stable"):
        start = starts[place]
        passage = text[start : start + CONTINUATION]
        apart = all(start + CONTINUATION <= low or start >= high for low, high in taken)
        if apart and "\n\n" not in passage and passage not in found:
            taken.append((start, start + CONTINUATION))
            found.append(passage)
        if len(found) == POOL:
            break
    if len(found) < WRONG:
        raise ValueError(f"only {len(found)} passages beside {query[:40]!r}; expected {WRONG}")
    order = np.argsort(-score(query, found), kind="stable")
    return [found[i] for i in order[:WRONG]]


def adversarial_items(domain: str, texts: Sequence[str], score: Score, count: int = PER_DOMAIN) -> list[dict[str, Any]]:
    """The first `count` questions of continuation choice whose document is bundled whole, answers where they were."""
    items: list[dict[str, Any]] = []
    for line in (TASKS / f"reference_continuation_{domain}.jsonl").read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        answer = item["choices"][item["gold"]]
        text = next((text for text in texts if f"{item['query']} {answer}" in text), None)
        if text is None:
            continue
        wrong = rivals(item["query"], answer, text, score, raw_numbers(len(items), len(text)))
        choices = [*wrong[: item["gold"]], answer, *wrong[item["gold"] :]]
        items.append({"id": item["id"], "query": item["query"], "choices": choices, "gold": item["gold"]})
        if len(items) == count:
            return items
    raise ValueError(f"{domain}: only {len(items)} of {count} questions; give more held-out text")


@dataclass(frozen=True)
class Fact:
    """A sentence that breaks off before something only knowledge gives: no word of it stands in the prompt."""

    document: int
    prompt: str
    answer: str


def facts(document: int, text: str, pattern: re.Pattern[str]) -> list[Fact]:
    """The facts of a text, at most one to a sentence, told after its heading."""
    heading, _, body = text.partition("\n")
    found = []
    for paragraph in body.split("\n"):
        for sentence in SENTENCE.split(paragraph.strip()):
            match = pattern.search(sentence, SHORTEST, LONGEST)
            if match is None or sentence.startswith(("Figure", "Table", "Link")):
                continue
            prompt = f"{heading.strip()}\n\n{sentence[: match.start(1) - 1]}"
            words = set(match[1].split())
            if not words & NO_NAMES and not any(word in prompt for word in words):
                found.append(Fact(document, prompt, match[1]))
    return found


def fact_items(kind: str, texts: Sequence[str], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` facts of all texts, each with `CANDIDATES` answers. Raises ValueError when there are too few."""
    pattern = {"names": NAME, "years": YEAR}[kind]
    every = [fact for number, text in enumerate(texts) for fact in facts(number, text, pattern)]
    random = raw_numbers(seed, len(every))
    used: Counter[object] = Counter()
    items: list[dict[str, Any]] = []
    for place in np.argsort(random(len(every)), kind="stable"):
        fact = every[place]
        if used[fact.document] >= PER_DOCUMENT or used[fact.answer] >= PER_ANSWER:
            continue
        others = _others(fact, every, random)
        if len(others) < CANDIDATES - 1:
            continue
        used.update((fact.document, fact.answer))
        gold = int(random(1)[0] % np.uint64(CANDIDATES))
        choices = [*others[:gold], fact.answer, *others[gold:]]
        items.append({"id": f"{kind}-{fact.document}-{place}", "query": fact.prompt, "choices": choices, "gold": gold})
        if len(items) == count:
            return items
    raise ValueError(f"{kind}: only {len(items)} of {count} facts; give more text")


def _others(fact: Fact, every: Sequence[Fact], random: Callable[[int], np.ndarray]) -> list[str]:
    """Answers of as many words to other facts, of the same document first, none with a word of the prompt or answer."""
    words = fact.answer.split()
    alike: dict[str, bool] = {}  # answer -> whether it is of another document
    for other in every:
        parts = other.answer.split()
        if len(parts) == len(words) and not set(parts) & set(words) and not any(part in fact.prompt for part in parts):
            alike[other.answer] = alike.get(other.answer, True) and other.document != fact.document
    names = sorted(alike)
    keys = random(len(names))
    order = sorted(range(len(names)), key=lambda i: (alike[names[i]], int(keys[i])))
    return [names[i] for i in order[: CANDIDATES - 1]]


def hex_texts(kind: str, count: int, seed: int = 0) -> Iterator[str]:
    """Documents of `NUMBERS` bytes as pairs of hex digits with blanks between.

    wave: a sine of a drawn period and phase, rounded, with an error of -2 to 2. walk: each number is at most 3 from
    the one before. noise: every number as likely as any.
    """
    for number in range(count):
        random = raw_numbers(seed, number, ["wave", "walk", "noise"].index(kind))
        steps = np.arange(NUMBERS)
        if kind == "wave":
            period, phase = 8 + int(random(1)[0] % np.uint64(24)), int(random(1)[0] % np.uint64(24))
            values = np.rint(127 + 100 * np.sin(2 * np.pi * (steps + phase) / period)).astype(np.int64)
            values += (random(NUMBERS) % np.uint64(5)).astype(np.int64) - 2
        elif kind == "walk":
            values = (128 + np.cumsum((random(NUMBERS) % np.uint64(7)).astype(np.int64) - 3)) % 256
        else:
            values = (random(NUMBERS) % np.uint64(256)).astype(np.int64)
        yield " ".join(f"{value:02x}" for value in values)


def scorer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Score:
    """Log-likelihoods by plain transformers, in float32 so that another processor orders passages the same."""

    def score(prompt: str, answers: Sequence[str]) -> np.ndarray:
        rows = [
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (prompt, *(f"{prompt} {a}" for a in answers))
        ]
        # an answer that begins with blanks may change the prompt's last token
        shared = next(i for i, ids in enumerate(zip_longest(*rows)) if len(set(ids)) > 1)
        start, rows = rows[0][:shared], rows[1:]
        ends = [torch.tensor(row[shared:]) for row in rows]
        with torch.inference_mode():
            read = model(torch.tensor([start]), use_cache=True)
            read.past_key_values.batch_repeat_interleave(len(rows))  # the prompt is read once
            ids = torch.nn.utils.rnn.pad_sequence(ends, batch_first=True)
            after = model(ids, past_key_values=read.past_key_values).logits[:, :-1]
            logits = torch.cat([read.logits[:, -1:].expand(len(rows), -1, -1), after], dim=1)
            logs = logits.float().log_softmax(-1).gather(2, ids[..., None])[..., 0]
        return np.array([float(logs[i, : len(end)].sum()) for i, end in enumerate(ends)])

    return score


def write_adversarial(folder: Path, heldout: dict[str, list[str]], score: Score) -> None:
    """One task over all domains, mixed so that a limit takes of every one."""
    items = [item for domain, texts in sorted(heldout.items()) for item in adversarial_items(domain, texts, score)]
    mixed = np.argsort(raw_numbers(len(items))(len(items)), kind="stable")
    write_task(folder, "reference_adversarial", [items[i] for i in mixed], {**CHOICE, "metric_list": [ACC]})


def write_facts(folder: Path, texts: Sequence[str]) -> None:
    """A task of names and one of years, ranked by `ranks.py`, and their group."""
    ranked = {**CHOICE, "process_results": "RANKS", "metric_list": [ACC, {**ACC, "metric": "reciprocal_rank"}]}
    for kind, count in FACTS.items():
        name = f"reference_facts_{kind}"
        write_task(folder, name, fact_items(kind, texts, count), ranked)
        path = folder / f"{name}.yaml"
        path.write_text(path.read_text().replace("process_results: RANKS", "process_results: !function ranks.rank"))
    write_group(folder, "reference_facts", [f"reference_facts_{kind}" for kind in FACTS])


def write_bytes(folder: Path) -> None:
    """A task for each kind of numbers, scored whole, and their group."""
    bits = {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}
    rolling = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [bits],
    }
    for kind, count in BYTES.items():
        write_task(folder, f"reference_bytes_{kind}", [{"text": text} for text in hex_texts(kind, count)], rolling)
    write_group(folder, "reference_bytes", [f"reference_bytes_{kind}" for kind in BYTES], metric="bits_per_byte")


def main() -> None:
    """Write the tasks into the package, from the held-out text that it holds."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODELS / ADVERSARY, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODELS / ADVERSARY)
    heldout = {path.stem: pq.read_table(path)["text"].to_pylist() for path in sorted(HELDOUT.glob("*.parquet"))}
    write_facts(TASKS, heldout["encyclopedia"])
    write_bytes(TASKS)
    write_adversarial(TASKS, heldout, scorer(model, tokenizer))


if __name__ == "__main__":
    main()
