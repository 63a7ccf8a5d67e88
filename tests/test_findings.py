"""The pages of docs/findings say what their data say, and the data are of the trials of the studies that they name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from analysis.estimates.welch import Interval
from benchmarks.findings import __main__ as findings
from benchmarks.findings import own_task
from benchmarks.findings.arms import contrasts
from benchmarks.findings.claims import Case, Claim
from benchmarks.findings.conversations import conversations
from benchmarks.findings.evidence import DATA
from benchmarks.findings.extract import _over_sets, _turned
from benchmarks.findings.knowledge import FACTS, MISLEADING, Way, changes, dense_accuracy
from benchmarks.findings.sensitivity import share_of_sources, told_apart
from sweep import plan
from sweep.config import load_study

STUDIES = Path(__file__).parent.parent / "benchmarks" / "studies"
SHIPPED = Path(__file__).parent.parent / "sweep" / "studies"


def test_pages_are_what_the_data_say() -> None:
    for name, make in findings.PAGES.items():
        page = make()
        assert (findings.FOLDER / f"{name}.md").read_text(encoding="utf-8") == page.markdown(), name
        assert (findings.FOLDER / "figures" / f"{name}.svg").is_file()


def test_a_page_that_says_something_else_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "FOLDER", tmp_path)
    app = findings.typer.Typer()
    app.command()(findings.main)
    assert CliRunner().invoke(app, ["windows"]).exit_code == 0
    assert CliRunner().invoke(app, ["windows", "--check"]).exit_code == 0
    page = tmp_path / "windows.md"
    page.write_text(page.read_text(encoding="utf-8").replace("0", "1", 1), encoding="utf-8")
    result = CliRunner().invoke(app, ["windows", "--check"])
    assert result.exit_code == 1 and "windows.md" in result.output


@pytest.mark.parametrize(
    "study",
    [
        STUDIES / "sources_reference_5m.yaml",
        STUDIES / "sources_reference_17m.yaml",
        STUDIES / "bits_reference_17m.yaml",
        SHIPPED / "tasks_reference.yaml",
    ],
    ids=lambda path: path.stem,
)
def test_data_are_of_the_trials_of_their_study(study: Path) -> None:
    planned = {trial.id for trial in plan.expand(load_study(str(study), []))}
    assert set(pl.read_parquet(DATA / f"{study.stem}.parquet")["trial_id"]) == planned


def test_documents_become_conversations_that_end_with_an_answer() -> None:
    talk = "User: One?\nAssistant: Two.\nAnd more.\nUser: Left open"
    assert [[turn["role"] for turn in each] for each in conversations(talk)] == [["user", "assistant"]]
    assert conversations(talk)[0][1]["content"] == "Two.\nAnd more."
    assert len(conversations("Question: a\nAnswer: b\n\nQuestion: c\nAnswer: d")) == 2
    assert conversations("Plain text.\nUser: too late\nAssistant: yes") == []
    assert conversations("Answer: of nobody's question") == []


def test_share_of_sources_is_the_variance_that_they_have() -> None:
    rng = np.random.default_rng(0)
    shares = [
        share_of_sources([rng.normal(mean, 1.0, 12) for mean in rng.normal(0, 1.0, 8)])  # half of the variance
        for _ in range(200)
    ]
    assert np.mean([low <= 0.5 <= high for _, low, high in shares]) == pytest.approx(0.95, abs=0.05)
    assert np.median([share for share, _, _ in shares]) == pytest.approx(0.5, abs=0.05)


def test_sources_that_differ_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    near, far = rng.normal(0, 1, 12), rng.normal(20, 1, 12)
    assert told_apart([near, rng.normal(0, 1, 12), far]) == 2


@pytest.mark.parametrize(
    ("cases", "verdict"),
    [
        ([Case(1.0, 0.001), Case(-1.0, 0.5)], "reproduced"),
        ([Case(-1.0, 0.001), Case(1.0, 0.5)], "not reproduced"),
        ([Case(1.0, 0.001), Case(-1.0, 0.001)], "cannot tell"),
        ([Case(1.0, 0.03), Case(1.0, 0.04)], "cannot tell"),  # neither is clear after Holm's correction
        ([], "not asked"),
    ],
)
def test_a_claim_needs_a_clear_case_and_none_against(cases: list[Case], verdict: str) -> None:
    assert Claim("", "", "", cases).verdict == verdict


def test_arms_are_corrected_together() -> None:
    gap = Interval(-0.1, -0.19, -0.01, p=0.03)
    assert [c.verdict for c in contrasts("m", {"a": gap})] == [-1]
    assert [c.verdict for c in contrasts("m", {"a": gap, "b": gap})] == [0, 0]


def test_answers_that_turned_are_counted_by_the_thirds_of_the_dense_margin() -> None:
    scores = np.array([[1, 1, 0, 0, 1, 1], [0, 1, 1, 0, 1, 0]], np.float32)  # dense, compressed
    counts = _turned(scores, 0, np.array([0.1, 9.0, 0.2, 3.0, 2.0, 8.0]))
    assert counts.filter(pl.col("lost") + pl.col("gained") == 0)["third"].to_list()[:3] == ["close", "middle", "clear"]
    compressed = counts[3:]
    assert compressed["third"].to_list() == ["close", "middle", "clear"]
    assert compressed["examples"].to_list() == [2, 2, 2]
    assert compressed["lost"].to_list() == [1, 0, 1] and compressed["gained"].to_list() == [1, 0, 0]
    assert compressed["margin"].to_list() == pytest.approx([0.15, 2.5, 8.5])


def test_the_dense_model_is_read_off_any_trial_and_its_flips() -> None:
    rows = []
    for label, source, accuracy, lost, gained in (
        ("GPTQ 3-bit g64", "books", 50.0, 0.2, 0.1),
        ("GPTQ 3-bit g64", "code", 45.0, 0.3, 0.15),
        ("GPTQ 3-bit g64 on *attn*", "books", 58.0, 0.05, 0.03),
    ):
        for measure, value in (
            ("accuracy", accuracy),
            ("flips_right_to_wrong", lost),
            ("flips_wrong_to_right", gained),
        ):
            rows.append((label, source, 0, measure, "reference_adversarial", value))
    frame = pl.DataFrame(rows, ["method_label", "source", "set", "measure", "task", "value"], orient="row")
    found = changes(frame, MISLEADING)
    assert found[Way("GPTQ 3-bit g64")]["code"] == pytest.approx([-15.0])
    assert found[Way("GPTQ 3-bit g64", "attention")]["books"] == pytest.approx([-2.0])
    assert dense_accuracy(frame, MISLEADING) == pytest.approx(60.0)
    assert not changes(frame, FACTS)


def test_a_tasks_own_examples_are_judged_without_the_text_that_the_other_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    task = own_task.CONTINUATION
    above = {"_books": (2.0, 4.0), "_code": (0.0, 2.0), "_multilingual": (50.0, 52.0)}  # own minus other, of two sets
    rows = [
        ("m", source, number, "accuracy", f"{task.tasks}{text}", value * own)
        for own, source in ((1.0, task.train), (0.0, "uniform"))
        for text, values in above.items()
        for number, value in enumerate(values)
    ]
    names = ["method_label", "source", "set", "measure", "task", "value"]
    monkeypatch.setattr(own_task, "_data", lambda: pl.DataFrame(rows, names, orient="row"))
    pair = own_task.Pair(task, "alone", "uniform")
    monkeypatch.setattr(own_task, "question_variance", lambda *args, **kwargs: 0.0)
    assert own_task.gap(pair, "m", "accuracy").value == pytest.approx(2.0)
    assert own_task.gap(pair, "m", "accuracy", apart=True).value == pytest.approx(51.0)
    texts = own_task.over_texts(pair, "m", "accuracy")
    assert texts.value == pytest.approx(2.0) and texts.high is not None
    assert texts.high - texts.value == pytest.approx(12.706, rel=1e-4)  # t of one degree of freedom, SE of 1 and 3


def test_other_questions_widen_the_interval_of_a_tasks_own_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    task = own_task.TASKS[1]
    own = np.array([[100.0, 100.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0]])  # [sets, questions]
    other = np.array([[0.0, 0.0, 0.0, 100.0], [0.0, 0.0, 0.0, 0.0]])
    context = {"method_label": "m", "measure": "accuracy", "task": task.tasks}
    frames = [_over_sets({**context, "source": source}, v) for source, v in ((task.train, own), ("books", other))]
    rows = [
        ("m", source, number, "accuracy", task.tasks, float(value))
        for source, v in ((task.train, own), ("books", other))
        for number, value in enumerate(v.mean(axis=1))
    ]
    names = ["method_label", "source", "set", "measure", "task", "value"]
    monkeypatch.setattr(own_task, "_data", lambda: pl.DataFrame(rows, names, orient="row"))
    monkeypatch.setattr(own_task, "_asked", lambda: pl.concat(frames))
    pair = own_task.Pair(task, "alone", "books")
    # Differences 100, 50, 0, -50: variance 12500/3. The sets give 2500 to two of the four means: 1250.
    assert own_task.question_variance(pair, "m", "accuracy") == pytest.approx((12500 / 3 - 1250) / 4)
    found = own_task.gap(pair, "m", "accuracy")
    over_sets = 2 * 312.5 / 2  # variances of (50, 25) and of (25, 0), each halved
    assert found.value == pytest.approx(25.0)
    assert found.error == pytest.approx((over_sets + (12500 / 3 - 1250) / 4) ** 0.5)


def test_what_became_of_questions_is_that_of_the_trials() -> None:
    keys = ["method_label", "source", "measure", "task"]
    trials = pl.read_parquet(DATA / f"{own_task.STUDY}.parquet").drop_nulls("source")
    means = trials.group_by(keys).agg(pl.col("value").cast(pl.Float64).mean().alias("of_trials"))
    questions = pl.read_parquet(DATA / f"{own_task.STUDY}_questions.parquet")
    found = questions.group_by(keys).agg(pl.col("value").cast(pl.Float64).mean()).join(means, on=keys, how="left")
    assert found.height and found["of_trials"].null_count() == 0
    assert found["value"].to_numpy() == pytest.approx(found["of_trials"].to_numpy(), abs=1e-4)


def test_more_right_answers_are_better() -> None:
    higher, lower = Interval(1.0, 0.9, 1.1, p=0.001), Interval(-1.0, -1.1, -0.9, p=0.001)
    assert own_task.better_worse(contrasts("m", {"a": higher})) == (1, 0)
    assert own_task.better_worse(contrasts("m", {"a": lower})) == (0, 1)
