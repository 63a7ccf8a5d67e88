"""Train the reference models: small LLaMAs on nine domains of openly licensed text, in minutes on one GPU.

    python -m sweep.reference.train CORPUS --output MODELS [--size reference-2m] [--tokens 4e8]

`CORPUS` holds `train/<domain>.parquet` and `heldout/<domain>.parquet` with a `text` column. One byte-level BPE
tokenizer is trained once and shared by all sizes. Every document begins after an end-of-text token, so the models know
how a text starts; documents are shuffled anew, by the seed, in every epoch. Hidden matrices are trained with Muon
(https://kellerjordan.github.io/posts/muon/), embeddings and norms with AdamW, both with a warm-up and a linear decay to
zero. The hard case is the small amount of text: about 50 million tokens are seen up to a dozen times, and held-out
perplexity per domain, which ends in the report, would show it if the models began to recite.

Each model's folder holds bf16 safetensors that plain transformers loads, and `training.json`: loss curve, tokens,
minutes, settings, versions and held-out perplexity per domain.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import torch
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 8192
WINDOW = 512  # tokens; also the models' context length


@dataclass(frozen=True)
class Size:
    """Shape and training budget of one model."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    tokens: int  # training tokens, repeats counted
    learning_rate: float


SIZES = {
    "reference-2m": Size(128, 4, 4, 352, 600_000_000, 1e-2),
    "reference-5m": Size(256, 4, 4, 704, 350_000_000, 7e-3),
    "reference-17m": Size(384, 8, 6, 1024, 350_000_000, 5e-3),
}


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE over `texts`; its only special token is the end-of-text token, id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def read_texts(folder: Path) -> dict[str, list[str]]:
    """Documents of every domain in `folder`, in file order."""
    return {
        path.stem: pq.read_table(path, columns=["text"])["text"].to_pylist()
        for path in sorted(folder.glob("*.parquet"))
    }


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """Token ids of each document, an end-of-text token in front; uint16."""
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [np.array([0, *item.ids], dtype=np.uint16) for item in encodings]


def batches(documents: list[np.ndarray], batch: int, seed: int) -> Iterator[np.ndarray]:
    """Endless batches (batch, WINDOW + 1) of the documents, shuffled and packed anew in every epoch."""
    rng = np.random.default_rng(seed)
    rows = np.empty((0, WINDOW + 1), dtype=np.uint16)
    while True:
        stream = np.concatenate([documents[i] for i in rng.permutation(len(documents))])
        usable = (len(stream) - 1) // WINDOW * WINDOW
        windows = np.lib.stride_tricks.sliding_window_view(stream[: usable + 1], WINDOW + 1)[::WINDOW]
        rows = np.concatenate([rows, windows[rng.permutation(len(windows))]])
        full = len(rows) // batch * batch
        yield from rows[:full].reshape(-1, batch, WINDOW + 1)
        rows = rows[full:]


def build_model(size: Size, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=size.hidden_size,
            intermediate_size=size.intermediate_size,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            max_position_embeddings=WINDOW,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            initializer_range=0.02,
            use_cache=True,
        )
    )


def optimizers(model: LlamaForCausalLM, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the rest; both take steps of AdamW's size."""
    inside = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    outside = [p for name, p in model.named_parameters() if p.ndim != 2 or "layers" not in name]
    return [
        torch.optim.Muon(inside, lr=learning_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outside, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


@torch.no_grad()
def heldout_perplexity(model: torch.nn.Module, documents: list[np.ndarray], device: str) -> float:
    """exp(mean negative log-likelihood) over non-overlapping windows of WINDOW tokens; the tail is dropped."""
    stream = np.concatenate(documents)
    windows = torch.from_numpy(stream[: len(stream) // WINDOW * WINDOW].astype(np.int64)).view(-1, WINDOW)
    total = 0.0
    for chunk in windows.split(64):
        ids = chunk.to(device)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()
    return float(np.exp(total / (len(windows) * (WINDOW - 1))))


def fit(
    model: LlamaForCausalLM, documents: list[np.ndarray], size: Size, *, batch: int, seed: int, device: str
) -> list[list[float]]:
    """Train in place. Returns the loss curve as [tokens seen, mean loss since the last point in nats]."""

    def mean_loss(rows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())

    step_loss = torch.compile(mean_loss) if device == "cuda" else mean_loss
    steps = size.tokens // (batch * WINDOW)
    warmup = max(steps // 50, 10)
    opts = optimizers(model, size.learning_rate)
    curve: list[list[float]] = []
    running, since = torch.zeros((), device=device), 0
    source = batches(documents, batch, seed)
    for step in range(steps):
        rate = size.learning_rate * min((step + 1) / warmup, (steps - step) / (steps - warmup))
        for optimizer in opts:
            optimizer.param_groups[0]["lr"] = rate
        rows = torch.from_numpy(next(source).astype(np.int32))
        rows = rows.pin_memory().to(device, non_blocking=True).long() if device == "cuda" else rows.long()
        loss = step_loss(rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in opts:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        running, since = running + loss.detach(), since + 1
        if (step + 1) % max(steps // 60, 1) == 0:
            curve.append([(step + 1) * batch * WINDOW, running.item() / since])
            print(f"{curve[-1][0] / 1e6:7.1f} M tokens  loss {curve[-1][1]:.3f}", flush=True)
            running, since = torch.zeros((), device=device), 0
    return curve


def main(
    corpus: Annotated[Path, typer.Argument(help="folder with train/ and heldout/")],
    output: Annotated[Path, typer.Option(help="folder that gets one folder per model")],
    size: Annotated[list[str], typer.Option(help="which sizes; all when not given")] = [],  # noqa: B006
    tokens: Annotated[float, typer.Option(help="training tokens instead of the size's own number")] = 0,
    learning_rate: Annotated[float, typer.Option(help="instead of the size's own rate")] = 0,
    batch: Annotated[int, typer.Option(help="windows of 512 tokens in a batch")] = 128,
    seed: int = 0,
) -> None:
    """Train the tokenizer (unless OUTPUT has one) and the models."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    output.mkdir(parents=True, exist_ok=True)
    texts = read_texts(corpus / "train")
    path = output / "tokenizer.json"
    if not path.exists():
        train_tokenizer([text for part in texts.values() for text in part]).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    documents = [document for part in texts.values() for document in encode(tokenizer, part)]
    heldout = {domain: encode(tokenizer, part) for domain, part in read_texts(corpus / "heldout").items()}
    corpus_tokens = int(sum(map(len, documents)))
    print(f"{corpus_tokens / 1e6:.1f} M training tokens in {len(documents)} documents", flush=True)
    for name in size or SIZES:
        shape = SIZES[name]
        shape = Size(
            **{
                **asdict(shape),
                "tokens": int(tokens) or shape.tokens,
                "learning_rate": learning_rate or shape.learning_rate,
            }
        )
        model: Any = build_model(shape, seed)
        model.to(device)
        started = time.perf_counter()
        curve = fit(model, documents, shape, batch=batch, seed=seed, device=device)
        minutes = (time.perf_counter() - started) / 60
        model = model.to(torch.bfloat16).eval()
        perplexity = {domain: round(heldout_perplexity(model, part, device), 3) for domain, part in heldout.items()}
        report: dict[str, Any] = {
            "model": name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "size": asdict(shape),
            "batch_tokens": batch * WINDOW,
            "seed": seed,
            "corpus_tokens": corpus_tokens,
            "minutes": round(minutes, 2),
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "torch": torch.__version__,
            "loss_curve": [[int(seen), round(loss, 4)] for seen, loss in curve],
            "heldout_perplexity": perplexity,
        }
        model.save_pretrained(output / name)
        save_tokenizer(tokenizer, output / name)
        (output / name / "training.json").write_text(json.dumps(report, indent=1))
        print(
            json.dumps({key: report[key] for key in ("model", "parameters", "minutes", "heldout_perplexity")}),
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
