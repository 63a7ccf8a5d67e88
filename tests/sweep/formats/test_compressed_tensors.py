"""The package compressed-tensors gives back the weight of what is stored here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from methods.numerics.codes import Codes
from sweep.formats.compressed_tensors import CompressedTensors
from sweep.formats.format import GridSpec
from tests.sweep.formats.conftest import scatter


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


def read_scattered(stored: dict[str, torch.Tensor], bits: int) -> torch.Tensor:
    """The weight [rows, cols] by the package's unpacking: as its versions before 0.19, every input by its own group."""
    unpack = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers").unpack_from_int32
    shape, scale, group = torch.Size(stored["weight_shape"].tolist()), stored["weight_scale"], stored["weight_g_idx"]
    codes = unpack(stored["weight_packed"], bits, shape).float()  # less 2^(bits - 1), as are zero points
    if "weight_zero_point" in stored:
        zeros = torch.Size([shape[0], scale.shape[1]])
        codes -= unpack(stored["weight_zero_point"], bits, zeros, packed_dim=0)[:, group.long()].float()
    return (codes * scale[:, group.long()].float()).to(scale.dtype)


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [3, 4])
def test_inputs_of_a_group_that_do_not_stand_together_are_named(
    make_codes: Callable[..., Codes], bits: int, sym: bool
) -> None:
    codes = scatter(make_codes(bits, sym=sym, group_size=32))
    grid = GridSpec(bits, sym, 32, scattered=True)
    stored, config = CompressedTensors().tensors(codes), CompressedTensors().config({"a": grid}, [])
    assert config["config_groups"]["group_0"]["weights"]["actorder"] == "group"
    assert "dequantize" not in config  # transformers does not pass the groups on to it, and would get other weights
    assert CompressedTensors().grid(config, "a") == grid
    assert (stored["weight_g_idx"].dtype, stored["weight_g_idx"].shape) == (torch.int32, (96,))
    assert torch.equal(read_scattered(stored, bits), codes.weight())
    assert torch.equal(CompressedTensors().codes(stored, grid).weight(), codes.weight())


@pytest.mark.parametrize("sym", [True, False])
def test_older_versions_of_the_package_put_scattered_groups_together(
    make_codes: Callable[..., Codes], sym: bool
) -> None:
    package = pytest.importorskip("compressed_tensors")
    if tuple(map(int, package.__version__.split(".")[:2])) >= (0, 19):
        pytest.skip("0.19 reads no weight_g_idx")
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme

    codes = scatter(make_codes(4, sym=sym, group_size=32))
    (group,) = CompressedTensors().config({"a": GridSpec(4, sym, 32, scattered=True)}, [])["config_groups"].values()
    stored = CompressedTensors().tensors(codes)
    found = PackedQuantizationCompressor.decompress(stored, QuantizationScheme(**group))["weight"]
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
