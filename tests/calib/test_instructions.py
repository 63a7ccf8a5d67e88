"""Data sets of instructions and conversations, tried on small local files of the same shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calib.hub import COMMIT
from calib.settings import SettingsError
from calib.source import get_source

ROWS: dict[str, list[dict[str, Any]]] = {
    "alpaca": [
        {"instruction": "Name a river.", "input": "", "output": "The Rhine.", "text": "..."},
        {"instruction": "Sum.", "input": "1, 2", "output": "3", "text": "..."},
    ],
    "open_platypus": [
        {"input": "", "output": "The Rhine.", "instruction": "Name a river.", "data_source": "a"},
        {"input": "1, 2", "output": "3", "instruction": "Sum.", "data_source": "b"},
    ],
    "ultrachat": [
        {
            "prompt": "Name a river.",
            "prompt_id": "0",
            "messages": [
                {"role": "user", "content": "Name a river."},
                {"role": "assistant", "content": "The Rhine."},
            ],
        },
        {
            "prompt": "Sum.",
            "prompt_id": "1",
            "messages": [{"role": "user", "content": "Sum.\n\n1, 2"}, {"role": "assistant", "content": "3"}],
        },
    ],
}


@pytest.fixture(params=sorted(ROWS))
def local(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS[request.param]), path)
    return {"source": request.param, "path": str(path)}


def test_a_document_is_the_plain_text_of_the_record(local: dict[str, str]) -> None:
    source = get_source(local)
    source.check()
    texts = [document.text for document in source.documents()]
    assert texts == ["Name a river.\n\nThe Rhine.", "Sum.\n\n1, 2\n\n3"]


def test_chat_renders_the_records(local: dict[str, str], tokenizer: Any) -> None:
    source = get_source({"source": "chat", "of": local, "template": "chatml"})
    source.check()
    [first, _] = source.token_documents(tokenizer)
    assert tokenizer.decode(first.tokens) == (
        "<|im_start|>user\nName a river.<|im_end|>\n<|im_start|>assistant\nThe Rhine.<|im_end|>\n"
    )


def test_record_without_its_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"instruction": ["Name a river."], "answer": ["The Rhine."]}), path)
    with pytest.raises(SettingsError, match="record 1: no text in column 'output'"):
        get_source({"source": "alpaca", "path": str(path)}).check()


@pytest.mark.parametrize("name", ["alpaca", "ultrachat", "pile", "open_platypus", "slimpajama", "dclm"])
def test_revisions_are_pinned(name: str) -> None:
    assert COMMIT.fullmatch(get_source(name).revision())


@pytest.mark.parametrize("name", ["open_platypus", "slimpajama", "dclm"])
def test_another_revision_can_be_asked_for(name: str) -> None:
    assert get_source({"source": name, "revision": "a" * 40}).revision() == "a" * 40
