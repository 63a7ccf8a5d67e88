"""Trials that cannot be shipped as asked, and compressions that cannot be made: said before a model is loaded."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweep.config import parse_study
from sweep.models import MODELS
from sweep.plan import expand
from sweep.results import Results
from sweep.trial import describe
from tests.bad_inputs.common import STUDY, Case

Build = Callable[[Path], list[str]]
GPTQ = STUDY["methods"][0]  # 3-bit, with scales in float32
HALF = {**GPTQ, "scale_dtype": "float16"}


def finished(*arguments: str, method: Any = HALF, dtype: str = "float16", error: str | None = None) -> Build:
    """A results folder with a dense trial and one of `method`, as far as their rows go, and these arguments."""

    def build(folder: Path) -> list[str]:
        study = parse_study({**copy.deepcopy(STUDY), "methods": [method]})
        store = Results(folder / "results")
        store.write_text("study.yaml", study.to_yaml())
        for trial in expand(study):
            failed = error is not None and trial.method is not None
            row = {**describe(trial), "dtype": dtype, "weights_hash": "0" * 64, "calibration_hash": "0" * 64}
            store.commit({**row, "status": "failed" if failed else "ok", "error": error if failed else None})
        return ["--results", "results", "--out", "model", *arguments]

    return build


def taken(*names: str, out: str = "model") -> Build:
    """The same with these files in the way."""

    def build(folder: Path) -> list[str]:
        arguments = finished()(folder)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("mine")
        return [*arguments[:3], out]

    return build


def damaged(table: str) -> Build:
    """The same with the files of a table cut."""

    def build(folder: Path) -> list[str]:
        arguments = finished(*ONE)(folder)
        for file in (folder / "results" / table).glob("*.parquet"):
            file.write_bytes(file.read_bytes()[:100])
        return arguments

    return build


def answered(*arguments: str) -> Build:
    """The same with the answer of a recommendation about a trial of another study."""

    def build(folder: Path) -> list[str]:
        (folder / "answer.json").write_text(json.dumps({"trial": "fedcba98", "sentences": ["Use books."]}))
        return finished("--best", "answer.json", *arguments)(folder)

    return build


def compressing(folder: Path) -> list[str]:
    """Arguments that compress a model of the user's own."""
    shutil.copytree(MODELS / "reference-2m", folder / "mine")
    return ["./mine", "--method", "rtn"]


def export(build: Build, message: str) -> Case:
    return Case(build, message, command="sweep.export")


def compress(*arguments: str, message: str) -> Case:
    return Case(lambda folder: [*arguments, "--out", "model"], message, command="sweep.compress")


ONE = ("--method", "gptq")

CASES: dict[str, Case] = {
    "a folder without results": export(
        lambda folder: ["--results", "nowhere", "--out", "model"],
        r"--results nowhere: holds no study with trials; give the folder that a launch wrote",
    ),
    "results of an unknown kind": export(
        lambda folder: ["--results", "ftp://x/y", "--out", "m"], r"--results ftp://x/y: "
    ),
    "a format that there is not": export(
        finished("--format", "gguf"),
        r"--format: unknown format 'gguf'; choose from awq, bitsandbytes, compressed-tensors, dense, factored, gptq",
    ),
    "a format with a typo": export(finished("--format", "gptk"), r"unknown format 'gptk', did you mean 'gptq'\?"),
    "a target that is not empty": export(taken("model/note"), r"--out model: is there already and not empty; give"),
    "a target that is a file": export(taken("model"), r"--out model: is there already and no folder; give another"),
    "a target inside a file": export(taken("note", out="note/model"), r"--out note/model: .*note is no folder"),
    "a target inside the results": export(
        taken(out="results/model"), r"--out results/model: lies in results, which is read; give a folder elsewhere"
    ),
    "bits given twice": compress(
        "reference-2m", *ONE, "--bits", "4", "--set", "bits=3", message=r"--bits 4 and --set bits=3: both say the bits"
    ),
    "windows longer than the context": compress(
        *("reference-2m", *ONE, "--data", "books", "--seqlen", "600"),
        message=r"calibration\.seqlen: 600 is longer than the context of reference-2m \(512 tokens\); choose",
    ),
    "a target inside the model": Case(
        lambda folder: [*compressing(folder), "--out", "mine/4bit"],
        r"--out mine/4bit: lies in .*mine, which is read; give a folder elsewhere",
        command="sweep.compress",
    ),
    "an answer that there is not": export(
        finished("--best", "answer.json"), r"--best answer\.json: cannot be read .*analysis\.pick RESULTS"
    ),
    "an answer that is none": export(
        finished("--best", "results/study.yaml"), r"--best results/study\.yaml: is no answer of a recommendation; give"
    ),
    "an answer and a trial": export(
        answered("0123abcd"), r"--best answer\.json: names a trial already; leave 0123abcd"
    ),
    "an answer about another study": export(answered(), r"no trial there is trial fedcba98"),
    "codes of a pruned model in SpQR's form": export(
        finished("--format", "spqr", method=[{"method": "wanda"}, {"method": "spqr"}]),
        r"--format spqr cannot hold Wanda .* a step prunes, whose zeros are no levels; dense can",
    ),
    "SpQR in a format for whole codes": export(
        finished("--format", "gptq", method={"method": "spqr"}), r"no linear on an integer grid; spqr or dense can"
    ),
    "a trial that there is not": export(finished("0123456789abcdef"), r"no trial there is trial 0123456789abcdef"),
    "a method that was not measured": export(finished("--method", "awq"), r"unknown method 'awq'"),
    "a source with a typo": export(finished("--source", "boks"), r"unknown source 'boks', did you mean 'books'\?"),
    "a set that was not drawn": export(finished(*ONE, "--set", "3"), r"no trial there is method gptq, set 3"),
    "the dense model": export(finished("--method", "dense"), r"is the dense model, which has nothing to export"),
    "a failed trial": export(
        finished(*ONE, error="CompressionError: block 1"),
        r"failed, so there are no weights .*\(CompressionError: block 1\); a launch with --retry-failed tries it again",
    ),
    "results whose trials are cut": export(
        damaged("trials"), r"--results results: a file in trials/ or metrics/ cannot be read .*; the launch command"
    ),
    "a width that the format has not": export(
        finished(*ONE, "--format", "awq"),
        r"--format awq cannot hold GPTQ 3-bit g32: it knows 4 bits; compressed-tensors or gptq or dense can",
    ),
    "a pruned model in a format for codes": export(
        finished("--format", "gptq", method={"method": "wanda"}),
        r"--format gptq cannot hold Wanda .*: it leaves no linear on an integer grid; dense can",
    ),
    "factors in a format for codes": export(
        finished("--format", "compressed-tensors", method={"method": "svd_llm", "ratio": 0.5}),
        r"two factors stand in the place of a linear; factored or dense can",
    ),
    "codes in a format for factors": export(finished(*ONE, "--format", "factored"), r"it leaves no low-rank factors"),
    "scales that no loader has": export(
        finished(*ONE, method=GPTQ),
        r"its scales are float32 in a model of float16, .*\(measure it with scale_dtype: float16.*; dense can",
    ),
    "groups that do not stand together": export(
        finished(*ONE, "--format", "awq", method={**HALF, "bits": 4, "static_groups": False}),
        r"act_order with groups .*no g_idx \(.*static_groups: true\); compressed-tensors or gptq or dense can",
    ),
    "a float32 model for kernels of 16 bits": export(
        finished(*ONE, "--format", "gptq", dtype="float32"), r"measured in float32 .*; compressed-tensors or dense can"
    ),
    "a calibration set that is lost": export(finished(*ONE), r"the calibration set \w+ is lost; the launch command"),
    "no text for a method that needs it": compress(
        "reference-2m", "--method", "gptq", message=r"--data: GPTQ 4-bit needs calibration text; give a text or JSONL"
    ),
    "a model with a typo": compress(
        "refrence-2m", "--method", "rtn", message=r"models\[0\].*did you mean 'reference-2m"
    ),
    "a method with a typo": compress(
        "reference-2m", "--method", "gtpq", message=r"unknown method 'gtpq', did you mean"
    ),
    "a setting without a value": compress(
        "reference-2m", "--method", "rtn", "--set", "bits", message=r"--set 'bits': expected key=value, such as bits=4"
    ),
    "a setting that there is not": compress(
        "reference-2m", "--method", "rtn", "--set", "bit=4", message=r"methods\[0\]\.bit: .*did you mean 'bits'"
    ),
    "a text that is not there": compress(
        "reference-2m", "--method", "gptq", "--data", "my.jsonl", message=r"no such file or folder: .*my\.jsonl"
    ),
    "a format for another method": compress(
        "reference-2m", "--method", "magnitude", "--format", "awq", message=r"no linear on an integer grid; dense can"
    ),
}
