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
from typing import Any, ClassVar, Generic, TypeVar, cast

from calib.registry import Registry
from calib.settings import SettingsError, as_dict, parse, settings
from methods.inputs.collect import collect
from methods.inputs.statistic import Statistic
from methods.inputs.telemetry import Replacement, measured
from methods.lazy import torch
from methods.outcome import CompressedWeight, CompressionError, LayerReport, Measurement
from methods.protocols import BlockWork, Survey

__all__ = [
    "METHODS",
    "BlockMethod",
    "BlockWork",
    "Composition",
    "CompressedLinear",
    "CompressedWeight",
    "CompressionError",
    "LayerReport",
    "Measurement",
    "Method",
    "Survey",
    "WeightMethod",
    "compress_linear",
    "get_method",
    "method_name",
    "parse_method",
    "register",
]

M = TypeVar("M", bound="type[Method]")
N = TypeVar("N", bound="Statistic | None")  # what a weight method needs; None: nothing


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
    needs: ClassVar[type[Statistic] | None] = None  # what must be known about the inputs of every linear
    prunes: ClassVar[bool] = False
    keeps_zeros: ClassVar[bool] = True  # as a later step of a composition, it leaves pruned weights at zero
    keeps_codes: ClassVar[bool] = False  # weights become zero or stay as they are, so an earlier grid still holds them
    whole_model: ClassVar[bool] = False  # it changes every block, and what lies outside of them
    architectures: ClassVar[tuple[str, ...] | None] = None  # the model classes that it knows; None: any
    later: ClassVar[Mapping[str, Any]] = {}  # settings younger than ids in use, left out of an id at these values

    propagate: bool = True
    true_sequential: bool = False
    skip_blocks: list[int] = field(default_factory=list)
    linears: list[str] = field(default_factory=lambda: ["*"])

    def __post_init__(self) -> None:
        """Refuses combinations of settings; raises ValueError whose text starts with the setting's name."""
        if not any(not pattern.startswith("!") for pattern in self.linears):
            raise ValueError('linears: no pattern selects anything; start with "*" and exclude with "!pattern"')
        for setting, given in (("skip_blocks", self.skip_blocks), ("linears", self.linears != ["*"])):
            if self.whole_model and given:
                raise ValueError(f"{setting}: '{self.name}' changes the whole model; leave the setting out")

    @property
    def data_free(self) -> bool:
        """True when the result does not depend on calibration data."""
        return self.needs is None or not self.needs.of_data

    @property
    def needs_gradients(self) -> bool:
        """True when it looks at gradients of the loss, which take the whole model at once."""
        return self.needs is not None and self.needs.of_gradients

    @property
    def looks_at_all_blocks(self) -> bool:
        """True when what it does to one block depends on the blocks behind it as well."""
        return self.needs_gradients

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

    def for_blocks(self, survey: Survey) -> list[Method]:
        """The method of every block, where blocks differ in their settings; `survey` looks at the dense model."""
        return [self] * survey.blocks

    def check_shape(self, rows: int, cols: int, where: str) -> None:
        """Raise SettingsError when a linear of this shape cannot be compressed with these settings."""

    def check_model(self, model: torch.nn.Module) -> None:
        """Raise SettingsError when a model of this structure cannot be compressed; its weights may be on `meta`."""

    def change_outside(self, model: torch.nn.Module) -> None:
        """Change what lies outside of the decoder blocks, in place, before the walk comes to the first of them."""

    def factor_rank(self, rows: int, cols: int, sharing: int) -> int | None:
        """The rank of the two factors that take the place of a linear [rows, cols]; None: it stays one.

        `sharing`: the rows of all linears together that get the same input.
        """
        return None


@settings
class WeightMethod(Method, Generic[N]):
    """A method that treats one weight at a time: `WeightMethod[Hessian]` with `needs = Hessian`, or `[None]`."""

    def compress_weight(
        self, weight: torch.Tensor, statistic: N, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        """Return what takes the place of `weight` [rows, cols].

        `statistic` describes the inputs, of the kind that `needs` names (None when data-free). `pruned` [rows, cols]
        marks weights that an earlier step set to zero and that must stay zero. Raises CompressionError.
        """
        raise NotImplementedError(f"{type(self).__name__}.compress_weight")

    def prepare(self, statistics: Sequence[N]) -> None:
        """Told of the statistics of a block whose weights are still to come, before the weights of the first one."""

    def compress_weights(
        self,
        weights: Sequence[torch.Tensor],
        statistic: N,
        *,
        pruned: Sequence[torch.Tensor | None] | None = None,
    ) -> list[CompressedWeight]:
        """Compress weights that share one input; methods whose rows are independent solve them together."""
        masks = pruned or [None] * len(weights)
        return [self.compress_weight(w, statistic, pruned=mask) for w, mask in zip(weights, masks, strict=True)]


@settings
class BlockMethod(Method):
    """A method that changes a whole block at once: scales that move between layers, searches over a block's output."""

    def compress_block(self, work: BlockWork) -> dict[str, Measurement]:
        """Change `work.block` in place; returns the measurement of each of `work.linears` by name.

        `work.collect` is called once, while the block is still dense: without `propagate` it keeps the outputs of that
        pass, which are the next block's inputs. Raises CompressionError.
        """
        raise NotImplementedError(f"{type(self).__name__}.compress_block")


@settings
class Composition(Method):
    """Methods applied one after the other, each with its own walk; zeros made by a step are kept by the later ones."""

    steps: list[Method]

    def __post_init__(self) -> None:
        if len(self.steps) < 2:
            raise ValueError("a composition needs at least two methods")
        for first, second in zip(self.steps, self.steps[1:], strict=False):
            if second.whole_model:
                raise ValueError(f"'{second.name}' after '{first.name}' changes the whole model; put it first")
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
    dense = current = torch.as_tensor(weight)
    result: CompressedLinear | None = None
    pruned: torch.Tensor | None = None
    for number, step in enumerate(_weight_methods(method, *dense.shape)):
        started = time.perf_counter()
        with torch.no_grad(), torch.cuda.device_of(dense):
            statistic = collect(step, inputs, dense)
            compressed = step.compress_weight(current, statistic, pruned=pruned)
            stored = compressed.weight.to(current.dtype)
            cost = measured([Replacement("weight", current, stored, compressed)], statistic)["weight"]
        seconds = time.perf_counter() - started
        report = LayerReport.of(cost, step=number, block=0, linear="weight", seconds=seconds)
        result = CompressedLinear(stored, report, compressed)
        current = stored
        pruned = current == 0 if step.prunes else pruned
    assert result is not None  # there is at least one step
    return result


def _weight_methods(method: Method, rows: int, cols: int) -> list[WeightMethod[Any]]:
    """The steps of `method` for one matrix [rows, cols]. Raises SettingsError when it is not enough for one of them."""
    steps: list[WeightMethod[Any]] = []
    for step in method.steps if isinstance(method, Composition) else [method]:
        if not isinstance(step, WeightMethod):
            raise SettingsError(f"{step.name}: changes whole blocks; use methods.blockwise.compress_model")
        step.check_shape(rows, cols, "weight")
        steps.append(step)
    for step in steps[:-1]:
        if step.factor_rank(rows, cols, rows) is not None:
            raise SettingsError(
                f"{step.name}: leaves two factors, and a later step takes one matrix; compress them one by one, or "
                "use methods.blockwise.compress_model"
            )
    return steps
