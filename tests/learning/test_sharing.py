"""What one process of a node makes for all of them."""

import json

import numpy as np
import pytest

from tests.e2e.commands import ended, together

SHARED = """
import os, resource, sys, tempfile
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))  # fewer than there are arrays
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
    many = {f"clip {n}": np.full((3, n % 7), n % 256, np.uint8) for n in range(600)}
    return {"a": np.arange(1000), "b": np.array([b"x", b"yy"]), "none": np.zeros(0), **many}, {"digest": "d"}
try:
    arrays, told = shared("the catalogue", make)
except Exception as error:
    print(type(error).__name__)
else:
    assert arrays["a"].sum() == 499500 and arrays["b"][1] == b"yy" and told == {"digest": "d"}
    assert isinstance(arrays["a"], np.memmap) and len(arrays["none"]) == 0
    assert all((arrays[f"clip {n}"] == n % 256).all() for n in range(600))
    assert arrays["clip 8"].shape == (3, 1)
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


CAPTIONER = """
import json, sys
from pathlib import Path
import torch
from captioner.coca.model import VideoCoCa
from captioner.coca.tokenizer import CaptionTokenizer
from captioner.coca.training.data import Batches, film_examples
from captioner.coca.training.stage import StageConfig, train_stage
from learning import processes
from manifests.errors import RushesError
from tests.captioner.coca.small import SMALL
rank, size, _ = processes.join()
torch.set_num_threads(1)
examples = film_examples(12, 3, SMALL, workers=1)
texts = [text for example in examples for own in example.texts.values() for text in own]
tokenizer = CaptionTokenizer.train(texts, SMALL.vocab_size)
if sys.argv[2] == "unlike" and rank:
    examples = examples[::-1]
torch.manual_seed(0)
batch, accumulate = int(sys.argv[3]), int(sys.argv[4])
config = StageConfig(kind="short", steps=3, batch=batch, warmup_steps=1, accumulate=accumulate)
try:
    train_stage(VideoCoCa(SMALL), tokenizer, Batches(examples, "short", batch, 0), config, Path(sys.argv[1]))
except RushesError as error:
    print(json.dumps(str(error)))
processes.wait_for_all()
"""


def test_processes_that_hold_other_examples_train_no_captioner(tmp_path):
    for out, _ in ended(together(2, "-c", CAPTIONER, tmp_path / "c", "unlike", 4, 1), 200):
        assert "were not read alike by all processes" in json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("batch", [2, 5])
def test_a_captioner_learns_the_same_on_three_processes_as_on_one(tmp_path, batch):
    """Of two clips one process has none; the contrastive loss is told beside that of captions."""
    told = []
    for size, accumulate in ((1, 1), (3, 2)):
        folder = tmp_path / str(size)
        ended(together(size, "-c", CAPTIONER, folder, "alike", batch, accumulate), 300)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        told.append([[row[name] for name in ("loss", "contrast", "grad_norm")] for row in rows])
    assert told[0] == pytest.approx(np.array(told[1]), rel=1e-3)
    assert all(row[1] > 0.01 for row in told[0])


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
