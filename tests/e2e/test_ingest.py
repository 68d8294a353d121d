import json
import shutil
import subprocess
import sys

import pytest
import webdataset

from manifests.layout import Dataset
from manifests.runs.events import read_events, run_ids
from manifests.tables import planned, scans
from manifests.verify import verify
from manifests.views import View
from tests.e2e.commands import INGEST, ROOT, committed, environment, run


@pytest.mark.ray
def test_ingest_on_embedded_ray_gives_the_bytes_of_the_stages_run_by_hand_and_resumes(
    films, dataset, tmp_path
):
    done = run("ingest", films, "--out", tmp_path / "ds", *INGEST)
    assert done.stdout.splitlines()[-1].startswith("outcome: done")
    by_hand, by_ray = committed(tmp_path / "ds"), committed(type(films)(dataset.uri))
    assert by_hand.keys() == by_ray.keys()
    assert [name for name in by_hand if by_hand[name] != by_ray[name]] == []

    # the same command with one more file, a broken one: only what is new is done, and the exit code says so
    shutil.copytree(films, tmp_path / "footage")
    (tmp_path / "footage" / "broken.mov").write_bytes(b"\0" * 4096)
    again = run(
        "ingest",
        films,
        tmp_path / "footage" / "broken.mov",
        "--out",
        tmp_path / "ds",
        *INGEST,
        check=3,
    )
    assert "1 items failed" in again.stdout
    assert "shard columns to make" not in again.stderr
    made = Dataset(str(tmp_path / "ds"))
    assert verify(made, deep=True).is_sound
    [failure] = [row for row in scans.table(made, "failures").to_pylist() if row["stage"] == "plan"]
    assert failure["uri"].endswith("broken.mov")
    assert failure["cause"]

    run_id, idle = run_ids(made)  # the second had nothing to make, and says so
    told = [event["event"] for event in read_events(made, idle)]
    assert (told[0], told[-1]) == ("run_started", "run_ended") and "committed" not in told
    events = [event["event"] for event in read_events(made, run_id)]
    assert events[0] == "run_started"
    assert events[-1] == "run_ended"
    assert events.count("committed") == 4 * len({row["shard"] for row in planned.segments(made).to_pylist()})
    status = json.loads(run("status", tmp_path / "ds", "--json").stdout)
    assert set(status["columns"].values()) == {status["num_shards"]}
    previews = sorted((tmp_path / "ds" / "columns").glob("preview@*/*.tar"))
    samples = [sample for tar in previews for sample in webdataset.WebDataset(str(tar), shardshuffle=False)]
    assert len(samples) == scans.table(made, "clips").num_rows

    # a second captioner writes captions and their embeddings beside the first; previews and latents are not
    # touched
    before = committed(tmp_path / "ds")
    run("recaption", tmp_path / "ds", "--caption.captioner", "given", "--view", "second")
    after = committed(tmp_path / "ds")
    assert {name: data for name, data in after.items() if name in before} == before
    assert {
        name.split("/")[1].split("@")[0]
        for name in after
        if name not in before and name.startswith("columns")
    } == {"text"}
    first, second = View.load(made), View.load(made, "second")
    assert (first.column("latent"), first.column("preview")) == (
        second.column("latent"),
        second.column("preview"),
    )
    assert first.column("caption") != second.column("caption")
    sources = set(scans.table(made, "captions", second.column("caption"))["source"].to_pylist())
    assert sources == {"ground_truth", "alt"}
    run("plan-training", "tiny", "--data", tmp_path / "ds", "--view", "second")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
def test_stages_run_on_their_own_and_on_compacted_tables_make_the_same(films, dataset, tmp_path):
    out = tmp_path / "ds"
    refused = run("ingest", films, "--out", out, *INGEST, "--only", "text", check=2)
    assert "is not there yet for any shard" in refused.stderr
    run("ingest", films, "--out", out, *INGEST, "--only", "preview")
    made = Dataset(str(out))
    assert [column.name for column in made.columns()] == ["preview"] and not (out / "views").exists()
    run("compact", out)
    assert not made.loose_shards(made.columns()[0])
    run("ingest", films, "--out", out, *INGEST)
    for name in ("clips", "captions", "text", "latents", "duplicates"):
        rows = [scans.table(one, name).sort_by("clip_id").to_pylist() for one in (made, dataset)]
        assert rows[0] == rows[1], name
    assert verify(made, deep=True).problems == []
    tars = [sorted((type(films)(one.uri) / "columns").rglob("*.tar")) for one in (made, dataset)]
    assert [path.name for path in tars[0]] == [path.name for path in tars[1]]
    run("compact", out)
    column = next(str(column) for column in made.columns() if column.name == "caption")
    assert "the same bytes" in run("replay", "caption", 0, "--dataset", out).stdout
    run("withdraw", column, 0, "--dataset", out)
    run("ingest", films, "--out", out, *INGEST)
    assert scans.table(made, "captions").num_rows == scans.table(dataset, "captions").num_rows
    assert verify(made, deep=True).problems == []


@pytest.mark.ray
def test_a_plan_that_can_never_run_is_refused_at_once(films, tmp_path):
    done = run("ingest", films, "--out", tmp_path / "ds", *INGEST, "--encode-on.num-gpus", 64, check=2)
    assert "preflight" in done.stderr
    assert "64 GPU" in done.stderr


def test_dry_run_and_usage_errors_touch_nothing(films, tmp_path):
    assert "preview@" in run("ingest", films, "--out", tmp_path / "ds", "--dry-run").stdout
    assert (
        "nosuch" in run("ingest", tmp_path / "nosuch", "--out", tmp_path / "ds", "--dry-run", check=2).stderr
    )
    for options, word in (
        (["--curate.max-clip-s", "-1"], "--curate.max-clip-s"),
        (["--encode.max-pixels", 3], "--encode.max-pixels"),
        (["--encode.vae", "/nowhere"], "/nowhere"),
    ):
        assert word in run("ingest", films, "--out", tmp_path / "ds", "--dry-run", *options, check=2).stderr
    refused = run("recaption", tmp_path / "ds", "--encode.max-pixels", 4096, check=2).stderr
    assert "--encode.max-pixels" in refused  # of a stage that a recaption does not run
    (tmp_path / "empty").mkdir()
    assert "holds no file" in run("plan", tmp_path / "empty", "--out", tmp_path / "ds", check=2).stderr
    assert "nosuch" in run("plan", tmp_path / "nosuch", "--out", tmp_path / "ds", check=2).stderr
    assert not (tmp_path / "ds").exists()


@pytest.mark.ray
@pytest.mark.parametrize(
    "program", [["rushes"], pytest.param(["pipeline"], marks=[pytest.mark.slow, pytest.mark.long])]
)
def test_folders_that_are_named_like_our_packages_do_not_matter(program, films, tmp_path):
    """`rushes` and `python -m pipeline` from a folder with packages named as ours, the workers of Ray too."""
    for name in ("media", "vae", "manifests", "captioner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not ours')")
    first = sorted(path for path in films.iterdir() if path.suffix in {".mp4", ".mkv", ".webm"})[0]
    (tmp_path / "films").mkdir()
    shutil.copy(first, tmp_path / "films")
    command = [
        sys.executable,
        "-m",
        *program,
        "ingest",
        "films",
        "--out",
        "ds",
        "--encode.max-pixels",
        "4096",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"; {tmp_path / 'ds'}; exit code 0" in done.stdout  # addresses are told in full
