"""Whether the steps of a method fit the linears of a model, known from shapes alone, before any work.

A group size has to divide the inputs of every linear, and a low-rank step changes them: the second of its two factors
has as many inputs as the rank. So the steps of a composition are followed here on shapes. The hard case is a step
whose rank depends on which linears share an input (`joint_svd`): where that is not known, its factors are not either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from calib.settings import SettingsError
from methods.base import Method


@dataclass(frozen=True)
class LinearShape:
    """A linear of a block by its name there, and its shape.

    place: how messages call it, with `{}` for the name. shared_input: equal for linears of the block that receive the
    same tensor; None: not known. splits: it can hold two factors (fused experts cannot). made_by: the low-rank method
    that made it.
    """

    name: str
    rows: int
    cols: int
    place: str
    shared_input: str | None = None
    splits: bool = True
    made_by: str | None = None

    @property
    def where(self) -> str:
        return self.place.replace("{}", self.name)


def shapes_after(step: Method, linears: Sequence[LinearShape]) -> list[LinearShape]:
    """Check that `step` can compress those of a block's `linears` that it selects; returns the linears it leaves.

    Raises SettingsError naming the linear, its width and the remedy.
    """
    left: list[LinearShape] = []
    for linear in linears:
        if not step.selects(linear.name):
            left.append(linear)
            continue
        _check(step, linear)
        left.extend(_pieces(step, linear, linears))
    return left


def looks_at_shared_inputs(step: Method) -> bool:
    """Whether what becomes of a linear depends on the linears that receive the same input, and on nothing else."""
    return step.needs is not None and not step.needs.of_data


def _check(step: Method, linear: LinearShape) -> None:
    if linear.made_by is None:
        step.check_shape(linear.rows, linear.cols, linear.where)
        return
    try:
        step.check_shape(linear.rows, linear.cols, f"{linear.where} (a factor, {linear.rows} x {linear.cols})")
    except SettingsError as error:
        raise SettingsError(
            f"{error}; or give '{linear.made_by}' another ratio, or leave that factor out with linears"
        ) from None


def _pieces(step: Method, linear: LinearShape, linears: Sequence[LinearShape]) -> list[LinearShape]:
    """What takes the place of `linear`: itself, or its two factors in order of execution."""
    if not linear.splits or step.factor_rank(linear.rows, linear.cols, linear.rows) is None:
        return [linear]
    if looks_at_shared_inputs(step) and linear.shared_input is None:
        return []
    same_input = [each.rows for each in linears if step.selects(each.name) and each.shared_input == linear.shared_input]
    sharing = linear.rows if linear.shared_input is None else sum(same_input)
    rank = step.factor_rank(linear.rows, linear.cols, sharing)
    assert rank is not None
    first = replace(linear, name=f"{linear.name}.0", rows=rank, made_by=step.name)
    own = None if linear.shared_input is None else f"{linear.name}.1"  # its input is the first factor's output
    second = replace(linear, name=f"{linear.name}.1", cols=rank, shared_input=own, made_by=step.name)
    return [first, second] if rank > 1 else [second]  # a linear with a single output is a gate and stays as it is
