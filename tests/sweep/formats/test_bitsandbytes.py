"""The layout is that of bitsandbytes, name by name and byte by byte; a folder gives the evaluated model back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from methods.base import parse_method
from methods.blockwise import CompressionReport, compress_model
from methods.numerics.fourbit import FourBitRule, quantize_blocks
from methods.outcome import CompressedWeight, FittedBlocks
from sweep.compress import compress, save_compressed
from sweep.formats import loading
from sweep.formats.bitsandbytes import STATE, KeptBlocks, fourbit_rule, weight_of
from sweep.formats.format import FormatError
from sweep.formats.writer import Written

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "bitsandbytes" / "fourbit.npz"
TOKENS = torch.randint(3, 250, (2, 20), generator=torch.Generator().manual_seed(0))
RULES = {
    "nf4_64": FourBitRule("nf4", 64),
    "fp4_64": FourBitRule("fp4", 64),
    "nf4_32_double": FourBitRule("nf4", 32, double_quant=True),
}
METHODS: dict[str, Any] = {
    "nf4": {"method": "nf4"},
    "fp4": {"method": "nf4", "quant_type": "fp4", "block_size": 32},
    "double": {"method": "nf4", "double_quant": True},
    "pruned before": [{"method": "magnitude"}, {"method": "nf4"}],
    "some linears": {"method": "nf4", "linears": ["mlp.*"], "skip_blocks": [0]},
}


def load_dense(folder: Path, dtype: str) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(TOKENS, use_cache=False).logits
    return found


def shipped(folder: Path, entry: Any, dtype: str, tmp_path: Path) -> tuple[Any, CompressionReport, Written]:
    """The compressed model, its report, and what was written to `tmp_path`/out."""
    model, method = load_dense(folder, dtype), parse_method(entry, "method")
    rule = fourbit_rule(method)
    assert rule is not None
    (tmp_path / "kept").mkdir()
    kept = KeptBlocks(tmp_path / "kept", rule)
    report = compress_model(model, method, None, witness=kept)
    return model, report, save_compressed(model, method, report, tmp_path / "out", kept=kept)


@pytest.mark.parametrize("name", RULES)
def test_tensors_are_those_of_the_package(name: str, tmp_path: Path) -> None:
    with np.load(GOLDEN) as arrays:
        golden = {key: torch.from_numpy(arrays[key]) for key in arrays}
    theirs = {key.partition(".")[2]: part for key, part in golden.items() if key.startswith(f"{name}.weight")}
    state = next(key for key in theirs if key.startswith(STATE))
    fitted = quantize_blocks(golden["weight"], RULES[name])[1]
    if fitted.nested is not None:  # the mean of the largest values is a sum, whose last bit depends on the processor
        offset = torch.tensor(json.loads(bytes(theirs[state].tolist()))["nested_offset"])
        fitted = FittedBlocks(theirs["weight.absmax"], theirs["weight.nested_absmax"], offset)
    kept = KeptBlocks(tmp_path, RULES[name])
    kept(0, "up", CompressedWeight(golden["weight"], fitted=fitted))
    ours = kept.packed("0.up", golden[f"{name}.expected"])
    assert ours.keys() == theirs.keys()
    for key in theirs.keys() - {state}:
        assert ours[key].dtype == theirs[key].dtype, key
        if key != "weight" or RULES[name].quant_type == "nf4":  # FP4 has two zeros
            assert torch.equal(ours[key], theirs[key]), key
    assert torch.equal(weight_of(ours), golden[f"{name}.expected"])
    said = [json.loads(bytes(stored[state].tolist())) for stored in (ours, theirs)]
    assert said[0] == said[1]
    assert torch.equal(weight_of(theirs), golden[f"{name}.expected"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", METHODS)
def test_the_folder_gives_the_model_back(name: str, dtype: str, tiny_model: Path, tmp_path: Path) -> None:
    model, report, written = shipped(tiny_model, METHODS[name], dtype, tmp_path)
    assert written.format == "bitsandbytes"
    assert torch.equal(logits(loading.load(tmp_path / "out")), logits(model))
    tables = 8 * (64 + 256 + (1024 if name == "double" else 0)) * written.packed_linears  # levels, and what is said
    assert written.bits_per_weight is not None
    assert report.average_bits is not None
    assert 0 < written.bits_per_weight - report.average_bits <= tables / written.packed_weights


@pytest.mark.parametrize("name", METHODS)
def test_the_configuration_names_levels_and_what_stays_dense(name: str, tiny_model: Path, tmp_path: Path) -> None:
    model, _, _ = shipped(tiny_model, METHODS[name], "bfloat16", tmp_path)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    stored = load_file(tmp_path / "out" / "model.safetensors")
    packed = {key.partition(f".{STATE}")[0] for key in stored if STATE in key}
    linears = {key for key, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(config["llm_int8_skip_modules"]) == linears - packed
    assert "lm_head" in config["llm_int8_skip_modules"]
    assert config["quant_method"] == "bitsandbytes"
    assert config["bnb_4bit_quant_type"] == ("fp4" if name == "fp4" else "nf4")
    assert config["bnb_4bit_use_double_quant"] == (name == "double")
    assert config["bnb_4bit_compute_dtype"] == "bfloat16"


def within_rows(entry: Any) -> Any:
    """The method with blocks that end with a row: the package's code for AVX-512 gets others wrong."""
    if isinstance(entry, list):
        return [within_rows(step) for step in entry]
    return {**entry, "block_size": 32} if entry["method"] == "nf4" else entry


@pytest.mark.parametrize("name", METHODS)
def test_transformers_loads_it_with_the_package(name: str, tiny_model: Path, tmp_path: Path) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    model, _, _ = shipped(tiny_model, within_rows(METHODS[name]), "bfloat16", tmp_path)
    loaded = load_dense(tmp_path / "out", "auto")
    weights = dict(model.named_parameters())
    packed = {key: m.weight for key, m in loaded.named_modules() if isinstance(m, bnb.nn.Linear4bit)}
    assert packed
    for key, weight in packed.items():
        found = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
        assert torch.equal(found.cpu(), weights[f"{key}.weight"]), key  # it loads onto a GPU where there is one


def test_a_weight_that_a_later_step_changed_is_named(tiny_model: Path, tmp_path: Path) -> None:
    model, _, _ = shipped(tiny_model, METHODS["nf4"], "bfloat16", tmp_path)
    kept = KeptBlocks(tmp_path / "kept", FourBitRule())
    weight = model.get_submodule("model.layers.1.mlp.up_proj").weight.detach().clone()
    weight[0, 0] *= 1.5
    with pytest.raises(FormatError, match=r"1\.mlp\.up_proj is not on the levels"):
        kept.packed("1.mlp.up_proj", weight)


def test_without_its_witness_the_weights_are_written_as_they_are(tiny_model: Path, tmp_path: Path) -> None:
    model, method = load_dense(tiny_model, "bfloat16"), parse_method("nf4", "method")
    report = compress_model(model, method, None)
    with pytest.raises(FormatError, match=r"--format bitsandbytes: .*sweep\.formats\.bitsandbytes has"):
        save_compressed(model, method, report, tmp_path / "out", format="bitsandbytes")
    assert save_compressed(model, method, report, tmp_path / "out").format == "dense"


def test_one_command_writes_it_with_its_card(tiny_model: Path, tmp_path: Path) -> None:
    written = compress(str(tiny_model), "nf4", None, tmp_path / "out")
    assert (written.format, written.counted_bits) == ("bitsandbytes", pytest.approx(4.5, abs=0.1))
    assert "read by transformers with the packages bitsandbytes" in (tmp_path / "out" / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
