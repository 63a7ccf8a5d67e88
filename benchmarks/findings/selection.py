"""Does choosing windows out of a pool help?"""

from __future__ import annotations

from benchmarks.findings.arms import DOMAINS, SMOLLM2, Arm, chart, contrasts, origin, read, summary, table
from benchmarks.findings.page import Page

STUDY = "chosen_smollm2"
POOL, NSAMPLES, RANDOM = "pool of uniform", 8, "random"


def page() -> Page:
    found, tasks = [], []
    for cell in read(STUDY):
        rules = sorted({arm.select for arm in cell.losses if arm.source == POOL} - {RANDOM})
        arms = {rule: Arm(POOL, rule, NSAMPLES) for rule in [*rules, RANDOM]}
        found += contrasts(
            cell.method, {rule: cell.gap(arms[rule], arms[RANDOM], DOMAINS, paired=True) for rule in rules}
        )
        tasks += [rule for rule in rules if cell.tasks[arms[rule]].mean() > cell.tasks[arms[RANDOM]].mean()]
    better = sorted({c.arm for c in found if c.verdict == -1})
    return Page(
        name="selection",
        question="Does choosing windows by a rule beat random windows?",
        title=f"Rules that choose eight windows out of eighty are {summary(found)} of {len(found)} comparisons with random choice",
        answer=(
            "Every rule sees the same pool as random choice, and set k of each is chosen out of the k-th block of the pool, so "
            f"they are compared set by set. Better than random somewhere, clearly: {', '.join(better) or 'none'}. By the mean "
            f"log-likelihood of the right answers the rules are ahead of random in {len(tasks)} of {len(found)}, without a test."
        ),
        chart=chart(
            found,
            "Perplexity against random choice from the same pool, %",
            "Mean over eight held-out texts, paired by set, 95 % intervals. Left of zero the rule is better.",
            "%",
        ),
        table=table(found, "rule"),
        published=(
            "ZipCal's (arXiv 2603.16105) result files, by notes on them: lexical coverage gains 0.74 points of accuracy over random for "
            "pruning and 0.11 for quantization; least perplexity 0.45 and 0.13. COLA (arXiv 2510.10618) chooses by k-means in "
            "activation space, by its abstract for representativeness and diversity."
        ),
        limits=(
            "One small model, one pool (the uniform mixture of eight domains), eight windows a set: with more windows "
            "random choice covers more of what a rule looks for. Rules run with the settings that they have here by default. "
            "A rule makes its sets alike, so an interval over sets is narrower than one over new pools of other text."
        ),
        origin=origin(STUDY, SMOLLM2),
    )
