"""Does the form in which conversations are shown matter to a chat model?"""

from __future__ import annotations

from benchmarks.findings.arms import (
    DOMAINS,
    Arm,
    all_worse,
    chart,
    contrasts,
    of,
    origin,
    read,
    smollm2,
    span,
    summary,
    table,
)
from benchmarks.findings.page import Page

STUDY = "forms_smollm2"
OWN = Arm("own template")
FORMS = ("other template", "no template", "web_docs", "uniform")


def page() -> Page:
    chat, plain = [], []
    for cell in read(STUDY):
        chat += contrasts(cell.method, {form: cell.gap(Arm(form), OWN, ["chat"]) for form in FORMS})
        plain += contrasts(cell.method, {form: cell.gap(Arm(form), OWN, DOMAINS) for form in FORMS})
    wrong = of(chat, *FORMS[:2])
    return Page(
        name="formats",
        question="Should conversations for calibration be in the model's own chat template?",
        title=(
            f"Yes, for conversations: the same ones in another template or none cost {span(wrong)} of perplexity there"
            if all_worse(wrong)
            else f"For conversations, other forms are {summary(wrong)} of {len(wrong)} comparisons with the own template"
        ),
        answer=(
            "The same conversations in the model's own template (ChatML), in Llama 2's and as bare text, beside web text and "
            "the uniform mixture of eight domains. Figure and first table: perplexity on held-out conversations in the own "
            f"template. On the mean of eight plain texts the other forms and texts are {summary(plain)} of {len(plain)}."
        ),
        chart=chart(
            chat,
            "Perplexity on conversations against calibration in the own template, %",
            "Mean of eight sets of 16 windows, 95 % intervals. Right of zero the own template is better.",
            "%",
        ),
        table=table(chat, "calibrated on, judged on chat"),
        more={"Judged on eight plain texts": table(plain, "calibrated on")},
        published=(
            "COLA (arXiv 2510.10618), by its abstract, examines compositional properties of calibration data, and domain "
            "correspondence, for other models and capabilities. We know of no published comparison of templates with intervals over draws."
        ),
        limits=(
            "One small chat model. The conversations are bundled questions and answers written by people and models, not what "
            "the model was tuned on. Held-out chat is judged as text, every token of a window counting, with the marks of the "
            "template; answers that the compressed model would write were not judged."
        ),
        origin=origin(STUDY, smollm2()),
    )
