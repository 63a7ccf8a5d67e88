"""A streamed model is the whole model, held differently: the same bits everywhere, and few weights at a time."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from calib.settings import SettingsError
from methods.base import get_method, parse_method
from methods.blockwise import compress_model, decoder_blocks
from methods.target_error import target_error
from sweep import plan
from sweep.config import parse_study
from sweep.models import resolve_model
from sweep.results import Results
from sweep.weights.dense import DenseModel
from sweep.weights.hashes import weights_hash
from sweep.weights.streaming import StreamedModel, load_dense
from tests.sweep.weights.conftest import METHODS, STREAMABLE, Save, numbers, pair, present, rewrite, run_study


@pytest.mark.parametrize("name", STREAMABLE)
def test_a_study_gives_the_same_tables_streamed_and_whole(
    save: Save, document: dict[str, Any], tmp_path: Path, name: str
) -> None:
    folder = save(name)
    document["methods"] = METHODS if name in ("llama", "gemma2") else METHODS[1:2] + METHODS[4:5]
    document["calibration"]["source"] = document["calibration"]["source"][0]
    found = {}
    for placement in ("whole", "streamed"):
        document["models"] = [{"model": str(folder), "placement": placement}]
        results = run_study(document, tmp_path / placement)
        assert results.read("trials").get_column("placement").unique().to_list() == [placement]
        found[placement] = numbers(results)
    for table, whole in found["whole"].items():
        assert whole.height
        assert found["streamed"][table].equals(whole), table


def test_the_launcher_streams_the_bundled_model(
    document: dict[str, Any], launch: Any, write_study: Any, tmp_path: Path
) -> None:
    document["methods"] = [{"method": "gptq", "bits": 3}]
    document["calibration"]["source"] = document["calibration"]["source"][0]
    found = {}
    for placement in ("whole", "streamed"):
        document["models"] = [{"model": "reference-2m", "placement": placement}]
        result = launch(write_study(document), "--local", "--gpus-per-worker", "0", "--results", placement)
        assert result.exit_code == 0, result.output
        found[placement] = numbers(Results(tmp_path / placement))
    for table, whole in found["whole"].items():
        assert whole.height
        assert found["streamed"][table].equals(whole), table


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_cast_as_transformers_casts_them(llama: Path, dtype: str, tokens: np.ndarray) -> None:
    dense, streamed = pair(llama, dtype=dtype)
    assert streamed.dtype == dense.dtype == dtype
    assert weights_hash(streamed.model) == weights_hash(dense.model)
    for model in (dense.model, streamed.model):
        compress_model(model, get_method("wanda"), tokens)
    assert weights_hash(streamed.model) == weights_hash(dense.model)


@pytest.mark.parametrize("entry", [{"method": "gptq", "group_size": 16}, {"method": "svd_llm"}], ids=str)
def test_errors_of_the_first_blocks_are_the_same_and_leave_a_dense_model(
    llama: Path, tokens: np.ndarray, entry: dict[str, Any]
) -> None:
    dense, streamed = pair(llama)
    before = weights_hash(dense.model)
    targets = {"target": (tokens + 1) % 64}
    found = [target_error(each.model, parse_method(entry, "m"), tokens, targets) for each in (dense, streamed)]
    assert found[0] == found[1]
    assert found[0]["target"].total[0] > 0
    assert weights_hash(dense.model) == weights_hash(streamed.model) == before
    assert present(streamed.model) == 0
    streamed.restore()
    assert weights_hash(streamed.model) == before


ROTATED: list[Any] = [{"method": "rotation"}, {"method": "gptq", "bits": 3, "group_size": 16}]


def test_a_study_of_a_rotated_model_gives_the_same_tables_streamed_and_whole(
    save: Save, document: dict[str, Any], tmp_path: Path
) -> None:
    """Head and embedding are one matrix before a trial, two in it, and one again for the next."""
    document["methods"] = [ROTATED, "rotation", {"method": "rtn", "bits": 3}]
    document["calibration"]["source"] = document["calibration"]["source"][0]
    found = {}
    for placement in ("whole", "streamed"):
        document["models"] = [{"model": str(save("llama-tied")), "placement": placement}]
        results = run_study(document, tmp_path / placement)
        found[placement] = numbers(results)
    for table, whole in found["whole"].items():
        assert whole.height
        assert found["streamed"][table].equals(whole), table
    values = results.read("metrics").join(results.read("trials").select("trial_id", "method"), on="trial_id")
    perplexity = values.filter(pl.col("metric") == "perplexity").group_by("method").agg(pl.col("value").sort())
    by_method = dict(perplexity.iter_rows())
    assert by_method["rotation"] == pytest.approx(by_method["dense"], rel=1e-5)
    assert by_method["rtn"] != pytest.approx(by_method["dense"], rel=1e-5)
    assert (results.read("trials")["status"] == "ok").all()


@pytest.mark.parametrize("placement", [0, 1], ids=["whole", "streamed"])
def test_restore_gives_back_a_model_that_was_rotated(save: Save, tokens: np.ndarray, placement: int) -> None:
    dense = pair(save("llama-tied"))[placement]
    before, config = weights_hash(dense.model), dense.model.config
    compress_model(dense.model, parse_method(ROTATED, "m"), tokens)
    assert not dense.model.config.tie_word_embeddings
    dense.restore()
    assert weights_hash(dense.model) == before
    assert dense.model.lm_head.weight is dense.model.model.embed_tokens.weight
    assert dense.model.config is config
    assert config.tie_word_embeddings
    assert dense.model.all_tied_weights_keys


DIFFERENCES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (
        lambda content: content.pop("model.layers.1.mlp.up_proj.weight"),
        "edited: the checkpoint lacks model.layers.1.mlp.up_proj.weight, which LlamaForCausalLM needs",
    ),
    "shape": (
        lambda content: content.update({"model.norm.weight": torch.ones(31)}),
        r"edited: model.norm.weight is \[31\] in the checkpoint, and LlamaForCausalLM takes \[32\]",
    ),
    "unexpected": (
        lambda content: content.update({"model.layers.1.mlp.gate.weight": torch.ones(3)}),
        "edited: the checkpoint holds model.layers.1.mlp.gate.weight, which LlamaForCausalLM does not have",
    ),
    "NaN inside": (
        lambda content: content["model.layers.2.mlp.up_proj.weight"][3].fill_(float("nan")),
        "edited: model.layers.2.mlp.up_proj.weight has 32 numbers of 2,048 that are NaN or infinite in float32",
    ),
    "infinite outside": (
        lambda content: content["lm_head.weight"][3, 3:5].fill_(float("inf")),
        "edited: lm_head.weight has 2 numbers of 8,224 that are NaN or infinite in float32",
    ),
}


@pytest.mark.parametrize("placement", ["whole", "streamed"])
@pytest.mark.parametrize("name", DIFFERENCES)
def test_checkpoint_that_is_not_the_model_is_refused_alike_in_both_placements(
    edited: Path, name: str, placement: str
) -> None:
    change, message = DIFFERENCES[name]
    rewrite(edited, change)
    ref = resolve_model({"model": str(edited), "placement": placement}, "m")
    with pytest.raises(SettingsError, match=message):
        weights_hash(load_dense(ref).model)  # which reads every block


def test_shared_blocks_are_refused(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweep.weights import streaming

    def shared(model: Any) -> Any:
        blocks = decoder_blocks(model)
        blocks[2].mlp = blocks[0].mlp
        return blocks

    monkeypatch.setattr(streaming, "decoder_blocks", shared)
    with pytest.raises(SettingsError, match=r"mlp.* of block 2 belongs to block 0 as well"):
        StreamedModel(resolve_model(str(llama), "m"))


def test_gradients_of_the_whole_model_are_refused_before_any_work(llama: Path, tokens: np.ndarray) -> None:
    _, streamed = pair(llama)
    with pytest.raises(SettingsError, match=r"FWSVD 80 %: needs gradients of the whole model"):
        compress_model(streamed.model, get_method("fwsvd"), tokens)
    assert streamed.blocks.traffic.loads == 0


def test_plan_refuses_gradients_of_a_streamed_model(document: dict[str, Any]) -> None:
    document["models"] = [{"model": document["models"][0], "placement": "streamed"}]
    document["methods"] = [[{"method": "smoothquant"}, {"method": "fwsvd"}]]
    with pytest.raises(SettingsError, match=r"FWSVD 80 %: needs gradients .*is streamed"):
        plan.check(parse_study(document))


def test_text_generation_of_a_streamed_model_is_refused_while_preparing(
    document: dict[str, Any], tiny_tasks: Path, tmp_path: Path
) -> None:
    import yaml

    folder = Path(shutil.copytree(tiny_tasks, tmp_path / "tasks"))
    task = yaml.safe_load((folder / "tiny_a.yaml").read_text())
    del task["doc_to_choice"]
    task |= {"task": "tiny_write", "output_type": "generate_until", "doc_to_target": "house"}
    task["generation_kwargs"] = {"until": ["."], "max_gen_toks": 3}
    task["metric_list"] = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    (folder / "tiny_write.yaml").write_text(yaml.safe_dump(task))
    document["evaluation"] |= {"tasks": ["tiny_write"], "task_path": str(folder)}
    document["models"] = [{"model": document["models"][0], "placement": "streamed"}]
    with pytest.raises(SettingsError, match=r"evaluation.tasks: tiny_write generate text, and tiny is streamed"):
        run_study(document, tmp_path / "results")


def test_placement_is_known_and_no_part_of_a_trials_identity(document: dict[str, Any]) -> None:
    ids = []
    for placement in ("auto", "whole", "streamed"):
        changed = copy.deepcopy(document)
        changed["models"] = [{"model": document["models"][0], "placement": placement}]
        ids.append([trial.id for trial in plan.expand(parse_study(changed))])
    assert ids[0] == ids[1] == ids[2]
    with pytest.raises(SettingsError, match="placement: unknown placement 'stream', did you mean 'streamed'"):
        resolve_model({"model": "reference-2m", "placement": "stream"}, "m")


def test_a_cpu_streams_only_when_asked_to(llama: Path) -> None:
    assert isinstance(load_dense(resolve_model(str(llama), "m")), DenseModel)
    asked = resolve_model({"model": str(llama), "placement": "streamed"}, "m")
    assert isinstance(load_dense(asked), StreamedModel)


@pytest.mark.parametrize(("free", "host", "placement"), [(9, 1, "whole"), (7, 1, "streamed"), (9, 0, "streamed")])
def test_auto_streams_what_gpu_or_host_cannot_hold(
    llama: Path, monkeypatch: pytest.MonkeyPatch, free: int, host: int, placement: str
) -> None:
    from sweep.weights import streaming

    monkeypatch.setattr(streaming, "device_memory", lambda _: free << 30)
    monkeypatch.setattr(streaming, "host_memory", lambda: host << 30)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(streaming, "DenseModel", lambda *_: "whole")
    monkeypatch.setattr(streaming, "StreamedModel", lambda *_: "streamed")
    assert load_dense(resolve_model(str(llama), "m"), "cuda") == placement


def test_model_of_the_hub_is_streamed_from_the_cache(llama: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import huggingface_hub

    asked = []

    def snapshot(name: str, revision: str, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(llama)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    root = tmp_path / "models--org--name"
    shutil.copytree(llama, root / "snapshots" / "c0ffee")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("c0ffee")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    from sweep.weights.streaming import local_folder

    assert local_folder(resolve_model("org/name", "m")) == llama
    assert [name for name, _, _ in asked] == ["org/name"] * 2
    assert asked[1][1:] == ("main", ["model.safetensors"])


@pytest.mark.gpu
def test_a_study_gives_the_same_tables_streamed_and_whole_on_a_gpu(document: dict[str, Any], tmp_path: Path) -> None:
    document["methods"] = [{"method": "gptq", "bits": 3}, {"method": "wanda", "allocation": "owl"}, METHODS[4]]
    document["calibration"]["source"] = document["calibration"]["source"][0]
    found = {}
    for placement in ("whole", "streamed"):
        document["models"] = [{"model": "reference-2m", "placement": placement, "dtype": "bfloat16"}]
        found[placement] = numbers(run_study(document, tmp_path / placement))
    assert found["whole"]["trials"].get_column("scorer").str.starts_with("packed").all()
    for table, whole in found["whole"].items():
        assert found["streamed"][table].equals(whole), table
