"""A dataset and a run made by commit 7c235aa stay valid: they verify, resume with the same losses, and
sample.

The archive was made by that commit's own commands from two films and a still of the film world:

    ingest /data/footage --out /data/dataset --plan.shard-s 8 --encode.max-pixels 4096 --curate.preview-px 64
        --curate.proxy-px 64 --caption.kinds dense --text.encoder hashed-words --text.structured-variants 0
    fit tiny --data /data/dataset --out /data/run --steps 6 --save-every 6 --tokens 512 --settings
    settings.json fit ... --steps 9                                    (expected_metrics.jsonl) sample
    /data/run --prompt "a red ball" --width 32 --height 24 --frames 1 --steps 4      (expected.png)

where settings.json is {"model": {"width": 16, "depth": 1, "num_heads": 2}, "is_tensorboard": false}.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from manifests.layout import Dataset
from manifests.verify import verify
from manifests.views import View
from media.decode.images import decode_image
from pipeline.config import IngestConfig
from pipeline.engine.run import build_stages
from tests.e2e.commands import run

ARCHIVE = Path(__file__).parent / "7c235aa.tar.xz"


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The folder with `dataset`, `run`, `footage` and what that commit went on to make of them."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_a_dataset_of_before_is_sound_and_only_changed_code_gives_its_columns_other_names(
    before, monkeypatch
):
    dataset = Dataset(str(before / "dataset"))
    report = verify(dataset, deep=True)
    assert report.is_sound, report.problems
    assert report.num_shards == 5
    [record] = (before / "dataset" / "runs").glob("*/run.json")
    monkeypatch.setattr("pipeline.curate.stage.CODE_VERSION", 7)  # whose bytes have changed since
    monkeypatch.setattr("pipeline.stages.encode.CODE_VERSION", 2)
    stages = build_stages(IngestConfig.from_dict(json.loads(record.read_text())["config"]))
    view = View.load(dataset)
    assert {stage.name: str(stage.column) for stage in stages} == {
        name: str(column) for name, column in view.columns.items() if name != "dedup"
    }


def test_a_run_of_before_resumes_with_the_same_losses(before):
    (before / "settings.json").write_text(
        '{"model": {"width": 16, "depth": 1, "num_heads": 2}, "is_tensorboard": false}'
    )
    fit = ("fit", "tiny", "--data", before / "dataset", "--out", before / "run", "--tokens", 512)
    done = run(*fit, "--steps", 9, "--save-every", 6, "--settings", before / "settings.json")
    assert "resumed after step 6" in done.stderr

    def losses(path: Path) -> list[tuple[int, float]]:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [(row["step"], row["loss"]) for row in rows]

    now, then = losses(before / "run" / "metrics.jsonl"), losses(before / "expected_metrics.jsonl")
    assert [step for step, _ in now] == [step for step, _ in then] == list(range(9))
    assert np.allclose([loss for _, loss in now], [loss for _, loss in then], rtol=1e-4)


def test_a_model_of_before_samples_the_same_picture(before):
    size = ("--width", 32, "--height", 24, "--frames", 1, "--steps", 4, "--solver", "heun", "--no-upsample")
    run("sample", before / "run", "--prompt", "a red ball", *size, "--out", before / "now.png")
    now, then = (
        decode_image((before / name).read_bytes()).astype(int) for name in ("now.png", "expected.png")
    )
    assert now.shape == then.shape == (24, 32, 3)
    assert np.abs(now - then).max() <= 2
