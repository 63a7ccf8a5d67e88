"""What a compression method is, and how to get one by name. `methods/blockwise.py` walks a model with it.

A weight method answers one question, `compress_weight(weight, statistic)`: given a linear layer's weight and what is
known about its inputs, which weight takes its place? Everything else (finding the linears, collecting inputs,
propagating activations, telemetry) happens once, outside. The hard case is a numerical failure: it is either recorded
in the report (`damping`, `retries`, `fallback`) or raised as a `CompressionError` that names the layer, never hidden.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar, cast

from calib.registry import Registry
from calib.settings import SettingsError, as_dict, parse, settings
from methods.lazy import torch

if TYPE_CHECKING:
    from methods.blockwise import BlockJob
    from methods.inputs.statistics import Statistic

M = TypeVar("M", bound="type[Method]")

HALF_PRECISION_BITS = 16.0  # an uncompressed weight, a scale or a kept outlier is stored in fp16 or bf16

LARGE = 1e4  # weights from here on may have scales beyond float16

Number: TypeAlias = "float | torch.Tensor"  # a tensor is a scalar that still waits on the weight's device


class CompressionError(RuntimeError):
    """A layer could not be compressed as asked. The message names the block, the linear and the reason."""


@dataclass
class LayerReport:
    """Telemetry of one compressed linear: one row of the `layers` table."""

    step: int = 0
    block: int = 0
    linear: str = ""
    rows: int = 0
    cols: int = 0
    relative_error: float | None = None  # ‖(W−Ŵ)X‖² / ‖WX‖²; on the weights alone when the method is data-free
    damping: float | None = None  # share of the mean diagonal
    retries: int = 0
    fallback: str | None = None
    dead_columns: int = 0
    sparsity: float = 0.0
    bits: float = HALF_PRECISION_BITS
    outlier_share: float | None = None
    rank: int | None = None
    tokens: int = 0
    seconds: float = 0.0

    def as_row(self) -> dict[str, Any]:
        """The report as a row of the `layers` table, without the trial's id."""
        return dataclasses.asdict(self)


@dataclass
class CompressedWeight:
    """What takes the place of a weight.

    `weight` is the dense equivalent, [rows, cols]. When `factors` (left [rows, rank], right [rank, cols]) is given, the
    linear holds these two instead. `bits` counts everything stored per weight: codes, grids, outliers; `scale_dtype` is
    the type of the stored scales, where there are any. `loss` is the solver's own objective, where it has one:
    tr[(W−Ŵ)(H+λI)(W−Ŵ)ᵀ]. Telemetry that a solver finds on the device may stay there: `layer_reports` reads it together
    with its own, so that the host waits once for all weights of an input.
    """

    weight: torch.Tensor
    factors: tuple[torch.Tensor, torch.Tensor] | None = None
    bits: Number = HALF_PRECISION_BITS
    damping: float | None = None
    retries: int = 0
    fallback: str | None = None
    dead_columns: Number = 0
    outlier_share: Number | None = None
    rank: int | None = None
    loss: Number | None = None
    scale_dtype: str | None = None


@settings
class Method:
    """A compression method with its settings; the fields here steer the walk and belong to every method.

    propagate: inputs of the next block come from the compressed block (the reference code of GPTQ, SparseGPT, Wanda
    and SpQR); false: from the dense block (AWQ, SmoothQuant).
    true_sequential: within a block, linears are compressed in order of execution and later ones see the outputs of
    the compressed earlier ones.
    skip_blocks: numbers of blocks left dense; negative numbers count from the end.
    linears: patterns over the names of the linears inside a block (`self_attn.q_proj`, `mlp.*`); a leading `!`
    excludes. Linears that match no pattern stay dense.
    """

    name: ClassVar[str] = "method"
    version: ClassVar[int] = 1
    needs: ClassVar[str] = "none"
    prunes: ClassVar[bool] = False
    keeps_zeros: ClassVar[bool] = True  # as a later step of a composition, it leaves pruned weights at zero
    keeps_codes: ClassVar[bool] = False  # weights become zero or stay as they are, so an earlier grid still holds them
    later: ClassVar[Mapping[str, Any]] = {}  # settings younger than ids in use, left out of an id at these values

    propagate: bool = True
    true_sequential: bool = False
    skip_blocks: list[int] = field(default_factory=list)
    linears: list[str] = field(default_factory=lambda: ["*"])

    def __post_init__(self) -> None:
        """Refuses combinations of settings; raises ValueError whose text starts with the setting's name."""
        if not any(not pattern.startswith("!") for pattern in self.linears):
            raise ValueError('linears: no pattern selects anything; start with "*" and exclude with "!pattern"')

    @property
    def data_free(self) -> bool:
        """True when the result does not depend on calibration data."""
        return self.needs == "none"

    @property
    def edition(self) -> int:
        """The version of the numbers under these settings; above `version` where only some settings changed theirs."""
        return self.version

    @property
    def label(self) -> str:
        """Short label for tables and figures, such as `GPTQ 3-bit g32`."""
        parts = [self.describe()]
        if self.true_sequential:
            parts.append("true-sequential")
        if self.propagate != _default(type(self), "propagate") and not self.data_free:
            parts.append("propagated" if self.propagate else "no-propagation")
        if self.linears != ["*"]:
            parts.append("on " + " ".join(self.linears))
        if self.skip_blocks:
            parts.append("skip " + " ".join(map(str, self.skip_blocks)))
        return " ".join(parts)

    def describe(self) -> str:
        """The label without the settings of the walk."""
        return self.name

    def nominal(self) -> dict[str, Any]:
        """Nominal `bits`, `sparsity` and `pattern` (kept:group); null where the method sets none."""
        return {"bits": None, "sparsity": None, "pattern": None}

    def identity(self) -> dict[str, Any]:
        """Plain JSON of all that can change the method's numbers."""
        values = as_dict(self)
        chosen = {key: value for key, value in values.items() if key not in self.later or value != self.later[key]}
        return {"method": self.name, "version": self.edition, **chosen}

    def selects(self, linear: str) -> bool:
        """Whether the linear of this name (inside its block) is in scope."""
        chosen = any(fnmatch.fnmatchcase(linear, p) for p in self.linears if not p.startswith("!"))
        return chosen and not any(fnmatch.fnmatchcase(linear, p[1:]) for p in self.linears if p.startswith("!"))

    def skips(self, block: int, blocks: int) -> bool:
        return any(number % blocks == block for number in self.skip_blocks)

    def check_shape(self, rows: int, cols: int, where: str) -> None:
        """Raise SettingsError when a linear of this shape cannot be compressed with these settings."""

    def factor_rank(self, rows: int, cols: int, sharing: int) -> int | None:
        """The rank of the two factors that take the place of a linear [rows, cols]; None: it stays one.

        `sharing`: the rows of all linears together that get the same input.
        """
        return None


@settings
class WeightMethod(Method):
    """A method that treats one weight at a time."""

    def compress_weight(
        self, weight: torch.Tensor, statistic: Statistic | None, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        """Return what takes the place of `weight` [rows, cols].

        `statistic` describes the inputs, of the kind that `needs` names (None when data-free). `pruned` [rows, cols]
        marks weights that an earlier step set to zero and that must stay zero. Raises CompressionError.
        """
        raise NotImplementedError(f"{type(self).__name__}.compress_weight")

    def prepare(self, statistics: Sequence[Statistic]) -> None:
        """Told of the statistics of a block whose weights are still to come, before the weights of the first one."""

    def compress_weights(
        self,
        weights: Sequence[torch.Tensor],
        statistic: Statistic | None,
        *,
        pruned: Sequence[torch.Tensor | None] | None = None,
    ) -> list[CompressedWeight]:
        """Compress weights that share one input; methods whose rows are independent solve them together."""
        masks = pruned or [None] * len(weights)
        return [self.compress_weight(w, statistic, pruned=mask) for w, mask in zip(weights, masks, strict=True)]


@settings
class BlockMethod(Method):
    """A method that changes a whole block at once: scales that move between layers, searches over a block's output."""

    def compress_block(self, job: BlockJob) -> list[LayerReport]:
        """Change `job.block` in place and report on each of `job.linears`. Raises CompressionError.

        `job.collect` is called once, while the block is still dense: without `propagate` it keeps the outputs of that
        pass, which are the next block's inputs.
        """
        raise NotImplementedError(f"{type(self).__name__}.compress_block")


@settings
class Composition(Method):
    """Methods applied one after the other, each with its own walk; zeros made by a step are kept by the later ones."""

    needs: ClassVar[str] = "composition"

    steps: list[Method]

    def __post_init__(self) -> None:
        if len(self.steps) < 2:
            raise ValueError("a composition needs at least two methods")
        for first, second in zip(self.steps, self.steps[1:], strict=False):
            if first.prunes and not second.keeps_zeros:
                raise ValueError(f"'{second.name}' after '{first.name}' would undo the pruning; put it first")

    @property
    def data_free(self) -> bool:
        return all(step.data_free for step in self.steps)

    @property
    def label(self) -> str:
        return " + ".join(step.label for step in self.steps)

    def nominal(self) -> dict[str, Any]:
        merged: dict[str, Any] = {"bits": None, "sparsity": None, "pattern": None}
        for step in self.steps:
            merged.update({key: value for key, value in step.nominal().items() if value is not None})
        return merged

    def identity(self) -> dict[str, Any]:
        return {"method": method_name(self), "steps": [step.identity() for step in self.steps]}


def _default(cls: type, name: str) -> Any:
    return next(field.default for field in dataclasses.fields(cls) if field.name == name)


METHODS: Registry[type[Method]] = Registry("method", "methods")


def register(name: str) -> Callable[[M], M]:
    """Decorator that offers a method class under `name`, the name that study files use."""

    def add(cls: M) -> M:
        cls.name = name
        return cast(M, METHODS.register(name)(cls))

    return add


def get_method(name: str, **values: Any) -> Method:
    """The method of that name with these settings. Raises SettingsError with a suggestion and the valid names."""
    return parse(METHODS.get(name), values, name)


def parse_method(entry: Any, path: str) -> Method:
    """Read a method entry of a study: `"rtn"`, `{"method": "gptq", "bits": 3}`, or a list of those (a composition)."""
    if isinstance(entry, str):
        entry = {"method": entry}
    if isinstance(entry, Sequence):
        steps = [parse_method(step, f"{path}[{number}]") for number, step in enumerate(entry)]
        return parse(Composition, {"steps": steps}, path)
    if not isinstance(entry, Mapping):
        raise SettingsError(f"{path}: expected a method name, a mapping or a list of those, got {entry!r}")
    values = dict(entry)
    name = values.pop("method", None)
    if not isinstance(name, str):
        raise SettingsError(
            f"{path}.method: expected the name of a method ({', '.join(METHODS.names())}), got {name!r}"
        )
    try:
        cls = METHODS.get(name)
    except SettingsError as error:
        raise SettingsError(f"{path}.method: {error}") from None
    return parse(cls, values, path)


def method_name(method: Method) -> str:
    """`gptq`, or `sparsegpt+gptq` for a composition."""
    return "+".join(step.name for step in method.steps) if isinstance(method, Composition) else method.name


@dataclass(frozen=True)
class CompressedLinear:
    """The result of `compress_linear`: the weight that takes the place of the dense one, and its report."""

    weight: torch.Tensor  # [rows, cols], dtype of the dense weight
    report: LayerReport
    compressed: CompressedWeight


def compress_linear(method: Method, weight: Any, inputs: Any = None) -> CompressedLinear:
    """Try a weight method on one matrix: `weight` [rows, cols], `inputs` [windows, length, cols] or None if data-free.

    Accepts torch tensors or numpy arrays. Raises SettingsError when the method needs inputs and gets none, or is not a
    weight method.
    """
    from methods.inputs.statistics import collect

    weight = torch.as_tensor(weight)
    rows, cols = weight.shape
    if isinstance(method, Composition):
        return _compress_linear_steps(method, weight, inputs)
    if not isinstance(method, WeightMethod):
        raise SettingsError(f"{method.name}: changes whole blocks; use methods.blockwise.compress_model")
    method.check_shape(rows, cols, "weight")
    started = time.perf_counter()
    with torch.no_grad(), torch.cuda.device_of(weight):
        statistic = collect(method, inputs, weight)
        compressed = method.compress_weight(weight, statistic)
        return _finish(method, weight, compressed, statistic, started)


def _compress_linear_steps(method: Composition, weight: torch.Tensor, inputs: Any) -> CompressedLinear:
    from methods.inputs.statistics import collect

    steps: list[WeightMethod] = []
    for step in method.steps:
        if not isinstance(step, WeightMethod):
            raise SettingsError(f"{step.name}: changes whole blocks; use methods.blockwise.compress_model")
        step.check_shape(weight.shape[0], weight.shape[1], "weight")
        steps.append(step)
    for step in steps[:-1]:
        if step.factor_rank(weight.shape[0], weight.shape[1], weight.shape[0]) is not None:
            raise SettingsError(
                f"{step.name}: leaves two factors, and a later step takes one matrix; compress them one by one, or "
                "use methods.blockwise.compress_model"
            )
    current = weight
    result: CompressedLinear | None = None
    pruned: torch.Tensor | None = None
    for step in steps:
        started = time.perf_counter()
        with torch.no_grad(), torch.cuda.device_of(weight):
            statistic = collect(step, inputs, weight)
            compressed = step.compress_weight(current, statistic, pruned=pruned)
            result = _finish(step, current, compressed, statistic, started)
        current = result.weight
        pruned = current == 0 if step.prunes else pruned
    assert result is not None  # a composition has at least two steps
    return result


def _finish(
    method: Method, weight: torch.Tensor, compressed: CompressedWeight, statistic: Statistic | None, started: float
) -> CompressedLinear:
    stored = compressed.weight.to(weight.dtype)
    (report,) = layer_reports([Replacement(weight, stored, compressed)], statistic)
    report.seconds = time.perf_counter() - started
    return CompressedLinear(stored, report, compressed)


@dataclass(frozen=True)
class Replacement:
    """A weight and what takes its place, [rows, cols]; `stored` has the dtype that the model keeps."""

    dense: torch.Tensor
    stored: torch.Tensor
    compressed: CompressedWeight


def layer_reports(replaced: Sequence[Replacement], statistic: Statistic | None) -> list[LayerReport]:
    """Telemetry of weights that share an input. The host waits for the device once, for all numbers of all weights.

    Puts the numbers into each `CompressedWeight` as well. Raises CompressionError when a weight is not finite.
    """
    from methods.inputs.statistics import output_error
    from methods.numerics.factor import all_finite

    waiting: list[dict[str, Any]] = []
    for each in replaced:
        error, size = output_error(each.dense, each.stored, statistic)
        finite, zeros = all_finite(each.stored), (each.stored == 0).sum()
        found = {name: getattr(each.compressed, name) for name in ("bits", "dead_columns", "outlier_share", "loss")}
        waiting.append({"error": error, "size": size, "finite": finite, "zeros": zeros, **found})
    reports = []
    for each, numbers in zip(replaced, _read(waiting), strict=True):
        if not numbers["finite"]:
            raise CompressionError(_not_finite(each))
        done = each.compressed
        done.bits, done.outlier_share, done.loss = numbers["bits"], numbers["outlier_share"], numbers["loss"]
        done.dead_columns = int(numbers["dead_columns"])
        reports.append(
            LayerReport(
                rows=each.dense.shape[0],
                cols=each.dense.shape[1],
                relative_error=_ratio(numbers["error"], numbers["size"]),
                damping=done.damping,
                retries=done.retries,
                fallback=done.fallback,
                dead_columns=done.dead_columns,
                sparsity=numbers["zeros"] / each.stored.numel(),
                bits=numbers["bits"],
                outlier_share=numbers["outlier_share"],
                rank=done.rank,
                tokens=statistic.tokens if statistic is not None and statistic.of_data else 0,
            )
        )
    return reports


def _not_finite(replaced: Replacement) -> str:
    """Why a compressed weight is not finite, as far as it shows: a scale that float16 cannot hold leaves no codes."""
    message, largest = "the compressed weight holds NaN or infinity", float(replaced.dense.abs().max())
    if replaced.compressed.scale_dtype != "float16" or not LARGE <= largest < float("inf"):
        return message
    return (
        f"{message}; scales are stored as float16, which ends at 65,504, and the dense weights reach {largest:.3g}: "
        "use scale_dtype: bfloat16, or float32"
    )


def _read(waiting: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same mappings with every scalar tensor replaced by its number, all of them read at once."""
    scalars = [value for values in waiting for value in values.values() if isinstance(value, torch.Tensor)]
    numbers = iter(torch.stack([scalar.double() for scalar in scalars]).tolist())
    return [
        {name: next(numbers) if isinstance(value, torch.Tensor) else value for name, value in values.items()}
        for values in waiting
    ]


def _ratio(error: float, size: float) -> float | None:
    """Relative squared error; None when the output is zero and the error is not."""
    if size > 0:
        return max(error, 0.0) / size
    return 0.0 if error <= 0 else None
