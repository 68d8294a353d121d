"""What one process of a node makes for all of them."""

import json

import pytest

from tests.e2e.commands import ended, together

SHARED = """
import os, sys, tempfile
from pathlib import Path
import numpy as np
from learning import processes
from learning.sharing import shared
processes.join()
made = []
def make():
    made.append(1)
    if sys.argv[1] == "bad":
        raise ValueError("no such table")
    return {"a": np.arange(1000), "b": np.array([b"x", b"yy"]), "none": np.zeros(0)}, {"digest": "d"}
try:
    arrays, told = shared("the catalogue", make)
except Exception as error:
    print(type(error).__name__)
else:
    assert arrays["a"].sum() == 499500 and arrays["b"][1] == b"yy" and told == {"digest": "d"}
    assert isinstance(arrays["a"], np.memmap) and len(arrays["none"]) == 0
    print(len(made))
processes.wait_for_all()
assert not list(Path(tempfile.gettempdir()).glob("rushes-shared-*"))
"""


@pytest.mark.parametrize(("how", "said"), [("good", ["1", "0"]), ("bad", ["ValueError", "RushesError"])])
def test_one_process_of_a_node_makes_it_for_all(tmp_path, how, said):
    started = together(2, "-c", SHARED, how, TMPDIR=str(tmp_path))
    assert [out.split() for out, _ in ended(started, 120)] == [[expected] for expected in said]


VAE = """
import json, sys
from pathlib import Path
import torch
from learning import processes
from manifests.errors import RushesError
from vae.network.model import CausalVAE, VAEConfig
from vae.training.clips import Windows
from vae.training.train import TrainConfig, train
rank, _, _ = processes.join()
draw = torch.Generator().manual_seed(0)
clips = [torch.randint(255, (3, 9, 32, 32), generator=draw).to(torch.uint8) for _ in range(4)]
windows = Windows(clips[: 4 - rank], 9 * 32 * 32, 0)
try:
    train(CausalVAE(VAEConfig(widths=(8, 8, 8))), windows, TrainConfig(steps=1), Path(sys.argv[1]))
except RushesError as error:
    print(json.dumps(str(error)))
processes.wait_for_all()
"""


def test_processes_that_read_other_clips_train_nothing(tmp_path):
    """A file that one node could not read would shift all windows behind it, in that node's steps alone."""
    for out, _ in ended(together(2, "-c", VAE, tmp_path / "v"), 120):
        assert "was not read alike by all processes" in json.loads(out.splitlines()[-1])
    assert not (tmp_path / "v" / "metrics.jsonl").exists()


def test_a_vae_trained_by_two_processes_reads_its_clips_once(tmp_path):
    words = [
        "-m",
        "rushes",
        "train-vae",
        tmp_path / "v",
        "--films",
        "6",
        "--threads",
        "1",
        "--model.widths",
        8,
        8,
        8,
    ]
    found = ended(together(2, *words, "--train.steps", 2, "--train.budget", 9216, TMPDIR=str(tmp_path)), 200)
    assert (tmp_path / "v" / "model.safetensors").exists(), found
    assert not list(tmp_path.glob("rushes-shared-*"))
    assert json.loads((tmp_path / "v" / "config.json").read_text())["processes"] == 2
