"""The road on real files of every codec and defect: ingest, verify, train, stop, resume, sample."""

import json
import shutil
import signal

import duckdb
import pytest
import webdataset

from tests.e2e.commands import run, start

MAX_BYTES = 130_000


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1500)
def test_real_files_become_a_dataset_and_a_model(real_videos, tmp_path):
    footage = tmp_path / "footage"
    names = [
        path
        for path in sorted(real_videos.rglob("*"))
        if path.is_file() and path.stat().st_size < MAX_BYTES and path.suffix != ".tsv"
    ]
    for path in names:
        (footage / path.relative_to(real_videos)).parent.mkdir(parents=True, exist_ok=True)
        (footage / path.relative_to(real_videos)).symlink_to(path)
    assert len(names) > 50
    data = tmp_path / "ds"
    done = run("ingest", footage, "--out", data, "--encode.max-pixels", 8192, check=3)
    assert done.stdout.splitlines()[-1].endswith("exit code 3")
    run("verify", "--deep", data)

    sources = duckdb.sql(f"select uri, status, reason from '{data}/tables/sources/**/*.parquet'").fetchall()
    assert len(sources) == len(names)
    assert all(status == "kept" or reason for _, status, reason in sources)
    broken = {uri.rsplit("/", 1)[1]: reason for uri, status, reason in sources if status == "failed"}
    assert {"text.mp4", "fq_fragmented.mp4", "am_sample_audio_only_15s.mp4"} <= set(broken)
    [(kept,)] = duckdb.sql(f"select count(*) from '{data}/tables/clips/**/*.parquet'").fetchall()
    tars = sorted((data / "columns").glob("preview@*/*.tar"))
    assert sum(1 for tar in tars for _ in webdataset.WebDataset(str(tar), shardshuffle=False)) == kept

    fit = [
        "fit",
        "tiny",
        "--data",
        data,
        "--tokens",
        4096,
        "--steps",
        14,
        "--out",
        tmp_path / "run",
    ]
    process = start(*fit)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "fit: step 1/" in line:
            process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, "".join(lines)
    assert any("saved after step" in line for line in lines), "".join(lines)
    run("export-model", tmp_path / "run")  # one may sample from a run that was stopped
    assert (tmp_path / "run" / "model" / "model.json").exists()
    shapes = next(line for line in lines if "distinct shapes" in line)
    assert int(shapes.split(" distinct")[0].rsplit(" ", 1)[1]) >= 5
    resumed = run(*fit)
    assert "resumed after step" in resumed.stderr
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(14))
    run(
        "sample",
        tmp_path / "run",
        "--prompt",
        "a bright video",
        "--width",
        72,
        "--height",
        40,
        "--frames",
        9,
        "--steps",
        2,
        "--out",
        tmp_path / "a.webm",
    )
    assert (tmp_path / "a.webm").stat().st_size > 0
    shutil.rmtree(footage)
