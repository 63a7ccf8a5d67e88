"""`cluster.yaml` against a stand-in for AWS: the header's commands make the role, Ray's bootstrap makes the rest."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ACCOUNT = "123456789012"  # moto's
NAME = "calibration-sweep"

pytestmark = pytest.mark.ray


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes clients of services; the home that `ray up` would put its key into is an empty folder."""
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer
    from ray.autoscaler._private.aws import utils

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for cache in (utils.client_cache, utils.resource_cache):
        cache.cache_clear()
    yield lambda service: boto3.client(service, region_name="us-west-2")
    for cache in (utils.client_cache, utils.resource_cache):
        cache.cache_clear()
    server.stop()


def follow_the_header(text: str, client: Any) -> int:
    """Run the `aws iam` commands that the file's comments ask for; returns how many there are."""
    lines = [line.removeprefix("#").strip() for line in text.splitlines()]
    commands = [shlex.split(line.replace("$R", NAME)) for line in lines if line.startswith("aws iam ")]
    for _, _, action, *words in commands:
        values = {
            "".join(part.title() for part in flag.removeprefix("--").split("-")): value
            for flag, value in zip(words[::2], words[1::2], strict=True)
        }
        getattr(client, action.replace("-", "_"))(**values)
    return len(commands)


def test_bootstrap_and_spot_workers_on_aws(aws: Any, tmp_path: Path) -> None:
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = (ROOT / "cluster.yaml").read_text().replace("YOUR-ACCOUNT", ACCOUNT).replace("YOUR-BUCKET", "sweeps")
    iam, ec2 = aws("iam"), aws("ec2")
    assert follow_the_header(text, iam) == 5
    (profile,) = iam.list_instance_profiles()["InstanceProfiles"]
    assert [role["RoleName"] for role in profile["Roles"]] == [NAME]
    assert sorted(iam.list_role_policies(RoleName=NAME)["PolicyNames"]) == ["results", "workers"]

    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    ready = bootstrap_aws(config)
    assert len(iam.list_roles()["Roles"]) == 1  # Ray makes none of its own, with rights to everything
    key = Path(ready["auth"]["ssh_private_key"])
    assert key.is_relative_to(tmp_path)
    assert key.stat().st_mode & 0o077 == 0
    kinds = {name: kind["node_config"] for name, kind in ready["available_node_types"].items()}
    assert kinds["head"]["SubnetIds"] == kinds["gpu"]["SubnetIds"] != []
    groups = {group for kind in kinds.values() for group in kind["SecurityGroupIds"]}
    (group,) = ec2.describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"]
    from_anywhere = [rule for rule in group["IpPermissions"] if rule["IpRanges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in from_anywhere] == [(22, 22)]  # ssh only
    inside = [rule for rule in group["IpPermissions"] if not rule["IpRanges"]]
    assert all(pair["GroupId"] in groups for rule in inside for pair in rule["UserIdGroupPairs"])

    provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
    provider.create_node(kinds["head"], {"ray-node-type": "head"}, 1)
    provider.create_node(kinds["gpu"], {"ray-node-type": "worker"}, 1)
    workers = provider.non_terminated_nodes({"ray-node-type": "worker"})
    found = [machine for made in ec2.describe_instances()["Reservations"] for machine in made["Instances"]]
    assert sorted(machine["InstanceType"] for machine in found) == ["g5.4xlarge", "m5.2xlarge"]
    assert {machine["IamInstanceProfile"]["Arn"] for machine in found} == {profile["Arn"]}
    spot = {machine["InstanceId"] for machine in found if machine.get("InstanceLifecycle") == "spot"}
    assert spot == set(workers)
    names = [{tag["Key"]: tag["Value"] for tag in machine["Tags"]}["ray-cluster-name"] for machine in found]
    assert names == [ready["cluster_name"]] * 2  # by which the role may end them
    provider.terminate_nodes(provider.non_terminated_nodes({}))
    assert provider.non_terminated_nodes({}) == []
