"""Rotations equal their plain matrices, turn nothing longer or shorter, and are the same whatever is turned with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods.numerics import hadamard
from methods.numerics.hadamard import Rotation, factors

ALL_SIGNS = [2, 12, 20, 28, 36, 64, 88, 352, 384, 576, 896]  # widths for which a Hadamard matrix is constructed
OTHERS = [1, 3, 100, 172]


def plain(width: int, seed: int = 0) -> np.ndarray:
    """The matrix of the rotation, (width, width), as a Kronecker product."""
    powers, other = factors(width)
    matrix = np.ones((1, 1))
    while len(matrix) < powers:
        matrix = np.kron([[1, 1], [1, -1]], matrix)
    signs = hadamard._signs(width, seed, "")
    return np.kron(matrix, other) * signs / np.sqrt(width)


@pytest.mark.parametrize("width", [*ALL_SIGNS, *OTHERS])
def test_rotations_are_orthogonal_and_equal_their_plain_matrix(width: int) -> None:
    matrix = Rotation(width).rows(torch.eye(width)).T.numpy()
    assert np.allclose(matrix, plain(width), atol=1e-12)
    assert np.allclose(matrix @ matrix.T, np.eye(width), atol=1e-11)


@pytest.mark.parametrize("width", ALL_SIGNS)
def test_all_numbers_are_of_one_size_where_there_is_a_hadamard_matrix(width: int) -> None:
    matrix = Rotation(width).rows(torch.eye(width))
    assert torch.allclose(matrix.abs() * width**0.5, torch.ones_like(matrix))


def test_another_seed_or_name_is_another_rotation() -> None:
    x = torch.arange(64.0)
    turned = [Rotation(64, seed, name).rows(x) for seed, name in ((0, "a"), (1, "a"), (0, "b"))]
    assert not any(torch.equal(turned[0], other) for other in turned[1:])


@pytest.mark.parametrize("width", [64, 32, 36, 172])  # of 64 alone the root is a power of two
def test_a_vector_is_turned_to_the_same_bits_in_any_company(
    width: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = torch.randn(3, 50, width, generator=torch.Generator().manual_seed(0)).to(device)
    together = Rotation(width).rows(vectors)
    assert torch.equal(together[1, 7], Rotation(width).rows(vectors[1, 7]))
    assert torch.equal(together[1].T, Rotation(width).columns(vectors[1].T))
    monkeypatch.setattr(hadamard, "CACHED", 5 * width)
    monkeypatch.setattr(hadamard, "PIECE", 5 * width)
    assert torch.equal(together, Rotation(width).rows(vectors))
    assert torch.equal(together.cpu(), Rotation(width).rows(vectors.cpu()))


def test_the_signs_of_a_seed_never_change() -> None:
    first_row = Rotation(8, 0, "stream").rows(torch.eye(8))[:, 0]
    assert first_row.sign().tolist() == [-1, -1, 1, 1, -1, 1, 1, -1]
