"""Does a model keep a language that it was not calibrated on?"""

from __future__ import annotations

from benchmarks.findings.arms import (
    DOMAINS,
    Arm,
    Contrast,
    all_worse,
    chart,
    contrasts,
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
LANGUAGES = ("de", "es", "fr", "pt", "zh")
ENGLISH, MIXED = Arm("uniform"), Arm("six languages")


def page() -> Page:
    own: list[Contrast] = []
    mixed: list[Contrast] = []
    english: list[Contrast] = []
    cells = read(STUDY)
    for cell in cells:
        texts = {lang: [f"text {lang}"] for lang in LANGUAGES}
        own += contrasts(cell.method, {lang: cell.gap(ENGLISH, Arm(lang), texts[lang]) for lang in LANGUAGES})
        mixed += contrasts(cell.method, {lang: cell.gap(MIXED, Arm(lang), texts[lang]) for lang in LANGUAGES})
        arms = (*LANGUAGES, MIXED.source)
        english += contrasts(cell.method, {arm: cell.gap(Arm(arm), ENGLISH, DOMAINS) for arm in arms})
    gptq = next(cell for cell in cells if cell.method.startswith("GPTQ"))
    controls = listed([f"{lang} {in_percent(gptq.against_control(ENGLISH, [f'text {lang}']))}" for lang in LANGUAGES])
    single = [c for c in english if c.arm != MIXED.source]
    return Page(
        name="languages",
        question="Does a model keep a language that it was not calibrated on?",
        title=(
            f"No: against calibration on a language's own text, English text raises that language's perplexity "
            f"by {span(own)}, a mixture of six languages by {span(mixed)}"
            if all_worse([*own, *mixed])
            else f"For another language, English text is {summary(own)} of {len(own)} comparisons with text of that language"
        ),
        answer=(
            "German, Spanish, French, Portuguese and Chinese, each judged on held-out text of its own. Against rounding "
            f"to nearest with no data, {gptq.name} calibrated on English reaches {controls} of perplexity. The price on eight "
            f"English texts: calibrated on one other language instead of an English mixture they are {summary(single)} of "
            f"{len(single)}."
        ),
        chart=chart(
            own,
            "Perplexity in each language: English calibration against that language's own, %",
            "English: uniform mixture of eight domains. Sets of 16 windows, 95 % intervals.",
            "%",
        ),
        table=table(own, "English calibration against own language, judged on"),
        more={
            "Mixture of six languages against the language's own": table(mixed, "judged on"),
            "Judged on eight English texts, against English calibration": table(english, "calibrated on"),
        },
        published=(
            "A study of languages and quantizers (arXiv 2601.18306), by its abstract, gains up to 3.52 of perplexity with a "
            "mixture against English alone, and finds the matched language best for that language."
        ),
        limits=(
            "The model was trained mostly on English and is weak in these languages; its perplexity there is high when "
            "dense, too. One small source a language, of the same origin as its held-out text: domain and language are not told apart. "
            "The English mixture has eight sets, the languages six."
        ),
        origin=origin(STUDY, smollm2()),
    )
