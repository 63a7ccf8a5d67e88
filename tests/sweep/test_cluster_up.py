"""`ray up cluster-local.yaml` for real: three hosts in network namespaces, ssh between them, results in a moto server.

A host is a network namespace with a process namespace, a home and a /tmp of its own, and sshd as its only way in. Needs
root, `ip`, `unshare`, `sshd` and `rsync`; run it with `python -m pytest -m cluster`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from sweep.results import Results

ROOT = Path(__file__).resolve().parents[2]
NET, BRIDGE = "10.87.0", "calbr"
HOSTS = (1, 2, 3)  # the first is the head
DRIVER = f"{NET}.254"
STUDY = [
    "reference",
    *("--set", "models=[reference-2m]", "--set", "calibration.sets=2", "--set", "calibration.nsamples=4"),
    *("--set", "methods=[{method: rtn, bits: 3, group_size: 32}, {method: gptq, bits: 3, group_size: 32}]"),
]

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.ray,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


@dataclass
class Hosts:
    """The machines, and what `ray up` is told of them."""

    folder: Path
    processes: dict[int, subprocess.Popen[bytes]]

    @property
    def key(self) -> Path:
        return self.folder / "key"

    @property
    def config(self) -> Path:
        return self.folder / "cluster.yaml"

    def environment(self) -> dict[str, str]:
        """The driver's: it has a home of its own, with the token that `ray up` copies."""
        return {**os.environ, "HOME": str(self.folder / "driver"), "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}

    def ssh(self, host: int, command: str) -> list[str]:
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=20"]
        flags = [word for option in options for word in ("-o", option)]
        return ["ssh", "-i", str(self.key), *flags, f"root@{NET}.{host}", command]

    def say(self, host: int, command: str) -> str:
        done = subprocess.run(self.ssh(host, command), capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def kill(self, host: int) -> None:
        """As if the power went: every process of the host dies at once."""
        subprocess.run(["pkill", "-9", "-P", str(self.processes[host].pid)], check=True)


def until(met: Callable[[], bool], seconds: float = 600, look: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"waited too long: {look()}"
        time.sleep(2)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    missing = [tool for tool in ("ip", "unshare", "sshd", "rsync", "pkill") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("cluster")
    found = Hosts(folder, {})
    keys = Path("/var/lib") / f"cal-{secrets.token_hex(4)}"  # seen by hosts, whose /root and /tmp are their own
    keys.mkdir(mode=0o755)

    def run(*words: str, check: bool = True) -> None:
        subprocess.run(words, check=check, capture_output=True)

    try:
        for name in (folder / "key", keys / "host"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(name))
        shutil.copy(folder / "key.pub", keys / "authorized_keys")
        Path("/run/sshd").mkdir(exist_ok=True)
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{DRIVER}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        for host in HOSTS:
            found.processes[host] = _start(folder, keys, host, run)
        token = folder / "driver" / ".ray" / "auth_token"
        token.parent.mkdir(parents=True)
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        found.config.write_text(_configuration(found))
        until(lambda: all("ready" in found.say(host, "echo ready") for host in HOSTS), 60)
        yield found
    finally:
        for host, process in found.processes.items():
            subprocess.run(["pkill", "-9", "-P", str(process.pid)], check=False)
            process.wait()
            run("ip", "netns", "del", f"cal{host}", check=False)
        run("ip", "link", "del", BRIDGE, check=False)
        shutil.rmtree(keys)


def _start(folder: Path, keys: Path, host: int, run: Callable[..., None]) -> subprocess.Popen[bytes]:
    """A host's namespaces, with the environment of this process as its ~/venv."""
    name, home, own_tmp = f"cal{host}", folder / f"home{host}", folder / f"tmp{host}"
    run("ip", "netns", "add", name)
    run("ip", "link", "add", f"{BRIDGE}{host}", "type", "veth", "peer", "name", "eth0", "netns", name)
    run("ip", "link", "set", f"{BRIDGE}{host}", "master", BRIDGE, "up")
    run("ip", "-n", name, "addr", "add", f"{NET}.{host}/24", "dev", "eth0")
    for device in ("eth0", "lo"):
        run("ip", "-n", name, "link", "set", device, "up")
    (home / ".ssh").mkdir(parents=True)
    own_tmp.mkdir()
    shutil.copy(keys / "authorized_keys", home / ".ssh")
    (home / ".bashrc").write_text("export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test\n")
    (home / "venv").symlink_to(sys.prefix)
    binds = [f"mount --rbind {own_tmp} /tmp"]
    for prefix in {Path(os.path.realpath(found)) for found in (sys.base_prefix, sys.prefix)}:
        for hidden, own in (("/root", home), ("/tmp", own_tmp)):  # a Python that lives there stays to be seen
            if prefix.is_relative_to(hidden):
                place = own / prefix.relative_to(hidden)
                place.mkdir(parents=True)
                binds.insert(0, f"mount --bind {prefix} {place}")
    binds.insert(-1, f"mount --rbind {home} /root")
    options = f"-h {keys}/host -o PermitRootLogin=yes -o StrictModes=no -o UsePAM=no -o ListenAddress={NET}.{host}"
    script = "; ".join([*binds, f"exec {shutil.which('sshd')} -D -e {options}"])
    with (folder / f"sshd{host}.log").open("wb") as log:
        return subprocess.Popen(
            ["ip", "netns", "exec", name, "unshare", "--pid", "--fork", "--mount", "--mount-proc", "sh", "-c", script],
            stdout=log,
            stderr=log,
            env={**os.environ, "HOME": "/root"},
        )


def _configuration(hosts: Hosts) -> str:
    """cluster-local.yaml with the lines changed that it asks to change, and machines of few cores without GPUs."""
    config = yaml.safe_load((ROOT / "cluster-local.yaml").read_text())
    config["provider"] |= {"head_ip": f"{NET}.1", "worker_ips": [f"{NET}.{host}" for host in HOSTS[1:]]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    config["file_mounts"]["~/calibration-sweep"] = str(ROOT)
    config["rsync_exclude"] += ["tests", "docs", "reference-17m", ".[a-z]*"]
    config["setup_commands"] = []  # the environment is there, and there may be no package index
    for kind, resources in (("head", "--num-cpus=1 --num-gpus=0"), ("worker", "--num-cpus=2 --num-gpus=0")):
        key = f"{kind}_start_ray_commands"
        config[key] = [f"{command} {resources}" for command in config[key]]
    return str(yaml.safe_dump(config))


@pytest.fixture
def bucket() -> Iterator[str]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(DRIVER, 5556)
    server.start()
    try:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        client = boto3.client("s3", endpoint_url=f"http://{DRIVER}:5556", region_name="us-east-1", **keys)
        client.create_bucket(Bucket="sweeps")
        yield f"s3://sweeps/study?endpoint_override={DRIVER}:5556&scheme=http&region=us-east-1"
    finally:
        server.stop()


def test_a_cluster_by_ssh_loses_a_machine_and_no_trial(
    hosts: Hosts, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    up = ["ray", "up", "-y", "--no-config-cache", str(hosts.config)]
    done = subprocess.run(up, env=hosts.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    status = "RAY_AUTH_MODE=token ~/venv/bin/ray status"
    logs = "tail -n 40 /tmp/ray/session_latest/logs/monitor.out /tmp/ray/session_latest/logs/monitor.err"
    until(lambda: "/5.0 CPU" in hosts.say(1, status), look=lambda: hosts.say(1, f"{status}; {logs}"))

    quoted = " ".join(
        f"'{word}'" for word in [*STUDY, "--address", "auto", "--gpus-per-worker", "0", "--results", bucket]
    )
    launch = f"cd ~/calibration-sweep && PYTHONPATH=. ~/venv/bin/python -m sweep.launch {quoted}"
    submit = "RAY_AUTH_MODE=token ~/venv/bin/ray job submit --address http://127.0.0.1:8265"
    job = f'. ~/.bashrc; {submit} -- sh -c "{launch}"'
    with (tmp_path / "job.log").open("wb") as log:
        running = subprocess.Popen(hosts.ssh(1, job), stdout=log, stderr=log)
    until(lambda: running.poll() is not None or len(Results(bucket).keys("trials")) >= 2, 900)
    assert running.poll() is None, (tmp_path / "job.log").read_text()
    hosts.kill(3)
    assert running.wait() == 0, (tmp_path / "job.log").read_text()

    own = tmp_path / "own"
    alone = [sys.executable, "-m", "sweep.launch", *STUDY, "--local", "--gpus-per-worker", "0", "--results", str(own)]
    subprocess.run(alone, check=True, capture_output=True, cwd=ROOT)
    columns = ("trial_id", "status", "weights_hash", "calibration_hash")
    found, wanted = (Results(place).read("trials").select(columns) for place in (bucket, str(own)))
    assert found.equals(wanted)

    hosts.say(1, "sh ~/calibration-sweep/cluster/node.sh stop")
    until(lambda: all(hosts.say(host, "pgrep -c -f '[r]aylet/raylet'").strip() == "0" for host in (1, 2)))
