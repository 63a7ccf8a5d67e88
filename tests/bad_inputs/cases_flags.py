"""Flags of the launcher that cannot mean what they say."""

from __future__ import annotations

from tests.bad_inputs.common import Case, flags

CASES: dict[str, Case] = {
    "share of GPUs above one": Case(flags("--gpus-per-worker", "1.5"), r"--gpus-per-worker 1\.5: a worker has a share"),
}
