from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calib.settings import SettingsError
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.suite import build_evaluation
from tests.sweep.evaluation.metrics.conftest import CHOICE, metrics, write

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn about themselves
BROKEN = {
    "example 0: KeyError: 'nowhere'": "def judge(doc, results):\n    return {'acc': doc['nowhere']}\n",
    "example 0: ModuleNotFoundError: No module named 'no_such_package'": (
        "def judge(doc, results):\n    import no_such_package\n    return {'acc': 1.0}\n"
    ),
    "it gives no metric at all": "def judge(doc, results):\n    return {}\n",
    "metric 'acc': its aggregation fails: TypeError": "def judge(doc, results):\n    return {'acc': 'right'}\n",
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_fails_in_every_trial_is_found_before_the_first(message: str, tmp_path: Path, tokenizer: Any) -> None:
    body = CHOICE + "process_results: !function code.judge\n" + metrics("acc")
    folder = write(tmp_path, {"mine": body}, BROKEN[message])
    with pytest.raises(SettingsError, match="evaluation.tasks: task 'mine'") as caught:
        build_evaluation(EvaluationSettings(tasks=["mine"], task_path=str(folder)), tokenizer, 96)
    assert message in str(caught.value)
