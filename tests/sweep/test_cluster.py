from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
RAYS = ("cluster.yaml", "cluster-gcp.yaml", "cluster-local.yaml")  # what `ray up` reads


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
@pytest.mark.parametrize("name", RAYS)
def test_cluster_files_pass_rays_own_check(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / name).read_text())
    validate_config(prepare_config(config))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**config, "max_worker": 3}))


def test_all_machines_have_one_version_of_ray_which_the_project_takes() -> None:
    pins = {
        name: set(
            re.findall(r"(?:ray\[default\]==|RAY_VERSION=|rayVersion: \")(\d+\.\d+\.\d+)", (ROOT / name).read_text())
        )
        for name in (*RAYS, "cluster/node.sh", "cluster/kuberay.yaml", "Dockerfile")
    }
    assert all(len(found) == 1 for found in pins.values()), pins
    (version,) = set.union(*pins.values())
    (wanted,) = (Requirement(need) for need in requires("calibration-sweep") or () if need.startswith("ray["))
    assert wanted.specifier.contains(version)


@pytest.mark.parametrize("name", RAYS)
def test_machines_share_a_token_and_start_ray_alike(name: str) -> None:
    config = yaml.safe_load((ROOT / name).read_text())
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert {".git", ".venv", "results"} <= set(config["rsync_exclude"])
    commands = [
        *config["setup_commands"],
        *config["head_start_ray_commands"],
        *config["worker_start_ray_commands"],
    ]
    assert [command.split()[2] for command in commands] == ["setup", "head", "worker"]
    assert all(command.startswith("sh ~/calibration-sweep/cluster/node.sh ") for command in commands)
    assert 'RAY_AUTH_MODE=token "$BIN/ray" start' in (ROOT / "cluster/node.sh").read_text()


@pytest.mark.parametrize("name", ["cluster/node.sh", "cluster/slurm.sh"])
def test_shell_scripts_parse_and_say_how_they_are_called(name: str) -> None:
    subprocess.run(["sh", "-n", str(ROOT / name)], check=True)
    asked = subprocess.run(["sh", str(ROOT / name)], capture_output=True, text=True, check=False)
    assert asked.returncode == 2
    assert name in asked.stderr


def test_stop_ends_the_ray_of_this_cluster_and_no_other(tmp_path: Path) -> None:
    def process(words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["bash", "-c", f"exec -a '{words}' sleep 300"])

    mine = [
        process("gcs_server --gcs_server_port=16379 "),
        process("raylet --x --gcs-address=10.9.8.7:16379 "),
    ]
    others = [
        process("gcs_server --gcs_server_port=16380 "),
        process("raylet --x --gcs-address=10.9.8.6:16379 "),
        process("python train.py --gcs-address=10.9.8.7:16379 "),
    ]
    try:
        started = [Path(f"/proc/{one.pid}/cmdline") for one in (*mine, *others)]
        while not all(b"1637" in line.read_bytes() or b"16380" in line.read_bytes() for line in started):
            pass  # bash has not become `sleep` yet
        place = {**os.environ, "RAY_PORT": "16379", "RAY_HEAD_IP": "10.9.8.7"}
        subprocess.run(["sh", str(ROOT / "cluster/node.sh"), "stop"], env=place, check=True)
        assert [one.wait() for one in mine] == [-15, -15]
        assert [one.poll() for one in others] == [None, None, None]
    finally:
        for one in (*mine, *others):
            one.kill()
            one.wait()


def test_end_of_an_allocation_interrupts_the_study(tmp_path: Path) -> None:
    """The scheduler signals the script, whose study runs in its background."""
    stubs = {
        "scontrol": "echo here",
        "srun": "echo 127.0.0.1",
        "python": """case "$*" in
            *sweep.launch*) exec {python} -c "$STUDY" ;;
            *) echo token ;;
        esac""",
    }
    for name, body in stubs.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("#!/bin/sh\n" + body.replace("{python}", sys.executable) + "\n")
        file.chmod(0o755)
    study = (
        "import time\nfrom sweep.runs.interrupts import interruptible\n"
        "try:\n    with interruptible():\n        print('runs', flush=True)\n        time.sleep(60)\n"
        "except KeyboardInterrupt:\n    raise SystemExit(130)\n"
    )
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "VENV": str(tmp_path),
        "STUDY": study,
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "here",
        "SLURM_JOB_NUM_NODES": "1",
    }
    command = ["sh", str(ROOT / "cluster/slurm.sh"), "paper_a"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        while job.stdout.readline() != "runs\n":
            assert job.poll() is None
        job.send_signal(signal.SIGINT)
        assert job.wait(timeout=50) == 130


def test_kubernetes_manifest_shares_the_token_and_stays_inside() -> None:
    spec = yaml.safe_load((ROOT / "cluster/kuberay.yaml").read_text())["spec"]
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    (workers,) = spec["workerGroupSpecs"]
    assert workers["minReplicas"] == 0 < workers["maxReplicas"]
    assert spec["authOptions"] == {"mode": "token"}  # the operator gives it to the autoscaler's container as well
    assert "nvidia.com/gpu" in workers["template"]["spec"]["containers"][0]["resources"]["limits"]


def _fields(*required: str, **others: Any) -> dict[str, Any]:
    """The schema of a mapping with these keys and no other."""
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": others}


TEXT = {"type": "string"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
POD = _fields("spec", metadata={"type": "object"}, spec={"type": "object", "required": ["containers"]})
COUNT = {"type": "integer", "minimum": 0}
# what the manifest uses of ray.io/v1 RayCluster, by the types of the operator (apis/ray/v1/raycluster_types.go)
RAY_CLUSTER = _fields(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayCluster"},
    metadata=_fields("name", name={"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?$"}),
    spec=_fields(
        *("headGroupSpec", "workerGroupSpecs"),
        rayVersion={"type": "string"},
        authOptions=_fields("mode", mode={"enum": ["disabled", "token"]}),
        enableInTreeAutoscaling={"type": "boolean"},
        autoscalerOptions=_fields(idleTimeoutSeconds=COUNT),
        headGroupSpec=_fields("rayStartParams", "template", serviceType=TEXT, rayStartParams=TEXTS, template=POD),
        workerGroupSpecs={
            "type": "array",
            "items": _fields(
                *("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
                groupName=TEXT,
                replicas=COUNT,
                minReplicas=COUNT,
                maxReplicas=COUNT,
                rayStartParams=TEXTS,
                template=POD,
            ),
        },
    ),
)


def test_kubernetes_manifest_has_the_fields_of_a_ray_cluster() -> None:
    manifest = yaml.safe_load((ROOT / "cluster/kuberay.yaml").read_text())
    jsonschema.validate(manifest, RAY_CLUSTER)
    manifest["spec"]["headGroupSpec"]["rayStartParams"]["num-gpus"] = 0  # a number, where the operator wants text
    with pytest.raises(jsonschema.ValidationError, match="0 is not of type 'string'"):
        jsonschema.validate(manifest, RAY_CLUSTER)


def test_workers_have_gpus_and_the_head_has_none(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] == "head"
    assert types["head"]["node_config"]["InstanceType"].startswith("m5")
    assert types["gpu"]["node_config"]["InstanceType"].startswith("g5")
    assert types["gpu"]["min_workers"] == 0 < types["gpu"]["max_workers"] <= cluster["max_workers"]
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


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
    allowed = {
        action: statement["Resource"]
        for statement in statements
        if statement["Effect"] == "Allow" and "Resource" in statement
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    assert allowed["iam:PassRole"].endswith(f":role/{found.group(1)}")
    assert not [action for action in allowed if action in ("*", "ec2:*", "s3:*", "iam:*")]
    assert all(resource != "*" for action, resource in allowed.items() if action.startswith("s3:"))
    ending = [one for one in statements if "ec2:TerminateInstances" in one["Action"]]
    assert [one["Condition"]["StringEquals"]["aws:ResourceTag/ray-cluster-name"] for one in ending] == [
        yaml.safe_load((ROOT / "cluster.yaml").read_text())["cluster_name"]
    ]
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
