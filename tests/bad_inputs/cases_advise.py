"""Questions that the adviser cannot be asked: no choice, the same text twice, too little of it, a leaked target."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from tests.bad_inputs.common import Case

TEXT = "the old river walked under a bright stone house to see green again while it never slowly was over"


def write(folder: Path, name: str, seed: int, documents: int = 60) -> str:
    """A JSONL file of random words, other ones for every seed."""
    rng = random.Random(seed)
    rows = [{"text": " ".join(rng.choices(TEXT.split(), k=100))} for _ in range(documents)]
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return name


def ask(*arguments: str, files: int = 2, method: str = "gptq") -> Callable[[Path], list[str]]:
    """A question about files `0.jsonl`, `1.jsonl`, ... with these arguments besides."""

    def build(folder: Path) -> list[str]:
        names = [write(folder, f"{number}.jsonl", number) for number in range(files)]
        small = ["--nsamples", "8", "--seqlen", "64", "--sets", "2", "--local"]
        return ["reference-2m", "--method", method, *small, *arguments, "--candidates", *names]

    return build


def same_text(folder: Path) -> list[str]:
    arguments = ask()(folder)
    (folder / "copy.jsonl").write_text((folder / "0.jsonl").read_text())
    return [*arguments, "copy.jsonl"]


def same_words(folder: Path) -> list[str]:
    arguments = ask()(folder)
    texts = [json.loads(line)["text"] for line in (folder / "0.jsonl").read_text().splitlines()]
    (folder / "words.json").write_text(json.dumps([{"text": text, "number": n} for n, text in enumerate(texts)]))
    return [*arguments, "words.json"]


def leaked(folder: Path) -> list[str]:
    arguments = ask("--target", "eval.jsonl")(folder)
    lines = (folder / "1.jsonl").read_text().splitlines()
    (folder / "eval.jsonl").write_text("\n".join(lines[3:8]))
    return arguments


def too_little(folder: Path) -> list[str]:
    return [*ask()(folder), write(folder, "few.jsonl", 7, documents=1)]


def too_little_target(folder: Path) -> list[str]:
    return [*ask("--windows", "60", "--target", write(folder, "few.jsonl", 7, documents=1))(folder)]


def a_few_words(folder: Path) -> list[str]:
    (folder / "few.txt").write_text(TEXT)
    return [*ask("--target", "few.txt")(folder)]


def another_record(folder: Path) -> list[str]:
    (folder / "out").mkdir()
    (folder / "out" / "adviser.json").write_text('{"workers": "many"}')
    (folder / "out" / "study.yaml").write_text("study: advise-reference-2m-gptq-f6d8fc\n")
    return [*ask("--results", "out")(folder)]


CASES: dict[str, Case] = {
    name: Case(case.build, case.message, case.torch, "sweep.advise")
    for name, case in {
        "one candidate": Case(ask(files=1), r"--candidates: one candidate \(0\) is no choice; give two texts or more"),
        "a candidate twice": Case(
            ask("--candidates", "0.jsonl"), r"--candidates: '0' is there twice|'0\.jsonl' is there"
        ),
        "a search without room": Case(
            ask("--search-mixture", "--target", "books"),
            r"--search-mixture: a screen is 2 of 8 windows, .* nothing to search; choose --nsamples 17 or more",
        ),
        "a search of one text": Case(
            ask("--search-mixture", "--no-uniform", "--candidates", "{source: code, select: lexical}", files=1),
            r"--search-mixture: mixes texts, and fewer than two candidates are texts; leave it out",
        ),
        "a target of too little text": Case(
            too_little_target,
            r"--target: .*source 'few': at most .* tokens, .*; --windows 60 are asked of it now",
        ),
        "a target of a few words": Case(
            a_few_words,
            r"--target: .*source 'few': at most .* tokens, .*; fewer than 4 windows of 32 tokens judge nothing, so",
        ),
        "an unknown source": Case(
            ask("--candidates", "boks"), r"--candidates.*unknown source 'boks', did you mean 'books'"
        ),
        "a file that is not there": Case(ask("--candidates", "no.jsonl"), r"no\.jsonl"),
        "an unknown method": Case(ask(method="gtpq"), r"--method\.method: unknown method 'gtpq', did you mean 'gptq'"),
        "an unknown setting": Case(ask("--set", "bit=4"), r"--method\.bit"),
        "a setting without a value": Case(ask("--set", "bits"), r"--set 'bits': expected key=value"),
        "a setting given twice": Case(ask("--set", "bits=3", "--set", "bits=4"), r"--set bits: is given twice; leave"),
        "bits given twice": Case(
            ask("--bits", "3", "--set", "bits=4"), r"--bits 3 and --set bits=4: both say the bits"
        ),
        "a method given twice": Case(ask("--set", "method=awq"), r"--set method: the method is named by --method"),
        "a part given twice": Case(ask("--mixture", "0=.5,0=.3,1=.2"), r"--mixture .*: names '0' twice; leave one out"),
        "the even mixture by hand": Case(
            ask("--mixture", "1=.5,0=.5"),
            r"--mixture: '1\+0' and 'uniform mixture' are the same mixture; leave one out, or give --no-uniform",
        ),
        "a method without data": Case(ask(method="rtn"), r"--method: RTN 4-bit looks at no calibration text, so any"),
        "an unknown model": Case(lambda folder: ["reference-3m", *ask()(folder)[1:]], r"reference-3m.*did you mean"),
        "a budget and a share": Case(ask("--budget", "1h", "--share", "0.5"), r"--budget and --share both say"),
        "a budget in words": Case(ask("--budget", "soon"), r"--budget 'soon': expected a time such as 90s, 20m, 2h"),
        "no budget": Case(ask("--budget", "0s"), r"--budget 0: expected seconds above 0"),
        "a budget below the controls": Case(
            ask("--budget", "0.01s"),
            r"--budget: 0 s buy no trial of a candidate: the controls alone \(dense, RTN 4-bit\) take .* or more; an "
            r"answer for 3 arms takes at least",
        ),
        "more than the full study": Case(ask("--share", "1.5"), r"--share 1\.5: expected a share of the full study"),
        "no difference matters": Case(ask("--matters", "0"), r"--matters 0: expected a difference above 0"),
        "more differences than targets": Case(ask("--matters", "1", "2"), r"--matters: 2 numbers for 1 targets"),
        "an unknown criterion": Case(ask("--criterion", "median"), r"--criterion 'median': expected mean or lower-q"),
        "an unknown measure": Case(ask("--measure", "f1"), r"--measure 'f1': expected accuracy or loglikelihood"),
        "one set": Case(ask("--sets", "1"), r"--sets 1: expected at least 2"),
        "a mixture without shares": Case(ask("--mixture", "0,1"), r"--mixture '0,1': expected shares by name, such as"),
        "a mixture of nobody": Case(
            ask("--mixture", "0=.5,z=.5"), r"--mixture: 'z' is no candidate.*unknown source 'z'"
        ),
        "shares that are no whole": Case(
            ask("--mixture", "0=.5,1=.2"), r"--mixture\.?.*shares must add up to 1, got 0\.7"
        ),
        "an unknown target": Case(ask("--target", "boks"), r"unknown source 'boks'.*or a bundled held-out text: books"),
        "an unknown task": Case(ask("--tasks", "mmlv"), r"evaluation\.tasks.*mmlv"),
        "an unknown flag": Case(ask("--candidate", "books"), r"No such option.*--candidate"),
        "a copy of a file": Case(same_text, r"--candidates: '0\.jsonl' and 'copy\.jsonl' are the same text; leave one"),
        "the same text in another format": Case(
            same_words,
            r"--candidates: '0' and 'words' are the same text: .*same tokens \([0-9a-f]{12}\); leave one",
            True,
        ),
        "too little text": Case(
            too_little,
            r"--candidates: .*few\.jsonl: source 'few': at most .* tokens, .* need .*; --sets 2, --nsamples 8 and "
            r"--seqlen 64 are asked of it now",
        ),
        "a target that a candidate holds": Case(
            leaked,
            r"--candidates: '1' holds 5 of the 5 documents of the target eval: eval\.jsonl:0 \(100 %\).* stand in "
            r"its documents 1\.jsonl:[3-7].*; leave it out, .*exclude_overlap.* or --allow-overlap",
            True,
        ),
        "a record of nobody": Case(
            another_record, r"--results out: adviser\.json there is no record of an adviser", True
        ),
    }.items()
}
