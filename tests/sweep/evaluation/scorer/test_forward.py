from __future__ import annotations

import numpy as np
import pytest
import torch

from sweep.evaluation.scorer.forward import HeadRule, TokenBudget, log_norm, row_batches, window_batches

CPU = torch.device("cpu")


def test_budget_halves_until_the_work_fits_and_remembers() -> None:
    told: list[int] = []
    budget = TokenBudget(CPU, tokens=4096)
    budget.on_change.append(lambda: told.append(budget.tokens))

    def work() -> int:
        if budget.tokens > 1024:
            raise torch.OutOfMemoryError
        return budget.tokens

    assert budget.run(work) == 1024
    assert told == [2048, 1024]
    assert budget.tokens == 1024


def test_work_that_never_fits_is_an_error() -> None:
    budget = TokenBudget(CPU, tokens=512, smallest=256)

    def work() -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        budget.run(work)
    assert budget.tokens == 256


def test_log_norm_is_that_of_torch_however_many_rows_at_a_time() -> None:
    logits = torch.randn(7, 50, generator=torch.Generator().manual_seed(0)) * 20
    for rows in (None, 1, 3, 100):
        norm, top = log_norm(logits.clone(), rows)
        torch.testing.assert_close(norm, torch.logsumexp(logits, -1))
        assert torch.equal(top, logits.amax(-1))


def test_head_rule_scales_before_it_caps() -> None:
    head = torch.nn.Linear(4, 9, bias=False)
    hidden = torch.ones(2, 4)
    with torch.no_grad():
        found = HeadRule(scale=3.0, softcap=0.5).logits(head, hidden)
        torch.testing.assert_close(found, 0.5 * torch.tanh(3.0 * head(hidden) / 0.5))


@pytest.mark.parametrize("classes", [None, np.asarray([0, 1] * 20)])
def test_every_row_is_in_one_batch_of_its_class_within_the_budget(classes: np.ndarray | None) -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 40)
    batches = list(row_batches(lengths, 128, classes))
    assert sorted(np.concatenate(batches).tolist()) == list(range(40))
    assert all(len(batch) * lengths[batch].max() <= 128 for batch in batches)
    if classes is not None:
        assert all(len(set(classes[batch])) == 1 for batch in batches)


def test_windows_come_in_order_and_alone_where_they_must() -> None:
    windows = np.arange(30, dtype=np.int32).reshape(5, 6)
    together = list(window_batches(windows, TokenBudget(CPU, tokens=12)))
    assert [len(batch) for batch in together] == [2, 2, 1]
    assert torch.equal(torch.cat(together), torch.as_tensor(windows).long())
    assert [len(batch) for batch in window_batches(windows, TokenBudget(CPU, tokens=12), alone=True)] == [1] * 5
