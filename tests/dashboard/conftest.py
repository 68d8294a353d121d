"""A dataset in which everything that a page may show has happened: two caption versions, drops, failures,
trainings, a run that is over."""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from dashboard.app import make_app
from manifests.layout import Column, Dataset
from manifests.runs.events import EventLog, run_ids
from manifests.tables import records, scans
from manifests.views import View
from manifests.writing.commit import Account, ShardCommit
from media.writer import webm_bytes

OTHER, MAP = Column("caption", "anothervoice"), Column("map", "someplaces")


def add_captions(dataset: Dataset) -> None:
    """A second version of the captions, which says some things otherwise."""
    column = next(column for column in dataset.columns() if column.name == "caption")
    for shard in dataset.committed_shards(column):
        rows = records.rows_of_shard(dataset, "captions", column, shard)
        for row in rows:
            row["text"] = row["text"].replace("large", "huge").replace("A ", "One ", 1)
            row["caption_id"] = row["caption_id"][::-1]
        with ShardCommit(dataset, OTHER, shard, 0) as commit:
            commit.commit({"captions": rows}, Account(len(rows), len(rows), 0, 0))


def add_drops(dataset: Dataset) -> None:
    """A drop with a measured value and a failure, written where a stage writes them."""
    (source,) = scans.table(dataset, "sources").slice(0, 1).to_pylist()
    origin = {"source_id": source["source_id"], "uri": source["uri"], "shard": 0, "stage": "text"}
    drops = [
        {**origin, "item_id": f"{source['source_id']}-d{number:02d}", "start_s": 0.0, "end_s": 0.5}
        | {"reason": "too_short", "value": 0.02 * number, "threshold": 0.25, "num_frames": 5}
        for number in range(12)
    ]
    failures = [
        {**origin, "item_id": f"{source['source_id']}-f", "start_s": 0.0, "end_s": 0.5, "error": "decode"}
        | {"cause": "the decoder <b>gave up</b>", "attempt": 1, "num_frames": None}
    ]
    with ShardCommit(dataset, Column("text", "withlosses"), 0, 0) as commit:
        commit.commit({"drops": drops, "failures": failures, "text": []}, Account(13, 0, 12, 1))


def add_map(dataset: Dataset) -> None:
    """A place for each clip, one of them in the outermost corner, and a view that has them."""
    rows = scans.table(dataset, "clips", None, ["clip_id", "shard"])
    of_shard = defaultdict(list)
    for at, row in enumerate(rows.to_pylist()):
        x, y = (1.0, 1.0) if at == 1 else ((at * 0.37) % 1, (at * 0.61) % 1)
        of_shard[row["shard"]].append({**row, "x": x, "y": y})
    for shard, places in of_shard.items():
        with ShardCommit(dataset, MAP, shard, 0) as commit:
            commit.commit({"map": places}, Account(len(places), len(places), 0, 0))
    view = View.load(dataset)
    View(columns={**view.columns, "map": MAP}, where=view.where).save(dataset, "mapped")


def add_training(dataset: Dataset, name: str = "small", steps: int = 60) -> Path:
    """A run folder as `rushes fit` leaves it."""
    folder = Path(dataset.uri) / "training" / name
    samples = folder / "samples" / "step-00000040"
    samples.mkdir(parents=True)
    clips = [row["clip_id"] for row in scans.table(dataset, "clips").select(["clip_id"]).to_pylist()]
    (folder / "config.json").write_text(json.dumps({"preset": "tiny", "steps": steps}))
    session = {"started_s": 1e9, "ended_s": 1e9 + 60, "from_step": 0, "to_step": steps, "command": ["rushes"]}
    record = {"dataset": dataset.uri, "view": "default", "sessions": [session]}
    (folder / "run.json").write_text(json.dumps(record))
    with open(folder / "metrics.jsonl", "w") as metrics, open(folder / "consumed.jsonl", "w") as consumed:
        for step in range(steps):
            row = {"step": step, "epoch": step // 20, "time_s": 1e9 + step, "lr": 1e-3, "loss": 2 - step / 60}
            row |= {"loss_by": {"wide/0": 1.0, "tall/0.35": 1.5 - step / 90}, "tokens_per_s": 1000.0 + step}
            row |= {"stall_share": 0.01, "fill": 0.98, "memory_bytes": 1e9, "grad_norm": 0.4}
            row |= {"skipped": int(step > 30), "rolled_back": 0}
            metrics.write(json.dumps(row) + "\n")
            read = [[clips[(step * 3 + at) % (len(clips) - 1)], 2] for at in range(3)]
            consumed.write(json.dumps({"step": step, "epoch": step // 20, "rank": 0, "samples": read}) + "\n")
    scores = {"loss": 0.8, "shuffled": 0.9, "baseline": 1.7}
    (folder / "validation.jsonl").write_text(
        "".join(
            json.dumps({"step": step, "scores": {"all": scores} | ({"tall": scores} if step else {})}) + "\n"
            for step in (0, steps)
        )
    )
    import numpy as np

    frames = [np.full((32, 48, 3), 20 * at, np.uint8) for at in range(6)]
    (samples / f"{clips[0]}.webm").write_bytes(webm_bytes(frames, [at / 8 for at in range(6)]))
    sample = {"file": f"{clips[0]}.webm", "step": 40, "clip_id": clips[0], "prompt": "a ball"}
    (samples / f"{clips[0]}.json").write_text(json.dumps(sample))
    return folder


def run_events(dataset: Dataset, last_s: float, is_over: bool = False, jobs: int = 8) -> EventLog:
    """A newest run whose last sign of life was at a time; half of its jobs are done."""
    run_id = "99991231-000000-000000"
    folder = Path(dataset.uri) / "runs" / run_id
    folder.mkdir(exist_ok=True)
    record = {"config": {"plan": {"shard_s": 7}}, "command": ["rushes", "ingest"], "started_s": last_s - 60}
    (folder / "run.json").write_text(json.dumps(record))
    log, begin_s = EventLog(dataset, run_id), last_s - 10 * (jobs // 2 + 1)
    stages = {"caption": {"jobs": jobs, "footage_s": 10.0 * jobs, "actors": 1}}
    log.write("run_started", "jobs", time_s=begin_s, num_jobs=jobs, stages=stages)
    for number in range(jobs // 2):
        done_s = begin_s + 10 * (number + 1)
        log.write("job_started", "on here", "caption", number % 3, done_s - 9)
        account = {"num_in": 3, "num_kept": 3, "num_dropped": 0, "num_failed": 0}
        used = {"seconds": 9.0, "footage_s": 10.0, "cpu_s": 8.0, "gpu_s": 0.0}
        log.write("committed", "3 kept", "caption", number % 3, done_s, **used, **account)
    log.write("run_ended" if is_over else "job_started", "now", "" if is_over else "caption", 2, last_s)
    return log


@pytest.fixture(scope="session")
def eventful(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The dataset with all of it. Read only."""
    folder = tmp_path_factory.mktemp("eventful") / "ds"
    shutil.copytree(dataset.uri, folder)
    found = Dataset(str(folder))
    add_captions(found)
    add_drops(found)
    add_training(found)
    add_training(found, "another", 30)
    add_map(found)
    run_events(found, time.time() - 5, is_over=True)
    assert len(run_ids(found)) == 2
    return found


@pytest.fixture(scope="session")
def site(eventful: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """A client of the dashboard over it."""
    folder = tmp_path_factory.mktemp("index")
    return TestClient(make_app(eventful.uri, folder, prices=(0.04, 2.5)), "http://127.0.0.1")
