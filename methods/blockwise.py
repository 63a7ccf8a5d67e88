"""The one walk over a decoder: capture the first block's input, then collect, compress and propagate block by block.

Works for decoders of transformers whose blocks are a `ModuleList` and pass on hidden states alone. One cheap forward,
with every block replaced by the identity, records the hidden states that enter block 0 and the arguments of every block
(they differ by layer in some architectures). Then each block sees all calibration windows: a first pass collects what
the method needs about each distinct input of its linears (q, k and v share one) and stops at the last input that is
needed; the linears are compressed; a second pass with the compressed block produces the inputs of the next. Hard cases:
padding never enters a statistic, experts may see no token at all (recorded, left dense), and a failure names the block
and the linear.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from calib.settings import SettingsError
from methods.base import BlockLinear, BlockMethod, Composition, Method, WeightMethod
from methods.families.owl import block_sparsities, outlier_share
from methods.families.pruning import PruningMethod
from methods.inputs.fisher import Fisher
from methods.inputs.norms import FeatureNorms
from methods.inputs.statistic import Statistic
from methods.inputs.structure import Structure
from methods.inputs.telemetry import Replacement, measured
from methods.lazy import torch
from methods.numerics.backend import backend_of
from methods.outcome import HALF_PRECISION_BITS, CompressedWeight, CompressionError, LayerReport, Measurement
from methods.walk.factored import refuse_to_save_factors
from methods.walk.fused import fused
from methods.walk.gradients import Sums, squared_gradients
from methods.walk.lengths import forgetful, length_rule, padded_positions
from methods.walk.linears import Linear, Unreachable, experts_of, linears_of, unreachable, watched
from methods.walk.residency import device_memory, home_of, parked, resident
from methods.walk.shapes import LinearShape, shapes_after
from methods.walk.shared import refuse_shared

TOKENS_PER_BATCH_CPU = 512  # fits the caches of a core: measured on the bundled models
TOKENS_PER_BATCH_GPU = 32768
HIDDEN_SHARE = 0.125  # of the free memory of a GPU for hidden states: the factor of a wide Hessian needs most of it
DTYPES = ("float32", "bfloat16", "float16", "float64")  # of weights that can be compressed
NO_TOKENS = "no calibration token reached it: left dense"

Progress = Callable[[int, int], None]


@dataclass
class CompressionReport:
    """What happened to every linear, and the model's totals. `seconds` is the wall time of the walk.

    `backend` names what runs column loops on the model's device: `torch`, or Triton with its version. `keep_codes`:
    numbers of the steps after which a weight is still on the grid of an earlier step.
    """

    layers: list[LayerReport] = field(default_factory=list)
    seconds: float = 0.0
    backend: str = "torch"
    keep_codes: frozenset[int] = frozenset()

    @property
    def final(self) -> list[LayerReport]:
        """The latest report of every linear: the model as it is now.

        Pruning after quantization leaves the codes, and with them the earlier step's bits, as does a step that left the
        linear as it was. The two factors of a linear
        (`up_proj.0`, `up_proj.1`) take its place as soon as a later step compresses one of them; the other one is
        stored as it was.
        """
        latest: dict[tuple[int, str], LayerReport] = {}
        for layer in self.layers:
            name = layer.linear.rpartition(".")[0]
            whole = latest.get((layer.block, name))
            if whole is not None and whole.step < layer.step and whole.rank is not None:
                del latest[layer.block, name]
                latest.update({(layer.block, factor.linear): factor for factor in _factors(whole, whole.rank)})
            before = latest.get((layer.block, layer.linear))
            stays = layer.step in self.keep_codes or layer.fallback == NO_TOKENS
            latest[layer.block, layer.linear] = replace(layer, bits=before.bits) if before and stays else layer
        return list(latest.values())

    @property
    def achieved_sparsity(self) -> float:
        """Share of zero weights over the compressed linears."""
        return self._mean(lambda layer: layer.sparsity)

    @property
    def average_bits(self) -> float:
        """Stored bits per weight of the dense linears in scope, grids and outliers included."""
        dense: dict[tuple[int, str], int] = {}
        for layer in self.layers:
            if (layer.block, layer.linear.rpartition(".")[0]) not in dense:
                dense.setdefault((layer.block, layer.linear), layer.rows * layer.cols)
        stored = sum(layer.bits * layer.rows * layer.cols for layer in self.final)
        return stored / sum(dense.values()) if dense else 0.0

    @property
    def layer_error(self) -> float:
        """Mean over the linears of their relative output error."""
        errors = [layer.relative_error for layer in self.final if layer.relative_error is not None]
        return sum(errors) / len(errors) if errors else 0.0

    @property
    def fallbacks(self) -> int:
        """Linears that needed a recorded numerical fallback, in any step."""
        return sum(layer.fallback is not None for layer in self.layers)

    def _mean(self, value: Callable[[LayerReport], float]) -> float:
        total = sum(layer.rows * layer.cols for layer in self.final)
        return sum(value(layer) * layer.rows * layer.cols for layer in self.final) / total if total else 0.0


def _factors(whole: LayerReport, rank: int) -> list[LayerReport]:
    """What stands for the two factors of a linear that no later step has reported: stored in half precision."""
    shapes = [(rank, whole.cols), (whole.rows, rank)]
    return [
        LayerReport.of(
            Measurement(rows=rows, cols=cols, bits=HALF_PRECISION_BITS),
            step=whole.step,
            block=whole.block,
            linear=f"{whole.linear}.{number}",
            seconds=0.0,
        )
        for number, (rows, cols) in enumerate(shapes)
    ]


@dataclass
class Batches:
    """The calibration windows on their way through the model, batch by batch.

    hidden: per batch [windows, length, width]. arguments: per batch and block, what the block gets besides. valid: per
    batch a flat mask [windows · length] of the tokens that are not padding, or None.
    """

    hidden: list[torch.Tensor]
    arguments: list[list[tuple[tuple[Any, ...], dict[str, Any]]]]
    valid: list[torch.Tensor | None]
    home: Any = None  # where hidden states wait between blocks; None: on the model's device
    tuples: bool | None = None  # blocks give back a tuple, known when one has run

    def __len__(self) -> int:
        return len(self.hidden)

    def run(self, block: Any, index: int, batch: int) -> torch.Tensor:
        """The output of `block`, number `index` of the model, for one batch."""
        positional, keywords = self.arguments[batch][index]
        device = next(block.parameters()).device
        output = block(self.hidden[batch].to(device, non_blocking=True), *positional, **keywords)
        self.tuples = isinstance(output, tuple)
        result: torch.Tensor = output[0] if self.tuples else output
        return result

    def first_window(self) -> Batches:
        """The first window alone, with its part of the arguments that differ from window to window."""
        hidden = self.hidden[0]
        arguments = [_first_of(given, hidden.shape[0]) for given in self.arguments[0]]
        return replace(self, hidden=[hidden[:1]], arguments=[arguments], valid=[None])

    def keep(self, batch: int, hidden: torch.Tensor) -> None:
        self.hidden[batch] = self.at_home(hidden, self.hidden[batch])

    def at_home(self, hidden: torch.Tensor, place: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states where they wait between blocks, in the memory of `place` where it can be used again."""
        return hidden if self.home is None or hidden.device == self.home else parked(hidden, place)


def _first_of(value: Any, windows: int) -> Any:
    """`value` with the first row of every tensor that has a row for each of `windows`."""
    if isinstance(value, torch.Tensor):
        return value[:1] if value.dim() > 1 and value.shape[0] == windows else value
    if isinstance(value, (tuple, list)):
        return type(value)(_first_of(item, windows) for item in value)
    return {key: _first_of(item, windows) for key, item in value.items()} if isinstance(value, dict) else value


class _StopPassError(Exception):
    """All inputs that are needed have been seen."""


def decoder_blocks(model: Any) -> Any:
    """The `ModuleList` of the model's decoder blocks. Raises SettingsError when there is none."""
    config = getattr(model, "config", None)
    text = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    wanted = getattr(text, "num_hidden_layers", None)
    lists = [module for module in _decoder(model).modules() if isinstance(module, torch.nn.ModuleList)]
    for blocks in lists:
        if len(blocks) and (wanted is None or len(blocks) == wanted):
            return blocks
    raise SettingsError(
        f"model: {type(model).__name__} has no ModuleList of {wanted} decoder blocks; give a decoder-only model"
    )


def compress_model(
    model: Any,
    method: Method,
    tokens: Any = None,
    *,
    attention_mask: Any = None,
    batch_size: int | None = None,
    offload: bool | None = None,
    progress: Progress | None = None,
) -> CompressionReport:
    """Compress the model in place with calibration `tokens` [nsamples, seqlen] (None for a data-free method).

    attention_mask: [nsamples, seqlen], zero at padding. batch_size: windows per forward, a matter of speed. offload:
    hidden states wait in host memory between blocks (None: when a GPU is crowded). progress: called with (blocks done,
    blocks in all). Raises SettingsError before any work when the settings do not fit the model, CompressionError
    naming block and linear. A model that holds low-rank factors afterwards refuses `save_pretrained`
    (`methods/walk/factored.py`).
    """
    started = time.perf_counter()
    steps = list(method.steps) if isinstance(method, Composition) else [method]
    if not method.data_free and tokens is None:
        raise SettingsError(f"tokens: {method.label} needs calibration tokens [nsamples, seqlen], got None")
    _check_place(model)
    report = CompressionReport(
        backend=backend_of(next(model.parameters())),
        keep_codes=frozenset(number for number, step in enumerate(steps) if step.keeps_codes),
    )
    was_training = model.training
    model.eval()
    try:
        # kernels run on the current device
        with torch.no_grad(), torch.cuda.device_of(next(model.parameters())), forgetful(model), fused(model):
            _check(model, steps)
            for number, step in enumerate(steps):
                keep_zeros = any(earlier.prunes for earlier in steps[:number])
                walk = Walk(model, step, number, keep_zeros, progress, number, len(steps))
                data = None if step.data_free else Data(tokens, attention_mask, batch_size, offload)
                report.layers.extend(walk.run(data))
    finally:
        model.train(was_training)
        refuse_to_save_factors(model)
    report.seconds = time.perf_counter() - started
    return report


@dataclass(frozen=True)
class Data:
    """The calibration tokens [nsamples, seqlen], their mask, and how to send them through the model."""

    tokens: Any
    attention_mask: Any = None
    batch_size: int | None = None
    offload: bool | None = None


@dataclass
class Walk:
    """One step of a method through all blocks of a model. `keep_zeros`: zeros in the weights stay zero."""

    model: Any
    method: Method
    step: int
    keep_zeros: bool
    progress: Progress | None
    done_steps: int
    steps: int

    def run(self, data: Data | None) -> list[LayerReport]:
        """Compress every block; `data` is None when data-free."""
        blocks = decoder_blocks(self.model)
        scope = [self._scope(block, index, len(blocks)) for index, block in enumerate(blocks)]
        last = max((index for index, linears in enumerate(scope) if linears), default=-1)
        methods = self._allocate(blocks, scope, data)
        gradients = self._gradients(scope, data)
        batches = self._capture(blocks, data)
        reports: list[LayerReport] = []
        for index, block in enumerate(blocks):
            if index > last:
                break
            job = BlockJob(
                methods[index],
                block,
                index,
                scope[index],
                batches,
                last=index == last,
                keep_zeros=self.keep_zeros,
                step=self.step,
                gradients=gradients,
            )
            with resident(self.model, index, index + 1 if index < last else None, changes=bool(scope[index])):
                reports.extend(job.run())
            if self.progress is not None:
                self.progress(self.done_steps * len(blocks) + index + 1, self.steps * len(blocks))
        if self.progress is not None:
            self.progress((self.done_steps + 1) * len(blocks), self.steps * len(blocks))
        return reports

    def _capture(self, blocks: Any, data: Data | None) -> Batches | None:
        if self.method.needs is None:
            return None
        if not self.method.needs.of_data:  # which linears share an input shows in any forward
            return capture(self.model, blocks, Data([[0, 0]]))
        assert data is not None
        return capture(self.model, blocks, data)

    def _gradients(self, scope: list[list[Linear]], data: Data | None) -> dict[int, Sums]:
        """Sums of squared gradients by address of the weight, for methods that need the Fisher information."""
        if not self.method.needs_gradients:
            return {}
        assert data is not None
        linears = [linear for block in scope for linear in block]
        sums = squared_gradients(self.model, linears, data.tokens, data.attention_mask)
        return {linear.weight.data_ptr(): sums[index] for index, linear in enumerate(linears)}

    def _allocate(self, blocks: Any, scope: list[list[Linear]], data: Data | None) -> list[Method]:
        """The method of every block: with OWL each block has its own sparsity."""
        method = self.method
        if not isinstance(method, PruningMethod) or method.allocation != "owl":
            return [method] * len(blocks)
        assert data is not None
        batches = capture(self.model, blocks, data)
        shares: dict[int, float] = {}
        sizes = {index: sum(linear.weight.numel() for linear in linears) for index, linears in enumerate(scope)}
        for index, block in enumerate(blocks):
            with resident(self.model, index, index + 1 if index + 1 < len(blocks) else None):
                if scope[index]:
                    shares[index] = self._outlier_share(block, index, scope[index], batches)
                for batch in range(len(batches)):
                    batches.keep(batch, batches.run(block, index, batch))
        chosen = block_sparsities(
            list(shares.values()), [sizes[index] for index in shares], method.share, method.owl_lambda
        )
        sparsities = dict(zip(shares, chosen, strict=True))
        return [replace(method, sparsity=sparsities.get(index, method.sparsity)) for index in range(len(blocks))]

    def _outlier_share(self, block: Any, index: int, linears: list[Linear], batches: Batches) -> float:
        assert isinstance(self.method, PruningMethod)
        collector = Collector(linears, FeatureNorms, False, False)
        for batch in range(len(batches)):
            collector.run(block, index, batches, batch)
        scores = [
            linear.weight.float().abs() * group.statistic.squared_norms.sqrt()
            for group in collector.finished()
            for linear in group.linears
            if isinstance(group.statistic, FeatureNorms)
        ]
        return outlier_share(scores, self.method.owl_threshold)

    def _scope(self, block: Any, index: int, blocks: int) -> list[Linear]:
        return [] if self.method.skips(index, blocks) else [t for t in linears_of(block) if self.method.selects(t.name)]


@dataclass
class BlockJob:
    """The work on one block: collect, compress, propagate."""

    method: Method
    block: Any
    index: int
    linears: list[Linear]
    batches: Batches | None
    last: bool
    keep_zeros: bool
    step: int = 0
    gradients: dict[int, Sums] = field(default_factory=dict)
    dense_outputs: list[torch.Tensor] = field(default_factory=list)  # of a pass in `collect`, per batch

    def run(self) -> list[LayerReport]:
        if isinstance(self.method, BlockMethod):
            reports = self._as_a_whole(self.method)
        else:
            reports = self._data_free() if self.batches is None else self._calibrated(self.batches)
        order = {linear.name: place for place, linear in enumerate(self.linears)}
        return sorted(reports, key=lambda report: order[report.linear])

    def _data_free(self) -> list[LayerReport]:
        return [report for linear in self.linears for report in self._compress([linear], None)]

    def _as_a_whole(self, method: BlockMethod) -> list[LayerReport]:
        assert self.batches is not None
        started = time.perf_counter()
        with self.located(self.linears):
            found = method.compress_block(self) if self.linears else {}
        reports = self._reports(found, started)
        if not self.last:
            known = bool(self.linears) and not method.propagate
            for batch in range(len(self.batches)):
                done = self.dense_outputs[batch] if known else self.batches.run(self.block, self.index, batch)
                self.batches.keep(batch, done)
        return reports

    def _calibrated(self, batches: Batches) -> list[LayerReport]:
        reports: list[LayerReport] = []
        waiting = list(self.linears)
        following: list[torch.Tensor] | None = None  # outputs of the dense block, when they go on
        while waiting:
            to_the_end = not self.method.propagate and following is None and not self.last
            collected, outputs = self._collect(batches, waiting, to_the_end)
            following = outputs if to_the_end else following
            compressed = {linear.name for group in collected for linear in group.linears}
            waiting = [linear for linear in waiting if linear.name not in compressed]
            while collected:  # a statistic of a wide layer fills gigabytes, so each goes as soon as it has served
                if isinstance(self.method, WeightMethod):
                    self.method.prepare([group.statistic for group in collected])
                reports.extend(self._compress_group(collected.pop(0)))
        if not self.last:
            for batch in range(len(batches)):
                propagated = batches.run(self.block, self.index, batch) if following is None else following[batch]
                batches.keep(batch, propagated)
        return reports

    def collect(self, to_the_end: bool = False) -> list[SharedInput]:
        """Statistics of all linears of the block, grouped by shared input, in order of execution.

        The block's outputs are kept in `dense_outputs` when they are the next block's inputs.
        """
        assert self.batches is not None
        keep = not self.method.propagate and not self.last
        collector = Collector(self.linears, _kind(self.method), False, to_the_end or keep)
        self.dense_outputs.clear()
        for batch in range(len(self.batches)):
            output = collector.run(self.block, self.index, self.batches, batch)
            if output is not None and keep:
                self.dense_outputs.append(self.batches.at_home(output))
        return collector.finished()

    def _collect(
        self, batches: Batches, waiting: list[Linear], to_the_end: bool
    ) -> tuple[list[SharedInput], list[torch.Tensor]]:
        """Statistics of the linears that can be compressed now, and the block's outputs if asked for.

        That is all of them, or with `true_sequential` those that run first.
        """
        collector = Collector(waiting, _kind(self.method), self.method.true_sequential, to_the_end)
        outputs: list[torch.Tensor] = []
        for batch in range(len(batches)):
            output = collector.run(self.block, self.index, batches, batch)
            if output is not None and to_the_end:
                outputs.append(batches.at_home(output))
        return collector.finished(), outputs

    def _compress_group(self, group: SharedInput) -> list[LayerReport]:
        if group.statistic.of_data and group.statistic.tokens == 0:
            started = time.perf_counter()
            return self._reports({linear.name: self.unreached(linear) for linear in group.linears}, started)
        if not isinstance(group.statistic, Fisher):
            return self._compress(group.linears, group.statistic)
        reports = []
        for linear in group.linears:  # each weight has gradients of its own
            rows, columns = self.gradients[linear.weight.data_ptr()]
            reports.extend(self._compress([linear], group.statistic.of_weight(rows, columns)))
        return reports

    def _compress(self, linears: list[Linear], statistic: Statistic | None) -> list[LayerReport]:
        """Compress linears that share an input, put the result into the model, and report."""
        assert isinstance(self.method, WeightMethod)
        started = time.perf_counter()
        with self.located(linears):
            weights = [linear.weight for linear in linears]
            pruned = [weight == 0 for weight in weights] if self.keep_zeros else None
            compressed = self.method.compress_weights(weights, statistic, pruned=pruned)
            replaced = [
                Replacement(linear.name, dense, result.weight.to(dense.dtype), result)
                for linear, dense, result in zip(linears, weights, compressed, strict=True)
            ]
            found = measured(replaced, statistic)
        for linear, new in zip(linears, replaced, strict=True):
            if new.compressed.factors is not None:
                linear.store_factors(*new.compressed.factors)
            else:
                linear.store(new.stored)
        return self._reports(found, started)

    def _reports(self, found: Mapping[str, Measurement], started: float) -> list[LayerReport]:
        """The reports of linears that were compressed together since `started`, each with an equal part of the time."""
        seconds = (time.perf_counter() - started) / max(len(found), 1)
        return [
            LayerReport.of(cost, step=self.step, block=self.index, linear=name, seconds=seconds)
            for name, cost in found.items()
        ]

    def unreached(self, linear: BlockLinear) -> Measurement:
        """The measurement of a linear that no calibration token reached."""
        weight = linear.weight
        dense = Replacement(linear.name, weight, weight, CompressedWeight(weight, fallback=NO_TOKENS))
        return measured([dense], None)[linear.name]

    @property
    def windows(self) -> Batches:
        """The batches of a method that needs inputs."""
        assert self.batches is not None
        return self.batches

    @contextmanager
    def located(self, linears: list[Linear]) -> Iterator[None]:
        """Add the place to an error of the solver."""
        try:
            yield
        except CompressionError as error:
            names = ", ".join(linear.name for linear in linears)
            raise CompressionError(f"block {self.index} {names}: {self.method.label}: {error}") from None


@dataclass
class SharedInput:
    """Linears that receive the same tensor, and the statistic of that tensor."""

    linears: list[Linear]
    statistic: Statistic


def _kind(method: Method) -> type[Statistic]:
    """The kind of statistic that a method with inputs needs."""
    assert method.needs is not None
    return method.needs


class Collector:
    """Accumulates each distinct input of a block once, while batches run through it.

    Linears that receive the very same tensor share a statistic; that is found out in the first batch. A pass ends as
    soon as the last input that is needed was seen (unless the block's output is wanted: `to_the_end`). `first_only`
    collects only the linears that run first, for `true_sequential`.
    """

    def __init__(self, linears: list[Linear], needs: type[Statistic], first_only: bool, to_the_end: bool) -> None:
        self.linears = linears
        self.needs = needs
        self.first_only = first_only
        self.to_the_end = to_the_end
        self.shared: dict[str, SharedInput] = {}  # by name of the linear that was seen first
        self.order: list[str] = []  # names, in order of execution
        self._leaders: list[Linear] = []

    def run(self, block: Any, index: int, batches: Batches, batch: int) -> torch.Tensor | None:
        """Send one batch through the block; returns its output, or None when the pass ended early."""
        valid = batches.valid[batch]
        windows = batches.hidden[batch].shape[0]
        seen: dict[int, tuple[torch.Tensor, str]] = {}
        reached: set[str] = set()

        def watch(linear: Linear, inputs: torch.Tensor) -> None:
            known = seen.get(id(inputs))
            if known is not None and self._may_share(linear, known[1]):
                self._join(linear, known[1])
            else:
                seen[id(inputs)] = (inputs, linear.name)  # keeps the tensor alive, so its id stays its own
                self._update(linear, inputs, valid, windows)
            reached.add(linear.name)
            if not self.to_the_end and len(reached) == len(self._wanted):
                raise _StopPassError

        try:
            with watched(self._wanted, watch, valid):
                return batches.run(block, index, batch)
        except _StopPassError:
            return None
        finally:
            if batch == 0:
                self._after_first_batch()

    @property
    def _wanted(self) -> list[Linear]:
        return self._leaders or self.linears

    def finished(self) -> list[SharedInput]:
        """The linears with their statistics; linears that nothing reached have one without tokens."""
        for linear in [t for t in self.linears if t.name not in self.order]:
            self.shared[linear.name] = SharedInput([linear], self._new(linear))
        return list(self.shared.values())

    def _new(self, linear: Linear) -> Statistic:
        return self.needs(linear.weight.shape[1], linear.weight.device)

    def _may_share(self, linear: Linear, leader: str) -> bool:
        return linear.name != leader and leader in self.shared

    def _join(self, linear: Linear, leader: str) -> None:
        if linear.name not in self.order:
            self.order.append(linear.name)
            self.shared[leader].linears.append(linear)

    def _update(self, linear: Linear, inputs: torch.Tensor, valid: torch.Tensor | None, windows: int) -> None:
        if linear.name not in self.shared:
            self.order.append(linear.name)
            self.shared[linear.name] = SharedInput([linear], self._new(linear))
        flat = inputs.reshape(-1, inputs.shape[-1])
        if valid is not None and linear.kind != "expert":
            flat = flat[valid]
        self.shared[linear.name].statistic.update(flat, windows)

    def _after_first_batch(self) -> None:
        """From now on only the first linear of each distinct input is watched."""
        if self.first_only:
            self._keep_first_group()
        if len(self.order) == len(self.linears):
            leaders = set(self.shared)
            self._leaders = [t for t in self.linears if t.name in leaders]

    def _keep_first_group(self) -> None:
        """Only what runs first stays: one distinct input, or all experts of one parameter."""
        if not self.order:
            return
        first = next(t for t in self.linears if t.name == self.order[0])
        if first.kind == "expert":
            # every expert counts, also those that no token of the first batch reached
            self.linears = [t for t in self.linears if t.kind == "expert" and t.group == first.group]
            self.shared = {name: shared for name, shared in self.shared.items() if shared.linears[0] in self.linears}
        else:
            self.shared = {self.order[0]: self.shared[self.order[0]]}
            self.linears = list(self.shared[self.order[0]].linears)
        names = {t.name for t in self.linears}
        self.order = [name for name in self.order if name in names]


def capture(model: Any, blocks: Any, data: Data) -> Batches:
    """Run embeddings on all windows, and record what every block would receive.

    One forward per batch in which each block returns its input. Arguments that are equal in all batches (position
    embeddings, masks) are kept once.
    """
    device = next(model.parameters()).device
    tokens = torch.as_tensor(data.tokens).to(device=device, dtype=torch.long)
    if tokens.dim() != 2 or not tokens.numel():
        raise SettingsError(f"tokens: expected [nsamples, seqlen] with at least one token, got {tuple(tokens.shape)}")
    given = data.attention_mask
    mask = None if given is None else torch.as_tensor(given).to(device=device, dtype=torch.long)
    if mask is not None and mask.shape != tokens.shape:
        raise SettingsError(
            f"attention_mask: expected the shape of tokens {tuple(tokens.shape)}, got {tuple(mask.shape)}"
        )
    size = data.batch_size or _batch_size(tokens.shape[1], device)
    result = Batches([], [], [], torch.device("cpu") if data.offload else None)
    for windows, named in _parts(model, blocks, mask, len(tokens), size):
        part = None if mask is None else mask[windows]
        recorded = record(model, blocks, tokens[windows], attention_mask=part, **named)
        if not len(result) and data.offload is None and _crowded(recorded[0][0], tokens):
            result.home = torch.device("cpu")
        result.hidden.append(result.at_home(recorded[0][0]))
        result.arguments.append([(_shared(r[1], result, i), _shared(r[2], result, i)) for i, r in enumerate(recorded)])
        result.valid.append(None if part is None else part.flatten().bool())
    return result


def _parts(
    model: Any, blocks: Any, mask: torch.Tensor | None, count: int, size: int
) -> list[tuple[Any, dict[str, torch.Tensor]]]:
    """(index of the windows, what the model is given besides) of each batch of up to `size` windows.

    Windows with padding are of several lengths. Where rotary frequencies follow the longest of a call, those that share
    them go together, with positions that leave the padding out.
    """
    as_they_are: list[tuple[Any, dict[str, torch.Tensor]]] = [
        (slice(start, start + size), {}) for start in range(0, count, size)
    ]
    if mask is None or bool(mask.all()):
        return as_they_are
    rule = length_rule(model, lambda few: record(model, blocks, few))
    if rule.turn(mask.shape[1]) is None:
        return as_they_are
    lengths = mask.sum(1).tolist()
    members: dict[int, list[int]] = {}
    for number, kind in enumerate(rule.classes(lengths)):
        members.setdefault(kind, []).append(number)
    batches = [alike[start : start + size] for alike in members.values() for start in range(0, len(alike), size)]
    return [(windows, {"position_ids": padded_positions(mask[windows])}) for windows in batches]


def _crowded(first: torch.Tensor, tokens: torch.Tensor) -> bool:
    """Whether the hidden states of all `tokens` are too many for the GPU; `first` are those of the first batch."""
    if first.device.type != "cuda":
        return False
    size = first.element_size() * first.shape[-1] * tokens.numel()
    return size > HIDDEN_SHARE * device_memory(first.device)


def _batch_size(seqlen: int, device: Any) -> int:
    return max(1, (TOKENS_PER_BATCH_GPU if device.type == "cuda" else TOKENS_PER_BATCH_CPU) // seqlen)


def record(
    model: Any, blocks: Any, tokens: torch.Tensor, **arguments: Any
) -> list[tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]]]:
    """(hidden, other arguments, keyword arguments) of every block, from one forward that runs none of them."""
    recorded: list[tuple[Any, Any, Any]] = []

    def note(number: int, hidden: Any, positional: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if hidden.dim() != 3:
            raise ValueError(f"hidden states of shape {list(hidden.shape)}, not [windows, length, width]")
        del recorded[number:]  # of an earlier try
        recorded.append((hidden, positional, keywords))
        return hidden

    try:
        with forgetful(model):
            in_place_of_blocks(blocks, note, lambda: _decoder(model)(input_ids=tokens, use_cache=False, **arguments))
    except (torch.OutOfMemoryError, torch.AcceleratorError, SettingsError):
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise SettingsError(
            f"model: {type(model).__name__} cannot be walked block by block: its blocks must turn hidden states into "
            f"hidden states of the same shape and pass nothing else on ({type(error).__name__}: {error})"
        ) from error
    return recorded


def in_place_of_blocks(
    blocks: Any,
    forward: Callable[[int, Any, tuple[Any, ...], dict[str, Any]], Any],
    call: Callable[[], Any],
    tuples: bool | None = None,
) -> Any:
    """`call()` with `forward(number, hidden, arguments, keywords)` in place of every block's own.

    tuples: whether blocks of this model give back a tuple; None finds it out by trying.
    """

    def stand_in(number: int, as_tuple: bool, given: list[Any]) -> Callable[..., Any]:
        def run(hidden: Any, *arguments: Any, **keywords: Any) -> Any:
            if len(given) != number:
                raise SettingsError(
                    f"model: block {number} of {len(blocks)} runs as number {len(given)} of the pass: a walk needs "
                    "blocks that run one after the other, each of them once (the model shares or repeats its blocks)"
                )
            if number and not as_tuple and hidden.shape != given[-1].shape:
                raise IndexError("the model took the first row of a tensor for the first item of a tuple")
            given.append(forward(number, hidden, arguments, keywords))
            return (given[-1],) if as_tuple else given[-1]

        return run

    own = [vars(block).get("forward") for block in blocks]  # such as a hook of accelerate
    for as_tuple in (False, True) if tuples is None else (tuples,):
        try:
            given: list[Any] = []
            for number, block in enumerate(blocks):
                block.forward = stand_in(number, as_tuple, given)
            return call()
        except (IndexError, AttributeError, TypeError):
            if as_tuple or tuples is not None:
                raise
        finally:
            for block, forward_before in zip(blocks, own, strict=True):
                vars(block).pop("forward", None)  # a block may be there twice
                if forward_before is not None:
                    block.forward = forward_before
    raise AssertionError("unreachable")


def _decoder(model: Any) -> Any:
    """The model without its vocabulary projection; all of it where `get_decoder` gives a part without blocks."""
    found = model.get_decoder() if hasattr(model, "get_decoder") else None
    holds_blocks = found is not None and any(isinstance(module, torch.nn.ModuleList) for module in found.modules())
    return found if holds_blocks else model


def _shared(value: Any, batches: Batches, block: int) -> Any:
    """`value` with every tensor that equals its counterpart in an earlier batch or block replaced by that one."""
    known = [batches.arguments[0][block]] if batches.arguments else []
    pool = [t for positional, keywords in known for t in _tensors((positional, keywords))]

    def replace(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            for other in pool:
                if other is item or (
                    other.shape == item.shape and other.dtype == item.dtype and torch.equal(other, item)
                ):
                    return other
            return item
        if isinstance(item, (tuple, list)):
            return type(item)(replace(part) for part in item)
        if isinstance(item, dict):
            return {key: replace(part) for key, part in item.items()}
        return item

    return replace(value)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)


def _check_place(model: Any) -> None:
    """Raise SettingsError when the walk cannot reach the model's weights: it wants all of them on one device."""
    places = sorted({str(parameter.device) for parameter in model.parameters()})
    if home_of(model) is None and (len(places) > 1 or places == ["meta"]):
        raise SettingsError(
            f"model: its weights are on {' and '.join(places)}; load it on one device (no device_map), or as a study's "
            "model with `placement: streamed` when it does not fit"
        )


def _check(model: Any, steps: Sequence[Method]) -> None:
    """Raise SettingsError when the settings of a step do not fit the linears that it will find."""
    blocks = decoder_blocks(model)
    for step in steps:
        refuse_shared(blocks, step)
    shapes = _linear_shapes(model, blocks, sharing=any(step.needs is Structure for step in steps[:-1]))
    beyond = _out_of_reach(model, blocks)
    for step in steps:
        _check_reach(step, beyond, len(blocks))
        if step.needs_gradients and home_of(model) is not None:
            raise SettingsError(
                f"{step.label}: needs gradients of the whole model at once, and this model is streamed block by block; "
                "leave the method out for it"
            )
        for number in step.skip_blocks:
            if not -len(blocks) <= number < len(blocks):
                raise SettingsError(f"skip_blocks: expected {-len(blocks)} to {len(blocks) - 1}, got {number}")
        names = [linear.name for linears in shapes for linear in linears] + [weight.name for _, weight in beyond]
        for index, linears in enumerate(shapes):
            if not step.skips(index, len(blocks)):
                shapes[index] = shapes_after(step, linears)
        _check_patterns(step.linears, names)


def _out_of_reach(model: Any, blocks: Any) -> list[tuple[int, Unreachable]]:
    """Large weights of every block, with its number, that are no linears here (see `unreachable`)."""
    found = [(index, weight) for index, block in enumerate(blocks) for weight in unreachable(block)]
    judged: dict[Any, bool] = {}
    batches: Batches | None = None
    for index, block in enumerate(blocks):
        for group in experts_of(block):
            module = group[0].module
            key = (type(module), group[0].attribute)
            if key not in judged:
                batches = batches or capture(model, blocks, Data([[0, 0]]))
                with resident(model, index):
                    judged[key] = _runs_as_linears(block, index, group, batches)
            if not judged[key]:
                shape = tuple(getattr(module, group[0].attribute).shape)
                found.append((index, Unreachable(group[0].group, shape, type(module).__name__)))
    return found


def _runs_as_linears(block: Any, index: int, experts: list[Linear], batches: Batches) -> bool:
    """Whether a token meets an expert of this parameter as a linear [rows, cols]: seen in a run of the block."""
    reached: set[str] = set()
    with watched(experts, lambda linear, inputs: reached.add(linear.name)):
        batches.run(block, index, 0)
    return bool(reached)


def _check_reach(step: Method, beyond: list[tuple[int, Unreachable]], blocks: int) -> None:
    for index, weight in beyond:
        if not step.skips(index, blocks) and (step.selects(weight.name) or step.selects(f"{weight.name}.0")):
            raise SettingsError(
                f"block {index} {weight.name}: {weight.kind} holds {list(weight.shape)} numbers in a form that is not "
                f"supported ([experts, rows, cols] used through F.linear is); leave them dense with linears: "
                f'["*", "!{weight.name}*"]'
            )


def _linear_shapes(model: Any, blocks: Any, *, sharing: bool) -> list[list[LinearShape]]:
    """The linears of every block; with `sharing` a forward of two tokens tells which of them share an input."""
    shared: list[dict[str, str]] = [{} for _ in blocks]
    if sharing:
        batches = capture(model, blocks, Data([[0, 0]]))
        for index, block in enumerate(blocks):
            with resident(model, index, index + 1 if index + 1 < len(blocks) else None):
                collector = Collector(linears_of(block), Structure, False, True)
                output = collector.run(block, index, batches, 0)
            assert output is not None  # the pass went to the end
            batches.keep(0, output)
            for group in collector.finished():
                shared[index].update({linear.name: group.linears[0].name for linear in group.linears})
    return [
        [_shape(linear, index, shared[index]) for linear in linears_of(block)] for index, block in enumerate(blocks)
    ]


def _shape(linear: Linear, block: int, shared: dict[str, str]) -> LinearShape:
    rows, cols = linear.weight.shape
    place = f"block {block} {{}}"
    if str(linear.weight.dtype).removeprefix("torch.") not in DTYPES:
        raise SettingsError(
            f"block {block} {linear.name}: its weight is {str(linear.weight.dtype).removeprefix('torch.')}; load the "
            "model unquantized, as float32, bfloat16 or float16"
        )
    return LinearShape(linear.name, rows, cols, place, shared.get(linear.name), splits=linear.kind != "expert")


def _check_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    from fnmatch import fnmatchcase

    for pattern in patterns:
        if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in names):
            known = ", ".join(dict.fromkeys(names))
            raise SettingsError(f"linears: '{pattern}' matches no linear of the model; choose from {known[:500]}")
