"""The answer fits a terminal and says what the verdict says."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from sweep.adviser.advice import Prepared
from sweep.adviser.conduct import Conclusion
from sweep.adviser.outcomes import Controls, Costs, Rules, Stop
from sweep.adviser.verdict import Disagreement, Gain, More, Ship, Standing, Verdict
from sweep.adviser.words import LINES, answer_lines
from tests.sweep.adviser.paper import asked, prepared
from tests.sweep.conftest import write_documents

NAMES = ("a", "b", "c", "d", "uniform mixture", "a rather long name of a file that nobody would want to type", "g", "h")


def verdict(kind: str = "winner", named: tuple[str, ...] = ("a",), **changed: Any) -> Verdict:
    standings = tuple(
        Standing(name, 10.0 + k, 9.0 + k, 11.0 + k, (10.0 + k,), 0.5 / (1 + k), 0.6, 0.1 * k, 0.2 * k, 0.0, 3, 2, 0, 0)
        for k, name in enumerate(NAMES)
    )
    gain = (Gain("books", 2.0, 1.0, 3.0),)
    return replace(
        Verdict(kind, named[0] if named else None, named, False, "the reason", standings, (1.0,), 0.1, 0.05, 0.08),
        **{
            "gain_random": gain,
            "gain_control": gain,
            "more": More(3600.0, 40, 0.05, 0.02),
            "ship": Ship("a", 1, 0.8, 0.3, ("b", 0)),
            **changed,
        },
    )


@pytest.fixture
def ready(tiny_model: Path, tmp_path: Path) -> Prepared:
    texts = [write_documents(tmp_path / f"{name}.jsonl", seed=n) for n, name in enumerate("ab")]
    return prepared(asked(tiny_model, texts), tmp_path / "out")


SETTLED = Stop("settled", "the expected regret, 0.05, is at most what matters, 0.1")


def said(
    ready: Prepared, found: Verdict, root: str = "out", trial: str | None = "0123456789abcdef", stop: Stop = SETTLED
) -> list[str]:
    ended = Conclusion((), stop, found, Rules(100.0), Costs(1.0, 2.0, 5.0), Controls(), (32,), (None,), 1, 0.1)
    lines = answer_lines(ended, ready.design, root, trial, 100.0)
    assert len(lines) <= LINES
    assert all(len(line) <= 80 for line in lines), lines
    return lines


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (verdict(), "Use a."),
        (verdict("tie", ("a", "b")), "Use a; b will do as well: the reason."),
        (verdict("tie", NAMES, any_will_do=True), "Use any: all 8 will do, a leads; the reason."),
        (verdict("cannot tell", ("a", "b", "c")), "It cannot be told which is best. a leads; so may be b or c."),
        (verdict("cannot matter", ("a",)), "Use any: data cannot matter here; the reason."),
        (Verdict("failed", None, (), False, "all 8 trials failed"), "There is no answer: all 8 trials failed."),
    ],
)
def test_every_kind_of_answer_fits_a_terminal(ready: Prepared, found: Verdict, text: str) -> None:
    lines = said(ready, found, trial=None if found.arm is None else "0123456789abcdef")
    assert text in " ".join(lines)


@pytest.mark.parametrize(
    "root",
    ["out", "a folder", f"results/{'deep/' * 9}out", f"results/{'deep/' * 30}out", f"results/{'so deep/' * 15}out"],
)
def test_the_export_command_is_what_a_shell_makes_of_its_lines(ready: Prepared, root: str) -> None:
    text = "\n".join(said(ready, verdict(), root))
    command = text[text.index("python -m sweep.export") : text.index("\npython -m analysis.report")]
    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
    assert words.stdout.splitlines()[3:] == ["0123456789abcdef", "--results", root, "--out", "exported"]


def test_what_is_said_names_unit_gains_draw_and_an_hour(ready: Prepared) -> None:
    text = " ".join(said(ready, verdict()))
    for part in (
        "judged on books (32 windows)",
        "Expected regret 0.05 % of perplexity, with 80 % probability at most 0.08 (what matters: 0.1; SD of a draw 1)",
        "Gain: 2 (1 to 3) over a random candidate, 2 (1 to 3) over RTN 3-bit g16, % of perplexity",
        "One more hour buys 40 trials; expected regret 0.05 would be 0.02 % of perplexity",
        "Ship a set 1 (a new set of it is better with 30 %; b set 0 may be better still):",
    ):
        assert part in text


def test_a_budget_that_bought_no_trial_is_told_what_an_answer_takes(ready: Prepared) -> None:
    nothing = Verdict("failed", None, (), False, "no trial was run")
    text = " ".join(said(ready, nothing, trial=None, stop=Stop("budget", "0 s are left")))
    assert "There is no answer: no trial was run." in text
    assert "An answer for 3 arms takes at least 14 s of one worker." in text  # 5 s, 3 screens and 3 full trials


def test_a_race_states_its_error(ready: Prepared) -> None:
    stop = Stop("guaranteed", "a is left after 3 rounds: ... has been lost with probability 0.1 at most")
    text = " ".join(said(ready, verdict(), stop=stop))
    assert (
        "Use a. Guaranteed: a is left after 3 rounds: ... has been lost with probability 0.1 at most. Expected" in text
    )


def test_targets_that_disagree_are_named(ready: Prepared) -> None:
    found = verdict(disagreements=(Disagreement("books", "tasks", "a", "b", 0.93, -0.5),))
    assert "Targets disagree (93 %): books wants a, tasks wants b" in " ".join(said(ready, found))


def several(ready: Prepared, *names: str) -> Prepared:
    """The same question with other targets."""
    targets = tuple(replace(ready.design.targets[0], name=name, labels=(name,)) for name in names)
    return replace(ready, design=replace(ready.design, targets=targets))


def of_several(ready: Prepared, *names: str, root: str = "out") -> list[str]:
    """An answer that has something to say of everything."""
    found = verdict(
        "cannot tell",
        NAMES,
        gain_random=tuple(Gain(name, 2.0, 1.0, 3.0) for name in names),
        gain_control=tuple(Gain(name, 2.0, 1.0, 3.0) for name in names),
        disagreements=(Disagreement(names[0], names[1], NAMES[5], "b", 0.93, -0.5),),
        regret=0.755,
    )
    many = (32,) * len(names)
    ended = Conclusion((), SETTLED, found, Rules(100.0), Costs(1.0, 2.0, 5.0), Controls(), many, (2,) * 3, 1, 0.1)
    return answer_lines(ended, several(ready, *names).design, root, "0123456789abcdef", 100.0)


def test_the_arms_come_before_what_would_tell_more_next_time(ready: Prepared) -> None:
    lines = of_several(ready, "books", "code", "legal")
    assert len(lines) <= LINES
    first = next(number for number, line in enumerate(lines) if line.startswith("worst regret"))
    assert [line.split()[0] for line in lines[first + 1 : first + 5]] == ["a", "b", "c", "and"]
    assert not any(line.startswith("Next time") for line in lines)


def test_no_command_is_cut_off_however_much_there_is_to_say(ready: Prepared) -> None:
    long = [
        f"{name} of the customers of the whole of the last year and the one before" for name in ("mail", "talk", "chat")
    ]
    root = f"results/{'deep/' * 30}out"
    text = "\n".join(of_several(ready, *long, root=root)).replace("\\\n", "")
    assert text.endswith(f"python -m analysis.report {root}")
    assert f"python -m sweep.export 0123456789abcdef --results {root} --out exported" in text


def test_one_trial_is_one(ready: Prepared) -> None:
    assert "One more hour buys 1 trial; " in " ".join(said(ready, verdict(more=More(3600.0, 1, 0.05, 0.02))))


def test_trials_that_take_less_than_an_hour_are_all_that_is_left(ready: Prepared) -> None:
    text = " ".join(said(ready, verdict(more=More(41.0, 9, 0.05, 0.02))))
    assert "All that is left of what may be best, 9 trials, takes 41 s; expected regret 0.05 would be 0.02 %" in text


def test_names_of_wide_letters_stand_in_line(ready: Prepared) -> None:
    standing = verdict().standings[0]
    found = verdict(standings=(replace(standing, arm="日本語の文書"), replace(standing, arm="plain")))
    lines = [line for line in said(ready, found) if line.startswith(("日本", "plain"))]
    columns = [cell_len(line[: line.index("10")]) for line in lines]
    assert len(columns) == 2 and columns[0] == columns[1]


def test_why_data_cannot_matter_is_said_once(ready: Prepared) -> None:
    text = " ".join(said(ready, verdict("cannot matter", ("a",)), stop=Stop("cannot matter", "the reason")))
    assert text.count("the reason") == 1
    assert "no text was tried." in text
