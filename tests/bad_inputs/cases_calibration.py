"""Calibration sources that cannot be what they are asked to be: conversations, tasks, wrappers around other sources."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bad_inputs.common import STUDY, Case, write_study

Build = Callable[[Path], list[str]]
MINE = {"source": "file", "path": "a.jsonl"}
TALK = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}]


def source(entry: Any, *records: Any, run: bool = False, name: str = "a.jsonl") -> Build:
    """A study that calibrates on the entry, beside a file of these records; planned, or run as far as it goes."""

    def build(folder: Path) -> list[str]:
        if records:
            (folder / name).write_text("".join(f"{json.dumps(record)}\n" for record in records))
        calibration = {**STUDY["calibration"], "source": entry}
        return [write_study(folder, calibration=calibration), "--local" if run else "--dry-run"]

    return build


def axes(**keys: Any) -> Build:
    """A study with these keys of `calibration`."""
    return lambda folder: [write_study(folder, calibration={**STUDY["calibration"], **keys}), "--dry-run"]


def described(*names: str) -> Build:
    """A study that asks for these descriptors."""
    return lambda folder: [
        write_study(folder, evaluation={**STUDY["evaluation"], "descriptors": [*names]}),
        "--dry-run",
    ]


def chat(talk: Any, **settings: Any) -> Build:
    return source({"source": "chat", "of": MINE, **settings}, {"messages": talk})


def silent_template(folder: Path) -> list[str]:
    """A study whose template writes a word for each turn, and nothing of what is said."""
    (folder / "t.txt").write_text("{% for message in messages %}turn {% endfor %}")
    entry = {"source": "chat", "of": MINE, "template_file": "t.txt"}
    return source(entry, {"messages": TALK}, run=True)(folder)


CONVERSATIONS: dict[str, Case] = {
    "a role that is unknown": Case(
        chat([TALK[0], {"role": "assisstant", "content": "a"}]),
        r"chat\(a\)': .*a\.jsonl, line 1, message 2: unknown role 'assisstant', did you mean 'assistant'",
    ),
    "a role that is no text": Case(
        chat([{"role": 7, "content": "a"}]), r"message 1: unknown role 7; choose from system"
    ),
    "no conversation": Case(chat("hello"), r"line 1: expected a list of messages with role and content, got 'hello'"),
    "a conversation without messages": Case(chat([]), r"line 1: expected a list of messages"),
    "a message without content": Case(chat([{"role": "user"}]), r"message 1: the message of the user has no content"),
    "an image in a message": Case(
        chat([{"role": "user", "content": [{"type": "image_url"}]}]), r"message 1: a part of the content is no text"
    ),
    "half a surrogate pair in a message": Case(
        chat([{"role": "user", "content": "a\ud800"}]), r"message 1: the content: half a surrogate pair"
    ),
    "a column that is not there": Case(chat(TALK, messages="talk"), r"a\.jsonl, line 1: no column 'talk'"),
    "a prompt without a response": Case(chat(TALK, prompt="q"), r"calibration\.source\.prompt: needs response as well"),
    "two templates": Case(
        chat(TALK, template="chatml", template_file="t.txt"), r"calibration\.source\.template_file: leave template out"
    ),
    "a template that is not there": Case(chat(TALK, template_file="t.txt"), r"t\.txt"),
    "a text without records": Case(
        source({"source": "chat", "of": "books"}), r"source 'books': has no records; give a file"
    ),
    "a tokenizer without a chat template": Case(
        source({"source": "traces", "of": {"source": "chat", "of": MINE}}, {"messages": TALK}),
        r"the tokenizer .*reference-2m has no chat template; choose template: none, chatml or llama2",
    ),
    "a template that shows no message": Case(
        silent_template, r"line 1: the chat template leaves out what the messages say", torch=True
    ),
    "instructions without their columns": Case(
        source({"source": "alpaca", "path": "a.jsonl"}, {"instruction": "a", "answer": "b"}),
        r"source 'alpaca': .*record 1: no text in column 'output'",
    ),
}

WRAPPERS: dict[str, Case] = {
    "an unknown source inside another": Case(
        source({"source": "noisy", "kind": "typos", "of": "bokks"}),
        r"calibration\.source\.of: unknown source 'bokks', did you mean 'books'",
    ),
    "a wrong setting inside another source": Case(
        source({"source": "shuffled_words", "of": {"source": "noisy", "of": "books", "kind": "typo"}}),
        r"calibration\.source\.of\.kind: expected 'typos', 'casing'",
    ),
    "a missing file inside another source": Case(
        source({"source": "shuffled_words", "of": MINE}), r"no such file or folder: .*a\.jsonl"
    ),
    "noise without end": Case(
        source({"source": "noisy", "of": "books", "kind": "ocr", "rate": 1.5}), r"calibration\.source\.rate: expected"
    ),
    "nothing to exclude": Case(
        source({"source": "exclude_overlap", "of": "books"}), r"calibration\.source\.against: expected at least one"
    ),
    "everything excluded": Case(
        source({"source": "exclude_overlap", "of": "books", "against": ["books"]}, run=True),
        r"every document shares 8 words with evaluation text",
        torch=True,
    ),
}

TASKS: dict[str, Case] = {
    "reasoning without its column": Case(
        source({"source": "task", "task": "arc_easy", "form": "chain_of_thought"}),
        r"calibration\.source\.rationale: the column of the reasoning",
    ),
    "a folder of tasks that is not there": Case(
        source({"source": "task", "task": "mine", "task_path": "/nowhere"}),
        r"task 'mine': task_path: no such file or folder with tasks: /nowhere",
    ),
}

AXES: dict[str, Case] = {
    "an unknown rule of selection": Case(
        axes(select=["random", "lexcal"]), r"calibration\.select\[1\]\.by: unknown selection 'lexcal', did you mean"
    ),
    "a response of text that tells none": Case(
        axes(part=["both", "response"], source="books"),
        r"calibration\.part: 'response' needs text that tells .* and source 'books' does not; calibrate on a chat",
    ),
    "a part that there is not": Case(
        axes(part="answer"), r"calibration\.part: expected 'both', 'prompt' or 'response', got 'answer'"
    ),
    "a length beyond the window": Case(
        axes(length_weights=[None, [8, 99_999]]), r"calibration\.length_weights: expected 1 to \d+, .* got 99999"
    ),
    "lengths that are no list": Case(axes(length_weights=8), r"calibration\.length_weights: expected a list, got 8"),
    "a rule twice": Case(axes(select=["random", "random"]), r"calibration\.select\[1\]: 'random' is there twice"),
    "a rule without its target": Case(
        axes(select="centroid"), r"calibration\.select\.target: give the source of the text"
    ),
    "a target that is not there": Case(
        axes(select={"by": "herding", "target": MINE}), r"no such file or folder: .*a\.jsonl"
    ),
    "a pool that the text cannot fill": Case(
        axes(select={"by": "random", "pool": 1000}, nsamples=1000), r"at most .* tokens, which make at most"
    ),
    "windows that cannot stand equally often": Case(
        axes(nsamples=4, distinct=[2, 3]), r"calibration\.distinct: 3 windows cannot each stand equally often"
    ),
    "a first token without a place": Case(
        axes(first_token=["bos", "eos"]), r"calibration\.first_token: 'eos' needs add_bos: true"
    ),
    "an overlap of one word": Case(
        axes(exclude_overlap=[False, 1]), r"calibration\.exclude_overlap: expected true, false or a number of words"
    ),
    "an overlap in words": Case(
        axes(exclude_overlap="yes"), r"calibration\.exclude_overlap: expected true, false or a number .* got 'yes'"
    ),
    "an unknown descriptor": Case(
        described("token_entropi"), r"evaluation\.descriptors: unknown descriptor 'token_entropi', did you mean"
    ),
    "a translation of itself": Case(
        source({"source": "translation", "path": "a.jsonl", "column": "de", "translation": "de"}),
        r"calibration\.source\.translation: expected another column than that of the original, got 'de'",
    ),
    "a translation that is not there": Case(
        source({"source": "translation", "path": "a.jsonl", "translation": "fr"}, {"text": "a", "de": "b"}),
        r"source 'a-fr': .*a\.jsonl, line 1: no column 'fr'",
    ),
}

CASES: dict[str, Case] = {**CONVERSATIONS, **WRAPPERS, **TASKS, **AXES}
