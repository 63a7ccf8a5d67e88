"""Published numbers are held against trials that match them, and against no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.claims import claim_table
from analysis.frames import load
from analysis.published import ANCHORS, anchor_table, canonical, other_windows
from analysis.report import write_report
from analysis.simulate import Design, SimulatedMethod, simulate_study


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("meta-llama/Llama-2-7b-hf", "llama-2-7b"),
        ("huggyllama/llama-7b", "llama-7b"),
        ("huggyllama/llama-30b", "llama-33b"),
        ("facebook/opt-6.7b", "opt-6.7b"),
        ("lmsys/vicuna-13b-v1.3", "vicuna-13b"),
        ("meta-llama/Llama-2-7b-chat-hf", None),
        ("meta-llama/Llama-3.1-8B", None),
        ("reference-17m", None),
    ],
)
def test_models_are_recognised(model: str, name: str | None) -> None:
    assert canonical(model) == name


def test_matching_trials_stand_beside_the_published_interval(tmp_path: Path) -> None:
    design = Design(
        models={"huggyllama/llama-7b": 6_700_000_000},
        methods=(
            SimulatedMethod("sparsegpt", "SparseGPT 2:4", sparsity=0.5, pattern="2:4"),
            SimulatedMethod("sparsegpt", "SparseGPT 50%", sparsity=0.5),
        ),
        sources=("c4", "wikipedia"),
        sets=4,
        tasks={"rte": 60},
        heldout=(),
    )
    simulate_study(str(tmp_path), design)
    table = anchor_table(load(str(tmp_path)))
    assert set(table["method_label"]) == {"SparseGPT 2:4"}
    assert set(table["mark"]) == {"[S]"}
    spread = table.filter(quantity="range of mean accuracy, tasks: 1 here, 10 there").row(0, named=True)
    assert spread["published"] == "2.4 to 4.8"
    assert spread["inside"] == (2.4 <= spread["ours"] <= 4.8)
    assert table["quantity"].str.starts_with("sd of mean accuracy").sum() == 2


def test_perplexities_are_compared_at_the_published_length_of_windows_only(tmp_path: Path) -> None:
    """LLaMA-2-7B has 5.47 at 2,048 tokens and 5.12 at 4,096: the Wanda README's numbers are at 4,096."""
    for seqlen in (2048, 4096):
        design = Design(
            models={"meta-llama/Llama-2-7b-hf": 6_700_000_000},
            methods=(SimulatedMethod("wanda", "Wanda 50%", sparsity=0.5),),
            sources=("c4",),
            sets=2,
            seqlen=seqlen,
            tasks={},
            heldout=("wikitext2",),
        )
        simulate_study(str(tmp_path / str(seqlen)), design)
    longer = load(str(tmp_path / "4096"))
    assert longer.heldout_seqlen == 4096
    assert set(anchor_table(longer)["quantity"]) == {"mean of wikitext2 perplexity, windows of 4,096 tokens"}
    assert set(anchor_table(longer)["published"]) == {"5.120", "6.420"}
    assert other_windows(longer) == ""
    shorter = load(str(tmp_path / "2048"))
    assert anchor_table(shorter).is_empty()
    assert other_windows(shorter) == (
        "2 published perplexities are not compared: they are over windows of 4,096 tokens, and this study's windows "
        "have 2,048."
    )
    (tmp_path / "4096" / "study.yaml").write_text("study: simulated\n")
    silent = load(str(tmp_path / "4096"))
    assert anchor_table(silent).is_empty()
    assert "study.yaml does not say how long" in other_windows(silent)
    assert other_windows(silent) in write_report(str(tmp_path / "4096"), save=False)[0].read_text().replace(
        "&#x27;", "'"
    )


def test_a_study_of_other_models_matches_nothing_but_claims_can_be_told(simulated: Path) -> None:
    study = load(str(simulated))
    assert anchor_table(study).is_empty()
    claims = claim_table(study)
    told = dict(claims.select("claim", "agrees").iter_rows())
    assert told["Calibrating on another domain costs perplexity"] is True
    assert told["With SparseGPT, RefinedWeb is better than Wikipedia"] is None


def test_every_anchor_and_claim_says_how_well_it_is_known(simulated: Path) -> None:
    assert {anchor.mark for anchor in ANCHORS} <= {"P", "S", "U"}
    assert set(claim_table(load(str(simulated)))["mark"]) <= {"[P]", "[S]", "[U]"}
    assert all(anchor.where and anchor.low <= anchor.high for anchor in ANCHORS)
