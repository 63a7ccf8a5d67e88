"""The held-out text that ships with the project: the same nine domains as the bundled sources, other documents.

For perplexity and divergence. It shares no passage of 200 characters with a calibration pool or the training text, so
calibrating on a domain and evaluating on its held-out text measures transfer and not memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from calib.settings import settings, suggestion
from calib.source import register
from calib.sources.bundled import DOMAINS, ReferenceText


@register("heldout")
@settings
class Heldout(ReferenceText):
    """Held-out text of one `domain`: books, code, dialogue_qa, encyclopedia, legal, multilingual, news_blogs, ..."""

    folder: ClassVar[str] = "heldout"
    example: ClassVar[Mapping[str, Any]] = {"domain": "books"}
    names: ClassVar[frozenset[str]] = frozenset({"label"})  # the domain says which text it is

    domain: str

    def __post_init__(self) -> None:
        if self.domain not in DOMAINS:
            raise ValueError(f"domain: no held-out text '{self.domain}'{suggestion(self.domain, DOMAINS)}")
        super().__post_init__()

    def domain_name(self) -> str:
        return self.domain

    @property
    def own_domain(self) -> str:
        return self.default_label()  # whatever it is called: `multilingual-de` with a language
