"""The driver of a training on Ray is killed: the same command goes on, and nothing is trained twice or
skipped.
"""

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
    return [
        sys.executable,
        "-m",
        "rushes",
        "fit",
        "tiny",
        "--data",
        dataset.uri,
        "--out",
        str(out),
        *options,
        *more,
    ]


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
@pytest.mark.long
def test_the_driver_on_ray_is_killed_and_the_same_command_goes_on(dataset, tmp_path):
    subprocess.run(command(dataset, tmp_path / "whole"), check=True, env=environment(), capture_output=True)
    out = tmp_path / "killed"
    on_ray = command(dataset, out, "--launch", "ray", "--workers", "2")
    process = subprocess.Popen(
        on_ray,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while len(rows(out / "metrics.jsonl")) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 5 <= len(rows(out / "metrics.jsonl")) < STEPS
    done = subprocess.run(on_ray, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    losses, whole = (
        [row["loss"] for row in rows(path / "metrics.jsonl")] for path in (out, tmp_path / "whole")
    )
    assert np.allclose(losses, whole, atol=1e-4)
    assert consumed(out) == consumed(tmp_path / "whole")


def started(command, out, steps):
    """A training that has done some steps."""
    process = subprocess.Popen(
        command,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while len(rows(out / "metrics.jsonl")) < steps and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None
    return process


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_sigterm_to_the_driver_on_ray_saves_and_ends_with_0(dataset, tmp_path):
    process = started(
        command(dataset, tmp_path / "out", "--launch", "ray", "--workers", "2", "--steps", "100000"),
        tmp_path / "out",
        3,
    )
    process.terminate()  # this one process alone, as a batch system does
    _, said = process.communicate(timeout=180)
    assert process.returncode == 0, said[-3000:]
    kept = sorted((tmp_path / "out" / "checkpoints").glob("step-*"))
    assert json.loads((kept[-1] / "state.json").read_text())["state"]["step"] == len(
        rows(tmp_path / "out" / "metrics.jsonl")
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_several_processes_save_on_sigterm_however_often_it_is_sent(dataset, tmp_path):
    process = started(
        command(dataset, tmp_path / "out", "--launch", "processes", "--steps", "100000"), tmp_path / "out", 3
    )
    for _ in range(3):
        process.terminate()
        time.sleep(0.01)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said[-3000:]
    kept = sorted((tmp_path / "out" / "checkpoints").glob("step-*"))
    assert json.loads((kept[-1] / "state.json").read_text())["state"]["step"] == len(
        rows(tmp_path / "out" / "metrics.jsonl")
    )
