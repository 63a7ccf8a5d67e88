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


def chat(talk: Any, **settings: Any) -> Build:
    return source({"source": "chat", "of": MINE, **settings}, {"messages": talk})


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
        source({"source": "chat", "of": MINE}, {"messages": TALK}, run=True),
        r"the tokenizer has no chat template; choose template: none, chatml or llama2",
        torch=True,
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

CASES: dict[str, Case] = {**CONVERSATIONS, **WRAPPERS, **TASKS}
