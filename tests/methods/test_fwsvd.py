from __future__ import annotations

import torch

from methods.base import get_method
from methods.inputs.fisher import Fisher


def test_fwsvd_weights_rows_by_their_fisher_information(problem, device):
    method = get_method("fwsvd", ratio=0.5)
    fisher = Fisher(64, device)
    fisher.update(problem.inputs.reshape(-1, 64), 4)
    rows = torch.rand(24, generator=torch.Generator().manual_seed(0)).to(device) + 0.1
    result = method.compress_weight(problem.weight, fisher.of_weight(rows, torch.ones(64, device=device)))
    left, singular, right = torch.linalg.svd(problem.weight * rows.sqrt()[:, None], full_matrices=False)
    expected = left[:, : result.rank] * singular[: result.rank] @ right[: result.rank] / rows.sqrt()[:, None]
    assert torch.allclose(result.weight, expected, atol=1e-5)
