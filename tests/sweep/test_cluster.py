from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "cluster.yaml").read_text()))


@pytest.mark.ray
def test_cluster_file_passes_rays_own_check(cluster: dict[str, Any]) -> None:
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**cluster, "max_worker": 3}))


def test_cluster_shares_a_token_and_starts_ray_with_it(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in cluster[key] if "ray start" in command]
        assert starts
        assert all("RAY_AUTH_MODE=token" in command for command in starts)


def test_cluster_keeps_results_and_environments_at_home(cluster: dict[str, Any]) -> None:
    assert {".git", ".venv", "results"} <= set(cluster["rsync_exclude"])


def test_workers_have_gpus_and_the_head_has_none(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] == "head"
    assert types["head"]["node_config"]["InstanceType"].startswith("m5")
    assert types["gpu"]["node_config"]["InstanceType"].startswith("g5")
    assert types["gpu"]["max_workers"] <= cluster["max_workers"]
