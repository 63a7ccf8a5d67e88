from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "cluster.yaml").read_text()))


@pytest.fixture(scope="module")
def comments() -> str:
    """What the file tells a person to do first."""
    lines = (ROOT / "cluster.yaml").read_text().splitlines()
    return "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


PROFILE = re.compile(r"arn:aws:iam::[^:]+:instance-profile/([\w-]+)")


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


def test_every_machine_has_the_profile_that_lets_it_write_results(cluster: dict[str, Any]) -> None:
    # Ray gives its own default profile to the head alone, and takes none of it when the head's is named
    profiles = {
        name: kind["node_config"]["IamInstanceProfile"]["Arn"] for name, kind in cluster["available_node_types"].items()
    }
    assert set(profiles) == {"head", "gpu"}
    assert len(set(profiles.values())) == 1
    assert PROFILE.fullmatch(profiles["gpu"])


def test_image_is_looked_up_only_with_a_role_that_may(cluster: dict[str, Any], comments: str) -> None:
    head = cluster["available_node_types"]["head"]["node_config"]
    looked_up = [
        kind["node_config"]
        for kind in cluster["available_node_types"].values()
        if kind["node_config"]["ImageId"].startswith("resolve:ssm:")
    ]
    found = PROFILE.fullmatch(head["IamInstanceProfile"]["Arn"])
    assert found
    assert all(config["IamInstanceProfile"] == head["IamInstanceProfile"] for config in looked_up)
    statements = [
        statement
        for line in comments.splitlines()
        if (policy := re.search(r"--policy-document '(.*)'", line))
        for statement in json.loads(policy.group(1))["Statement"]
    ]
    allowed = {statement["Action"]: statement["Resource"] for statement in statements if statement["Effect"] == "Allow"}
    assert allowed["iam:PassRole"].endswith(f":role/{found.group(1)}")
    if looked_up:
        assert allowed["ssm:GetParameters"] == "arn:aws:ssm:*::parameter/aws/service/*"
        parameters = {config["ImageId"].removeprefix("resolve:ssm:") for config in looked_up}
        assert all(name.startswith("/aws/service/") for name in parameters)


def test_commands_in_the_header_make_the_role_that_the_machines_have(cluster: dict[str, Any], comments: str) -> None:
    profile = PROFILE.fullmatch(cluster["available_node_types"]["head"]["node_config"]["IamInstanceProfile"]["Arn"])
    assert profile
    assert f"R={profile.group(1)}" in comments
    made = re.findall(r"aws iam ([a-z-]+)", comments)
    assert made[0] == "create-role"
    assert made[-2:] == ["create-instance-profile", "add-role-to-instance-profile"]
    trust = re.search(r"--assume-role-policy-document '(.*)'", comments)
    assert trust
    assert json.loads(trust.group(1))["Statement"][0]["Principal"] == {"Service": "ec2.amazonaws.com"}
    for policy in ("AmazonEC2FullAccess", "AmazonS3FullAccess"):
        assert f"arn:aws:iam::aws:policy/{policy}" in comments
