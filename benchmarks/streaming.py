"""A model larger than the GPU, compressed and evaluated block by block: seconds a block, memory, and waiting.

    python -m benchmarks.streaming --tiny               # a laptop: does it run?
    python -m benchmarks.streaming                      # one large GPU: six blocks of a 70B LLaMA, under 30 GiB
    python -m benchmarks.streaming --cold --blocks 12   # more blocks, read from the disk and not from the page cache

Writes a checkpoint of random bfloat16 weights block by block (hidden 8192, 64 heads, 8 key-value heads, inner 28672,
vocabulary 32000: 1.7 GB a block), streams it through GPTQ 4-bit with groups of 128 and calibration windows of 2,048
tokens, then scores held-out windows (with divergence from the dense model) and a share of the eleven-task suite. A
phase's seconds a block are the median over its blocks; `80 blocks` adds that for the blocks that were not run, measured
overhead (embeddings, logits, masks) as it was. Waiting is the time in which the device had no work because weights were
on their way. `--memory` is a hard limit: torch raises an error when the process asks for more.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.suite import random_questions
from methods.base import get_method
from methods.blockwise import compress_model
from sweep.checkpoints.tensors import INDEX
from sweep.evaluation.questions.heldout import HeldOut
from sweep.evaluation.scorer.choice import choose_scorer
from sweep.evaluation.scorer.forward import TokenBudget, head_rule
from sweep.evaluation.scorer.states import check_blocks_alone
from sweep.evaluation.windows import WindowScorer
from sweep.models import resolve_model
from sweep.weights.hashes import weights_hash
from sweep.weights.streaming import StreamedModel

DEEP = 80  # blocks of a 70B LLaMA
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """A LLaMA with grouped-query attention."""

    hidden: int = 8192
    heads: int = 64
    kv_heads: int = 8
    inner: int = 28672
    vocabulary: int = 32000

    def block(self) -> dict[str, tuple[int, ...]]:
        """Shapes of a block's weights by name."""
        keys = self.hidden // self.heads * self.kv_heads
        return {
            "self_attn.q_proj.weight": (self.hidden, self.hidden),
            "self_attn.k_proj.weight": (keys, self.hidden),
            "self_attn.v_proj.weight": (keys, self.hidden),
            "self_attn.o_proj.weight": (self.hidden, self.hidden),
            "mlp.gate_proj.weight": (self.inner, self.hidden),
            "mlp.up_proj.weight": (self.inner, self.hidden),
            "mlp.down_proj.weight": (self.hidden, self.inner),
            "input_layernorm.weight": (self.hidden,),
            "post_attention_layernorm.weight": (self.hidden,),
        }

    def outside(self) -> dict[str, tuple[int, ...]]:
        return {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
            "lm_head.weight": (self.vocabulary, self.hidden),
        }


TINY = Shape(64, 4, 2, 192, 512)


def write_checkpoint(folder: Path, shape: Shape, blocks: int, device: str) -> int:
    """A sharded LLaMA checkpoint with a tokenizer, one file a block; returns its bytes."""
    import tokenizers
    import transformers
    from safetensors.torch import save_file

    transformers.LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=blocks,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    ).save_pretrained(folder)
    words = tokenizers.models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(words), bos_token="<s>", eos_token="</s>"
    )
    tokenizer.save_pretrained(folder)
    parts = [shape.outside()] + [
        {f"model.layers.{index}.{name}": size for name, size in shape.block().items()} for index in range(blocks)
    ]
    generator = torch.Generator(device).manual_seed(0)
    places: dict[str, str] = {}
    total = 0
    for number, part in enumerate(parts):
        file = f"model-{number + 1:05}-of-{len(parts):05}.safetensors"
        save_file({name: _random(size, generator) for name, size in part.items()}, folder / file, {"format": "pt"})
        places.update(dict.fromkeys(part, file))
        total += (folder / file).stat().st_size
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}))
    return total


def _random(size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Ones for a norm; otherwise normal numbers that keep the size of activations."""
    if len(size) == 1:
        return torch.ones(size, dtype=torch.bfloat16)
    weight = torch.empty(size, dtype=torch.bfloat16, device=generator.device)
    return weight.normal_(0, size[1] ** -0.5, generator=generator).cpu()


def forget_files(folder: Path) -> None:
    """Ask the system to drop the checkpoint from its page cache."""
    for file in folder.glob("*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@dataclass
class Phase:
    """One walk or one evaluation: its wall time, that of each residency of a block, and what was moved."""

    name: str
    seconds: float = 0.0
    blocks: list[float] = field(default_factory=list)
    waited: float = 0.0
    read: int = 0
    reading: float = 0.0

    @property
    def block(self) -> float:
        return statistics.median(self.blocks) if self.blocks else 0.0

    def deep(self, blocks: int) -> float:
        """Seconds with `DEEP` blocks instead of `blocks`."""
        passes = len(self.blocks) / blocks
        return self.seconds + passes * (DEEP - blocks) * self.block


class Watch:
    """Times phases, and the residencies of blocks in them."""

    def __init__(self, model: StreamedModel, before: Callable[[], None]) -> None:
        self.model = model
        self.phases: list[Phase] = []
        self.before = before
        self.inner = model.blocks.resident
        model.blocks.resident = self.resident  # type: ignore[method-assign]

    @contextmanager
    def resident(self, index: int, following: int | None = None, *, changes: bool = False) -> Iterator[None]:
        self.wait()
        begin = time.perf_counter()
        with self.inner(index, following, changes=changes):
            yield
            self.wait()
        self.phases[-1].blocks.append(time.perf_counter() - begin)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.before()
        traffic = self.model.blocks.traffic
        phase = Phase(name, 0.0, [], -traffic.seconds_waited, -traffic.bytes_read, -traffic.seconds_read)
        self.phases.append(phase)
        self.wait()
        begin = time.perf_counter()
        yield
        self.wait()
        phase.seconds = time.perf_counter() - begin
        phase.waited += traffic.seconds_waited
        phase.read += traffic.bytes_read
        phase.reading += traffic.seconds_read

    def wait(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()


def measure(folder: Path, shape: Shape, arguments: argparse.Namespace, device: str) -> Watch:
    """Compress and evaluate; prints what the walk reports."""
    begin = time.perf_counter()
    entry = {"model": str(folder), "placement": "streamed", "dtype": arguments.dtype}
    model = StreamedModel(resolve_model(entry, "model"), device)
    print(
        f"skeleton, embeddings and head: {time.perf_counter() - begin:.1f} s, {model.parameters / 1e9:.2f} B parameters"
    )
    watch = Watch(model, (lambda: forget_files(folder)) if arguments.cold else lambda: None)
    rng = np.random.default_rng(0)

    def draw(windows: int) -> np.ndarray:
        return rng.integers(3, shape.vocabulary, (windows, arguments.seqlen), dtype=np.int32)

    budget = TokenBudget(model.device)
    requests = random_questions(arguments.share, shape.vocabulary).requests
    with watch("choose the scorer"), model.blocks.sample() as small:
        check_blocks_alone(small, model.blocks.blocks)
        rule = head_rule(small)
        scorer = choose_scorer(small, requests, budget, rule)
    with watch("dense held-out"):
        windows = WindowScorer([HeldOut("random", draw(arguments.heldout))], model.model, budget, rule, divergence=True)
    with watch("dense suite"):
        dense, _ = scorer.score(model.model)
    with watch("compress"):
        method = get_method("gptq", bits=4, group_size=min(128, shape.hidden))
        report = compress_model(model.model, method, draw(arguments.nsamples))
    with watch("suite"):
        compressed, _ = scorer.score(model.model)
    with watch("held-out"):
        scores = windows.score(model.model)[0]
    with watch("hash"):
        digest = weights_hash(model.model)
    assert scores.js is not None
    print(
        f"{report.backend}: {len(report.layers)} linears, layer error {report.layer_error:.4f}, "
        f"{report.average_bits:.2f} bits; {scorer.name}: {len(requests):,} requests moved by "
        f"{np.abs(compressed - dense).mean():.3f} nats, held-out by {scores.js.mean():.4f} nats (JS); {digest[:8]}"
    )
    with watch("restore"):
        model.restore()
    return watch


def show(watch: Watch, arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the table; returns it as plain values."""
    print(f"\n{'phase':<18}{'s':>8}{'s/block':>9}{'waiting':>9}{'GB read':>9}{'GB/s':>7}{f'  {DEEP} blocks, s':>15}")
    rows = []
    for phase in watch.phases:
        share = phase.waited / phase.seconds if phase.seconds else 0.0
        rate = phase.read / phase.reading / 1e9 if phase.reading else 0.0
        deep = phase.deep(arguments.blocks)
        rows.append(
            {"phase": phase.name, "seconds": phase.seconds, "block": phase.block, "waiting": share}
            | {"read": phase.read, "rate": rate, "deep": deep, "blocks": phase.blocks}
        )
        print(
            f"{phase.name:<18}{phase.seconds:8.2f}{phase.block:9.3f}{share:9.1%}{phase.read / 1e9:9.1f}{rate:7.1f}"
            f"{deep:15.1f}"
        )
    peaks = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if watch.model.device.type == "cuda":
        peaks["device"] = torch.cuda.max_memory_allocated()
        peaks["device reserved"] = torch.cuda.max_memory_reserved()
    print("\npeak memory: " + ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in peaks.items()))
    return {"phases": rows, "peaks": peaks, "blocks": arguments.blocks}


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a width of 64 and little data: does it run?")
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--nsamples", type=int, help="calibration windows [128]")
    parser.add_argument("--seqlen", type=int, help="tokens of a window [2048]")
    parser.add_argument("--heldout", type=int, help="held-out windows [64]")
    parser.add_argument("--share", type=float, help="share of the suite's documents [0.1]")
    parser.add_argument("--memory", type=float, default=30.0, help="GiB of the GPU that the process may take")
    parser.add_argument("--cold", action="store_true", help="drop the checkpoint from the page cache before each phase")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--json", help="file for the figures")
    arguments = parser.parse_args()
    defaults = (4, 64, 4, 0.001) if arguments.tiny else (128, 2048, 64, 0.1)
    for name, value in zip(("nsamples", "seqlen", "heldout", "share"), defaults, strict=True):
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    shape = TINY if arguments.tiny else Shape()
    folder = Path(tempfile.mkdtemp(prefix="streaming-"))
    try:
        begin = time.perf_counter()
        size = write_checkpoint(folder, shape, arguments.blocks, arguments.device)
        print(f"{arguments.blocks} blocks, {size / 1e9:.2f} GB written in {time.perf_counter() - begin:.1f} s")
        if arguments.device == "cuda":
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, arguments.memory * GIB / total))
            torch.cuda.reset_peak_memory_stats()
        watch = measure(folder, shape, arguments, arguments.device)
        figures = show(watch, arguments)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(figures, indent=1))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
