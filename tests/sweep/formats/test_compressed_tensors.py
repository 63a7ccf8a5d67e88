"""The package compressed-tensors gives back the weight of what is stored here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from methods.numerics.codes import Codes
from sweep.formats.compressed_tensors import CompressedTensors
from sweep.formats.format import GridSpec


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("group_size", [32, None])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_the_package_decompresses_the_weight(
    make_codes: Callable[..., Codes], bits: int, sym: bool, group_size: int | None, dtype: str
) -> None:
    package = pytest.importorskip("compressed_tensors.compressors")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    codes = make_codes(bits, sym=sym, group_size=group_size, dtype=dtype)
    grid = GridSpec(bits, sym, group_size)
    (group,) = CompressedTensors().config({"a": grid}, [])["config_groups"].values()
    scheme = quantization.QuantizationScheme(**group)
    found = package.PackedQuantizationCompressor.decompress(CompressedTensors().tensors(codes), scheme)["weight"]
    assert found.dtype == getattr(torch, dtype)
    assert torch.equal(found, codes.weight())


def test_shapes_are_those_that_the_loaders_ask_for(make_codes: Callable[..., Codes]) -> None:
    stored = CompressedTensors().tensors(make_codes(4, sym=False, group_size=32))
    assert {name: (tuple(t.shape), t.dtype) for name, t in stored.items()} == {
        "weight_packed": ((64, 12), torch.int32),
        "weight_scale": ((64, 3), torch.float16),
        "weight_shape": ((2,), torch.int64),
        "weight_zero_point": ((8, 3), torch.int32),
    }
    assert stored["weight_shape"].tolist() == [64, 96]
    assert "weight_zero_point" not in CompressedTensors().tensors(make_codes(4, sym=True, group_size=32))


def test_every_grid_has_a_group_of_its_own() -> None:
    first, second = GridSpec(4, True, 128), GridSpec(8, False, None)
    config = CompressedTensors().config({"a": first, "b": second, "c": first}, ["lm_head"])
    groups = config["config_groups"]
    assert [groups[name]["targets"] for name in groups] == [["a", "c"], ["b"]]
    assert groups["group_1"]["weights"]["strategy"] == "channel"
    assert config["ignore"] == ["lm_head"]
    alone = CompressedTensors().config({"a": first}, ["lm_head"])["config_groups"]
    assert alone["group_0"]["targets"] == ["Linear"]


def test_transformers_is_told_to_multiply_out_a_grid_with_zero_points() -> None:
    sym, asym = GridSpec(4, True, 128), GridSpec(4, False, 128)
    assert CompressedTensors().config({"a": asym}, [])["dequantize"] is True
    assert "dequantize" not in CompressedTensors().config({"a": sym}, [])
    assert "dequantize" not in CompressedTensors().config({"a": asym, "b": sym}, [])  # it would read b as a
