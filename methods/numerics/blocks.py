"""A block of columns on its way through a solver: the values that column loops work on, and the update between blocks.

Everything here is transposed, [cols, rows], so that one column of the weight is contiguous; rows are independent, and
several linears that share an input are stacked along them. The loops inside a block are in `columns.py` and `spqr.py`
and, for a CUDA device, in `methods/kernels`. The hard case is the time between kernels: what a block needs of U is made
for many blocks at once.

Words of this room: U is the factor of the inverse Hessian (`factor.py`); a column's error is *spread* over the columns
of its block that are still to come, and the errors of a whole block are *pushed* onto all later ones; a weight that an
earlier step pruned is *forced* to zero; a *twin* is the plain torch version of a kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from methods.lazy import torch
from methods.numerics.grids import GridRule
from methods.numerics.precision import full_precision

WIDEST_READY = 1024  # columns of a block whose spread is made ahead


@dataclass(frozen=True)
class GridTable:
    """The grids of all columns: `scale`, `low`, `high` are [groups, rows], `group_of` [cols] names a column's group.

    `low` and `high` bound the integer that multiplies the scale (code minus zero point).
    """

    scale: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    group_of: torch.Tensor

    def part(self, start: int, stop: int) -> GridTable:
        """The same grids for some of the columns."""
        return GridTable(self.scale, self.low, self.high, self.group_of[start:stop])

    def columns(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(scale, low, high) of every column, each [cols, rows]."""
        if self.scale.shape[0] == 1:  # one grid a row: a view, no copy
            count = self.group_of.shape[0]
            return self.scale.expand(count, -1), self.low.expand(count, -1), self.high.expand(count, -1)
        return self.scale[self.group_of], self.low[self.group_of], self.high[self.group_of]


@dataclass(frozen=True)
class ColumnBlock:
    """n consecutive columns on their way through a solver.

    weights [n, rows] are used up; upper [n, n] is their part of U, ready [n, n] what `spread_of` makes of it, if that
    was made for many blocks at once; values [n, rows] receives the new columns; loss [rows] gets Σ e² of its row added.
    Rows of weights, values and ready are contiguous.
    """

    start: int
    weights: torch.Tensor
    upper: torch.Tensor
    ready: torch.Tensor | None
    values: torch.Tensor
    loss: torch.Tensor

    @property
    def stop(self) -> int:
        return self.start + self.weights.shape[0]

    @property
    def spread(self) -> torch.Tensor:
        """[n, n]: `spread_of(upper)`."""
        return spread_of(self.upper) if self.ready is None else self.ready

    def part(self, columns: slice) -> ColumnBlock:
        """Some of its columns."""
        square = (columns, columns)
        ready = None if self.ready is None else self.ready[square]
        start = self.start + columns.start
        return ColumnBlock(start, self.weights[columns], self.upper[square], ready, self.values[columns], self.loss)


@dataclass(frozen=True)
class GroupPlan:
    """How the grids of `quantize_columns` come about when they are fitted on the way (dynamic groups).

    `fresh` fits each group on weights that hold every earlier column's update; otherwise on the weights as they were
    at the start of the column block, as in the reference code.
    """

    rule: GridRule
    group_size: int
    fresh: bool = field(kw_only=True)


@dataclass(frozen=True)
class PruneRule:
    """What goes of a block of n columns, and how the rest is rounded.

    `mask` [n, rows] marks what to prune; with `kept_of` (kept, m) it is chosen instead, group by group on the updated
    weights, `forced` [n, rows] entries first. `grid` rounds what stays.
    """

    mask: torch.Tensor | None = None
    kept_of: tuple[int, int] | None = None
    forced: torch.Tensor | None = None
    grid: GridTable | None = None

    def part(self, columns: slice) -> PruneRule:
        """The same rule for some of the columns, whole groups of a pattern."""
        return PruneRule(
            None if self.mask is None else self.mask[columns],
            self.kept_of,
            None if self.forced is None else self.forced[columns],
            None if self.grid is None else self.grid.part(columns.start, columns.stop),
        )


def blocks_of(
    columns: torch.Tensor,
    upper: torch.Tensor,
    values: torch.Tensor,
    loss: torch.Tensor,
    bounds: Iterable[tuple[int, int]],
) -> Iterator[ColumnBlock]:
    """The column blocks within `bounds`, one after the other; `values` [cols, rows] and `loss` [rows] get results."""
    bounds = list(bounds)
    for (start, stop), spread in zip(bounds, _spreads(upper, bounds), strict=True):
        part = slice(start, stop)
        yield ColumnBlock(start, columns[part], upper[part, part], spread, values[part], loss)


def spread_of(upper: torch.Tensor) -> torch.Tensor:
    """[..., n, n]: the share of w − q of column i that a later column j takes over, −U_ij / U_ii; zero for j ≤ i."""
    return torch.triu(upper / -upper.diagonal(dim1=-2, dim2=-1)[..., None], 1)


def column_blocks(cols: int, block_size: int, group_size: int | None) -> Iterator[tuple[int, int]]:
    """(start, stop) of the column blocks; with `group_size` no block reaches over the start of a group."""
    start = 0
    while start < cols:
        stop = min(start + block_size, cols)
        if group_size is not None:
            stop = min(stop, (start // group_size + 1) * group_size)
        yield start, stop
        start = stop


def push(columns: torch.Tensor, upper: torch.Tensor, errors: torch.Tensor, start: int, stop: int) -> None:
    """Subtract what the errors of a solved block mean for all later columns."""
    if stop < columns.shape[0]:
        with full_precision():
            columns[stop:].addmm_(upper[start:stop, stop : columns.shape[0]].T, errors, alpha=-1)


def _spreads(upper: torch.Tensor, bounds: Sequence[tuple[int, int]]) -> Iterator[torch.Tensor | None]:
    """`spread_of` the corners of the first block and of those as wide that follow it, made at once; None for others.

    None as well for wide blocks: of a group of 28 thousand columns it would fill 3 GiB.
    """
    width, alike = bounds[0][1], 0
    if width <= WIDEST_READY:
        alike = next((i for i, (start, stop) in enumerate(bounds) if stop - start != width), len(bounds))
        down, right = upper.stride()
        yield from spread_of(upper.as_strided((alike, width, width), (width * (down + right), down, right)))
    yield from [None] * (len(bounds) - alike)
