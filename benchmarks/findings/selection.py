"""Does choosing windows out of a pool help?"""

from __future__ import annotations

from benchmarks.findings.arms import DOMAINS, Arm, Contrast, chart, contrasts, origin, read, smollm2, summary, table
from benchmarks.findings.evidence import in_percent, listed
from benchmarks.findings.page import Page

STUDY = "chosen_smollm2"
POOL, NSAMPLES = "pool of uniform", 8
RANDOM = Arm(POOL, NSAMPLES, "random")
SHARES, LARGER = "one window of each domain, drawn", "four times as many, drawn"
DRAWN = {SHARES: Arm("uniform", NSAMPLES), LARGER: Arm("uniform", 4 * NSAMPLES)}


def page() -> Page:
    cells = read(STUDY)
    rules: list[Contrast] = []
    drawn: list[Contrast] = []
    ahead = 0
    for cell in cells:
        arms = [arm for arm in sorted(cell.losses) if arm.source == POOL and arm != RANDOM]
        rules += contrasts(cell.method, {arm.select: cell.gap(arm, RANDOM, DOMAINS, paired=True) for arm in arms})
        drawn += contrasts(cell.method, {name: cell.gap(arm, RANDOM, DOMAINS) for name, arm in DRAWN.items()})
        ahead += sum(cell.tasks[arm].mean() > cell.tasks[RANDOM].mean() for arm in arms)
    best = [min((c for c in rules if c.method == cell.method), key=lambda c: c.gap.value) for cell in cells]
    more = [c for c in drawn if c.arm == LARGER]
    return Page(
        name="selection",
        question="Does choosing windows by a rule beat random windows?",
        title=(
            f"Rules that choose eight windows out of eighty are {summary(rules)} of {len(rules)} comparisons with random "
            "choice"
            + (
                "; four times as many windows help more than any"
                if all(m.gap.value < b.gap.value for m, b in zip(more, best, strict=True))
                else ""
            )
        ),
        answer=(
            "Every rule sees the same pool as random choice, and set k of each is chosen out of the k-th block of the pool, "
            f"so they are compared set by set. The best rule: {listed([_said(c) for c in best])}. Thirty-two windows of the "
            f"same mixture instead: {listed([f'{in_percent(c.gap)} under {c.method}' for c in more])}. By the mean log-likelihood of the right "
            f"answers the rules are ahead of random choice in {ahead} of {len(rules)}, without a test."
        ),
        chart=chart(
            rules + drawn,
            "Perplexity against random choice from the same pool, %",
            "Mean over eight held-out texts, rules paired by set, 95 % intervals. Left of zero is better.",
            "%",
        ),
        table=table(rules, "eight windows out of eighty, by"),
        more={"Windows that are drawn without a pool, against random choice": table(drawn, "uniform mixture")},
        published=(
            "ZipCal's (arXiv 2603.16105) result files, by notes on them: lexical coverage gains 0.74 points of accuracy over random for "
            "pruning and 0.11 for quantization; least perplexity 0.45 and 0.13. COLA (arXiv 2510.10618) chooses by k-means in "
            "activation space, by its abstract for representativeness and diversity."
        ),
        limits=(
            "One small model, one pool (the uniform mixture of eight domains), eight windows a set: with more windows "
            "random choice covers more of what a rule looks for. Rules run with the settings that they have here by default. "
            "The best rule was picked by the texts that judge it, which favours it. No rule was told which text is to be kept."
        ),
        origin=origin(STUDY, smollm2()),
    )


def _said(found: Contrast) -> str:
    return f"{found.arm} {_gap(found)}"


def _gap(found: Contrast) -> str:
    told = "" if found.verdict else ", not told apart"
    return f"{in_percent(found.gap)} under {found.method}{told}"
