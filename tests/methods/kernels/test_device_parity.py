"""A bundled model compressed on a CUDA device and on the processor: the same held-out perplexity."""

from __future__ import annotations

import math

import pytest
import torch

from calib.build import build
from calib.source import get_source
from calib.spec import CalibrationSpec
from methods.base import parse_method
from methods.blockwise import compress_model
from sweep.models import DenseModel, resolve_model

METHODS = [
    {"method": "rtn", "bits": 4, "group_size": 32},
    {"method": "gptq", "bits": 3, "group_size": 32},
    {"method": "gptq", "bits": 4, "group_size": 32, "act_order": True, "true_sequential": True},
    {"method": "spqr", "bits": 3},
    {"method": "magnitude"},
    {"method": "wanda", "pattern": "2:4"},
    {"method": "sparsegpt"},
    {"method": "sparsegpt", "pattern": "2:4"},
    {"method": "awq", "bits": 3, "group_size": 32},
    [{"method": "sparsegpt", "pattern": "2:4"}, {"method": "gptq", "bits": 4, "group_size": 32}],
]


def windows(model, source, nsamples):
    spec = CalibrationSpec(source=source, set=0, nsamples=nsamples, seqlen=256)
    return torch.tensor(build(spec, model.tokenizer, model.ref.tokenizer_id).tokens).long()


def perplexity(model, tokens):
    with torch.no_grad():
        logits = model(tokens.to(model.device)).logits[:, :-1].float().cpu()
    return math.exp(torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("entry", METHODS, ids=str)
def test_heldout_perplexity_on_the_gpu_is_that_of_the_cpu(entry):
    method = parse_method(entry, "method")
    found = {}
    for device in ("cpu", "cuda"):
        dense = DenseModel(resolve_model("reference-2m", "model"), device, "float32")
        compress_model(dense.model, method, windows(dense, get_source("books", "source"), 16))
        heldout = get_source({"source": "heldout", "domain": "books"}, "source")
        found[device] = perplexity(dense.model, windows(dense, heldout, 16))
    assert found["cuda"] == pytest.approx(found["cpu"], rel=2e-3)
