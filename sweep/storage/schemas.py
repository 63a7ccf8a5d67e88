"""The columns of the tables, defined once, with their units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

SCHEMA_VERSION = 2  # 2: what answers are worth, beside right or wrong; rows of version 1 have null there

# The first of these that a task has is its accuracy, in evaluation (`sweep/evaluation/metrics/accuracy.py`, which
# records it) and for rows that do not record it.
ACCURACY_METRICS = ("acc", "exact_match", "em", "accuracy", "acc_norm", "acc_bytes", "acc_mutual_info")


def _schema(columns: Mapping[str, tuple[pa.DataType, str]]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, metadata={"about": about}) for name, (kind, about) in columns.items()])


_text, _int, _small, _real, _flag = pa.string(), pa.int64(), pa.int32(), pa.float64(), pa.bool_()

TRIALS = _schema(
    {
        "trial_id": (_text, "hash of everything that can change the trial's numbers"),
        "schema_version": (_small, "version of these tables"),
        "study": (_text, "name of the study"),
        "status": (_text, "ok | failed"),
        "error": (_text, "null, or what failed and where, in one line"),
        "phase": (
            _text,
            "null, or the phase that failed: calibration | load | restore | compress | evaluate | write | worker",
        ),
        "attempts": (_small, "how often the trial was started until this row"),
        "model": (_text, "name of the model in the study"),
        "model_id": (_text, "fingerprint of the model's files, or name@revision on the hub"),
        "model_commit": (_text, "commit of a hub model's files, null for a folder"),
        "parameters": (_int, "number of parameters, tied ones once"),
        "method": (_text, "method name; a composition joins its parts with '+'; 'dense' is the uncompressed model"),
        "method_label": (_text, "short label of method and settings for tables and figures"),
        "settings": (_text, "JSON: every setting of the method, defaults included"),
        "bits": (_real, "nominal bits per weight, null when the method does not quantize"),
        "sparsity": (_real, "nominal share of zero weights, null when the method does not prune"),
        "pattern": (_text, "n:m pattern (kept:group), null when unstructured"),
        "data_free": (_flag, "the method sees no calibration data: one trial per model, a null control"),
        "source": (_text, "label of the calibration source, null when data-free"),
        "set": (_small, "number of the disjoint calibration set, null when data-free"),
        "nsamples": (_small, "calibration windows"),
        "planned_nsamples": (_small, "nsamples of the study: null takes every window, and when data-free"),
        "seqlen": (_small, "tokens per calibration window"),
        "sampling": (_text, "how windows are drawn from the source"),
        "separator": (_text, "what joins documents that share a window, null when data-free"),
        "add_bos": (_flag, "each window begins with the BOS id, null when data-free"),
        "select": (_text, "rule that chose the windows out of a larger pool, with its settings; null without one"),
        "distinct": (_small, "different windows that are repeated to fill the set; null when all differ"),
        "document_bos": (_flag, "each document begins with the BOS id, null when data-free"),
        "first_token": (_text, "bos | eos: the id that add_bos means; null without add_bos"),
        "exclude_overlap": (
            _small,
            "documents that share so many words in a row with the evaluation are left out; null when they stay",
        ),
        "part": (_text, "prompt | response: the tokens that count in what the method knows; null when all do"),
        "length_weights": (_text, "lengths to which windows are cut and added up; null when every token counts once"),
        "calibration_seed": (_int, "seed that draws the windows, null when data-free"),
        "calibration_id": (_text, "hash of the calibration spec, key of calibration/"),
        "calibration_hash": (_text, "sha256 of the calibration tokens"),
        "calibration_documents": (_int, "distinct documents in the calibration set"),
        "seconds_select": (_real, "wall seconds to choose the set's windows out of their pool; null without a rule"),
        "evaluation_id": (_text, "hash of settings, tasks and texts of the evaluation; one in a folder"),
        "first_blocks": (
            _small,
            "blocks that the trial compressed and looked at, and no others: no compressed model; null for all of them",
        ),
        "requests_id": (_text, "hash of what requests are made from: evaluation, tokenizer and context"),
        "requests_hash": (_text, "hash of the requests themselves: documents, prompts, token ids, held-out windows"),
        "seed": (_int, "the study's seed"),
        "files": (_text, "JSON: bytes of the trial's file in each other table; null in rows of earlier versions"),
        "weights_hash": (_text, "hash over the exact bits of the compressed weights (sweep/weights/hashes.py)"),
        "achieved_sparsity": (_real, "share of zeros over the linears in scope, after compression"),
        "average_bits": (_real, "stored bits per weight over the linears in scope, grids and outliers included"),
        "layer_error": (_real, "mean over the linears of their relative output error"),
        "fallbacks": (_int, "linears that needed a recorded numerical fallback"),
        "scorer": (
            _text,
            "how log-likelihoods were computed: packed, and with which attention | plain[, equal lengths | one by one]",
        ),
        "truncated_requests": (_int, "requests longer than the model's context, cut by lm-eval's rule"),
        "seconds_total": (_real, "wall seconds of the trial"),
        "seconds_restore": (_real, "wall seconds to give back the dense weights"),
        "seconds_compress": (_real, "wall seconds of the walk"),
        "seconds_tasks": (_real, "wall seconds of the task evaluation"),
        "seconds_windows": (_real, "wall seconds of perplexity and divergence"),
        "seconds_write": (_real, "wall seconds to write the other tables"),
        "peak_memory": (_int, "bytes: peak device memory on a GPU, peak resident memory of the worker on a CPU"),
        "dtype": (_text, "dtype of the weights during the trial"),
        "placement": (_text, "whole: all weights were on the device | streamed: one decoder block at a time"),
        "device": (_text, "name of the GPU or CPU"),
        "worker": (_text, "host and process of the worker"),
        "versions": (_text, "JSON: versions of Python, torch, transformers, lm_eval, ray, and of this package"),
        "commit": (_text, "git commit of the code, null outside a checkout; '+' marks local changes"),
        "started": (pa.timestamp("us", tz="UTC"), "when the trial started"),
    }
)

METRICS = _schema(
    {
        "trial_id": (_text, "key of trials/"),
        "kind": (_text, "task | answers | group | perplexity | divergence | blocks"),
        "task": (_text, "lm-eval task or group name, or the label of the held-out text"),
        "metric": (
            _text,
            "acc, acc_norm, perplexity, js_divergence, kl_divergence, top1_agreement, ...; of kind answers: "
            "loglikelihood, margin (nats), probability, brier, ece (shares), and each with _change: minus dense; "
            "of kind blocks: block_error, the mean over tokens of ‖ŷ−y‖²/‖y‖² behind the first blocks, and "
            "block_error_total, Σ‖ŷ−y‖²/Σ‖y‖²",
        ),
        "value": (_real, "null when it could not be computed; `reason` says why"),
        "stderr": (_real, "standard error over examples or windows, null when unknown"),
        "n": (_int, "number of examples, or windows"),
        "accuracy": (
            _text,
            "of a task: its metric that `score` in samples/ is about, '' when it has no accuracy",
        ),
        "reason": (_text, "why value is null, in one line; null when there is a value"),
    }
)

SAMPLES = _schema(
    {
        "trial_id": (_text, "key of trials/"),
        "task": (_text, "as in metrics/"),
        "doc_id": (_int, "number of the example in its task, or of the window in its held-out text"),
        "score": (
            _real,
            "the task's accuracy for this example; the mean is the metric of metrics/; null if none",
        ),
        "correct": (pa.bool_(), "`score` as right or wrong; null when it is neither 1 nor 0"),
        "correct_norm": (pa.bool_(), "length-normalised correctness (acc_norm); null when it is neither 1 nor 0"),
        "margin": (pa.float32(), "nats: log-likelihood of the right answer minus the best wrong one; null if unknown"),
        "loglikelihood": (pa.float32(), "nats: log-likelihood of the right answer; null if unknown"),
        "probability": (
            pa.float32(),
            "of the right answer: softmax over the choices of the scores that the task's accuracy compares "
            "(sweep/evaluation/metrics/choices.py); null where there are no choices",
        ),
        "confidence": (pa.float32(), "the largest of these probabilities; null where there are no choices"),
        "brier": (pa.float32(), "0 to 2: squared distance of these probabilities from the outcome; null likewise"),
        "nll": (pa.float32(), "nats per token: mean negative log-likelihood of a held-out window"),
        "js": (pa.float32(), "nats: mean Jensen-Shannon divergence from the dense model over a held-out window"),
    }
)

LAYERS = _schema(
    {
        "trial_id": (_text, "key of trials/"),
        "step": (_small, "position in a composition of methods, 0 for a single method"),
        "block": (_small, "number of the decoder block"),
        "linear": (_text, "name of the linear inside its block"),
        "rows": (_small, "output features"),
        "cols": (_small, "input features"),
        "relative_error": (_real, "‖(W−Ŵ)X‖² / ‖WX‖² on the calibration inputs; on the weights alone if data-free"),
        "damping": (_real, "damping used, as a share of the mean diagonal; null when the method has none"),
        "retries": (_small, "how often damping was raised"),
        "fallback": (_text, "null, or the recorded numerical fallback"),
        "dead_columns": (_small, "inputs that were always zero"),
        "sparsity": (_real, "share of zero weights"),
        "bits": (_real, "stored bits per weight, grids and outliers included"),
        "outlier_share": (_real, "share of weights kept in full precision; null when the method keeps none"),
        "rank": (_small, "rank of a low-rank factorization, null otherwise"),
        "tokens": (_int, "input vectors in the statistic"),
        "seconds": (_real, "wall seconds of the solver"),
    }
)

CALIBRATION = _schema(
    {
        "calibration_id": (_text, "hash of the calibration spec"),
        "hash": (_text, "sha256 of the tokens of the whole set"),
        "source": (_text, "label of the source"),
        "revision": (_text, "revision of the source's data"),
        "spec": (_text, "JSON: the whole spec, source settings included"),
        "tokenizer": (_text, "fingerprint of the tokenizer"),
        "set": (_small, "number of the disjoint set"),
        "select": (_text, "rule that chose the windows out of a larger pool, with its settings; null without one"),
        "distinct": (_small, "different windows that are repeated to fill the set; null when all differ"),
        "document_bos": (_flag, "each document begins with the BOS id"),
        "first_token": (_text, "bos | eos: the id that add_bos means; null without add_bos"),
        "exclude_overlap": (
            _small,
            "documents that share so many words in a row with the evaluation are left out; null when they stay",
        ),
        "part": (_text, "prompt | response: the tokens that count in what the method knows; null when all do"),
        "length_weights": (_text, "lengths to which windows are cut and added up; null when every token counts once"),
        "excluded_documents": (_int, "documents of the source that `exclude_overlap` left out"),
        "seconds_select": (_real, "wall seconds to choose the windows; null without a rule"),
        "window": (_small, "number of the window in the set"),
        "tokens": (pa.list_(pa.int32()), "token ids of the window"),
        "text": (_text, "the window, decoded"),
        "documents": (pa.list_(_text), "ids of the documents in the window, in order"),
        "starts": (pa.list_(pa.int32()), "first token of each piece within its document"),
        "lengths": (pa.list_(pa.int32()), "tokens of each piece"),
        "responses": (pa.list_(_flag), "of each token whether an assistant writes it; null where it is not known"),
    }
)

OVERLAP = _schema(
    {
        "calibration_id": (_text, "hash of the calibration spec"),
        "kind": (_text, "task: the documents of a task | prompt: what is asked, few-shot examples and all | heldout"),
        "name": (_text, "lm-eval task, or label of the held-out text"),
        "unit": (_text, "words: of normalised text | tokens"),
        "n": (_small, "words or tokens in a row that are shared"),
        "texts": (_int, "documents, prompts or held-out windows that the set was compared with"),
        "short": (_int, "of these, the ones with fewer than n words or tokens, which can share nothing"),
        "texts_shared": (_int, "of these, the ones that share an n-gram with the set"),
        "largest_share": (_real, "largest share of the n-grams of one of these texts that stand in the set"),
        "windows": (_int, "windows of the set"),
        "windows_shared": (_int, "windows that share an n-gram with one of the texts"),
        "seconds": (_real, "wall seconds of the comparison, by equal parts of those of all names"),
    }
)

DESCRIPTORS = _schema(
    {
        "calibration_id": (_text, "hash of the calibration spec"),
        "model": (_text, "name of the model that was asked, '' for a descriptor of the tokens alone"),
        "descriptor": (_text, "file of calib/describe/ or sweep/describe/ that defines it, with its unit"),
        "target": (_text, "label of the held-out text that the set is compared with, '' where there is none"),
        "value": (_real, "null when it could not be computed"),
        "seconds": (_real, "wall seconds that it took"),
    }
)

TABLES: dict[str, pa.Schema] = {
    "trials": TRIALS,
    "metrics": METRICS,
    "samples": SAMPLES,
    "layers": LAYERS,
    "calibration": CALIBRATION,
    "overlap": OVERLAP,
    "descriptors": DESCRIPTORS,
}
KEYS: dict[str, tuple[str, ...]] = {
    "trials": ("trial_id",),
    "metrics": ("trial_id", "task", "metric"),
    "samples": ("trial_id", "task", "doc_id"),
    "layers": ("trial_id", "step", "block", "linear"),
    "calibration": ("calibration_id", "window"),
    "overlap": ("calibration_id", "kind", "name", "unit"),
    "descriptors": ("calibration_id", "model", "descriptor", "target"),
}
DETAILS = ("metrics", "samples", "layers")  # what a trial writes before the row that commits it


def about(name: str) -> Iterable[tuple[str, str, str]]:
    """(column, type, meaning) of a table, for the documentation."""
    for field in TABLES[name]:
        yield field.name, str(field.type), field.metadata[b"about"].decode()
