"""Random Hadamard rotations of vectors of any width, the same bits on every processor.

R = H · diag(±1) with the signs from a seed. H is a Kronecker product: Sylvester's matrix for the powers of two, times
one of Paley's for what they leave (576 = 16 · 36), so all its numbers are ±1/√width. Widths for which Paley has none
(88 = 8 · 11 needs one of order 44, 43 being prime; 344 = 8 · 43 has none) get Hartley's matrix of the odd factor in its
place, orthogonal and nearly as flat. The hard case is identity: a product of matrices sums in another order on every
processor, and the hash of rotated weights would tell. So sums are taken in a fixed order, element by element, in
float64, the division by √width is rounded correctly on every device, and Hartley's cosines are cut to 40 bits, which no
library disagrees about.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from methods.lazy import torch
from methods.numerics.grids import divide

CUT = 2.0**40  # Hartley's numbers are multiples of its inverse: orthogonal to 1e-12
PIECE = 1 << 24  # numbers that are rotated at a time on a GPU: 128 MiB of float64, and twice that while sums are taken
CACHED = 1 << 18  # and on a processor, whose cache should hold them


@dataclass(frozen=True)
class Rotation:
    """The rotation R of vectors of `width`, drawn from `seed`. `name` tells rotations of one seed apart."""

    width: int
    seed: int = 0
    name: str = ""

    def rows(self, vectors: torch.Tensor) -> torch.Tensor:
        """R x for every x along the last axis of `vectors` [..., width], in float64."""
        turned = torch.empty(vectors.shape, dtype=torch.float64, device=vectors.device)
        flat, out = vectors.reshape(-1, self.width), turned.view(-1, self.width)
        step = max(1, (PIECE if vectors.is_cuda else CACHED) // self.width)
        for start in range(0, len(flat), step):
            part = flat[start : start + step].T
            part = part.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
            out[start : start + step] = self._turn(part).T
        return turned

    def columns(self, matrix: torch.Tensor) -> torch.Tensor:
        """R x for every column x of `matrix` [width, n], in float64."""
        return self.rows(matrix.T).T

    def _turn(self, vectors: torch.Tensor) -> torch.Tensor:
        """R x for the columns of float64 `vectors` [width, n], which are overwritten."""
        powers, other = factors(self.width)
        signs = torch.from_numpy(_signs(self.width, self.seed, self.name)).to(vectors.device)
        x = vectors.mul_(signs[:, None])
        half = 1
        while half < powers:  # butterflies of Sylvester's matrix
            first, second = x.view(powers // (2 * half), 2, -1).unbind(1)
            difference = first - second
            first.add_(second)
            second.copy_(difference)
            half *= 2
        if len(other) > 1:
            places = x.view(powers, len(other), -1)
            mixed = torch.zeros_like(places)
            for place, column in enumerate(torch.from_numpy(other.T.copy()).to(x.device)):
                mixed += places[:, place : place + 1] * column[:, None]  # two steps: a fused one rounds otherwise
            x = mixed.view(self.width, -1)
        return divide(x, math.sqrt(self.width))


@lru_cache(maxsize=32)
def factors(width: int) -> tuple[int, np.ndarray]:
    """(a power of two, an orthogonal matrix M [m, m] with M Mᵀ = m · 1, float64) whose orders multiply to `width`.

    M has numbers ±1 where Paley's constructions with a prime have a matrix, else at most √2.
    """
    odd = width
    while odd % 2 == 0:
        odd //= 2
    if odd == 1:
        return width, np.ones((1, 1))
    order = 4 * odd
    while width % order == 0:
        matrix = _paley(order)
        if matrix is not None:
            return width // order, matrix
        order *= 2
    return width // odd, _hartley(odd)


def _paley(order: int) -> np.ndarray | None:
    """A Hadamard matrix of this order by Paley's first or second construction; None where neither has a prime."""
    if _is_prime(order - 1) and (order - 1) % 4 == 3:
        core = _bordered(order - 1, -1.0)
        return core + np.eye(order)
    half = order // 2
    if _is_prime(half - 1) and (half - 1) % 4 == 1:
        core, one = _bordered(half - 1, 1.0), np.eye(half)
        return np.kron(core, [[1.0, 1.0], [1.0, -1.0]]) + np.kron(one, [[1.0, -1.0], [-1.0, -1.0]])
    return None


def _bordered(prime: int, corner: float) -> np.ndarray:
    """Jacobsthal's matrix of quadratic residues with a border of ones; the first column times `corner`."""
    squares = {i * i % prime for i in range(1, prime)}
    character = np.array([0.0 if i == 0 else 1.0 if i in squares else -1.0 for i in range(prime)])
    place = np.arange(prime)
    bordered = np.zeros((prime + 1, prime + 1))
    bordered[0, 1:], bordered[1:, 0] = 1.0, corner
    bordered[1:, 1:] = character[(place[:, None] - place[None, :]) % prime]
    return bordered


def _hartley(order: int) -> np.ndarray:
    """cos(2πij/m) + sin(2πij/m), m the order."""
    place = np.arange(order)
    angles = 2 * np.pi * (np.outer(place, place) % order) / order
    return np.asarray(np.round((np.cos(angles) + np.sin(angles)) * CUT) / CUT)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


@lru_cache(maxsize=32)
def _signs(width: int, seed: int, name: str) -> np.ndarray:
    """±1 (width,), float64, from a hash: generators of random numbers change between versions of a library."""
    bits = hashlib.shake_256(f"rotation {seed} {width} {name}".encode()).digest(-(-width // 8))
    return np.where(np.unpackbits(np.frombuffer(bits, np.uint8))[:width], 1.0, -1.0)
