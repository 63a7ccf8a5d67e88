"""Study files that cannot be what is meant: bombs, endless nesting, numbers without end, wrong words and types."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.bad_inputs.common import STUDY, Case, overridden, study_text, write_study

Build = Callable[[Path], list[str]]


def bomb(levels: int = 9, width: int = 9) -> str:
    """A study of a few hundred bytes that means `width ** levels` values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + f"\nstudy: *a{levels - 1}\n"


def merge_bomb(levels: int = 9, width: int = 9) -> str:
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * width)}], k{n}: v}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def text(**sections: Any) -> str:
    """The small study as YAML, with other sections."""
    return yaml.safe_dump({**copy.deepcopy(STUDY), **sections}, sort_keys=False)


def replaced(old: str, new: str, encoding: str = "utf-8") -> Build:
    """The small study with a piece of its text replaced."""
    assert text().count(old) == 1
    return study_text(text().replace(old, new).encode(encoding, "surrogatepass"))


def added(more: str) -> Build:
    """The small study with a piece of text before it."""
    return study_text(f"{more}\n{text()}")


def calibration(**changes: Any) -> Build:
    return lambda folder: [write_study(folder, calibration={**STUDY["calibration"], **changes}), "--dry-run"]


def evaluation(**changes: Any) -> Build:
    return lambda folder: [write_study(folder, evaluation={**STUDY["evaluation"], **changes}), "--dry-run"]


def method(**settings: Any) -> Build:
    return lambda folder: [write_study(folder, methods=[settings]), "--dry-run"]


def sections(**changes: Any) -> Build:
    return lambda folder: [write_study(folder, **changes), "--dry-run"]


BIG = 2**63
BITS = r"expected a number of at most 64 bits \(9223372036854775807\), got 9223372036854775808"
NAME = r"expected a name of 1 to 100 letters, digits, '_', '\.' and '-'"
LABEL = r"expected one line of 1 to 200 printable characters, got "
TOKENS = "at most [0-9,]+ tokens, which make at most "

WRITTEN: dict[str, Case] = {
    "a bomb of aliases": Case(study_text(bomb()), r"study\.yaml, line \d+: more than 100,000 values"),
    "a bomb of merged keys": Case(study_text(merge_bomb()), r"line \d+: more than 100,000 values"),
    "a list that holds itself": Case(added("a: &a [*a]"), r"line 1: the alias \*a stands inside what it names"),
    "a mapping that is merged into itself": Case(added("a: &a {<<: *a}"), r"line 1: the alias \*a stands inside"),
    "an alias of nothing": Case(
        added("a: *b"), r"line 1: (the alias \*b names nothing|not valid YAML .*undefined alias)"
    ),
    "a merge of text": Case(added("a: {<<: b}"), r"line 1: << takes the keys of a mapping"),
    "ten thousand brackets": Case(study_text("[" * 10_000), r"line 1: more than 50 lists and mappings inside"),
    "ten thousand braces": Case(study_text("{a: " * 10_000), r"line 1: more than 50 lists and mappings inside"),
    "ten thousand dashes": Case(study_text("- " * 10_000 + "a"), r"line 1: more than 50 lists and mappings inside"),
    "a long chain of aliases": Case(
        study_text("\n".join(["a0: &a0 []", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000))])),
        r"line \d+: more than 50 lists and mappings inside each other",
    ),
    "a file of two megabytes": Case(study_text("# " + "x" * (2 << 20)), r"2,097,154 bytes; a study file has at most"),
    "a million set numbers": Case(
        replaced("sets: 1\n", f"sets: [{','.join(map(str, range(1_000_000)))}]\n"),
        r"bytes; a study file has at most 1,0",
    ),
    "two hundred thousand set numbers": Case(
        replaced("sets: 1\n", f"sets: [{','.join('1' for _ in range(200_000))}]\n"),
        r"line \d+: more than 100,000 values",
    ),
    "nothing": Case(study_text(""), r"study\.yaml: the file is empty; a study needs study, models, methods and"),
    "blanks and remarks": Case(study_text("\n  # nothing\n\n"), r"study\.yaml: the file is empty"),
    "a list": Case(
        study_text("- a\n- b\n"), r"study\.yaml: expected a mapping with the keys of a study, got \['a', 'b'\]"
    ),
    "a word": Case(
        study_text("reference"), r"study\.yaml: expected a mapping with the keys of a study, got 'reference'"
    ),
    "two documents": Case(
        study_text(f"{text()}---\n{text()}"), r"study\.yaml, line \d+: a second document begins \(---\)"
    ),
    "UTF-16": Case(study_text(text().encode("utf-16")), r"study\.yaml: not UTF-8 text \(byte 0\); save it as UTF-8"),
    "Latin-1": Case(
        study_text(text(description="é").replace("\\xE9", "é").encode("latin-1")), r"not UTF-8 text \(byte \d+"
    ),
    "a NUL byte": Case(added("a: b\0c"), r"study\.yaml, line 1: (a character that YAML does not allow|not valid YAML)"),
    "half a surrogate pair": Case(
        replaced("study: tiny", 'study: tiny\ndescription: "\\ud800"'),
        r"line 2: not valid YAML|description: expected text that can be written down, got '\\ud800'",
    ),
    "a bell in a name": Case(
        replaced("- reference-2m", '- "reference-2m\\a"'), r"models\[0\]: expected text that can be "
    ),
    "a tab for indentation": Case(
        replaced("  sets: 1", "\tsets: 1"), r"study\.yaml, line \d+: not valid YAML .*spaces"
    ),
    "an open bracket": Case(added("a: [b"), r"study\.yaml, line \d+: not valid YAML"),
    "an open quote": Case(added('a: "b'), r"study\.yaml, line \d+: not valid YAML"),
    "a colon too many": Case(added("a: b: c"), r"study\.yaml, line 1: not valid YAML"),
    "a Python object": Case(
        added("a: !!python/object/apply:os.getcwd []"), r"line 1: the tag '!!python/object/apply:os"
    ),
    "a tag of one's own": Case(added("a: !secret b"), r"line 1: the tag '!secret' does not fit or is not known here"),
    "a number that is none": Case(added("a: !!int b"), r"line 1: the tag '!!int' does not fit"),
    "a set": Case(added("a: !!set {b}"), r"line 1: the tag '!!set' does not fit"),
    "a key twice": Case(
        added("study: other"), r"study\.yaml, line 1: the key 'study' is there twice \(again in line 2\)"
    ),
    "a key twice further in": Case(
        replaced("  sets: 1", "  sets: 1\n  sets: 2"), r"line \d+: the key 'sets' is there twice"
    ),
    "a number as a key": Case(added("1: x"), r"study\.yaml, line 1: keys must be text, got 1; put it in quotes"),
    "nothing as a key": Case(added("null: x"), r"study\.yaml, line 1: keys must be text, got None"),
    "yes as a key": Case(added("yes: x"), r"study\.yaml, line 1: keys must be text, got True"),
    "a list as a key": Case(added("? [a]\n: x"), r"study\.yaml, line 1: a key must be text, and this one is a list"),
    "a number of five thousand digits": Case(added(f"seed: {'9' * 5000}"), r"line 1: a number of 5,000 characters"),
    "a number larger than any": Case(added("a: 1e400"), r"line 1: 1e400 is larger than any number"),
    "a commit that reads as a number": Case(
        replaced("- reference-2m", "- {model: a/b, revision: 12e4567}"),
        r"line \d+: 12e4567 is larger .*put it in quotes",
    ),
}

TYPED: dict[str, Case] = {
    "a name that is a number": Case(sections(study=7), r"study: expected text, got 7 \(put it in quotes\)"),
    "a name that is no": Case(
        replaced("study: tiny", "study: no"), r"study: expected text, got False \(YAML reads yes, no"
    ),
    "a name with a slash": Case(sections(study="a/b"), rf"study: {NAME}.*got 'a/b'"),
    "a name that is empty": Case(sections(study=""), rf"study: {NAME}.*got ''"),
    "a name with a dash before it": Case(sections(study="-x"), rf"study: {NAME}.*got '-x'"),
    "a name of two lines": Case(sections(study="a\nb"), rf"study: {NAME}.*got 'a\\nb'"),
    "a name that never ends": Case(sections(study="x" * 5000), rf"study: {NAME}.*\(5,002 characters\)"),
    "no models": Case(sections(models=None), r"models: expected a list, got None"),
    "models in a mapping": Case(sections(models={"a": 1}), r"models: expected a list, got \{'a': 1\}"),
    "a model that is a list": Case(sections(models=[["reference-2m"]]), r"models\[0\]: expected a mapping of settings"),
    "a model with a name that no disk takes": Case(
        sections(models=["x" * 300]), r"models\[0\]: unknown model 'x+.*\(or give a folder such as"
    ),
    "a model of a user that is not there": Case(
        sections(models=["~nobody-x/y"]), r"models\[0\]: '~nobody-x/y' cannot be used"
    ),
    "no model": Case(sections(models=[""]), r"models\[0\]: expected a path, got ''"),
    "a task folder with a name that no disk takes": Case(
        evaluation(tasks=["x"], task_path="x" * 300), r"File name too long"
    ),
    "methods in a word": Case(sections(methods="gptq"), r"methods: expected a list, got 'gptq'"),
    "calibration in a word": Case(
        sections(calibration="books"), r"calibration: expected a mapping of settings, got 'books'"
    ),
    "calibration of nothing": Case(sections(calibration=None), r"calibration: required, but not given: GPTQ"),
    "evaluation in a list": Case(sections(evaluation=["books"]), r"evaluation: expected a mapping, got \['books'\]"),
    "an unknown section": Case(sections(modles=[]), r"modles: unknown key 'modles', did you mean 'models'\?"),
    "a section in other letters": Case(
        replaced("methods:", "m\u0435thods:"), r"m\u0435thods: unknown key 'm\u0435thods', did you mean 'methods'\?"
    ),
    "an unknown key of a model": Case(
        sections(models=[{"model": "reference-2m", "dtyp": "float32"}]),
        r"models\[0\]\.dtyp: unknown key 'dtyp', did you",
    ),
    "an unknown key of a method": Case(
        method(method="rtn", bit=3), r"methods\[0\]\.bit: unknown key 'bit', did you mean"
    ),
    "an unknown key of the calibration": Case(calibration(set=1), r"calibration\.set: unknown key 'set', did you mean"),
    "an unknown key of a source": Case(
        calibration(source={"source": "books", "langs": "de"}), r"calibration\.source\.langs: unknown key 'langs'"
    ),
    "an unknown key of the evaluation": Case(
        evaluation(task=[]), r"evaluation\.task: unknown key 'task', did you mean"
    ),
    "an unknown key of a held-out text": Case(
        evaluation(heldout=[{"source": "books", "lnag": "de"}]), r"evaluation\.heldout\[0\]\.lnag: unknown key 'lnag'"
    ),
    "an unknown method": Case(
        method(method="gtpq"), r"methods\[0\]\.method: unknown method 'gtpq', did you mean 'gptq'"
    ),
    "an unknown source": Case(calibration(source="boks"), r"calibration\.source: unknown source 'boks', did you mean"),
    "a path for a source": Case(
        calibration(source="a/b.jsonl"), r"unknown source 'a/b\.jsonl'.*\{source: file, path: a/b\."
    ),
    "an unknown task": Case(evaluation(tasks=["hellaswga"]), r"evaluation\.tasks\[0\]: unknown task 'hellaswga'"),
    "an unknown held-out text": Case(
        evaluation(heldout=["boks"]), r"evaluation\.heldout\[0\]\.domain: no held-out text"
    ),
    "a held-out text that is a number": Case(
        evaluation(heldout=[5]), r"evaluation\.heldout\[0\]: expected text or a mapping, got 5"
    ),
    "a task that is a number": Case(evaluation(tasks=[5]), r"evaluation\.tasks\[0\]: expected text, got 5"),
    "true for a number": Case(calibration(nsamples=True), r"calibration\.nsamples: expected integer, got True"),
    "text for a number": Case(calibration(nsamples="128"), r"calibration\.nsamples: expected integer, got '128'"),
    "an octal number": Case(
        replaced("nsamples: 2", "nsamples: 010"), r"calibration\.nsamples: expected integer, got '010'"
    ),
    "a date": Case(
        replaced("nsamples: 2", "nsamples: 2024-01-01"), r"calibration\.nsamples: expected integer, got '2024-01-01'"
    ),
    "no for a language": Case(
        replaced("source: books", "source: {source: multilingual, lang: no}"),
        r"calibration\.source\.lang: expected text, got False",
    ),
    "a label of two lines": Case(
        calibration(source={"source": "books", "label": "a\nb"}), rf"calibration\.source\.label: {LABEL}'a\\nb'"
    ),
    "a label that is empty": Case(
        calibration(source={"source": "books", "label": ""}),
        r"calibration\.source\.label: expected a name, got ''; leave",
    ),
    "a label that is blank": Case(calibration(source={"source": "books", "label": "  "}), rf"\.label: {LABEL}'  '"),
    "a label that never ends": Case(calibration(source={"source": "books", "label": "x" * 9999}), rf"\.label: {LABEL}"),
    "a label of a held-out text of two lines": Case(
        evaluation(heldout=[{"source": "books", "label": "a\nb"}]), rf"evaluation\.heldout\[0\]\.label: {LABEL}'a\\nb'"
    ),
    "a held-out text called like the mean": Case(
        evaluation(heldout=[{"source": "books", "label": "mean"}]),
        r"evaluation\.heldout\[0\]: 'mean': tables call the mean over texts so; give the text another `label`",
    ),
    "a held-out text called like a task of a group": Case(
        evaluation(
            tasks=["reference_blimp"],
            heldout=["books", {"source": "code", "label": "reference_blimp_adjunct_island"}],
        ),
        r"evaluation\.heldout\[1\]: 'reference_blimp_adjunct_island': this is also the name of a task; give",
    ),
    "a model's name of two lines": Case(
        sections(models=[{"model": "reference-2m", "name": "a\nb"}]), rf"models\[0\]\.name: {LABEL}'a\\nb'"
    ),
    "a model's name that is empty": Case(
        sections(models=[{"model": "reference-2m", "name": ""}]), rf"models\[0\]\.name: {LABEL}''"
    ),
    "a mixture in a word": Case(
        calibration(source={"source": "mixture", "parts": "books"}),
        r"calibration\.source\.parts: expected a mapping or a list, got 'books'",
    ),
    "a mixture of one": Case(
        calibration(source={"source": "mixture", "parts": {"books": 1.0}}),
        r"calibration\.source\.parts: a mixture has at",
    ),
    "a mixture with an unknown source": Case(
        calibration(source={"source": "mixture", "parts": {"boks": 0.5, "code": 0.5}}),
        r"unknown source 'boks', did you mean",
    ),
    "a mixture of a mixture": Case(
        calibration(source={"source": "mixture", "parts": [{"source": "mixture", "parts": {}, "share": 1}]}),
        r"a mixture",
    ),
    "no level of an axis": Case(
        calibration(nsamples=[]), r"calibration\.nsamples: expected at least one value, got \[\]"
    ),
    "a level twice": Case(calibration(nsamples=[2, 2]), r"calibration\.nsamples\[1\]: 2 is there twice"),
}

NUMBERS: dict[str, Case] = {
    "ten million sets": Case(
        calibration(sets=10**7), rf"calibration\.sets: source 'books': {TOKENS}[0-9,]+ sets of 2 windows"
    ),
    "a billion sets": Case(
        calibration(sets=10**9), rf"calibration\.sets: source 'books': {TOKENS}.*ask for fewer sets \(at"
    ),
    "fifty thousand sets": Case(calibration(sets=50_000), rf"calibration\.sets: source 'books': {TOKENS}[0-9,]+ sets"),
    "a billion sets of text from the hub": Case(
        calibration(source="c4", sets=10**9), r"calibration: 1,000,000,000 trials .*a study has at most 100,000"
    ),
    "more sets than can be counted": Case(
        calibration(sets=2**40), r"calibration\.sets: expected at most 2147483647, got 1099"
    ),
    "a set number beyond its column": Case(
        calibration(sets=[2**31]), r"calibration\.sets: expected set numbers from 0 to 2147"
    ),
    "a set of more windows than the text has": Case(
        calibration(nsamples=10**6),
        rf"calibration\.sets: source 'books': {TOKENS}[0-9,]+ windows of 64 tokens, but set 0 of",
    ),
    "windows of one token": Case(
        calibration(seqlen=1), r"calibration\.seqlen: expected at least 2, got 1 \(a token alone"
    ),
    "windows beyond their column": Case(
        calibration(seqlen=2**31), r"calibration\.seqlen: expected 1 to 2147483647, got"
    ),
    "windows longer than the context": Case(
        calibration(seqlen=10**6), r"calibration\.seqlen: 1000000 is longer than the con"
    ),
    "a hundred million methods": Case(
        method(
            method="gptq",
            percdamp=[n / 100 for n in range(100)],
            block_size=list(range(1, 101)),
            bits=[2, 3, 4],
            group_size=list(range(1, 101)),
            mse=[True, False],
            sym=[True, False],
        ),
        r"methods\[0\]: the product of its lists makes 12,000,000 methods; a study has at most 10,000",
    ),
    "a hundred million kinds of sets": Case(
        calibration(nsamples=list(range(1, 10_001)), seqlen=list(range(2, 10_002))),
        r"calibration: its lists make 100,000,000 kinds of calibration sets; a study has at most 100,000 trials",
    ),
    "a composition of a hundred million methods": Case(
        sections(
            methods=[
                [
                    {"method": "wanda", "sparsity": [n / 1e5 for n in range(10_000)]},
                    {"method": "gptq", "percdamp": [n / 1e5 for n in range(10_000)]},
                ]
            ]
        ),
        r"methods\[0\]: the product of its lists makes 100,000,000 methods",
    ),
    "too many models and methods": Case(
        sections(
            models=[{"model": "reference-2m", "name": f"m{n}"} for n in range(100)],
            methods=[{"method": "rtn", "bits": [2, 3, 4, 5, 6, 7, 8], "group_size": list(range(1, 145))}],
        ),
        r"methods: 100 models and 1,008 methods make 100,900 trials without any calibration set; a study has",
    ),
    "a seed of 64 bits and more": Case(sections(seed=BIG), rf"seed: {BITS}"),
    "a seed below none": Case(sections(seed=-1), r"seed: expected at least 0, got -1"),
    "a calibration seed of 64 bits and more": Case(calibration(seed=BIG), rf"calibration\.seed: {BITS}"),
    "a few-shot seed of 64 bits and more": Case(evaluation(fewshot_seed=BIG), rf"evaluation\.fewshot_seed: {BITS}"),
    "a limit of 64 bits and more": Case(evaluation(limit=BIG), rf"evaluation\.limit: {BITS}"),
    "held-out windows beyond their column": Case(
        evaluation(heldout_windows=2**31), r"evaluation\.heldout_windows: expected 1 to 2147483647, got 2147483648"
    ),
    "held-out windows beyond the text": Case(
        evaluation(heldout_windows=10**6), rf"evaluation\.heldout \(heldout_windows 1.*{TOKENS}"
    ),
    "a held-out window beyond its column": Case(
        evaluation(heldout_seqlen=2**31), r"evaluation\.heldout_seqlen: expected 2 to 2147483647"
    ),
    "first blocks beyond the model": Case(
        evaluation(first_blocks=4), r"evaluation\.first_blocks: 4, and reference-2m has 4 in all; choose fewer"
    ),
    "first blocks of tasks": Case(
        evaluation(first_blocks=1, tasks=["reference"]), r"evaluation\.first_blocks: the first blocks answer no tasks"
    ),
    "resamples without end": Case(
        evaluation(bootstrap_iters=10**12), r"evaluation\.bootstrap_iters: expected 0 to 1000000, got"
    ),
    "a context of 64 bits and more": Case(
        sections(models=[{"model": "reference-2m", "max_length": BIG}]), rf"models\[0\]\.max_length: {BITS}"
    ),
    "a block of 64 bits and more": Case(method(method="gptq", block_size=BIG), rf"methods\[0\]\.block_size: {BITS}"),
    "a group of 64 bits and more": Case(method(method="gptq", group_size=BIG), rf"methods\[0\]\.group_size: {BITS}"),
    "a group wider than the model": Case(
        method(method="gptq", group_size=2**40), r"group_size: 1099511627776 does not divide"
    ),
    "bits below the least": Case(method(method="gptq", bits=1), r"methods\[0\]\.bits: expected 2 to 8, got 1"),
    "damping that is infinite": Case(
        sections(methods=[{"method": "gptq", "percdamp": float("inf")}]),
        r"methods\[0\]\.percdamp: expected number, got '\.inf'",
    ),
    "damping that is no number": Case(
        overridden("methods[0].percdamp=.nan"), r"methods\[0\]\.percdamp: expected number, got '\.n"
    ),
    "random tokens without end": Case(
        calibration(source={"source": "random_tokens", "documents": 10**9}),
        r"documents: 1,000,000,000 of 2,048 tokens are",
    ),
    "documents of 64 bits and more": Case(
        calibration(source={"source": "file", "path": "x.jsonl", "documents": BIG}),
        rf"calibration\.source\.documents: {BITS}",
    ),
    "every document beyond counting": Case(
        calibration(source={"source": "c4", "every": 2**40}), r"calibration\.source\.every: expected 1 to 2147483647"
    ),
    "a share that is no number": Case(
        replaced("source: books", "source: {source: mixture, parts: {books: .nan, code: 0.5}}"),
        r"calibration\.source\.parts",
    ),
}

CASES: dict[str, Case] = {**WRITTEN, **TYPED, **NUMBERS}
