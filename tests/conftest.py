"""Fixtures: a small film world, a dataset made from it in this process (no Ray), and the folder of real
videos.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from manifests.layout import Dataset
from manifests.tables import planned
from media.threads import realtime_threads

settings.register_profile(
    "project", deadline=None, derandomize=True
)  # machines are noisy; a failure must come back
settings.load_profile("project")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a background shell; programs would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _signals_as_before():
    """A command that was interrupted heeds no signal after it; programs that later tests start would not."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    usual_hook = sys.unraisablehook
    yield
    sys.unraisablehook = usual_hook
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Whatever was drawn by tests before: a failure must come back."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _ordinary_threads():
    """A test that leaves real-time threads stops children of later ones, wherever two of them compute."""
    yield
    left = realtime_threads()
    for thread in left:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
    assert not left, "this test left threads with a real-time priority: encode within media.threads"


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight films and four stills with their truth."""
    from world.film import make_film, write_film

    folder = tmp_path_factory.mktemp("films")
    for index in range(8):
        write_film(make_film(11, index), folder)
    for index in range(4):
        write_film(make_film(11, index, is_still=True), folder)
    return folder


def ingest_here(
    footage: Path | str, out: Path | str, shard_s: float = 12.0, max_pixels: int = 4096
) -> Dataset:
    """The pipeline's stages run one after the other in this process."""
    from pipeline.config import EncodeConfig, IngestConfig, PlanConfig
    from pipeline.dedup.near_duplicates import in_process
    from pipeline.engine.run import build_stages, mark_duplicates, save_view
    from pipeline.engine.runner import start_run
    from pipeline.footage.sources import list_sources, source_row
    from pipeline.plan import make_plan
    from pipeline.stages.protocol import run_stage

    config = IngestConfig(plan=PlanConfig(shard_s=shard_s), encode=EncodeConfig(max_pixels=max_pixels))
    dataset = Dataset.create(str(out))
    make_plan(
        dataset, list_sources([str(footage)]), config.plan, lambda files: [source_row(file) for file in files]
    )

    stages = build_stages(config)
    start_run(dataset, ["test"], config.to_dict(), {}, "here")
    for stage in stages:
        stage.setup()
        for shard, generation in sorted(
            {(row["shard"], row["generation"]) for row in planned.segments(dataset).to_pylist()}
        ):
            run_stage(stage, dataset, "test-run", shard, generation, lambda text: None)
    save_view(dataset, stages, "default", mark_duplicates(dataset, stages, config, in_process))
    return dataset


@pytest.fixture(scope="session")
def dataset(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A complete dataset of the films. Read only."""
    return ingest_here(films, tmp_path_factory.mktemp("dataset") / "ds")


@pytest.fixture
def copy(dataset: Dataset, tmp_path: Path) -> Dataset:
    """A copy of the dataset, to change."""
    shutil.copytree(dataset.uri, tmp_path / "ds")
    return Dataset(str(tmp_path / "ds"))


@pytest.fixture(scope="session")
def real_videos() -> Path:
    """The folder of real media files, or a skip."""
    folder = Path(os.environ.get("RUSHES_REAL_VIDEOS", ROOT.parent / "shared" / "videos"))
    if not (folder / "INDEX.tsv").exists():
        pytest.skip(f"no real videos in {folder}; set RUSHES_REAL_VIDEOS to a folder with INDEX.tsv")
    return folder


@pytest.fixture
def bucket(monkeypatch):
    """(function from key to address, client) of an empty bucket of an S3 server on loopback."""
    from tests.e2e.commands import environment, free_port

    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-c", f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until_s = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < until_s, "no S3 server came up"
                time.sleep(0.2)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import boto3

        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
        client.create_bucket(Bucket="rushes")
        yield (lambda key: f"s3://rushes/{key}?endpoint_override=127.0.0.1:{port}&scheme=http"), client
    finally:
        server.kill()
        server.wait()
