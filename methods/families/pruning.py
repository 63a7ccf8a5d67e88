"""What pruning methods have in common: how much goes, where weights compete, and in which order they go.

Most of them are one expression, the *score* of a weight: `ScoredPruning` asks for it and does the rest. What an earlier
step pruned goes first, then the smallest scores go, of each group of a pattern, of each row or of the whole matrix. The
hard case is a share that must be kept to the weight: equal scores are common in 16-bit weights, and go by index
(`methods/numerics/selection.py`). What each block loses under `allocation: owl` is found in `methods/families/owl.py`.

Words of this room: the *share* is the part of the weights that goes; a *score* says how much a weight matters; a weight
that is *pruned* by an earlier step stays at zero.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from calib.settings import SettingsError, settings
from methods.base import Method, N, WeightMethod
from methods.families.owl import block_sparsities
from methods.lazy import torch
from methods.numerics.selection import first_of_all, smallest, smallest_in_groups, smallest_spread
from methods.outcome import CompressedWeight
from methods.protocols import Survey

DEFAULT_SPARSITY = 0.5


@settings
class PruningMethod(WeightMethod[N]):
    """Settings of every pruning method: either `sparsity` (share of zeros, 0.5 if nothing is said) or `pattern`.

    pattern: `"2:4"` keeps two of every four consecutive inputs. allocation: every block loses the same share, or `owl`
    gives blocks with more outliers (|W|·‖X‖ above `owl_threshold` times the block's mean) a lower one, within
    ±`owl_lambda` (Yin et al. 2023, arXiv:2310.05175).
    """

    prunes: ClassVar[bool] = True

    sparsity: float | None = Field(default=None, ge=0, lt=1)
    pattern: str | None = None
    allocation: Literal["uniform", "owl"] = "uniform"
    owl_threshold: float = Field(default=5.0, gt=0)
    owl_lambda: float = Field(default=0.08, ge=0, lt=0.5)

    @field_validator("pattern", mode="before")
    @classmethod
    def _pattern_is_text(cls, value: Any) -> Any:
        if value is not None:
            parse_pattern(value)
        return value

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sparsity is not None and self.pattern is not None:
            raise ValueError(f"sparsity: got {self.sparsity} beside pattern {self.pattern!r}; give one of the two")
        if self.sparsity is None and self.pattern is None:
            object.__setattr__(self, "sparsity", DEFAULT_SPARSITY)
        if self.allocation != "uniform" and self.pattern is not None:
            raise ValueError(
                f"allocation: {self.allocation} needs an unstructured sparsity, got pattern {self.pattern!r}"
            )

    @property
    def edition(self) -> int:
        return self.version + (self.allocation == "owl")  # since blocks have the asked mean to the weight

    @property
    def kept_of(self) -> tuple[int, int] | None:
        """(kept, group) of the n:m pattern, None when unstructured."""
        return parse_pattern(self.pattern) if self.pattern is not None else None

    @property
    def share(self) -> float:
        """Nominal share of zeros."""
        if self.kept_of is not None:
            kept, group = self.kept_of
            return (group - kept) / group
        return self.sparsity if self.sparsity is not None else DEFAULT_SPARSITY

    @property
    def amount(self) -> str:
        """`50 %` or `2:4`."""
        if self.pattern is not None:
            return self.pattern
        return f"{100 * self.share:g} %" + (" OWL" if self.allocation == "owl" else "")

    @property
    def data_free(self) -> bool:
        return super().data_free and self.allocation == "uniform"

    @property
    def looks_at_all_blocks(self) -> bool:
        return super().looks_at_all_blocks or self.allocation == "owl"

    def nominal(self) -> dict[str, Any]:
        return {"bits": None, "sparsity": self.share, "pattern": self.pattern}

    def for_blocks(self, survey: Survey) -> list[Method]:
        if self.allocation == "uniform":
            return super().for_blocks(survey)
        sparsities = block_sparsities(survey, self.share, threshold=self.owl_threshold, width=self.owl_lambda)
        return [replace(self, sparsity=sparsities.get(block, self.sparsity)) for block in range(survey.blocks)]

    def check_shape(self, rows: int, cols: int, where: str) -> None:
        if self.kept_of is not None and cols % self.kept_of[1]:
            raise SettingsError(
                f"pattern: groups of {self.kept_of[1]} ('{self.pattern}') do not divide the {cols} inputs of {where}; "
                "use sparsity, or exclude that linear"
            )


@settings
class ScoredPruning(PruningMethod[N]):
    """A method that prunes the weights with the smallest scores, and leaves the others as they are."""

    keeps_codes: ClassVar[bool] = True

    def scores(self, weight: torch.Tensor, statistic: N) -> torch.Tensor:
        """How much each weight of `weight` [rows, cols] matters: float32 [rows, cols], at least zero."""
        raise NotImplementedError(f"{type(self).__name__}.scores")

    @property
    def by_row(self) -> bool:
        """Whether weights compete within their row, without a pattern; false: within the whole matrix."""
        return True

    def count_in_row(self, cols: int) -> int:
        """How many of the `cols` weights of every row go."""
        return int(cols * self.share)

    def mask(self, scores: torch.Tensor) -> torch.Tensor:
        """What goes, [rows, cols], from the scores; those of weights that must go are −1."""
        if self.kept_of is not None:
            return smallest_in_groups(scores, *self.kept_of)
        if not self.by_row:
            return smallest(scores.flatten(), round(scores.numel() * self.share)).view_as(scores)
        if self.allocation == "owl":  # a count that is rounded in every row would miss the blocks' mean
            return smallest_spread(scores, self.share)
        return smallest(scores, self.count_in_row(scores.shape[1]))

    def compress_weight(
        self, weight: torch.Tensor, statistic: N, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        mask = self.mask(first_of_all(self.scores(weight, statistic), pruned))
        dead = 0 if statistic is None else statistic.dead_columns
        return CompressedWeight(weight.masked_fill(mask, 0), dead_columns=dead)


def parse_pattern(text: Any) -> tuple[int, int]:
    """`"2:4"` as (kept, group). Raises ValueError saying what is allowed."""
    parts = text.split(":") if isinstance(text, str) else []
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f'expected text such as "2:4" (quoted in YAML), two kept of four, got {text!r}')
    kept, group = int(parts[0]), int(parts[1])
    if not 0 < kept < group:
        raise ValueError(f"expected n:m with 0 < n < m, n kept of m, got {text!r}")
    return kept, group
