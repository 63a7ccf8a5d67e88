"""Generation tasks: lm-eval's own model class on the model in memory, in batches.

A prompt that is shorter than its neighbours is padded on the left. Whether that moves what it is answered is found out
by trying: when a short and a long prompt do not give the same logits together as alone, only prompts of equal lengths
share a batch. So it is where rotary frequencies follow the longest sequence of a call (`methods/walk/lengths.py`). A
padding token that was added to a tokenizer alone has no embedding: then every prompt has its own batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from methods.lazy import torch
from methods.walk.lengths import forgetful
from sweep.evaluation.questions.requests import Generation, quiet
from sweep.evaluation.scorer.forward import TokenBudget
from sweep.evaluation.scorer.reach import turns
from sweep.evaluation.scorer.states import lengths_of
from sweep.evaluation.scorer.watch import watched

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CUDA_BATCH = 64
CPU_BATCH = 8
SHORT_PROMPT, LONG_PROMPT = 5, 12  # tokens of the trial; the long one longer where the architecture turns later
TRIED = 3  # tokens that follow them
FULL_TOLERANCE, HALF_TOLERANCE = 1e-3, 0.05  # of the largest logit


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    generations: Sequence[Generation],
    max_length: int,
    budget: TokenBudget,
    *,
    alone: bool = False,
) -> Sequence[str | None]:
    """The continuation of every prompt, by `HFLM.generate_until`; None for all when logits were NaN on the way.

    The largest of NaNs is some token, so that a broken model would write something. alone: one prompt a model call.
    """
    from lm_eval.models.huggingface import HFLM

    alone = alone or not _knows_padding(model, tokenizer)
    batch = 1 if alone else CUDA_BATCH if budget.device.type == "cuda" else CPU_BATCH
    with quiet("lm_eval"), torch.inference_mode(), forgetful(model), _seeded(model.device):
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=max_length)
        encoded = [_Encoded.of(item, wrapped) for item in generations]
        padded = batch > 1 and may_be_padded(model, [item.tokens for item in encoded], [item.room for item in encoded])
        groups: dict[Hashable, list[int]] = {}
        for number, item in enumerate(encoded):
            groups.setdefault((item.starts, None if padded else item.tokens), []).append(number)
        texts = [""] * len(generations)
        with watched(model) as seen:
            for members in groups.values():
                asked = [_instance(generations[number]) for number in members]
                for number, text in zip(members, wrapped.generate_until(asked, disable_tqdm=True), strict=True):
                    texts[number] = text
    return [None] * len(texts) if any(seen) else texts


@dataclass(frozen=True)
class _Encoded:
    """What HFLM makes of one prompt."""

    tokens: int  # after truncation
    room: int  # tokens that may follow
    starts: bool  # with the text of the BOS token, by which HFLM decides for a whole batch whether to add one

    @classmethod
    def of(cls, item: Generation, wrapped: Any) -> _Encoded:
        from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs

        room = int(normalize_gen_kwargs(item.arguments, wrapped.max_gen_toks)["max_gen_toks"])
        tokens, _ = wrapped.tok_batch_encode(
            [item.prompt], left_truncate_len=wrapped.max_length - room, truncation=wrapped.truncation
        )
        starts = bool(has_bos_prefix(item.prompt, getattr(wrapped.tokenizer, "bos_token", None)))
        return cls(int(tokens.shape[1]), room, starts)


def _knows_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the padding token has an embedding; prompts, and texts that end before others, are filled up with it."""
    pad = tokenizer.pad_token_id  # HFLM takes the unknown token or EOS when there is none
    embedding: Any = model.get_input_embeddings()
    return pad is None or pad < embedding.weight.shape[0]


def may_be_padded(model: PreTrainedModel, prompts: Sequence[int], room: Sequence[int]) -> bool:
    """Whether prompts of these lengths, in tokens, may be padded to one length, and followed by up to `room` tokens."""
    if len(set(prompts)) < 2:
        return True
    longest = max(prompt + following for prompt, following in zip(prompts, room, strict=True))
    lengths = lengths_of(model)
    if lengths.turn(longest) is not None:
        return False
    reached, untried = turns(model.config.get_text_config(), lengths, longest, longest)
    if untried is not None:
        return False
    long = min(max([LONG_PROMPT, *(turn + TRIED for turn in reached)]), max(LONG_PROMPT, max(prompts)))
    try:
        return _padding_moves_nothing(model, long)
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
        if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)):
            raise
        return False


def _padding_moves_nothing(model: PreTrainedModel, long: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    tokens = torch.randint(0, vocabulary, (2, long), generator=generator).to(model.device)
    mask = torch.ones_like(tokens)
    mask[1, : long - SHORT_PROMPT] = 0
    together = _answer(model, tokens, mask)
    for row, length in enumerate((long, SHORT_PROMPT)):
        alone = _answer(model, tokens[row : row + 1, long - length :], mask[row : row + 1, long - length :])
        for (found, found_token), (wanted, wanted_token) in zip(
            [(logits[row], token[row]) for logits, token in together],
            [(logits[0], token[0]) for logits, token in alone],
            strict=True,
        ):
            half = model.dtype not in (torch.float32, torch.float64)
            largest = wanted.float().abs().max()
            apart = (found.float() - wanted.float()).abs().max() / largest
            if not apart <= (HALF_TOLERANCE if half else FULL_TOLERANCE):
                return False
            if found_token != wanted_token:  # rounding decided, and what follows is another text
                break
    return True


def _answer(
    model: PreTrainedModel, tokens: torch.Tensor, mask: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(logits [rows, vocabulary], chosen tokens [rows]) of each token that follows."""
    generate: Any = model.generate
    answer = generate(
        input_ids=tokens,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=TRIED,
        min_new_tokens=TRIED,
        pad_token_id=0,
        use_cache=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return list(zip(answer.logits, answer.sequences[:, tokens.shape[1] :].T, strict=True))


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """Tasks that sample draw from torch's own generators: the same numbers for every model, whatever ran before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def _instance(item: Generation) -> Instance:
    from lm_eval.api.instance import Instance

    return Instance(request_type="generate_until", doc={}, arguments=(item.prompt, item.arguments), idx=0)
