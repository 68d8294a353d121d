"""The start commands of ray_cluster.yaml, run as far as one machine can.

A head and a worker that ask for a token, a health check, a job; and a stranger who is refused.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.e2e.test_job_submit import free_ports

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent


def commands(config, kind):
    """Start commands without `ray stop`, which would end every Ray of this machine, those of others too."""
    return [line for line in config[f"{kind}_start_ray_commands"] if line != "ray stop"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
def test_head_and_worker_start_with_a_token_and_a_stranger_is_refused(tmp_path):
    config = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    port, board, client, agent, metrics = free_ports(5)
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env = kept | {"HOME": str(home), "PATH": f"{BIN}:{kept['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}

    def shell(line, **options):
        return subprocess.run(
            ["bash", "-c", line], env=env | options, capture_output=True, text=True, check=False, timeout=120
        )

    assert shell("ray get-auth-token --generate").returncode == 0  # the first line of the file's head
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    made = shell(next(line for line in config["setup_commands"] if "auth_token" in line))
    assert made.returncode == 0, made.stderr
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o077 == 0

    [head] = commands(config, "head")
    assert "--autoscaling-config" in head  # of the cloud, which is not here
    head = head.replace("--autoscaling-config=~/ray_bootstrap_config.yaml", "--num-cpus=1").replace(
        "6379", str(port)
    )
    head += f" --dashboard-port={board} --ray-client-server-port={client} --node-ip-address=127.0.0.1"
    head += f" --dashboard-agent-listen-port={agent} --metrics-export-port={metrics} --block"
    head += " --object-store-memory=100000000 --min-worker-port=0 --max-worker-port=0"
    [worker] = commands(config, "worker")
    worker = worker.replace("6379", str(port)) + " --num-cpus=1 --object-store-memory=100000000 --block"
    worker += " --node-ip-address=127.0.0.1 --min-worker-port=0 --max-worker-port=0"
    started = []
    try:
        for line in (head, worker):
            with open(tmp_path / f"{len(started)}.log", "w") as log:
                started.append(
                    subprocess.Popen(
                        ["bash", "-c", line],
                        env=env | {"RAY_HEAD_IP": "127.0.0.1"},
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
            until_s = time.monotonic() + 60
            health = f"ray health-check --address 127.0.0.1:{port}"
            while shell(health, RAY_AUTH_MODE="token").returncode != 0:
                assert time.monotonic() < until_s, (tmp_path / "0.log").read_text()
                time.sleep(0.5)
        job = (
            "import ray, time; ray.init(log_to_driver=False)\n"
            "while len(ray.nodes()) < 2: time.sleep(0.5)\n"
            "print('nodes', len(ray.nodes()), 'cpus', ray.cluster_resources()['CPU'])"
        )
        own = shell(f'python -c "{job}"', RAY_AUTH_MODE="token", RAY_ADDRESS=f"127.0.0.1:{port}")
        assert "nodes 2 cpus 2.0" in own.stdout, own.stdout + own.stderr
        stranger = {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
        assert shell(health, **stranger).returncode != 0
        assert shell(health, HOME=str(tmp_path), RAY_AUTH_MODE="disabled").returncode != 0
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGTERM)
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob-ingest.yaml"])
def test_every_container_has_the_token_of_the_secret_and_limits_and_the_head_says_how_it_is(name):
    spec = yaml.safe_load((ROOT / "deploy" / name).read_text())["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        for container in group["template"]["spec"]["containers"]:
            assert set(container["resources"]["limits"]) >= {"cpu", "memory"}
    assert cluster["authOptions"] == {"mode": "token", "secretName": "rushes-ray"}  # to every container
    head = groups[0]["template"]["spec"]["containers"][0]
    for probe in ("readinessProbe", "livenessProbe"):
        assert head[probe]["exec"]["command"] == ["ray", "health-check"]
