"""Several processes train as one does: the same losses, each sample once, and a run goes on with another
number of processes after any death.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from manifests.errors import UsageError
from tests.e2e.commands import ended, environment, together
from trainer.presets import preset
from trainer.state.parallel import Ranks, check

SCRIPT = """
import dataclasses, json, sys
from pathlib import Path
import torch
from manifests.layout import Dataset
from trainer.config import ModelConfig
from trainer.presets import preset
from trainer.run.fit import fit
torch.set_num_threads(1)
config = dataclasses.replace(
    preset("tiny"), model=ModelConfig(width=48, depth=2, num_heads=2), tokens=256, packs_per_step=4,
    steps=int(sys.argv[3]), cooldown=0.0, save_every=4, held_out=0.15, keep=20,
)
if len(sys.argv) > 4:
    config = dataclasses.replace(config, **json.loads(sys.argv[4]))
fit(Dataset(sys.argv[1]), "default", config, Path(sys.argv[2]))
"""


def start(dataset, out, steps, processes, *more, **env):
    """Start a run on some processes, as torchrun does."""
    command = ["-c", SCRIPT, dataset.uri, str(out), str(steps), *more]
    if processes > 1:
        return together(processes, *command, **env)
    return [
        subprocess.Popen(
            [sys.executable, *command], env=environment() | env, stderr=subprocess.PIPE, text=True
        )
    ]


def run(*arguments, **env):
    ended(start(*arguments, **env), 300)


def losses(out: Path):
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def consumed(out: Path):
    """Samples of each step, over all processes."""
    found: dict[int, list[str]] = {}
    for path in out.glob("consumed*.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found.setdefault(row["step"], []).extend(clip for clip, _ in row["samples"])
    return {step: sorted(clips) for step, clips in sorted(found.items())}


def validation(out: Path):
    return [
        json.loads(line)["scores"]["all"]["loss"]
        for line in (out / "validation.jsonl").read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory):
    """Twenty steps of one process."""
    out = tmp_path_factory.mktemp("alone")
    run(dataset, out, 20, 1)
    return out


@pytest.mark.timeout(600)
def test_two_processes_train_as_one_does(dataset, alone, tmp_path):
    run(dataset, tmp_path, 20, 2, '{"is_checkpointed": true}')
    assert np.allclose(losses(tmp_path), losses(alone), atol=1e-4)
    assert consumed(tmp_path) == consumed(alone)
    ours, theirs = (
        load_file(tmp_path / "model" / "model.safetensors"),
        load_file(alone / "model" / "model.safetensors"),
    )
    assert ours.keys() == theirs.keys()
    assert max(float((value - theirs[name]).abs().max()) for name, value in ours.items()) < 1e-4
    shards = list((tmp_path / "checkpoints" / "step-00000020").glob("*.safetensors"))
    assert len(shards) == 2  # each process wrote its own
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["fill"] <= 1 and row["imbalance"] >= 1 and row["tflops"] > 0 for row in rows)


@pytest.mark.timeout(600)
def test_two_processes_that_share_each_pack_train_as_one_does(dataset, alone, tmp_path):
    run(dataset, tmp_path, 20, 2, '{"sequence_parallel": 2, "is_checkpointed": true}')
    assert np.allclose(losses(tmp_path), losses(alone), atol=1e-4)
    assert consumed(tmp_path) == consumed(alone)
    rows, whole = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (tmp_path, alone)
    )
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in whole]
    assert all(
        abs(a["tflops"] * a["tokens"] / a["tokens_per_s"] - b["tflops"] * b["tokens"] / b["tokens_per_s"])
        < 0.02
        for a, b in zip(rows, whole, strict=True)
    )
    assert validation(tmp_path) == pytest.approx(validation(alone), abs=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_copies_of_shards_and_shared_packs_train_as_one_does(dataset, alone, tmp_path):
    """Four processes: two copies of the weights, each over two processes that share their packs."""
    run(dataset, tmp_path, 20, 4, '{"sequence_parallel": 2, "shard_size": 2, "is_async_saving": true}')
    assert np.allclose(losses(tmp_path), losses(alone), atol=1e-4)
    assert consumed(tmp_path) == consumed(alone)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_muon_averages_and_saving_in_the_background_are_the_same_on_two_processes_and_across_a_resume(
    dataset, tmp_path
):
    more = '{"optimizer": "muon", "ema_more": [0.3], "is_async_saving": true}'
    run(dataset, tmp_path / "one", 10, 1, more)
    run(dataset, tmp_path / "two", 6, 2, more)
    run(dataset, tmp_path / "two", 10, 2, more)
    assert np.allclose(losses(tmp_path / "one"), losses(tmp_path / "two"), atol=2e-3)
    assert consumed(tmp_path / "one") == consumed(tmp_path / "two")
    assert [path.name for path in sorted((tmp_path / "two" / "checkpoints").iterdir())] == [
        f"step-{step:08d}" for step in (4, 6, 8, 10)
    ]
    parts = [
        load_file(path)
        for path in sorted((tmp_path / "two" / "checkpoints" / "step-00000010").rglob("*.safetensors"))
    ]
    held = [
        sum(value.numel() for name, value in part.items() if name.startswith("ema0.3.")) for part in parts
    ]
    whole = sum(
        value.numel() for value in load_file(tmp_path / "two" / "model-ema0.3" / "model.safetensors").values()
    )
    assert len(held) == 2  # each process holds and writes its part of the average
    assert sum(held) == whole
    assert all(0.3 * whole < part < 0.7 * whole for part in held)
    slow, fast = (
        load_file(tmp_path / "two" / name / "model.safetensors") for name in ("model", "model-ema0.3")
    )
    assert any(not torch.equal(slow[name], fast[name]) for name in slow)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ring", [2, pytest.param(4, marks=pytest.mark.long)])
def test_eight_processes_in_copies_rings_and_by_heads_train_as_one_does(dataset, alone, tmp_path, ring):
    """Two copies of the weights, each over four processes; four share a pack, by heads and in a ring."""
    more = {"sequence_parallel": 4, "ring": ring, "shard_size": 4, "is_checkpointed": True}
    run(dataset, tmp_path, 8, 8, json.dumps(more))
    assert np.allclose(losses(tmp_path), losses(alone)[:8], atol=1e-4)
    assert consumed(tmp_path) == {step: own for step, own in consumed(alone).items() if step < 8}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_noise_of_the_device_and_what_blocks_keep_are_the_same_for_any_number_of_processes(dataset, tmp_path):
    more = {"noise": "device", "is_checkpointed": True, "checkpoint_keeps": "widest"}
    run(dataset, tmp_path / "one", 8, 1, json.dumps(more))
    run(dataset, tmp_path / "two", 4, 2, json.dumps(more))
    run(dataset, tmp_path / "two", 8, 2, json.dumps(more | {"sequence_parallel": 2, "ring": 2}))
    assert np.allclose(losses(tmp_path / "one"), losses(tmp_path / "two"), atol=1e-4)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_compiled_and_sharded_it_trains_as_one_does(dataset, alone, tmp_path):
    more = {"is_compiled": True, "is_checkpointed": True, "checkpoint_keeps": "attention"}
    run(dataset, tmp_path, 4, 2, json.dumps(more))
    assert np.allclose(losses(tmp_path), losses(alone)[:4], atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_half_precision_on_two_processes_follows_full_precision(dataset, alone, tmp_path):
    run(dataset, tmp_path, 12, 2, '{"is_bf16": true}')
    assert np.allclose(losses(tmp_path), losses(alone)[:12], atol=0.03)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_on_with_another_number_of_processes(dataset, alone, tmp_path):
    for steps, processes in ((5, 2), (9, 4), (14, 1), (20, 2)):
        run(dataset, tmp_path, steps, processes)
    assert np.allclose(losses(tmp_path), losses(alone), atol=1e-4)
    assert consumed(tmp_path) == consumed(alone)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_terminated_it_goes_on_and_nothing_is_trained_twice_or_skipped(dataset, alone, tmp_path):
    def steps_done():
        path = tmp_path / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    for number, (victims, by) in enumerate(((1, signal.SIGKILL), (2, signal.SIGTERM), (2, signal.SIGKILL))):
        processes, before = start(dataset, tmp_path, 20, 2), steps_done()
        deadline = time.monotonic() + 120
        while (
            steps_done() < min(before + 3, 17)
            and time.monotonic() < deadline
            and all(process.poll() is None for process in processes)
        ):
            time.sleep(0.05)
        for process in processes[:victims] if number % 2 == 0 else processes:
            os.kill(process.pid, by)
        time.sleep(1.0)
        for process in processes:
            if by == signal.SIGTERM:
                _, err = process.communicate(timeout=120)
                assert "Interrupted" in err or process.returncode == 0
            else:
                process.kill()  # what torchrun does to the others when one dies
                process.communicate()
    run(dataset, tmp_path, 20, 2)
    assert np.allclose(losses(tmp_path), losses(alone), atol=1e-4)
    assert consumed(tmp_path) == consumed(alone)


def test_packs_that_do_not_divide_are_refused():
    with pytest.raises(UsageError, match="do not divide among 2"):
        check(preset("tiny", packs_per_step=3), Ranks(0, 2, torch.device("cpu")))
