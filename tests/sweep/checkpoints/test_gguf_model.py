"""Names, shapes and configuration out of the metadata of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.settings import SettingsError
from sweep.checkpoints.gguf_file import read_gguf
from sweep.checkpoints.gguf_model import config_of, halves_of_pairs, names_of
from tests.sweep.checkpoints.gguf_files import pairs_of_halves, tiny_model, write_gguf


def test_rows_of_a_head_come_back_in_the_order_of_halves() -> None:
    """Pair i of a head is rows 2i and 2i + 1 in the file; transformers has them at i and i + head_dim / 2."""
    heads, head_dim = 3, 8
    stored = np.arange(heads * head_dim * 2).reshape(heads * head_dim, 2)
    found = halves_of_pairs(stored, heads)
    for head in range(heads):
        for pair in range(head_dim // 2):
            for side in range(2):
                row = head * head_dim + side * head_dim // 2 + pair
                np.testing.assert_array_equal(found[row], stored[head * head_dim + 2 * pair + side])
    np.testing.assert_array_equal(pairs_of_halves(found, heads), stored)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_config_has_the_numbers_of_the_model(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    config = config_of(read_gguf(write_gguf(tmp_path / "m.gguf", model), "m"), "m")
    for key in ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_key_value_heads"):
        assert config[key] == getattr(model.config, key), key
    assert config["rms_norm_eps"] == 1e-5
    assert config["rope_theta"] == model.config.rope_parameters["rope_theta"]
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (0, 0, None)


def test_names_are_those_of_the_model(tmp_path: Path) -> None:
    model = tiny_model("qwen3")
    assert set(names_of(read_gguf(write_gguf(tmp_path / "m.gguf", model), "m"))) == set(model.state_dict())


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "missing tensor": ({"tensors": {"blk.1.ffn_up.weight": None}}, r"lacks blk\.1\.ffn_up\.weight"),
    "tensor of another model": ({"tensors": {"blk.0.ssm.weight": np.ones((2, 2), np.float32)}}, r"holds blk\.0\.ssm"),
    "shape": ({"tensors": {"blk.0.attn_k.weight": np.ones((8, 64), np.float32)}}, r"attn_k\.weight is \[8, 64\].*32"),
    "no vocabulary": ({"tensors": {"token_embd.weight": None}}, r"lacks token_embd\.weight"),
    "no block count": ({"fields": {"llama.block_count": None}}, r"llama\.block_count is None"),
    "too many blocks": ({"fields": {"llama.block_count": 4_000_000_000}}, r"21 tensors for 4,000,000,000 blocks"),
    "no epsilon": ({"fields": {"llama.attention.layer_norm_rms_epsilon": None}}, r"rms_epsilon is None"),
    "experts": ({"fields": {"llama.expert_count": 8}}, "mixtures of experts are not read"),
    "yarn": ({"fields": {"llama.rope.scaling.type": "yarn"}}, "scaled by 'yarn' are not read"),
    "other frequencies": ({"tensors": {"rope_freqs.weight": np.linspace(1, 8, 8, dtype=np.float32)}}, "other frequen"),
    "part of a split": ({"fields": {"split.count": 3, "split.no": 1}}, r"one part of 3 \(split\.count\); merge them"),
    "no number of parts": ({"fields": {"split.count": "many"}}, "one part of many"),
    "no number for positions": ({"fields": {"llama.rope.freq_base": "x"}}, "freq_base is 'x'"),
    "positions of no size": ({"fields": {"llama.rope.freq_base": float("nan")}}, "freq_base is nan"),
    "half of the head turns": ({"fields": {"llama.rope.dimension_count": 8}}, "positions turn a part of a head's 16"),
    "no number for a window": ({"fields": {"llama.attention.sliding_window": "x"}}, "sliding_window is 'x'"),
    "architecture": ({"architecture": "mamba"}, "the architecture 'mamba' is not read from GGUF"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_model_of_these_families_is_refused(name: str, tmp_path: Path) -> None:
    changes, message = WRONG[name]
    gguf = read_gguf(write_gguf(tmp_path / "m.gguf", **changes), "models[0]")
    with pytest.raises(SettingsError, match=rf"^models\[0\]: .*m\.gguf.*{message}"):
        config_of(gguf, "models[0]")
