"""A first look at what a study reads from elsewhere, before a machine with a GPU is asked for.

The first documents of each source on the hub, and the special tokens that sets need: a data set that is gated, moved
or out of reach, or a tokenizer without a BOS, ends the launch in a second or two. Local files were looked at when the
study was planned. The hard case is a set that a model has made already: it is read from the results folder, so its
source need not be there any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from calib.source import Source
from calib.specials import separator_ids, special_id
from sweep.models import at_commit, hub_commit, load_tokenizer
from sweep.plan import Pool, Trial
from sweep.results import Results
from sweep.storage.patience import WRITE_PATIENCE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def worth_a_look(pools: Iterable[Pool]) -> list[Pool]:
    """Those with sources elsewhere, and of the others one for each tokenizer and choice of special tokens."""
    found: dict[object, Pool] = {}
    for pool in pools:
        targets = [spec.select.target_source() for spec in pool.specs if spec.select is not None]
        far = any(source.remote for source in (*(spec.source for spec in pool.specs), *filter(None, targets)))
        special = {(spec.separator, spec.add_bos, spec.first_token, spec.document_bos) for spec in pool.specs}
        found.setdefault(pool.ids if far else (pool.model.tokenizer_id, frozenset(special)), pool)
    return list(found.values())


def look_at_pool(pool: Pool, results: str) -> None:
    """Raises SettingsError for a source that cannot be read, and a special token that the tokenizer lacks."""
    if pool.asks_model and Results(results, WRITE_PATIENCE).keys("calibration").issuperset(pool.ids):
        return
    tokenizer = load_tokenizer(at_commit(pool.model, hub_commit(pool.model)))
    for spec in pool.specs:
        separator_ids(spec, tokenizer)
        if spec.add_bos:
            special_id(tokenizer, spec.first_token, "add_bos")
        if spec.document_bos:
            special_id(tokenizer, "bos", "document_bos")
    targets = [spec.select.target_source() for spec in pool.specs if spec.select is not None]
    read_first([*(spec.source for spec in pool.specs), *(target for target in targets if target)], tokenizer)


def look_at_texts(trial: Trial) -> None:
    """Raises SettingsError for held-out text that cannot be read."""
    if sources := [source for source in trial.evaluation.heldout_sources() if source.remote]:
        read_first(sources, load_tokenizer(at_commit(trial.model, hub_commit(trial.model))))


def read_first(sources: Iterable[Source], tokenizer: PreTrainedTokenizerBase) -> None:
    """Read the first documents of each source that is not on this machine. Raises SettingsError."""
    for part in {str(part.to_dict()): part for source in sources for part in _remote(source)}.values():
        next(part.token_documents(tokenizer), None)


def _remote(source: Source) -> Iterator[Source]:
    """The parts of a mixture, the prompts of what a model writes, and both texts where one is left out of the other, as
    far as they are not on this machine."""
    if not source.remote:
        return
    apart = source.writes or source.excluded_words is not None  # it gives no document without a model or an evaluation
    inside = source.parts() if apart else [part for part, _ in source.components()]
    if list(inside) == [source]:
        yield source
        return
    for part in inside:
        yield from _remote(part)
