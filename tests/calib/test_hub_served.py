"""Every source that is named after a data set of the hub, read over HTTP from a hub on this machine."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calib.hub import HubSource
from calib.source import get_source
from tests.calib.fake_hub import COMMIT, GATED, serving

TEXTS = [f"document {number} of a stream" for number in range(6)]
TALKS = [[{"role": "user", "content": text}, {"role": "assistant", "content": "a river"}] for text in TEXTS]
SHARD = (
    "filtered/OH_eli5_vs_rw_v2_bigram_200k_train/fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train/"
    "processed_data/global-shard_01_of_10/local-shard_0_of_10/shard_00000000_processed.parquet"
)
FILES: dict[str, tuple[str, dict[str, list[Any]]]] = {  # a file of each data set, in its shape
    "alpaca": ("data/train-00000-of-00001.parquet", {"instruction": TEXTS, "input": [""] * 6, "output": ["x"] * 6}),
    "c4": ("en/c4-train.00000-of-01024.json.gz", {"text": TEXTS, "url": ["-"] * 6}),
    "cnn_dailymail": ("3.0.0/train-00000-of-00003.parquet", {"article": TEXTS, "highlights": ["-"] * 6}),
    "dclm": (SHARD, {"text": TEXTS, "url": ["-"] * 6}),
    "open_platypus": (
        "data/train-00000-of-00001.parquet",
        {"instruction": TEXTS, "input": [""] * 6, "output": ["x"] * 6},
    ),
    "pile": ("data/train-00000-of-00001.parquet", {"text": TEXTS}),
    "refinedweb": ("data/train-00000-of-05534-b8fc5348cbe605a5.parquet", {"content": TEXTS, "url": ["-"] * 6}),
    "slimpajama": ("data/train-00000-of-00048.parquet", {"text": TEXTS}),
    "ultrachat": ("data/train_sft-00000-of-00003.parquet", {"prompt": TEXTS, "messages": TALKS}),
    "wikipedia": ("20231101.en/train-00000-of-00041.parquet", {"id": TEXTS, "text": TEXTS}),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Asks the process that reads from the hub."""
    folder = tmp_path_factory.mktemp("hub")
    for name, (file, columns) in FILES.items():
        source = get_source(name)
        assert isinstance(source, HubSource)
        write(folder / source.repository / file, columns)
    write(folder / GATED / "a.parquet", {"text": TEXTS})
    with serving(folder) as (address, _):
        settings = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "home")}
        with subprocess.Popen(
            [sys.executable, "-m", "tests.calib.hub_client"],
            env={**os.environ, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None and process.stdout is not None

            def ask(entry: Any) -> Any:
                process.stdin.write(f"{json.dumps(entry)}\n")  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]
                return json.loads(process.stdout.readline())  # type: ignore[union-attr]

            yield ask
            process.stdin.close()


def write(path: Path, columns: dict[str, list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


@pytest.mark.parametrize("name", FILES)
def test_a_data_set_of_the_hub_is_streamed_at_its_pinned_commit(client: Any, name: str) -> None:
    found = client({"source": name})
    assert [text.split("\n\n")[0] for text in found["texts"]] == TEXTS
    assert found["revision"] == get_source(name).revision()


def test_a_branch_is_recorded_as_the_commit_that_it_means(client: Any) -> None:
    assert client({"source": "slimpajama", "revision": "main"}) == {"texts": TEXTS, "revision": COMMIT}


@pytest.mark.parametrize(
    ("repository", "message"),
    [
        (
            GATED,
            f"It is gated or private: accept its terms at https://huggingface.co/datasets/{GATED}, and say who you",
        ),
        ("owner/nothing", "Check repository, revision and files; what is private is not found without hf auth login"),
        ("NeelNanda/pile-10k", "Check repository, revision and files"),
    ],
)
def test_what_the_hub_does_not_give_is_told_with_the_way_out(client: Any, repository: str, message: str) -> None:
    error = client({"source": "hub", "repository": repository, "files": ["a.parquet"]})["error"]
    assert f"cannot read a.parquet of the data set {repository}" in error and message in error and "\n" not in error


def test_an_earlier_download_is_offered_when_the_hub_is_away(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = get_source("c4")
    assert isinstance(source, HubSource)
    folder = client({"download": source.repository, "revision": source.pinned})["folder"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(Path(folder).parents[2]))
    (file,) = source.patterns()
    with pytest.raises(Exception, match="lies in the cache: write") as caught:  # this process is offline
        list(source.documents())
    assert str(caught.value).endswith(f"write {{source: c4, path: {folder}/{file}}}")
    assert [document.text for document in get_source({"source": "c4", "path": f"{folder}/{file}"}).documents()] == TEXTS
