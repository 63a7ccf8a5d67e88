"""A model is looked at before a worker is started for it, whatever it brings along."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from calib.settings import SettingsError
from methods.base import parse_method
from sweep import plan
from sweep.config import parse_study
from sweep.models import load_tokenizer, resolve_model
from sweep.results import Results
from sweep.runs import model_check
from sweep.runs.model_check import check_model
from sweep.weights.dense import DenseModel
from sweep.weights.hashes import weights_hash
from sweep.weights.streaming import StreamedModel, load_dense
from tests.sweep.conftest import write_tiny_model

CODE = """
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP


class MineConfig(LlamaConfig):
    model_type = "mine"


class ScaledMLP(LlamaMLP):
    def forward(self, hidden):
        return 0.5 * super().forward(hidden)


class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig

    def __init__(self, config):
        super().__init__(config)
        for block in self.model.layers:
            block.mlp = ScaledMLP(config)
        if getattr(config, "shared", False):
            for block in self.model.layers:
                block.mlp = self.model.layers[0].mlp
        self.post_init()
"""


@pytest.fixture
def mine(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model, with code of its own that halves what its MLPs add."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "mine"))
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "modeling_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}
    changes = {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": own}
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    (folder / "modeling_mine.py").write_text(CODE)
    return folder


@pytest.fixture(autouse=True)
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of models is copied to a folder of the test."""
    import sys

    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    # another folder of such modules, left on the path by an earlier test, would hide this one
    others = [entry for entry in sys.path if not (Path(entry) / "transformers_modules").is_dir()]
    monkeypatch.setattr(sys, "path", others)
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)


def trusted(folder: Path, **entry: Any) -> Any:
    return resolve_model({"model": str(folder), "trust_remote_code": True, **entry}, "models[0]")


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_rows_of_the_embedding_are_known(tiny_model: Path) -> None:
    assert check_model(resolve_model(str(tiny_model), "m")) == 257


def test_code_of_a_model_runs_where_the_study_allows_it_and_nowhere_else(
    mine: Path, document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.sweep.weights.conftest import run_study

    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked at the terminal"))
    with pytest.raises(SettingsError, match=r"models\[0\]: .*'mine' runs code of its own .*`trust_remote_code: true`"):
        resolve_model(str(mine), "models[0]")
    document["models"] = [{"model": str(mine), "trust_remote_code": True}]
    document["methods"] = document["methods"][:2]
    trials = run_study(document, tmp_path / "results").read("trials")
    assert trials.get_column("status").unique().to_list() == ["ok"]
    assert isinstance(Results(tmp_path / "results"), Results)
    dense = DenseModel(trusted(mine))
    assert type(dense.model.model.layers[0].mlp).__name__ == "ScaledMLP"


def test_code_of_a_model_is_streamed_as_well(mine: Path) -> None:
    tokens = torch.arange(12)[None]
    dense, streamed = DenseModel(trusted(mine)), StreamedModel(trusted(mine, placement="streamed"))
    assert weights_hash(streamed.model) == weights_hash(dense.model)
    with streamed.blocks.sample() as small, torch.no_grad():
        assert type(small.model.layers[0].mlp).__name__ == "ScaledMLP"
        assert small(tokens).logits.isfinite().all()


def test_matrices_that_blocks_share_are_refused_while_preparing(mine: Path) -> None:
    change_config(mine, shared=True)
    gptq = parse_method({"method": "gptq", "group_size": 16}, "m")
    apart = parse_method({"method": "gptq", "group_size": 16, "linears": ["*", "!mlp.*"]}, "m")
    with pytest.raises(SettingsError, match="block 1 mlp.gate_proj is the very matrix of block 0 mlp.gate_proj"):
        check_model(trusted(mine), [gptq])
    assert check_model(trusted(mine), [apart]) == 257


def test_a_rotation_is_refused_while_preparing_where_the_stream_is_not_known(mine: Path, tiny_model: Path) -> None:
    rotated = parse_method([{"method": "rotation"}, {"method": "rtn", "group_size": 16}], "m")
    with pytest.raises(SettingsError, match=r"models: mine, Rotation .*al stream of MineForCausalLM is not known"):
        check_model(trusted(mine), [rotated])
    assert check_model(resolve_model(str(tiny_model), "models[0]"), [rotated]) == 257


def test_experts_that_are_stored_one_by_one_are_found(tiny_model: Path, tmp_path: Path) -> None:
    import transformers

    sizes = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = transformers.MixtralConfig(
        **sizes, num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, max_position_embeddings=64
    )
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors", "con*")))
    transformers.MixtralForCausalLM(config).save_pretrained(folder)
    assert check_model(resolve_model(str(folder), "m")) == 257
    gptq, rtn = (parse_method({"method": name, "group_size": 16}, "m") for name in ("gptq", "rtn"))
    assert check_model(resolve_model(str(folder), "m"), [gptq]) == 257
    assert check_model(resolve_model(str(folder), "m"), [rtn], weighed=True) == 257
    with pytest.raises(SettingsError, match=r"token_weights: block 0 mlp\.experts.*fused experts do not tell which"):
        check_model(resolve_model(str(folder), "m"), [gptq], weighed=True)
    part = "model.layers.0.block_sparse_moe.experts.2.w1.weight"
    rewrite(folder, lambda content: content.pop(part))
    with pytest.raises(SettingsError, match=f"models: m: the checkpoint lacks {part}, which MixtralForCausalLM needs"):
        check_model(resolve_model(str(folder), "m"))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    from safetensors.torch import load_file, save_file

    content = load_file(folder / "model.safetensors")
    change(content)
    save_file(content, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("keep", ["model.embed_tokens.weight", "lm_head.weight"])
def test_one_of_two_tied_matrices_is_enough(tiny_model: Path, tmp_path: Path, keep: str) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    change_config(folder, tie_word_embeddings=True)
    other = {"model.embed_tokens.weight", "lm_head.weight"} - {keep}
    rewrite(folder, lambda content: content.pop(other.pop()))
    assert check_model(resolve_model(str(folder), "m")) == 257
    model = DenseModel(resolve_model(str(folder), "m")).model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_tied_matrices_with_other_numbers_are_refused_alike(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    change_config(folder, tie_word_embeddings=True)
    ref = resolve_model(str(folder), "m")
    for load in (check_model, DenseModel, StreamedModel):
        with pytest.raises(SettingsError, match="models: m: config.json ties lm_head.weight to another matrix"):
            load(ref)
    rewrite(folder, lambda content: content.update({"lm_head.weight": content["model.embed_tokens.weight"].clone()}))
    ref = resolve_model(str(folder), "m")
    assert check_model(ref) == 257
    assert weights_hash(DenseModel(ref).model) == weights_hash(StreamedModel(ref).model)


def test_model_that_cannot_be_streamed_is_refused_while_preparing(tiny_model: Path, tmp_path: Path) -> None:
    import transformers

    folder = Path(shutil.copytree(tiny_model, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors", "con*")))
    sizes = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = transformers.MixtralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, num_local_experts=2)
    transformers.MixtralForCausalLM(config).save_pretrained(folder)
    with pytest.raises(SettingsError, match="must be converted .*use placement: whole"):
        check_model(resolve_model({"model": str(folder), "placement": "streamed"}, "m"))


def test_buffers_that_older_versions_saved_are_no_fault(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    extra = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in range(2)}
    rewrite(folder, lambda content: content.update(extra))
    ref = resolve_model(str(folder), "m")
    assert check_model(ref) == 257
    assert weights_hash(DenseModel(ref).model) == weights_hash(StreamedModel(ref).model)


def test_code_of_another_repository_does_not_matter_for_a_known_type(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    plain = weights_hash(DenseModel(resolve_model(str(folder), "m")).model)
    change_config(folder, auto_map={"AutoModelForCausalLM": "org/base--modeling_base.BaseForCausalLM"})
    ref = resolve_model(str(folder), "m")
    assert check_model(ref) == 257
    assert weights_hash(DenseModel(ref).model) == plain
    with pytest.raises(SettingsError, match="its code is in another repository"):
        trusted(folder)


@pytest.mark.parametrize("placement", ["whole", "streamed"])
def test_nan_in_a_stored_buffer_is_refused_by_the_worker_too(tmp_path: Path, placement: str) -> None:
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    folder = write_tiny_model(tmp_path / "m")
    sizes: dict[str, int] = dict.fromkeys(("q_lora_rank", "kv_lora_rank", "moe_intermediate_size"), 16)
    sizes |= dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8)
    sizes |= {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    sizes |= {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64}
    sizes |= {"first_k_dense_replace": 1, "bos_token_id": 0, "eos_token_id": 0}
    model = DeepseekV3ForCausalLM(DeepseekV3Config(**sizes))
    model.model.layers[1].mlp.gate.e_score_correction_bias[2] = float("nan")
    model.save_pretrained(folder, save_original_format=False)
    ref = resolve_model({"model": str(folder), "placement": placement}, "m")
    with pytest.raises(SettingsError, match="e_score_correction_bias has 1 numbers of 4 that are NaN"):
        weights_hash(load_dense(ref).model)  # of a streamed model every block is read here


def test_large_weights_are_left_to_the_worker(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    rewrite(folder, lambda content: content["lm_head.weight"][0].fill_(float("nan")))
    ref = resolve_model(str(folder), "m")
    with pytest.raises(SettingsError, match="lm_head.weight has 32 numbers of 8,224 that are NaN or infinite"):
        check_model(ref)
    monkeypatch.setattr(model_check, "READ_HERE", 100)
    assert check_model(ref) == 257
    with pytest.raises(SettingsError, match="lm_head.weight has 32 numbers of 8,224 that are NaN or infinite"):
        DenseModel(ref)


def test_files_that_change_after_planning_are_found(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    ref = resolve_model(str(folder), "m")
    change_config(folder, model_type="bert")
    with pytest.raises(SettingsError, match="models: m: .*'bert' is an encoder"):
        check_model(ref)


def test_hub_model_is_judged_by_what_is_here(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "c0ffee" + 34 * "0"
    snapshot = tmp_path / "models--org--name" / "snapshots" / commit
    shutil.copytree(tiny_model, snapshot)
    rewrite(snapshot, lambda content: content.pop("lm_head.weight"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    ref = resolve_model(f"org/name@{commit}", "m")
    monkeypatch.setattr(
        model_check, "load_config", lambda _: __import__("transformers").LlamaConfig.from_pretrained(snapshot)
    )
    with pytest.raises(SettingsError, match="models: name: the checkpoint lacks lm_head.weight"):
        check_model(ref)
    (snapshot / "model.safetensors").unlink()
    assert check_model(ref, first_blocks=1) == 257
    with pytest.raises(SettingsError, match="evaluation.first_blocks: 2, and name has 2 in all; choose fewer"):
        check_model(ref, first_blocks=2)


def test_models_of_one_tokenizer_are_each_looked_at(document: dict[str, Any], other_model: Path) -> None:
    document["models"] += [str(other_model)]
    trials = plan.expand(parse_study(document))
    (asked,) = plan.request_sets(trials).values()
    assert [use.model.name for use in asked.uses] == ["tiny", "other"]
    assert asked.seqlens == (32,)
    for use in asked.uses:
        assert len(use.methods) == 3
        assert set(use.calibration_ids) == {trial.calibration_id for trial in trials if trial.calibration_id}


def test_tokenizer_of_code_is_refused_in_one_line(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    file = folder / "tokenizer_config.json"
    own = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    file.write_text(json.dumps({**json.loads(file.read_text()), **own}))
    (folder / "mine.py").write_text("raise RuntimeError('must not run')")
    with pytest.raises(SettingsError, match="the tokenizer of .* runs code of its own"):
        load_tokenizer(resolve_model(str(folder), "m"))
