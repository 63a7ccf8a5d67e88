"""What pruning methods have in common: how much goes, by which pattern, and how that is spread over the blocks.

Which weights are the smallest is found in `methods/numerics/selection.py`; what each block loses under `allocation:
owl`, in `methods/families/owl.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from calib.settings import SettingsError, settings
from methods.base import Method, Survey, WeightMethod
from methods.families.owl import block_sparsities

DEFAULT_SPARSITY = 0.5


@settings
class PruningMethod(WeightMethod):
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
        return self.needs == "none" and self.allocation == "uniform"

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


def parse_pattern(text: Any) -> tuple[int, int]:
    """`"2:4"` as (kept, group). Raises ValueError saying what is allowed."""
    parts = text.split(":") if isinstance(text, str) else []
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f'expected text such as "2:4" (quoted in YAML), two kept of four, got {text!r}')
    kept, group = int(parts[0]), int(parts[1])
    if not 0 < kept < group:
        raise ValueError(f"expected n:m with 0 < n < m, n kept of m, got {text!r}")
    return kept, group
