"""On-policy traces: the dense model's own answers to prompts, as it will be used (https://arxiv.org/abs/2509.12464).

For reasoning models the text that a model writes while it thinks is what most of its tokens in use are; calibrated on
it, half-pruned models keep far more of their accuracy than on web text. A trace is the prompt as the chat template
renders it, and the answer's very ids: decoded and tokenized again, the marks between thinking and answer would be lost.
The hard case is a trace that never ends: it teaches no end, so it is left out, and none at all is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from calib.settings import INT64_MAX, SettingsError, settings, suggestion
from calib.source import Document, Source, SourceSetting, TokenDocument, register
from calib.sources.chat import Chat
from calib.tokenizer import called
from calib.writer import Request, Writer, seeds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@register("traces")
@settings
class Traces(Source):
    """`of`: a `chat` source, whose conversations up to their last answer are the prompts, the first `documents` of
    them. `temperature`, `top_p`, `top_k`, `max_new_tokens`: how the answers are written. `stop`: a token that ends an
    answer as well as EOS (`<end_of_turn>` of Gemma, `<|end|>` of Phi). `unfinished`: drop or keep the traces that reach
    `max_new_tokens` without an end. `part`: of a trace, the prompt or the response alone.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "of": {"source": "chat", "of": {"source": "file", "path": "my.jsonl"}, "template": "chatml"},
        "unfinished": "keep",
    }

    of: SourceSetting
    count: Annotated[int, Field(ge=1, le=1 << 20, alias="documents")] = 512
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: Annotated[int | None, Field(ge=1)] = None
    max_new_tokens: Annotated[int, Field(ge=1, le=1 << 17)] = 8_192
    stop: str | None = None
    unfinished: Literal["drop", "keep"] = "drop"
    part: Literal["both", "prompt", "response"] = "both"
    seed: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0

    def __post_init__(self) -> None:
        if not isinstance(self.of, Chat):
            raise ValueError(f"of: expected a chat source, whose template renders the prompts, got {self.of.label}")
        super().__post_init__()

    @property
    def writes(self) -> bool:
        return True

    @property
    def tells_responses(self) -> bool:
        return True

    def identity(self) -> dict[str, Any]:
        """Without `stop` where there is none, as it was before there was one."""
        return {key: value for key, value in super().identity().items() if key != "stop" or value is not None}

    def capacity(self) -> int | None:
        return None

    def documents(self) -> Iterator[Document]:
        raise SettingsError(f"source '{self.label}': its text is written by a model")

    def written(self, tokenizer: PreTrainedTokenizerBase, writer: Writer) -> Iterator[TokenDocument]:
        assert isinstance(self.of, Chat)
        prompts = list(islice(self.of.prompts(tokenizer), self.count))
        stops = self._stops(tokenizer)
        how = (self.temperature, self.top_p, self.top_k, self.max_new_tokens, stops)
        requests = [
            Request(tuple(prompt.tokens.tolist()), seed, *how)
            for prompt, seed in zip(prompts, seeds(self.seed, len(prompts)), strict=True)
        ]
        ended = 0
        for prompt, answer in zip(prompts, writer.write(requests), strict=True):
            finished = bool(answer) and answer[-1] in (tokenizer.eos_token_id, *stops)
            ended += finished
            if finished or self.unfinished == "keep":
                asked = [] if self.part == "response" else prompt.tokens.tolist()
                said = [] if self.part == "prompt" else answer
                response = np.arange(len(asked) + len(said)) >= len(asked)
                tokens = np.asarray([*asked, *said], dtype=np.int32)
                yield TokenDocument(prompt.id, tokens, partial(np.asarray, response))
        if not ended and self.unfinished == "drop":
            raise SettingsError(
                f"source '{self.label}': none of {len(prompts):,} traces ended within {self.max_new_tokens:,} tokens; "
                "raise max_new_tokens, name a token that ends an answer with stop, or keep them with unfinished: keep"
            )

    def _stops(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """The ids besides EOS that end an answer. Raises SettingsError where nothing could end one."""
        if self.stop is None:
            if tokenizer.eos_token_id is None and self.unfinished == "drop":
                raise SettingsError(
                    f"source '{self.label}': {called(tokenizer)} has no EOS token, so no trace ends; name a token that "
                    "ends an answer with stop, or keep them with unfinished: keep"
                )
            return ()
        vocabulary = tokenizer.get_vocab()
        if self.stop not in vocabulary:
            known = tokenizer.all_special_tokens
            raise SettingsError(f"source '{self.label}': stop: no token {self.stop!r}{suggestion(self.stop, known)}")
        return (vocabulary[self.stop],)
