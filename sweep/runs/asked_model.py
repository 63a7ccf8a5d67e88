"""The dense model that is asked about calibration sets, loaded once in a process, and the text that it writes itself.

A process that prepares a study asks the same model about one source after another: which windows to choose, what they
are to it, how far they are from its own text. The hard case is what stays behind: a process that is kept by Ray for its
next task must not hold a large model meanwhile, so only small ones are kept, and `release` gives back the rest.
"""

from __future__ import annotations

import numpy as np

from calib.build import build
from calib.settings import SettingsError
from calib.source import get_source
from calib.spec import CalibrationSpec
from sweep.generation.writer import ModelWriter
from sweep.models import ModelRef, load_tokenizer
from sweep.weights.dense import DenseModel
from sweep.weights.streaming import StreamedModel, load_dense

OWN_TEXTS = 32  # written for `own_distance`: means of activations over them are steady to a few percent of their spread
KEPT = 1 << 30  # parameters beyond which loading again costs less than the memory of a process that waits

_models: dict[tuple[str, str], DenseModel | StreamedModel] = {}
_texts: dict[tuple[str, int], np.ndarray | None] = {}


def dense_of(ref: ModelRef, device: str) -> DenseModel | StreamedModel:
    """The dense model, as it was loaded here before; another one that was asked is given back first."""
    key = (repr(ref), device)
    if key not in _models:
        _models.clear()
        _models[key] = load_dense(ref, device)
    return _models[key]


def release(*, small: bool = True) -> None:
    """Give back the model; unless `small`, only one that is large."""
    for key, dense in list(_models.items()):
        if small or dense.parameters > KEPT:
            del _models[key]


def own_text(ref: ModelRef, device: str, seqlen: int) -> np.ndarray | None:
    """Windows of text that the model writes from BOS, (windows, seqlen), int32; None where it writes no whole window.

    The defaults of the source `self_generated`, all texts kept. A model without BOS and a streamed one write none.
    """
    key = (repr(ref), seqlen)
    if key not in _texts:
        _texts[key] = None if ref.placement == "streamed" else _written(ref, device, seqlen)
    return _texts[key]


def _written(ref: ModelRef, device: str, seqlen: int) -> np.ndarray | None:
    entry = {"source": "self_generated", "documents": OWN_TEXTS, "length": seqlen, "keep": 1.0}
    spec = CalibrationSpec(source=get_source(entry), set=0, nsamples=None, seqlen=seqlen, sampling="sequential")
    try:
        return build(spec, load_tokenizer(ref), writer=ModelWriter(ref, device)).tokens.copy()
    except SettingsError:  # no BOS, or texts that all end at once: the descriptor has no number then
        return None
