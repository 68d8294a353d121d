"""An export opens as it is in the tools it is made for."""

import json
import os
import subprocess
import sys

import pytest

from manifests.exporting.webdataset import export_webdataset
from manifests.tables import scans
from manifests.views import View

KEYS = {"poster.jpg", "proxy.webm", "text.safetensors", "latent.safetensors", "txt", "json"}


@pytest.fixture(scope="module")
def exported(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "tars"
    return folder, export_webdataset(dataset, View.load(dataset), folder)[0]


def check(samples, dataset):
    """Samples by (clip row, text); of a dataset with stills among the clips."""
    clips = {row["clip_id"]: row for row in View.load(dataset).clips(dataset).to_pylist()}
    assert {clip["clip_id"] for clip, _ in samples} == set(clips) and len(samples) == len(clips)
    assert {"image", "video"} == {clip["kind"] for clip, _ in samples}
    accepted = {row["text"] for row in scans.table(dataset, "captions").to_pylist()}
    for clip, text in samples:
        assert clip["num_frames"] == clips[clip["clip_id"]]["num_frames"] and text in accepted


@pytest.mark.parametrize("by", ["folder", "files"])
def test_hugging_face_datasets_opens_it(exported, dataset, by, tmp_path):
    """By its folder, whose card has the types; and by the tars alone, whose types it guesses."""
    from datasets import Image, Video, load_dataset

    folder, tars = exported
    if by == "folder":
        clips = load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    else:
        files = [str(path) for path in tars]
        clips = load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path))
    assert set(clips.features) - {"__key__", "__url__"} == KEYS
    assert isinstance(clips.features["poster.jpg"], Image)
    if by == "folder":
        assert isinstance(clips.features["proxy.webm"], Video)
        clips = clips.cast_column("proxy.webm", Video(decode=False))
    rows = list(clips)
    proxies = [row["proxy.webm"]["bytes"] if by == "folder" else row["proxy.webm"] for row in rows]
    assert all(proxies) and all(row["latent.safetensors"] for row in rows)
    assert all(row["poster.jpg"].size[0] > 0 for row in rows)
    check([(row["json"]["clip"], row["txt"]) for row in rows], dataset)


ENERGON = """
import json, sys
import megatron.energon as energon
folder = sys.argv[1]
@energon.edataclass
class Clip(energon.Sample):
    text: str
    clip: dict
class Tasks(energon.DefaultTaskEncoder):
    @energon.stateless
    def cook(sample):
        return Clip(**energon.basic_sample_keys(sample), text=sample["txt"], clip=sample["json"])
    cookers = [energon.Cooker(cook)]
    def batch(self, samples):
        return samples
from megatron.energon import WorkerConfig, get_loader, get_train_dataset
worker = WorkerConfig(rank=0, world_size=1, num_workers=0)
data = get_train_dataset(folder, batch_size=1, worker_config=worker, task_encoder=Tasks(),
                         shuffle_buffer_size=None, max_samples_per_sequence=None, repeat=False)
found = []
for batch in get_loader(data):
    for sample in batch:
        row = sample.clip if isinstance(sample.clip, dict) else json.loads(sample.clip)
        text = sample.text if isinstance(sample.text, str) else sample.text.decode()
        found.append((row["clip"], text))
print("FOUND " + json.dumps(found))
"""


@pytest.mark.slow
def test_megatron_energon_opens_it(exported, dataset):
    """`make test-exports` puts Energon into a folder of its own: it pins other versions of what we pin."""
    place = os.environ.get("RUSHES_ENERGON")
    if not place:
        pytest.skip("RUSHES_ENERGON names no folder with Energon: `make test-exports`")
    folder, _ = exported
    environment = os.environ | {"PYTHONPATH": place}
    prepare = [sys.executable, "-m", "megatron.energon.cli.main", "prepare", str(folder), "--non-interactive"]
    prepare += ["--split-ratio", "1,0,0", "--force-overwrite", "--sample-type", "CrudeWebdataset"]
    done = subprocess.run(prepare, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    command = [sys.executable, "-c", ENERGON, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    check([tuple(pair) for pair in json.loads(line[6:])], dataset)
