"""The driver of a training on Ray is killed: the same command goes on, and nothing is trained twice or skipped."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.e2e.commands import environment

STEPS = 14


def command(dataset, out, *more):
    options = [
        "--steps",
        str(STEPS),
        "--tokens",
        "256",
        "--packs-per-step",
        "2",
        "--held-out",
        "0.15",
        "--save-every",
        "3",
        "--threads",
        "1",
        "--tensorboard",
        "False",
    ]
    return [sys.executable, "-m", "trainer", "fit", "tiny", "--data", dataset.uri, "--out", str(out), *options, *more]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def consumed(out):
    found = {}
    for path in out.glob("consumed*.jsonl"):
        for row in rows(path):
            found.setdefault(row["step"], []).extend(clip for clip, _ in row["samples"])
    return {step: sorted(clips) for step, clips in sorted(found.items())}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_driver_on_ray_is_killed_and_the_same_command_goes_on(dataset, tmp_path):
    subprocess.run(command(dataset, tmp_path / "whole"), check=True, env=environment(), capture_output=True)
    out = tmp_path / "killed"
    on_ray = command(dataset, out, "--launch", "ray", "--workers", "2")
    process = subprocess.Popen(on_ray, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(rows(out / "metrics.jsonl")) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 5 <= len(rows(out / "metrics.jsonl")) < STEPS
    done = subprocess.run(on_ray, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    losses, whole = ([row["loss"] for row in rows(path / "metrics.jsonl")] for path in (out, tmp_path / "whole"))
    assert np.allclose(losses, whole, atol=1e-4)
    assert consumed(out) == consumed(tmp_path / "whole")
