"""Text that the dense model writes itself (https://arxiv.org/abs/2410.17170): calibration without any data.

Each text begins with BOS, or with the first tokens of a real document, and is sampled at one of several temperatures in
turn. Low temperatures write what the model is sure of and narrow what it sees; so several are used, and the texts that
the model finds least likely are dropped, as published recipes do (https://arxiv.org/abs/2410.17711).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from calib.settings import INT64_MAX, SettingsError, settings
from calib.source import Document, Source, SourceSetting, TokenDocument, register
from calib.tokenizer import called
from calib.writer import Request, Writer, seeds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@register("self_generated")
@settings
class SelfGenerated(Source):
    """`documents` texts of up to `length` tokens. `prompts`: a source, whose documents' first `prompt_tokens` begin the
    texts; without it they begin with BOS. `temperatures`: taken in turn. `keep`: the share of the texts that stay,
    those of lowest perplexity.
    """

    example: ClassVar[Mapping[str, Any]] = {"prompts": {"source": "file", "path": "my.jsonl"}, "documents": 4}
    licence: ClassVar[str] = "as the model's"

    count: Annotated[int, Field(ge=1, le=1 << 20, alias="documents")] = 512
    length: Annotated[int, Field(ge=2, le=1 << 17)] = 2_048
    prompts: SourceSetting | None = None
    prompt_tokens: Annotated[int, Field(ge=1, le=4_096)] = 2
    temperatures: list[Annotated[float, Field(ge=0, le=5)]] = Field(default_factory=lambda: [0.5, 0.8, 1.1, 1.4])
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: Annotated[int | None, Field(ge=1)] = None
    keep: Annotated[float, Field(gt=0, le=1)] = 0.8
    seed: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0

    def __post_init__(self) -> None:
        if not self.temperatures:
            raise ValueError("temperatures: expected at least one")
        super().__post_init__()

    def default_label(self) -> str:
        return self.source_name

    @property
    def writes(self) -> bool:
        return True

    @property
    def begins_with_bos(self) -> bool:
        return self.prompts is None

    def wrapped(self) -> Source | None:
        return None

    def licences(self) -> list[str]:
        return [self.licence]

    def revision(self) -> str:
        return "pcg64" if self.prompts is None else f"pcg64:{super().revision()}"

    def capacity(self) -> int | None:
        return self.count * (self.length + 1)  # a separator may follow each

    def documents(self) -> Iterator[Document]:
        raise SettingsError(f"source '{self.label}': its text is written by a model")

    def written(self, tokenizer: PreTrainedTokenizerBase, writer: Writer) -> Iterator[TokenDocument]:
        prompts = self._prompts(tokenizer)
        requests = [
            Request(
                prompt,
                seed,
                self.temperatures[number % len(self.temperatures)],
                self.top_p,
                self.top_k,
                self.length - len(prompt),
            )
            for number, (prompt, seed) in enumerate(zip(prompts, seeds(self.seed, len(prompts)), strict=True))
        ]
        answers = writer.write(requests)
        texts = [
            np.asarray([*request.prompt, *answer], dtype=np.int32)
            for request, answer in zip(requests, answers, strict=True)
        ]
        for number in self._kept(texts, writer):
            yield TokenDocument(f"written:{number}", texts[number])

    def _prompts(self, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, ...]]:
        if self.prompts is None:
            if tokenizer.bos_token_id is None:
                raise SettingsError(f"source '{self.label}': {called(tokenizer)} has no BOS token; give prompts")
            return [(int(tokenizer.bos_token_id),)] * self.count
        documents = islice(self.prompts.token_documents(tokenizer), self.count)
        found = [tuple(int(token) for token in document.tokens[: self.prompt_tokens]) for document in documents]
        if (few := len(found)) < self.count:
            raise SettingsError(f"source '{self.label}': {few} prompts for {self.count} documents; ask for fewer")
        if self.prompt_tokens >= self.length:
            raise SettingsError(f"source '{self.label}': prompt_tokens {self.prompt_tokens} leave nothing to write")
        return found

    def _kept(self, texts: list[np.ndarray], writer: Writer) -> list[int]:
        """The numbers of the texts that stay, in their order."""
        if self.keep == 1:
            return list(range(len(texts)))
        order = np.argsort(writer.perplexity(texts), kind="stable")
        return sorted(order[: max(1, round(self.keep * len(texts)))].tolist())
