"""The ingest as a Ray job on a head node started for it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from manifests.layout import Dataset
from manifests.verify import verify
from tests.e2e.commands import INGEST, ROOT, committed, environment, free_ports

RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture
def head(tmp_path_factory):
    port, dashboard, client, agent, metrics = free_ports(5)
    folder = tmp_path_factory.mktemp("ray", numbered=True)
    # as after `source .venv/bin/activate`: the job's `python` is the one the head was started with
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = environment(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", PATH=path)
    options = [
        "--head",
        "--block",
        "--num-cpus=2",
        "--node-ip-address=127.0.0.1",
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        "--dashboard-host=127.0.0.1",
        f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}",
        f"--metrics-export-port={metrics}",
        "--object-store-memory=200000000",
        "--min-worker-port=0",
        "--max-worker-port=0",
    ]
    with open(folder / "head.log", "w") as log:
        process = subprocess.Popen(
            [RAY, "start", *options], env=env, stdout=log, stderr=log, start_new_session=True
        )
        address = f"http://127.0.0.1:{dashboard}"
        try:
            for _ in range(120):
                try:
                    urllib.request.urlopen(f"{address}/api/version", timeout=2).close()
                    break
                except OSError:
                    time.sleep(0.5)
            else:
                pytest.fail((folder / "head.log").read_text())
            yield address, env
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.ray
def test_ray_job_submit_runs_the_same_ingest_and_its_logs_show_progress(films, dataset, head, tmp_path):
    address, env = head
    arguments = ["rushes", "ingest", films, "--out", tmp_path / "ds", *INGEST]
    command = [
        RAY,
        "job",
        "submit",
        "--address",
        address,
        "--submission-id",
        "ingest-1",
        "--working-dir",
        ".",
        "--",
        *map(str, arguments),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    logs = subprocess.run(
        [RAY, "job", "logs", "--address", address, "ingest-1"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    ).stdout
    assert "preflight: 2 CPU" in logs
    assert "preview shard 0:" in logs
    assert "outcome: done" in logs
    with urllib.request.urlopen(f"{address}/api/jobs/ingest-1", timeout=10) as answer:
        assert json.load(answer)["status"] == "SUCCEEDED"
    assert verify(Dataset(str(tmp_path / "ds")), deep=True).is_sound
    assert committed(tmp_path / "ds") == committed(Path(dataset.uri))
