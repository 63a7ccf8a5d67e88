"""The token ids that texts and requests really use, against the rows of a model's embedding.

A tokenizer may know more tokens than the model (added tokens that nobody uses), and an embedding may have more rows
than the tokenizer has tokens; both are common and harmless. What is wrong is an id that is used and has no row: it ends
in an error deep inside a kernel, or in another token's row. So the ids themselves are looked at, of calibration sets,
requests and held-out windows alike, before a trial is given them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from calib.build import CalibrationSet
from calib.settings import SettingsError
from sweep.evaluation.questions.largest import LargestId
from sweep.models import load_tokenizer
from sweep.plan import ModelUse


def largest_in_sets(sets: Sequence[CalibrationSet]) -> dict[str, LargestId]:
    """The largest id of each calibration set, by the set's id."""
    return {
        built.id: LargestId(int(built.tokens.max()), f"calibration: source '{built.spec.source.label}'")
        for built in sets
    }


def refuse_unknown_ids(
    use: ModelUse, rows: int, of_sets: Mapping[str, LargestId], of_requests: Iterable[LargestId]
) -> None:
    """Raise SettingsError when a model with `rows` embeddings is given an id that has none.

    `of_sets` are the largest ids by calibration set, of this model and of others.
    """
    model = use.model
    given = [of_sets[number] for number in use.calibration_ids if number in of_sets]
    for largest in (*given, *of_requests):
        if largest.id >= rows:
            token = load_tokenizer(model).convert_ids_to_tokens(largest.id)
            raise SettingsError(
                f"{largest.place}: the tokenizer of {model.name} makes the id {largest.id} ({token!r}) of it, and the "
                f"model has embeddings for 0 to {rows - 1} alone; give the tokenizer that belongs to the model, or "
                "text without such tokens"
            )
