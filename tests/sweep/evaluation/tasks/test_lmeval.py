from __future__ import annotations

from sweep.evaluation.tasks import lmeval


def test_names_read_from_lm_evals_text_are_those_it_registers() -> None:
    from dataclasses import fields

    import lm_eval.api.metrics
    import lm_eval.filters
    from lm_eval.api import registry, samplers
    from lm_eval.config.task import FewshotConfig, TaskConfig

    assert lmeval.registered("metric") == set(registry.metric_registry)
    assert lmeval.registered("aggregation") == set(registry.aggregation_registry)
    assert lmeval.registered("filter") >= set(lm_eval.filters.filter_registry)
    assert lmeval.task_keys() == {item.name for item in fields(TaskConfig)}
    assert lmeval.fewshot_keys() == {item.name for item in fields(FewshotConfig)}
    assert set(lmeval.SAMPLERS) == set(samplers.SAMPLER_REGISTRY)
