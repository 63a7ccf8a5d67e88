"""How clean must calibration text be, and does it need to be text at all?"""

from __future__ import annotations

from benchmarks.findings.arms import (
    DOMAINS,
    Arm,
    all_worse,
    chart,
    contrasts,
    counted,
    of,
    origin,
    read,
    smollm2,
    span,
    summary,
    table,
)
from benchmarks.findings.evidence import in_percent, listed
from benchmarks.findings.page import Page

STUDY = "forms_smollm2"
CLEAN = Arm("web_docs")
NOISY = ("typos", "casing", "lost words", "ocr")
SENSELESS = ("shuffled words", "random words", "random tokens")


def page() -> Page:
    cells = read(STUDY)
    found = []
    for cell in cells:
        found += contrasts(cell.method, {arm: cell.gap(Arm(arm), CLEAN, DOMAINS) for arm in (*NOISY, *SENSELESS)})
    noisy = [c for c in found if c.arm in NOISY]
    senseless = [c for c in found if c.arm in SENSELESS]
    gptq = next(cell for cell in cells if cell.method.startswith("GPTQ"))
    controls = listed(
        [f"{arm} {in_percent(gptq.against_control(Arm(arm), DOMAINS))}" for arm in ("web_docs", *SENSELESS)]
    )
    return Page(
        name="noise",
        question="How clean must calibration text be?",
        title=(
            f"Noise is told apart from clean text in {len(noisy) - counted(noisy)[2]} of {len(noisy)} comparisons; words in "
            f"random order raise perplexity by {span(of(found, SENSELESS[0]))}, random words or tokens by "
            f"{span(of(found, *SENSELESS[1:]))}"
            if all_worse(senseless)
            else f"Noise is {summary(noisy)} of {len(noisy)} comparisons with clean text, text without sense "
            f"{summary(senseless)} of {len(senseless)}"
        ),
        answer=(
            "Typing errors in 5 % of the places, wrong case and lost words in 20 %, errors of character recognition in 10 %; "
            "then the words of the same text in random order, random words, and random tokens. Against rounding to nearest "
            f"with no data at all, {gptq.name} reaches on the mean of eight texts: {controls} of perplexity."
        ),
        chart=chart(
            found,
            "Perplexity against clean web text, %",
            "Mean over eight held-out texts, eight sets of 16 windows, 95 % intervals.",
            "%",
        ),
        table=table(found, "calibrated on"),
        published=(
            "arXiv 2405.20835 finds, by its abstract, newer models robust to the calibration set and, by notes on the paper, "
            "even to random punctuation. ZipCal's (arXiv 2603.16105) result files, by notes on them, have dictionary words 8.8 to "
            "10.0 points of accuracy below random windows of text."
        ),
        limits=(
            "One small model and one source under the noise, whose domain is one of the eight texts. Rates of noise were chosen "
            "once; a rate at which noise begins to matter was not sought."
        ),
        origin=origin(STUDY, smollm2()),
    )
