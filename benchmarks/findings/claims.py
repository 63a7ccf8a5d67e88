"""Do the directions that published studies report hold here?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.compare import holm
from analysis.estimates.welch import contrast
from analysis.page.chart import Chart
from benchmarks.findings import bits, own_task, selection
from benchmarks.findings.arms import DOMAINS, Arm, Arms, read
from benchmarks.findings.evidence import NAMES, Cell, cells
from benchmarks.findings.page import Page

LEVEL = 0.05
REPRODUCED, NOT, UNCLEAR, UNASKED = "reproduced", "not reproduced", "cannot tell", "not asked"
WILLIAMS, KHANAL, AWQ = "Williams & Aletras (2311.09755)", "Khanal & Capone (2409.11233)", "AWQ (2306.00978)"
BEWARE, ZIPCAL = "Beware of Calibration Data (2410.17711)", "ZipCal (2603.16105)"
BANDARI = "Bandari et al. (2410.07461)"


@dataclass(frozen=True)
class Case:
    """One place where a claim can be asked. `effect`: positive where it agrees with the claim; `p`: of no effect."""

    effect: float
    p: float


@dataclass(frozen=True)
class Claim:
    """A published direction, what was asked here, and its cases."""

    text: str
    source: str
    asked: str
    cases: Sequence[Case]

    @property
    def counts(self) -> tuple[int, int]:
        """(cases that clearly agree, cases that clearly disagree), Holm's correction over the claim's cases."""
        clear = [
            case.effect > 0 for case, p in zip(self.cases, holm([c.p for c in self.cases]), strict=True) if p < LEVEL
        ]
        return clear.count(True), clear.count(False)

    @property
    def verdict(self) -> str:
        """Reproduced needs one clear case and none against; not reproduced the opposite."""
        if not self.cases:
            return UNASKED
        agree, against = self.counts
        return UNCLEAR if bool(agree) == bool(against) else REPRODUCED if agree else NOT


def page() -> Page:
    claims = _claims(cells())
    rows = [
        [
            claim.text,
            claim.source,
            claim.asked,
            f"{claim.counts[0]} and {claim.counts[1]} of {len(claim.cases)}" if claim.cases else "not asked",
            claim.verdict,
        ]
        for claim in claims
    ]
    count = {verdict: sum(c.verdict == verdict for c in claims) for verdict in (REPRODUCED, NOT, UNCLEAR, UNASKED)}
    asked = [claim for claim in claims if claim.cases]
    web = [
        _case(cell.mean("encyclopedia"), cell.mean("web_docs")) for cell in cells() if cell.method.startswith("Sparse")
    ]
    return Page(
        name="claims",
        question="Do the directions that published studies report hold on small models?",
        title=(
            f"Of {len(asked)} published directions that could be asked {count[REPRODUCED]} are reproduced and {count[NOT]} not; of "
            f"{count[UNCLEAR]} these studies cannot tell"
        ),
        answer=(
            "A direction counts as reproduced where at least one model and method shows it clearly and none clearly shows "
            "the opposite (p below .05 over calibration sets, Holm's correction over the cases of a claim); with clear "
            "cases on both sides, or none, these studies cannot tell. Only directions are compared: models, texts and sizes "
            "differ from the published ones. What the small tasks leave open, perplexity may still show: with SparseGPT web_docs "
            f"is clearly better than encyclopedia in {sum(c.effect > 0 and c.p < LEVEL for c in web)} of {len(web)} models by "
            "perplexity over eight texts, which is not what was claimed."
        ),
        chart=_chart(asked),
        table=(["claim", "of", "asked here as", "clear for it and against it", "verdict"], rows),
        published=(
            "The claims are those of the papers named in the table, by arXiv id; those on divergence, on tasks, on contexts and on "
            "sparsity by the abstracts, those on choosing windows by notes on the paper's result files (differences of accuracy), "
            "all others by notes on the papers. `python -m analysis.report` asks six such directions of any study."
        ),
        limits=(
            "Models of 5 to 135 million parameters against published ones of billions; the last three claims were asked of one "
            f"model each, those on tasks and on contexts of {NAMES[own_task.MODEL]} alone, in windows of 128 tokens. SpQR was not run, nor RefinedWeb and Wikipedia themselves: where text of the same kind stands "
            "for them, the table says so. A claim that is not reproduced here may hold at its own scale."
        ),
    )


def _claims(found: Sequence[Cell]) -> list[Claim]:
    pruned = [cell for cell in found if cell.method.startswith("SparseGPT")]
    return [
        Claim(
            "Pruning with SparseGPT depends more on the calibration set than GPTQ",
            WILLIAMS,
            "variance over sets of a source of mean accuracy, SparseGPT 2:4 against GPTQ 3-bit (F test)",
            _steadier(found, "GPTQ"),
        ),
        Claim(
            "With SparseGPT, web text (RefinedWeb) is better than encyclopedia (Wikipedia)",
            WILLIAMS,
            "web_docs against encyclopedia, mean accuracy of tasks",
            [_case(cell.accuracy["web_docs"], cell.accuracy["encyclopedia"]) for cell in pruned],
        ),
        Claim(
            "More calibration windows lower the perplexity of SparseGPT",
            WILLIAMS,
            "8 against 32 windows, mean over single sources, paired by set",
            [_larger(cell) for cell in pruned],
        ),
        Claim(
            "Divergence is a better guide to task accuracy than perplexity",
            KHANAL,
            "Spearman's ρ with mean accuracy over 96 draws of single sources, difference of the two, bootstrap over sets",
            [_guide(cell) for cell in found],
        ),
        *_of_tasks(),
        Claim(
            "Calibration on another domain costs perplexity",
            AWQ,
            "own domain against the mean of the other single sources, mean over eight texts",
            [_own(cell) for cell in found],
        ),
        Claim(
            "AWQ depends less on the calibration set than GPTQ",
            AWQ,
            "variance between the single sources' mean log perplexity, GPTQ against AWQ at 3 bits (F test)",
            [
                _variances(_source_means(g), _source_means(a))
                for a in found
                for g in found
                if a.model == g.model and a.method.startswith("AWQ") and g.method.startswith("GPTQ")
            ],
        ),
        Claim(
            "The calibration text matters more to pruning at a higher sparsity",
            BEWARE,
            f"variance between the sources' mean log perplexity, SparseGPT at 70 % against 50 % (F test; {bits.STUDY})",
            [_variances(_sparse("70 %"), _sparse("50 %"))],
        ),
        *(
            Claim(
                f"Windows that are chosen by {name} beat random ones",
                ZIPCAL,
                f"eight windows out of eighty, mean log-likelihood of right answers, paired by set ({selection.STUDY})",
                [_chosen(cell, rule) for cell in read(selection.STUDY)],
            )
            for name, rule in (("lexical coverage", "lexical"), ("least perplexity", "least_perplexity"))
        ),
    ]


def _of_tasks() -> list[Claim]:
    """Claims on a task's own training text, which one study has."""
    web = [pair for pair in own_task.pairs() if pair.reference == own_task.WEB]
    context = [own_task.Pair(task, "in context", task.train) for task in own_task.TASKS]
    return [
        Claim(
            "Task-specific calibration text serves the task better",
            KHANAL,
            f"a task's own training examples against web_docs, alone and in context, accuracy ({own_task.STUDY})",
            _right_answers(web),
        ),
        Claim(
            "Calibration on examples in context is better than on single ones",
            BANDARI,
            f"a task's own training examples, five in a context against alone, accuracy ({own_task.STUDY})",
            _right_answers(context),
        ),
    ]


def _right_answers(pairs: Sequence[own_task.Pair]) -> list[Case]:
    gaps = [own_task.gap(pair, method, own_task.ACCURACY) for method in own_task.methods() for pair in pairs]
    return [Case(gap.value, 1.0 if gap.p is None else gap.p) for gap in gaps]


def _sparse(share: str) -> np.ndarray:
    """The sources' mean log perplexity under SparseGPT."""
    cell = next(cell for cell in read(bits.STUDY) if cell.method == f"SparseGPT {share}")
    return np.array([cell.mean(arm, DOMAINS).mean() for arm in sorted(cell.losses)])


def _chosen(cell: Arms, rule: str) -> Case:
    gain = cell.tasks[Arm(selection.POOL, selection.NSAMPLES, rule)] - cell.tasks[selection.RANDOM]
    found = contrast([gain], [1.0])
    return Case(found.value, 1.0 if found.p is None else found.p)


def _case(better: np.ndarray, worse: np.ndarray) -> Case:
    found = contrast([better, worse], [1, -1])
    return Case(found.value, 1.0 if found.p is None else found.p)


def _steadier(found: Sequence[Cell], steady: str) -> list[Case]:
    pairs = [
        (a, b)
        for a in found
        for b in found
        if a.model == b.model and a.method.startswith("SparseGPT") and b.method.startswith(steady)
    ]
    return [_spreads([a.accuracy[s] for s in a.singles], [b.accuracy[s] for s in b.singles]) for a, b in pairs]


def _spreads(wide: Sequence[np.ndarray], narrow: Sequence[np.ndarray]) -> Case:
    """F test of the mean variances within groups."""
    one, two = (float(np.mean([group.var(ddof=1) for group in groups])) for groups in (wide, narrow))
    freedom = [sum(len(group) - 1 for group in groups) for groups in (wide, narrow)]
    return _ratio(one / two, freedom[0], freedom[1])


def _variances(wide: np.ndarray, narrow: np.ndarray) -> Case:
    return _ratio(float(wide.var(ddof=1) / narrow.var(ddof=1)), len(wide) - 1, len(narrow) - 1)


def _ratio(ratio: float, above: int, below: int) -> Case:
    law = stats.f(above, below)
    return Case(math.log(ratio), float(min(1.0, 2 * min(law.sf(ratio), law.cdf(ratio)))))


def _source_means(cell: Cell) -> np.ndarray:
    return np.array([cell.mean(source).mean() for source in cell.singles])


def _larger(cell: Cell) -> Case:
    gains = [(cell.small[s] - cell.losses[s]).mean(axis=1) for s in cell.singles]
    found = contrast(gains, [1 / len(gains)] * len(gains))
    return Case(found.value, 1.0 if found.p is None else found.p)


def _own(cell: Cell) -> Case:
    """Mean over texts of (other sources' loss - own source's loss); a source's set counts once, with its own weights."""
    texts = [text for text in cell.texts if text in cell.singles]
    others = len(cell.singles) - 1
    groups = []
    for source in cell.singles:
        weights = np.array([-1.0 if text == source else 1 / others for text in texts]) / len(texts)
        columns = [cell.texts.index(text) for text in texts]
        groups.append(cell.losses[source][:, columns] @ weights)
    found = contrast(groups, [1.0] * len(groups))
    return Case(found.value, 1.0 if found.p is None else found.p)


def _guide(cell: Cell, draws: int = 2_000) -> Case:
    """-ρ(divergence, accuracy) + ρ(log perplexity, accuracy), with a p of its sign over sets drawn again by source."""
    arrays = [
        np.stack([values[s] for s in cell.singles])
        for values in (cell.divergence, {s: cell.mean(s) for s in cell.singles}, cell.accuracy)
    ]
    chosen = np.random.default_rng(0).integers(0, arrays[0].shape[1], (draws, *arrays[0].shape))
    value = float(_difference(*(array[None] for array in arrays))[0])
    again = _difference(*(np.take_along_axis(array[None], chosen, axis=2) for array in arrays))
    below = float(np.mean(again <= 0))
    return Case(value, min(1.0, 2 * max(min(below, 1 - below), 1 / draws)))


def _difference(divergence: np.ndarray, perplexity: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """How much nearer the order of accuracy is to that of divergence, [draws]; all [draws, sources, sets]."""
    ranks = [stats.rankdata(array.reshape(len(array), -1), axis=1) for array in (divergence, perplexity, accuracy)]
    one, two, three = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    return np.asarray(_correlation(two, three) - _correlation(one, three))


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1)))


def _chart(claims: Sequence[Claim]) -> Chart:
    rows = [
        {"claim": claim.text, "kind": kind, "cases": cases}
        for claim in claims
        for kind, cases in zip(
            ("clearly for it", "not clear", "clearly against it"),
            (claim.counts[0], len(claim.cases) - sum(claim.counts), claim.counts[1]),
            strict=True,
        )
    ]
    kinds = ["clearly for it", "not clear", "clearly against it"]
    return Chart(
        "Published directions, in how many places each is clear",
        "A place is a model and a method, p below .05 over calibration sets, Holm's correction.",
        {
            "data": {"values": rows},
            "width": 300,
            "height": 230,
            "mark": "bar",
            "encoding": {
                "y": {
                    "field": "claim",
                    "type": "nominal",
                    "title": None,
                    "sort": [claim.text for claim in claims],
                    "axis": {"labelLimit": 480},
                },
                "x": {"field": "cases", "type": "quantitative", "title": "places", "axis": {"tickMinStep": 1}},
                "order": {"field": "order", "type": "quantitative"},
                "color": {
                    "field": "kind",
                    "type": "nominal",
                    "title": None,
                    "sort": kinds,
                    "scale": {"domain": kinds, "range": ["#00568A", "#C9C9C5", "#B34700"]},
                    "legend": {"orient": "bottom"},
                },
            },
            "transform": [{"calculate": f"indexof({kinds!r}, datum.kind)", "as": "order"}],
        },
    )
