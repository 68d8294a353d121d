"""Footage that changes while it is read is a failure of what was read of it since, and of nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from manifests.layout import Dataset
from manifests.tables import planned, scans
from media.writer import write_video
from pipeline.config import CurateConfig, EncodeConfig, PlanConfig
from pipeline.curate import stage as curating
from pipeline.curate.stage import Curate
from pipeline.footage.sources import list_sources, source_row
from pipeline.plan import make_plan
from pipeline.stages.encode import Encode
from pipeline.stages.encoding import clip_frames
from pipeline.stages.encoding.clip_frames import ClipRouter
from pipeline.stages.protocol import run_stage
from world.render import render_frame
from world.scene import sample_shot

FPS = 10


@pytest.fixture
def footage(tmp_path) -> Path:
    """One film of three shots, sound until something is done to it."""
    frames = [
        render_frame(sample_shot(seed, 1.5, 6.0), index / FPS, 96, 64)
        for seed in (3, 7, 11)
        for index in range(60)
    ]
    (tmp_path / "f").mkdir()
    write_video(tmp_path / "f" / "a.mkv", frames, FPS, options={"x264-params": "keyint=10"})
    return tmp_path / "f"


def planned_of(footage: Path, out: Path) -> Dataset:
    dataset = Dataset.create(str(out))
    make_plan(
        dataset,
        list_sources([str(footage)]),
        PlanConfig(),
        lambda files: [source_row(file) for file in files],
    )
    return dataset


def run(dataset: Dataset, stage) -> None:
    stage.setup()
    for shard in {row["shard"] for row in planned.segments(dataset).to_pylist()}:
        run_stage(stage, dataset, "test-run", shard, 0, lambda text: None)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def written_over(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for index in range(len(data) // 2, len(data), 7):
        data[index] ^= 0x5A
    with open(path, "rb+") as file:
        file.write(data)


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [cut_short, written_over, gone])
def test_while_it_is_curated(footage, tmp_path, monkeypatch, harm):
    dataset, [path] = planned_of(footage, tmp_path / "ds"), list(footage.iterdir())
    whole = planned_of(footage, tmp_path / "whole")
    run(whole, Curate(CurateConfig()))
    expected, own = scans.table(whole, "clips").to_pylist(), curating.Book.note

    def note(self, piece):
        own(self, piece)
        if path.exists() and len(self.clips) == 1:
            harm(path)

    monkeypatch.setattr(curating.Book, "note", note)
    run(dataset, Curate(CurateConfig()))
    [failure] = scans.table(dataset, "failures").to_pylist()
    assert failure["error"] == ("missing" if harm is gone else "source_changed")
    assert path.name in failure["cause"]
    names = ("clip_id", "start_s", "end_s", "num_frames")
    kept = [tuple(row[name] for name in names) for row in scans.table(dataset, "clips").to_pylist()]
    assert kept == [tuple(row[name] for name in names) for row in expected][: len(kept)]
    assert 1 <= len(kept) < len(expected)


@pytest.mark.parametrize("harm", [cut_short, written_over])
def test_while_it_is_encoded(footage, tmp_path, monkeypatch, harm):
    dataset, [path] = planned_of(footage, tmp_path / "ds"), list(footage.iterdir())
    curate = Curate(CurateConfig())
    run(dataset, curate)
    clips, own = scans.table(dataset, "clips").to_pylist(), ClipRouter.frames

    def frames(self, clip):
        for number, frame in enumerate(own(self, clip)):
            if clip["clip_id"] == clips[1]["clip_id"] and number == 3:
                shutil.copy(path, tmp_path / "sound")
                harm(path)
            yield frame

    monkeypatch.setattr(clip_frames.ClipRouter, "frames", frames)
    stage = Encode(EncodeConfig(max_pixels=4096), curate.column)
    run(dataset, stage)
    failed = [row for row in scans.table(dataset, "failures").to_pylist() if row["stage"] == "latent"]
    made = {row["clip_id"] for row in scans.table(dataset, "latents", stage.column).to_pylist()}
    assert {row["error"] for row in failed} == {"source_changed"}
    assert clips[1]["clip_id"] not in made and len(made) + len(failed) == len(clips)


def test_a_touched_file_is_the_same(footage, tmp_path, monkeypatch):
    dataset, [path] = planned_of(footage, tmp_path / "ds"), list(footage.iterdir())
    own = curating.Book.note
    monkeypatch.setattr(curating.Book, "note", lambda self, piece: (own(self, piece), os.utime(path, (9, 9))))
    run(dataset, Curate(CurateConfig()))
    assert not scans.table(dataset, "failures").num_rows and scans.table(dataset, "clips").num_rows >= 3
