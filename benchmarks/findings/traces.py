"""Do a model's own answers calibrate as well as real ones, and should they count alone?"""

from __future__ import annotations

from benchmarks.findings.arms import (
    Arm,
    Contrast,
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
from benchmarks.findings.evidence import in_percent, listed
from benchmarks.findings.page import Page

STUDY = "formats_smollm2"
OWN, TRACES, RESPONSE = Arm("own template"), Arm("traces"), Arm("traces, response alone")
PLAIN = ("dialogue_qa", "encyclopedia", "web_docs")


def page() -> Page:
    chat: list[Contrast] = []
    plain: list[Contrast] = []
    alone: list[Contrast] = []
    cells = read(STUDY)
    for cell in cells:
        arms = [arm for arm in sorted(cell.losses) if arm != OWN]
        chat += contrasts(cell.method, {arm.source: cell.gap(arm, OWN, ["chat"]) for arm in arms})
        plain += contrasts(cell.method, {arm.source: cell.gap(arm, OWN, PLAIN) for arm in arms})
        judged = {"chat": ["chat"], "three plain texts": PLAIN}
        alone += contrasts(
            cell.method, {name: cell.gap(RESPONSE, TRACES, texts, paired=True) for name, texts in judged.items()}
        )
    whole = of(chat, TRACES.source)
    on_chat = of(alone, "chat")
    gptq = next(cell for cell in cells if cell.method.startswith("GPTQ"))
    controls = listed(
        [
            f"{name} {in_percent(gptq.against_control(arm, PLAIN))}"
            for name, arm in (("whole traces", TRACES), ("responses alone", RESPONSE))
        ]
    )
    return Page(
        name="traces",
        question="Do a model's own answers calibrate as well as real ones, and should they count alone?",
        title=(
            f"A model's own answers cost {span(whole, 1)} of perplexity on conversations against real ones (told apart in "
            f"{sum(c.verdict != 0 for c in whole)} of {len(whole)} methods); counting only the tokens of the answers costs "
            f"{span(on_chat)}"
            if all_worse(on_chat)
            else f"Counting only the tokens of the answers is {summary(on_chat)} of {len(on_chat)} comparisons on conversations"
        ),
        answer=(
            "The model answers the questions of the bundled conversations itself (traces), in its own chat template; beside it "
            "the same conversations with their real answers in the own template, in Llama 2's and in none, and web text. Of a "
            "trace either every token counts in the statistics of the method, or those of the response alone: the same windows, "
            f"compared set by set. Against rounding to nearest with no data {gptq.name} reaches on three plain texts: {controls}."
        ),
        chart=chart(
            chat,
            "Perplexity on conversations against real answers in the own template, %",
            "Mean of five sets of 16 windows, 95 % intervals. Right of zero the real answers are better.",
            "%",
        ),
        table=table(chat, "calibrated on, judged on chat"),
        more={
            "The response alone against the whole trace": table(alone, "judged on"),
            "Judged on three plain texts, against real answers": table(plain, "calibrated on"),
        },
        published=(
            "Self-calibration (arXiv 2410.17170) and Beware of Calibration Data (arXiv 2410.17711), by their abstracts, propose "
            "text that the model writes. We know of no published comparison of which tokens of it count."
        ),
        limits=(
            "One small chat model that answers poorly. Responses alone are fewer tokens: the statistics of a set then rest on a "
            "part of its windows, and the number was not matched, so what the choice of tokens costs and what their number "
            "costs are not told apart. Conversations are judged as text, every token of a window counting. Answers stop at 512 "
            "tokens. The templates repeat what the page on formats asks, with other sets."
        ),
        origin=origin(STUDY, smollm2(gpus="one H200"), "sweep/studies"),
    )
