"""Can a model write its own calibration text?"""

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
from benchmarks.findings.evidence import in_percent, listed
from benchmarks.findings.page import Page

STUDY = "written_smollm2"
NSAMPLES = 8
WRITTEN = ("written", "written cold", "written hot")


def _arm(source: str) -> Arm:
    return Arm(source, NSAMPLES)


def page() -> Page:
    cells = read(STUDY)
    plain, chat = [], []
    for cell in cells:
        arms = (*WRITTEN, "random tokens", "uniform")
        plain += contrasts(cell.method, {arm: cell.gap(_arm(arm), _arm("web_docs"), DOMAINS) for arm in arms})
        chat += contrasts(cell.method, {"traces": cell.gap(_arm("traces"), _arm("own template"), ["chat"])})
    own = [c for c in plain if c.arm in WRITTEN]
    gptq = next(cell for cell in cells if cell.method.startswith("GPTQ"))
    controls = listed(
        [f"{arm} {in_percent(gptq.against_control(_arm(arm), DOMAINS))}" for arm in (*WRITTEN, "random tokens")]
    )
    return Page(
        name="written",
        question="Can a model write its own calibration text?",
        title=(
            "Text that the model continues from eight tokens of web text changes perplexity by "
            f"{span(of(own, 'written'), 1)} against the web text itself (told apart in "
            f"{sum(c.verdict != 0 for c in of(own, 'written'))} of {len(of(own, 'written'))} methods), written at a temperature of 0.5 alone by "
            f"{span(of(own, 'written cold'))}"
            if all_worse(of(own, "written cold"))
            else f"Text that the model writes is {summary(own)} of {len(own)} comparisons with web text"
        ),
        answer=(
            "Continuations at temperatures of 0.5 to 1.4 in turn with the least likely fifth left out (written), at 0.5 "
            "(cold) and at 1.4 (hot), beside the real text, the uniform mixture and random tokens. Against rounding to "
            f"nearest with no data, {gptq.name} reaches on the mean of eight texts: {controls}. The model's answers to "
            f"prompts (traces), judged on held-out conversations against the real answers: {summary(chat)} of {len(chat)}."
        ),
        chart=chart(
            plain,
            "Perplexity against real web text, %",
            "Mean over eight held-out texts, five sets of eight windows, 95 % intervals.",
            "%",
        ),
        table=table(plain, "calibrated on"),
        more={
            "Traces against the same kind of conversation with real answers, judged on chat": table(
                chat, "calibrated on"
            )
        },
        published=(
            "Self-calibration (arXiv 2410.17170) and Beware of Calibration Data (arXiv 2410.17711) propose text that the model "
            "writes, the latter gaining up to 2.68 % for pruning by its abstract; by notes on a public experiment with GPTQ at 6 bits, it closes 85 % of the gap between random tokens and "
            "held-out text."
        ),
        limits=(
            "A model of 135 million parameters writes poorly. Texts begin with eight real tokens, so this is not calibration "
            "without any data. Five small sets an arm; traces stop at 160 tokens whether they ended or not."
        ),
        origin=origin(STUDY, smollm2()),
    )
