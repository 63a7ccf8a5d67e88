"""XᵀX by the Triton kernel beside float64: on a CUDA device, or on a CPU in Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch

from methods.base import CompressionError
from methods.inputs.hessian import Hessian
from methods.numerics.backend import column_backend, has_triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float16] if INTERPRETED else [torch.bfloat16, torch.float16]  # the interpreter truncates bfloat16
LIMIT = 1e-6 if INTERPRETED else 3e-6  # matrix units round sums down, also of 128 tokens
ON_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
needs_kernels = pytest.mark.skipif(
    not has_triton() or not (INTERPRETED or ON_HOPPER),
    reason="needs Triton, and a CUDA device of capability 9 or TRITON_INTERPRET=1",
)
if has_triton() and (INTERPRETED or ON_HOPPER):
    from methods.kernels import gram

    if INTERPRETED:
        LAUNCHES = [gram.Launch(16, 16, 16), gram.Launch(32, 16, 16, group=2), gram.Launch(16, 32, 32, group=2)]
    else:
        LAUNCHES = [gram.LAUNCH, gram.Launch(128, 256, 64, warps=16)]
    WIDE = 160 if INTERPRETED else gram.FEWEST_COLUMNS + 264  # columns of a Hessian that the kernel takes
else:
    LAUNCHES, WIDE = [None], 1280

SHAPES = [(1, 8), (3, 24), (96, 72), (200, 100), (2100, 40)]
INTERPRETED_BY_DEFAULT = ("test_upper_triangle_is_that_of_float64", "test_a_hessian_takes_the_kernel")


def normal(tokens, cols, dtype=DTYPES[0], seed=0):
    """Inputs [tokens, cols] with a mean, so that sums have one sign; rows begin at multiples of 16 bytes."""
    values = torch.randn(tokens, cols + -cols % 8, generator=torch.Generator().manual_seed(seed)) + 0.5
    return values.to(dtype).to(DEVICE)[:, :cols]


def product(inputs, launch=None, chunk=128, times=1):
    total = torch.zeros(inputs.shape[1], inputs.shape[1], device=inputs.device)
    for _ in range(times):
        gram.add_gram(total, inputs, chunk, launch)
    return total


def error_of(found, inputs, times=1):
    """Relative error of the upper triangle."""
    exact = times * inputs.double().T @ inputs.double()
    return float((found.double() - exact).triu().norm() / exact.triu().norm())


def test_the_kernel_is_right_in_the_interpreter(in_interpreter):
    in_interpreter(*INTERPRETED_BY_DEFAULT)


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("launch", LAUNCHES)
@pytest.mark.parametrize(("tokens", "cols"), SHAPES if INTERPRETED else [*SHAPES, (5000, 392), (3000, 1032)])
def test_upper_triangle_is_that_of_float64(tokens, cols, launch, dtype):
    inputs = normal(tokens, cols, dtype)
    assert error_of(product(inputs, launch), inputs) <= LIMIT


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize("launch", LAUNCHES)
def test_rows_with_a_gap_between_them(launch):
    inputs = normal(150, 128)[::3, 16:88]
    assert gram.suits(inputs) == INTERPRETED
    assert error_of(product(inputs, launch), inputs) <= LIMIT


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize("launch", LAUNCHES)
def test_calls_add_up_and_a_call_gives_the_same_again(launch):
    inputs = normal(2100, 100)
    found = product(inputs, launch, times=3)
    assert error_of(found, inputs, times=3) <= LIMIT
    assert torch.equal(found, product(inputs, launch, times=3))


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize("launch", LAUNCHES)
def test_what_is_below_the_tiles_of_the_diagonal_stays(launch):
    cols = 2 * max(launch.rows, launch.columns)
    inputs = normal(64, cols)
    total = torch.full((cols, cols), 3.0, device=DEVICE)
    gram.add_gram(total, inputs, 64, launch)
    assert (total[cols // 2 :, : cols // 2] == 3).all()
    assert error_of(total - 3, inputs) <= 1e-5


@needs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (256, 128), (128, 256), (64, 256)])
@pytest.mark.parametrize("cols", [8, 128, 1000, 2048])
@pytest.mark.parametrize("group", [4, 8])
def test_tiles_cover_the_upper_triangle_once(cols, rows, columns, group):
    tiles = [tuple(tile) for tile in gram.tiles_of(cols, rows, columns, group, torch.device("cpu")).tolist()]
    every = {(i, j) for i in range(0, cols, rows) for j in range(0, cols, columns)}
    assert len(set(tiles)) == len(tiles)
    assert set(tiles) == {(i, j) for i, j in every if min(j + columns, cols) > i}


@needs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("tiles", [1, 36, 131, 132, 136, 272, 528, 1892])
def test_parts_shorten_the_last_turn(tiles):
    whole, parts = gram.split_of(tiles, 132, 32)
    assert 1 <= parts <= gram.MOST_PARTS
    assert whole == tiles or (whole % 132 == 0 and tiles - whole < 132)
    turns = whole / 132 if parts > 1 else -(-tiles // 132)
    turns += -(-(tiles - whole) * parts // 132) / parts
    assert turns <= tiles / 132 + 0.15
    assert gram.split_of(tiles, 132, 1) == (tiles, 1)


@needs_kernels
@pytest.mark.gpu
def test_what_the_copy_engine_cannot_read_is_refused():
    wide = normal(64, WIDE + 8)
    assert gram.suits(wide[:, 8:])
    assert not gram.suits(wide[:, 1:])  # address
    assert not gram.suits(wide.T)
    assert not gram.suits(wide.float())
    assert not gram.suits(torch.zeros(64, WIDE + 1, dtype=wide.dtype, device=DEVICE))  # distance of rows


@pytest.mark.gpu
@needs_kernels
def test_a_hessian_takes_the_kernel(monkeypatch):
    calls, add_gram = [], gram.add_gram
    monkeypatch.setattr(gram, "add_gram", lambda *arguments: [calls.append(arguments), add_gram(*arguments)])
    found = {}
    for backend in ("triton", "torch"):
        with column_backend(backend):
            statistic = Hessian(WIDE, DEVICE)
            statistic.update(normal(96, WIDE), windows=1)
            assert torch.equal(statistic.hessian, statistic.hessian.T)
            statistic.update(normal(200, WIDE, seed=1), windows=2)
            found[backend] = statistic.hessian
    assert len(calls) == 2 * gram.suits(normal(96, WIDE))
    assert (found["triton"] - found["torch"]).norm() <= LIMIT * found["torch"].norm()
    assert torch.equal(found["triton"], found["triton"].T)


@pytest.mark.gpu
@needs_kernels
@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, in the interpreter
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_reach_the_sum(bad):
    inputs = normal(96, WIDE)
    inputs[40, 7] = bad
    with column_backend("triton"):
        statistic = Hessian(WIDE, DEVICE)
        statistic.update(inputs)
        with pytest.raises(CompressionError, match="NaN or infinity"):
            _ = statistic.hessian


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device")
def test_hessian_of_262144_tokens_is_within_1e_5_of_float64():
    """With the kernel where it is taken, with torch elsewhere."""
    statistic, exact = Hessian(WIDE, DEVICE), torch.zeros(WIDE, WIDE, dtype=torch.float64, device=DEVICE)
    for batch in range(8):
        generator = torch.Generator(DEVICE).manual_seed(batch)
        values = torch.randn(32768, WIDE, generator=generator, device=DEVICE)
        inputs = (values * 2 + 0.5).bfloat16()
        statistic.update(inputs, windows=16)
        exact += inputs.double().T @ inputs.double()
    exact *= 2 / 128
    assert (statistic.hessian - exact).norm() <= 1e-5 * exact.norm()
