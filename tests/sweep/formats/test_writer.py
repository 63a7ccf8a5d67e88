"""What is written is what was compressed: loaded from the folder, a model computes the same to the bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, safe_open

from calib.settings import SettingsError
from methods.base import parse_method
from methods.blockwise import compress_model, decoder_blocks
from methods.walk.linears import linears_of
from sweep.formats import factored, loading, writer
from sweep.formats.format import FormatError, GridSpec
from sweep.formats.grids import blocks_name, grids_by_linear
from sweep.formats.pattern import check_pattern
from sweep.formats.spqr import KeptGrids, spqr_rule
from sweep.formats.writer import Written, check_target, leftovers, write_model
from tests.sweep.formats.test_awq import read_awq
from tests.sweep.formats.test_compressed_tensors import read_scattered
from tests.sweep.formats.test_gptq import read_gptq

BASE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OPT = {key: value for key, value in BASE.items() if key != "intermediate_size"}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**BASE, "num_key_value_heads": 2}),  # grouped queries
    "llama-tied": ("LlamaConfig", {**BASE, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", {**BASE, "num_key_value_heads": 2}),  # biases of queries, keys and values
    "opt": ("OPTConfig", {**OPT, "ffn_dim": 64, "word_embed_proj_dim": 16}),  # biases; projections outside the blocks
    "phi3": ("Phi3Config", {**BASE, "num_key_value_heads": 2}),  # fused projections
    "gemma2": ("Gemma2Config", {**BASE, "num_key_value_heads": 2, "head_dim": 8}),
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),  # Conv1D
    "mixtral": ("MixtralConfig", {**BASE, "num_key_value_heads": 2, "num_local_experts": 4}),  # fused experts
}
GRIDS: dict[str, Any] = {
    "rtn": {"method": "rtn", "bits": 4, "group_size": 16, "sym": True},
    "rtn 2-bit": {"method": "rtn", "bits": 2, "group_size": 16, "sym": True},
    "rtn 3-bit row mse": {"method": "rtn", "bits": 3, "sym": True, "mse": True},
    "gptq": {"method": "gptq", "bits": 4, "group_size": 16, "sym": True},
    "gptq 8-bit": {"method": "gptq", "bits": 8, "group_size": 16, "sym": True, "act_order": False},
    "awq": {"method": "awq", "group_size": 16, "scale_steps": 3, "sym": True},
    "sparsegpt": {"method": "sparsegpt", "pattern": "2:4", "bits": 4, "group_size": 16, "sym": True},
    "wanda and gptq": [{"method": "wanda"}, {"method": "gptq", "bits": 4, "group_size": 16, "sym": True}],
    "gptq and wanda": [{"method": "gptq", "bits": 4, "group_size": 16, "sym": True}, {"method": "wanda"}],
}
DENSE: dict[str, Any] = {
    "wanda": {"method": "wanda", "pattern": "2:4"},
    "magnitude": {"method": "magnitude"},
    "spqr": {"method": "spqr", "bits": 3},
    "smoothquant": {"method": "smoothquant"},
}
SPQR: dict[str, Any] = {
    "defaults": {"method": "spqr"},
    "3-bit, 16-bit numbers": {"method": "spqr", "bits": 3, "scale_dtype": "bfloat16"},
    "numbers alone": {"method": "spqr", "scale_bits": None, "zero_bits": None, "permutation": "identity"},
    "rows, whole zero points": {"method": "spqr", "bits": 8, "group_size": None, "round_zero": True},
}
LATE = {"method": "gptq", "group_size": 16, "static_groups": False}
SCATTERED: dict[str, Any] = {
    "4-bit sym": {**LATE, "bits": 4, "sym": True},
    "4-bit": {**LATE, "bits": 4},
    "3-bit fresh": {"method": "gptq", "group_size": 16, "bits": 3, "fresh_group_stats": True},
    "4-bit and wanda": [{**LATE, "bits": 4, "sym": True}, {"method": "wanda"}],
}
LOW_RANK: dict[str, Any] = {
    "svd": {"method": "svd", "ratio": 0.6},
    "svd_llm and rtn": [{"method": "svd_llm", "ratio": 0.6}, {"method": "rtn", "bits": 4, "scale_dtype": "bfloat16"}],
}

INDEX = "model.safetensors.index.json"
Save = Callable[[str, str], Path]
TOKENS = np.random.default_rng(0).integers(3, 96, size=(4, 24), dtype=np.int32)


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Saves a tiny random model of an architecture in a type, and returns its folder."""
    import transformers

    root = tmp_path_factory.mktemp("dense")

    def build(name: str, dtype: str) -> Path:
        folder = root / f"{name}-{dtype}"
        if not folder.exists():
            config, settings = {**MODELS, **OTHERS}[name]
            torch.manual_seed(0)
            model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**settings))
            with torch.no_grad():  # norms and biases that differ from their start
                for parameter in model.parameters():
                    if parameter.dim() == 1:
                        parameter.add_(0.1 * torch.randn_like(parameter))
            model.to(getattr(torch, dtype)).save_pretrained(folder)
        return folder

    return build


def load(folder: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.as_tensor(TOKENS).long(), use_cache=False).logits
    return found


def with_scales(entry: Any, dtype: str) -> Any:
    if isinstance(entry, list):
        return [with_scales(step, dtype) for step in entry]
    return {**entry, "scale_dtype": dtype} if entry.get("method") != "wanda" else entry


def compressed(folder: Path, entry: Any) -> tuple[Any, dict[str, GridSpec], Any]:
    """(compressed model, grids of its linears, report)."""
    model, method = load(folder), parse_method(entry, "method")
    report = compress_model(model, method, None if method.data_free else TOKENS)
    return model, grids_by_linear(model, method, report), report


def unpacked(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a packed checkpoint with weights where the packed ones were, by readers that are not ours."""
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    tensors = load_file(folder / "model.safetensors")
    kind = config["quant_method"]
    mark = {"compressed-tensors": "weight_packed", "gptq": "qweight", "awq": "qweight"}[kind]
    for name in [name.removesuffix(f".{mark}") for name in tensors if name.endswith(f".{mark}")]:
        parts = {key.removeprefix(f"{name}."): tensors.pop(key) for key in list(tensors) if key.startswith(f"{name}.")}
        stored = {key: parts.pop(key) for key in list(parts) if key != "bias"}
        tensors[f"{name}.weight"] = read(kind, stored, config)
        tensors.update({f"{name}.{key}": tensor for key, tensor in parts.items()})
    return tensors


def read(kind: str, stored: dict[str, torch.Tensor], config: dict[str, Any]) -> torch.Tensor:
    if kind == "gptq":
        return read_gptq(stored, config["bits"], {"gptq": 1, "gptq_v2": 0}[config["checkpoint_format"]])
    if kind == "awq":
        return read_awq(stored)
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme

    if "weight_g_idx" in stored:  # the newest version of the package knows no such groups
        return read_scattered(stored, config["config_groups"]["group_0"]["weights"]["num_bits"])
    scheme = QuantizationScheme(**config["config_groups"]["group_0"])
    weight: torch.Tensor = PackedQuantizationCompressor.decompress(stored, scheme)["weight"]
    return weight


def load_unpacked(folder: Path, dense: Path) -> Any:
    """The model of a packed checkpoint, with its weights read by `unpacked`."""
    model = load(dense)
    found = model.load_state_dict(unpacked(folder), strict=False)
    assert not found.unexpected_keys
    assert set(found.missing_keys) <= set(model.all_tied_weights_keys)
    model.tie_weights()
    return model


@pytest.mark.parametrize("method", GRIDS)
@pytest.mark.parametrize("name", MODELS)
def test_transformers_loads_compressed_tensors_to_the_bit(name: str, method: str, save: Save, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    folder = save(name, "bfloat16")
    model, grids, report = compressed(folder, with_scales(GRIDS[method], "bfloat16"))
    written = write_model(model, None, tmp_path / "out", "compressed-tensors", grids)
    assert torch.equal(logits(load(tmp_path / "out")), logits(model))
    assert written.packed_linears == len(grids) == len(report.final)
    words_and_shapes = 16 * 8 * written.packed_linears + 31 * sum(
        module.weight.shape[0] for name, module in model.named_modules() if name in grids
    )
    assert written.bits_per_weight is not None
    assert 0 <= written.bits_per_weight - report.average_bits <= words_and_shapes / written.packed_weights


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_other_types_are_stored_to_the_bit_as_well(dtype: str, save: Save, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    for number, scales in enumerate([dtype, "float16"]):
        model, grids, _ = compressed(save("llama", dtype), with_scales(GRIDS["gptq"], scales))
        write_model(model, None, tmp_path / f"{number}", "compressed-tensors", grids)
        assert torch.equal(logits(load(tmp_path / f"{number}")), logits(model))


ZERO_POINTS: dict[str, Any] = {
    "rtn 2-bit": {"method": "rtn", "bits": 2, "group_size": 16},
    "rtn 3-bit row": {"method": "rtn", "bits": 3},
    "gptq": {"method": "gptq", "bits": 4, "group_size": 16},
    "gptq 8-bit row": {"method": "gptq", "bits": 8, "act_order": False},
    "sparsegpt": {"method": "sparsegpt", "pattern": "2:4", "bits": 4, "group_size": 16},
}


@pytest.mark.parametrize("method", ZERO_POINTS)
@pytest.mark.parametrize("name", MODELS)
def test_transformers_loads_zero_points_to_the_bit(name: str, method: str, save: Save, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    model, grids, _ = compressed(save(name, "bfloat16"), with_scales(ZERO_POINTS[method], "bfloat16"))
    assert not any(grid.sym for grid in grids.values())
    write_model(model, None, tmp_path / "out", "compressed-tensors", grids)
    assert torch.equal(logits(load(tmp_path / "out")), logits(model))


PLAIN = """
import sys
import torch, transformers

torch.set_num_threads(1)
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto").eval()
assert not any(name.split(".")[0] in ("calib", "methods", "sweep", "analysis") for name in sys.modules)
with torch.no_grad():
    torch.save(model(torch.load(sys.argv[2]), use_cache=False).logits, sys.argv[2])
"""


def test_a_fresh_process_with_plain_transformers_loads_zero_points(save: Save, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    model, grids, _ = compressed(save("llama", "bfloat16"), with_scales(ZERO_POINTS["gptq"], "bfloat16"))
    write_model(model, None, tmp_path / "out", "compressed-tensors", grids)
    tensors = tmp_path / "tensors.pt"
    torch.save(torch.as_tensor(TOKENS).long(), tensors)
    subprocess.run([sys.executable, "-W", "ignore", "-c", PLAIN, tmp_path / "out", tensors], check=True, cwd=tmp_path)
    assert torch.equal(torch.load(tensors), logits(model))


@pytest.mark.parametrize("kind", ["compressed-tensors", "gptq", "awq"])
@pytest.mark.parametrize("method", ["rtn", "gptq", "awq", "sparsegpt"])
@pytest.mark.parametrize("name", MODELS)
def test_zero_points_are_stored_to_the_bit(name: str, method: str, kind: str, save: Save, tmp_path: Path) -> None:
    if kind == "compressed-tensors":
        pytest.importorskip("compressed_tensors")
    folder = save(name, "float16")
    model, grids, _ = compressed(folder, {**with_scales(GRIDS[method], "float16"), "sym": False})
    write_model(model, None, tmp_path / "out", kind, grids)
    expected = logits(model)
    assert torch.equal(logits(load_unpacked(tmp_path / "out", folder)), expected)
    assert torch.equal(logits(loading.load(tmp_path / "out")), expected)


@pytest.mark.parametrize("kind", ["compressed-tensors", "dense"])
@pytest.mark.parametrize("name", ["llama-tied", "qwen2"])
def test_a_rotated_model_has_a_head_of_its_own_in_the_folder(name: str, kind: str, save: Save, tmp_path: Path) -> None:
    if kind == "compressed-tensors":
        pytest.importorskip("compressed_tensors")
    model, grids, _ = compressed(
        save(name, "bfloat16"), [{"method": "rotation"}, with_scales(GRIDS["gptq"], "bfloat16")]
    )
    write_model(model, None, tmp_path / "out", kind, grids)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert torch.equal(logits(load(tmp_path / "out")), logits(model))
    assert torch.equal(logits(loading.load(tmp_path / "out")), logits(model))


@pytest.mark.parametrize("method", [*DENSE, "gptq"])
@pytest.mark.parametrize("name", [*MODELS, *OTHERS])
def test_dense_folders_hold_every_method(name: str, method: str, save: Save, tmp_path: Path) -> None:
    model, _, _ = compressed(save(name, "bfloat16"), {**DENSE, **GRIDS}[method])
    expected = logits(model)
    write_model(model, None, tmp_path / "out")
    assert torch.equal(logits(load(tmp_path / "out")), expected)


def test_weights_may_be_read_by_whoever_reads_the_configuration(save: Save, tmp_path: Path) -> None:
    model, _, _ = compressed(save("llama", "bfloat16"), DENSE[next(iter(DENSE))])
    write_model(model, None, tmp_path / "out")
    modes = {path.suffix: path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert modes[".safetensors"] == modes[".json"]


@pytest.mark.parametrize("entry", LOW_RANK.values(), ids=LOW_RANK)
@pytest.mark.parametrize("name", [*MODELS, *OTHERS])
def test_factors_are_stored_to_the_bit(name: str, entry: Any, save: Save, tmp_path: Path) -> None:
    model, _, report = compressed(save(name, "bfloat16"), entry)
    written = write_model(model, None, tmp_path / "out", "factored")
    loaded = factored.load(tmp_path / "out")
    assert torch.equal(logits(loaded), logits(model))
    assert torch.equal(logits(loading.load(tmp_path / "out")), logits(model))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    whole = sum(parameter.nbytes for parameter in load(save(name, "bfloat16")).parameters())
    assert written.bytes < whole
    with pytest.raises(OSError):  # and transformers does not fill in random numbers
        load(tmp_path / "out")
    assert report.layers


def with_grids(folder: Path, entry: Any, kept: Path) -> tuple[Any, KeptGrids, Any]:
    """(model compressed with SpQR, the grids that were kept in the new folder `kept`, report)."""
    kept.mkdir()
    model, method = load(folder), parse_method(entry, "method")
    rule = spqr_rule(method)
    assert rule is not None
    grids = KeptGrids(kept, rule)
    return model, grids, compress_model(model, method, TOKENS, witness=grids)


@pytest.mark.parametrize("entry", SPQR.values(), ids=SPQR)
@pytest.mark.parametrize("name", MODELS)
def test_spqr_is_stored_to_the_bit_in_the_bits_that_it_counts(
    name: str, entry: Any, save: Save, tmp_path: Path
) -> None:
    model, kept, report = with_grids(save(name, "bfloat16"), entry, tmp_path / "grids")
    written = write_model(model, None, tmp_path / "out", "spqr", kept=kept)
    loaded = loading.load(tmp_path / "out")
    state = model.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.state_dict().items())
    assert torch.equal(logits(loaded), logits(model))
    assert written.packed_linears == len(report.final)
    assert written.bits_per_weight is not None
    linears = [model.get_submodule(f"{blocks_name(model)}.{each}").weight for each in kept.names()]
    uncounted = sum(8 * 16 + 32 * rows + 16 * cols for rows, cols in (weight.shape for weight in linears))
    filled = sum(31 * (rows + 2) for rows, _ in (weight.shape for weight in linears))  # words that are not full
    if entry.get("round_zero"):  # whole zero points are stored as numbers, and counted as bits
        uncounted += sum(32 * len(weight) for weight in linears)
    difference = written.bits_per_weight - report.average_bits
    assert 0 <= difference * written.packed_weights <= uncounted + filled
    with pytest.raises(OSError):
        load(tmp_path / "out")


def test_spqr_without_its_grids_or_with_weights_off_them_is_refused(save: Save, tmp_path: Path) -> None:
    model, kept, _ = with_grids(save("llama", "bfloat16"), SPQR["defaults"], tmp_path / "grids")
    with pytest.raises(FormatError, match="was not kept; give compress_model the witness that sweep.formats.spqr has"):
        write_model(model, None, tmp_path / "out", "spqr")
    model.model.layers[1].mlp.up_proj.weight.data[:4] *= 1.01
    with pytest.raises(FormatError, match=r"weights of 1\.mlp\.up_proj are on no grid, the method left"):
        write_model(model, None, tmp_path / "out", "spqr", kept=kept)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grids"]


@pytest.mark.parametrize("name", OTHERS)
def test_spqr_of_other_linears_is_refused(name: str, save: Save, tmp_path: Path) -> None:
    model, kept, _ = with_grids(save(name, "bfloat16"), {"method": "spqr", "statistics_group": 8}, tmp_path / "grids")
    reason = {"gpt2": "is a Conv1D, no nn.Linear", "mixtral": "holds all experts in one parameter"}[name]
    with pytest.raises(FormatError, match=rf"--format spqr: .*{reason}.*use --format dense"):
        write_model(model, None, tmp_path / "out", "spqr", kept=kept)


def test_dense_folders_hold_the_product_of_factors(save: Save, tmp_path: Path) -> None:
    model, _, _ = compressed(save("llama", "float32"), LOW_RANK["svd"])
    expected = logits(model)
    written = write_model(model, None, tmp_path / "out")
    assert len(written.merged) == 14
    found = logits(load(tmp_path / "out"))
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", ["compressed-tensors", "gptq", "awq"])
def test_linears_of_other_kinds_are_refused_with_the_format_that_holds_them(
    name: str, kind: str, save: Save, tmp_path: Path
) -> None:
    model, grids, _ = compressed(save(name, "float16"), with_scales(GRIDS["rtn"], "float16"))
    reason = {"gpt2": "is a Conv1D, no nn.Linear", "mixtral": "holds all experts in one parameter"}[name]
    with pytest.raises(FormatError, match=rf"--format {kind}: .*{reason}.*use --format dense"):
        write_model(model, None, tmp_path / "out", kind, grids)
    assert not list(tmp_path.iterdir())


def test_linears_left_out_stay_dense_and_are_named(save: Save, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    entry = {**with_scales(GRIDS["gptq"], "bfloat16"), "linears": ["*", "!mlp.down_proj"], "skip_blocks": [0]}
    model, grids, _ = compressed(save("llama", "bfloat16"), entry)
    write_model(model, None, tmp_path / "out", "compressed-tensors", grids)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert "model.layers.1.mlp.down_proj" in config["ignore"]
    assert "model.layers.0.self_attn.q_proj" in config["ignore"]
    assert torch.equal(logits(load(tmp_path / "out")), logits(model))


def test_two_grids_in_one_model_are_both_stored(save: Save, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    grid = with_scales(GRIDS["rtn"], "bfloat16")
    entry = [{**grid, "linears": ["mlp.*"]}, {**grid, "bits": 8, "linears": ["self_attn.*"]}]
    model, grids, _ = compressed(save("llama", "bfloat16"), entry)
    assert set(grids.values()) == {GridSpec(4, True, 16), GridSpec(8, True, 16)}
    write_model(model, None, tmp_path / "out", "compressed-tensors", grids)
    assert torch.equal(logits(load(tmp_path / "out")), logits(model))
    write_model(model, None, tmp_path / "gptq", "gptq", grids)
    assert torch.equal(logits(loading.load(tmp_path / "gptq")), logits(model))
    halves = {name: GridSpec(4, True, 32 if "mlp" in name else 16) for name in grids}
    with pytest.raises(FormatError, match="linears on 4-bit g32 sym, 4-bit g16 sym: it holds one grid"):
        write_model(model.half(), None, tmp_path / "other", "awq", halves)


@pytest.mark.parametrize("entry", SCATTERED.values(), ids=SCATTERED)
@pytest.mark.parametrize("kind", ["compressed-tensors", "gptq"])
@pytest.mark.parametrize("name", ["llama-tied", "phi3"])
def test_groups_in_the_order_of_the_solver_are_stored_to_the_bit(
    name: str, kind: str, entry: Any, save: Save, tmp_path: Path
) -> None:
    folder = save(name, "float16")
    model, grids, _ = compressed(folder, with_scales(entry, "float16"))
    orders = [grid.group_of for grid in grids.values() if grid.group_of is not None]
    assert len(orders) == len(grids)
    assert any(not torch.equal(group_of, group_of.sort().values) for group_of in orders)
    write_model(model, None, tmp_path / "out", kind, grids)
    expected = logits(model)
    assert torch.equal(logits(load_unpacked(tmp_path / "out", folder)), expected)
    assert torch.equal(logits(loading.load(tmp_path / "out")), expected)


@pytest.mark.parametrize("kind", ["compressed-tensors", "gptq"])
def test_groups_of_both_kinds_stand_in_one_model(kind: str, save: Save, tmp_path: Path) -> None:
    late, usual = (with_scales(entry, "float16") for entry in (SCATTERED["4-bit sym"], GRIDS["gptq"]))
    entry = [{**late, "linears": ["mlp.*"]}, {**usual, "linears": ["self_attn.*"]}]
    model, grids, _ = compressed(save("llama", "float16"), entry)
    assert {name.split(".")[3] for name, grid in grids.items() if grid.scattered} == {"mlp"}
    write_model(model, None, tmp_path / "out", kind, grids)
    assert torch.equal(logits(loading.load(tmp_path / "out")), logits(model))


def test_groups_of_another_order_give_no_codes(save: Save, tmp_path: Path) -> None:
    model, grids, _ = compressed(save("llama", "float16"), with_scales(SCATTERED["4-bit sym"], "float16"))
    spoilt = {name: replace(grid, group_of=grid.group_of.flip(0)) for name, grid in grids.items()}
    with pytest.raises(FormatError, match="cannot be stored without a change"):
        write_model(model, None, tmp_path / "out", "gptq", spoilt)
    assert not (tmp_path / "out").exists()


def test_pruned_weights_stay_zero_and_in_their_pattern(save: Save, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    model, grids, report = compressed(save("llama", "bfloat16"), with_scales(GRIDS["sparsegpt"], "bfloat16"))
    assert check_pattern(model, "2:4", report) == 14
    write_model(model, None, tmp_path / "out", "compressed-tensors", grids)
    loaded = load(tmp_path / "out")
    assert torch.equal(logits(loaded), logits(model))  # and the first call unpacks the weights
    assert check_pattern(loaded, "2:4", report) == 14
    for block in decoder_blocks(loaded):
        assert all((linear.weight == 0).float().mean() >= 0.5 for linear in linears_of(block))


def test_scales_that_were_not_rounded_are_refused_with_the_setting(save: Save, tmp_path: Path) -> None:
    model, grids, _ = compressed(save("llama", "float16"), GRIDS["gptq"])
    with pytest.raises(FormatError, match=r"model\.layers\.0\.\S+ cannot be stored .*scale_dtype: float16.*dense"):
        write_model(model, None, tmp_path / "out", "compressed-tensors", grids)
    assert not list(tmp_path.iterdir())


def test_shards_are_indexed_and_loaded(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("compressed_tensors")
    monkeypatch.setattr(writer, "SHARD_BYTES", 4096)
    model, grids, _ = compressed(save("llama-tied", "bfloat16"), with_scales(GRIDS["gptq"], "bfloat16"))
    written = write_model(model, None, tmp_path / "out", "compressed-tensors", grids)
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    sizes = {}
    for file in files:
        with safe_open(tmp_path / "out" / file, "pt") as opened:
            sizes.update({key: opened.get_tensor(key).nbytes for key in opened.keys()})  # noqa: SIM118
    assert set(sizes) == set(index["weight_map"])
    assert sum(sizes.values()) == index["metadata"]["total_size"] == written.bytes
    assert torch.equal(logits(load(tmp_path / "out")), logits(model))


def test_factors_and_dense_weights_have_shards_as_well(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SHARD_BYTES", 4096)
    model, _, _ = compressed(save("llama-tied", "bfloat16"), LOW_RANK["svd"])
    expected = logits(model)
    write_model(model, None, tmp_path / "factored", "factored")
    assert len(list((tmp_path / "factored").glob("factored-*.safetensors"))) > 2
    assert torch.equal(logits(factored.load(tmp_path / "factored")), expected)
    next((tmp_path / "factored").glob("factored-*2.safetensors")).unlink()
    with pytest.raises(SettingsError, match=r"do not fit config\.json"):
        factored.load(tmp_path / "factored")
    write_model(model, None, tmp_path / "dense")
    assert len(list((tmp_path / "dense").glob("model-*.safetensors"))) > 2
    assert torch.equal(logits(load(tmp_path / "dense")), logits(model))


def test_a_full_disk_is_seen_before_anything_is_written(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(SettingsError, match=r"--out .*out: the disk has 0\.0 MiB free, the model may take 0\.\d MiB"):
        write_model(load(save("llama", "float16")), None, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_failure_on_the_way_leaves_nothing(save: Save, tmp_path: Path) -> None:
    def fail(folder: Path, written: Written) -> None:
        assert (folder / "config.json").is_file()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_model(load(save("llama", "float16")), None, tmp_path / "deep" / "out", complete=fail)
    assert not list((tmp_path / "deep").iterdir())


KILLED = """
import sys, time
from pathlib import Path
import transformers
from sweep.formats.writer import write_model

def wait(folder, written):
    print("ready", flush=True)
    time.sleep(600)

model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
write_model(model, None, Path(sys.argv[2]), complete=wait)
"""


def test_a_killed_export_leaves_no_folder_under_the_final_name(save: Save, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(save("llama", "float16")), str(out)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    (left,) = leftovers(out)
    assert left.name == f"out.partial-{process.pid}"
    assert list(tmp_path.iterdir()) == [left]
    write_model(load(save("llama", "float16")), None, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", left.name]
    assert leftovers(out) == [left]


@pytest.mark.parametrize("kind", ["dense", "compressed-tensors"])
def test_generation_settings_that_contradict_are_shipped_as_they_are(kind: str, save: Save, tmp_path: Path) -> None:
    model = load(save("llama", "float16"))
    model.generation_config.temperature = 0.25  # without sampling, as several published models have it
    method = parse_method({**GRIDS["rtn"], "scale_dtype": "float16"}, "methods[0]")
    grids = grids_by_linear(model, method, compress_model(model, method, None))
    write_model(model, None, tmp_path / "out", kind, grids)
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["temperature"] == 0.25
    assert model.generation_config.temperature == 0.25


def test_targets_without_a_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (Path("."), Path("a/..")):
        with pytest.raises(SettingsError, match="names no new folder"):
            check_target(out)


def test_targets_that_cannot_become_a_new_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name, message in {
        "file": "is there already and no folder",
        "full": "is there already and not empty",
        "link": "is there already and no folder",
        "file/deeper": "file is no folder",
    }.items():
        with pytest.raises(SettingsError, match=message):
            check_target(tmp_path / name)
    check_target(tmp_path / "empty")
    check_target(tmp_path / "missing" / "parent")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full", "link"]
