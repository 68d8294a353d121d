import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.tables import planned, scans
from pipeline.config import PlanConfig
from pipeline.footage.sources import Found, list_sources, source_row
from pipeline.plan import deal, make_plan, segments_of
from tests.conftest import ingest_here


def here(files):
    return [source_row(file) for file in files]


@given(
    lengths=st.lists(st.floats(0.1, 2000), min_size=1, max_size=60),
    shard_s=st.floats(50, 2000),
    seed=st.integers(0, 9),
)
def test_segments_tile_their_source_and_shards_hold_about_equal_seconds(lengths, shard_s, seed):
    rows = [
        {
            "source_id": f"{i:04d}",
            "uri": f"/v/{i:04d}",
            "kind": "video",
            "duration_s": length,
            "container": "mov",
        }
        for i, length in enumerate(lengths)
    ]
    segments = [segment for row in rows for segment in segments_of(row, 600.0)]
    for row in rows:
        own = [segment for segment in segments if segment["source_id"] == row["source_id"]]
        assert own[0]["start_s"] == 0
        assert own[-1]["end_s"] == row["duration_s"]
        assert all(a["end_s"] == b["start_s"] for a, b in zip(own, own[1:], strict=False))
    dealt = deal([dict(segment) for segment in segments], shard_s, seed, 5)
    assert dealt == deal([dict(segment) for segment in segments], shard_s, seed, 5)
    loads = {}
    for segment in dealt:
        loads[segment["shard"]] = loads.get(segment["shard"], 0) + max(
            segment["end_s"] - segment["start_s"], 0.5
        )
    assert min(loads) >= 5
    assert max(loads.values()) - min(loads.values()) <= 600.0 + 1e-6 or len(loads) == 1


def test_every_file_gets_a_verdict_duplicates_are_dropped_and_new_footage_appends(films, tmp_path):
    footage = tmp_path / "footage"
    shutil.copytree(films, footage)
    first = sorted(path for path in footage.iterdir() if path.suffix in {".mp4", ".mkv", ".webm"})[0]
    shutil.copy(first, footage / f"zz-copy{first.suffix}")
    (footage / "broken.mp4").write_bytes(b"garbage" * 100)
    (footage / "notes.txt").write_text("hello")
    dataset = Dataset.create(str(tmp_path / "ds"))
    rows = {
        row["uri"].rsplit("/", 1)[1]: row
        for row in make_plan(dataset, list_sources([str(footage)]), PlanConfig(), here)
    }
    assert len(rows) == 12 + 3
    assert (rows["broken.mp4"]["status"], rows["broken.mp4"]["reason"]) == ("failed", "not_media")
    assert rows["notes.txt"]["status"] == "dropped"
    assert rows[f"zz-copy{first.suffix}"]["reason"] == "exact_duplicate"
    assert planned.segments(dataset)["source_id"].to_pylist().count(rows[first.name]["source_id"]) == 1
    assert rows[first.name]["alt"]
    assert make_plan(dataset, list_sources([str(footage)]), PlanConfig(), here) == []
    before = (tmp_path / "ds" / "plan" / "gen-0000.parquet").read_bytes()
    shutil.copy(first, footage / f"again{first.suffix}")
    (footage / "new.mp4").write_bytes(b"other garbage" * 50)
    later = make_plan(dataset, list_sources([str(footage)]), PlanConfig(), here)
    assert {row["status"] for row in later} == {"dropped", "failed"}
    assert dataset.generations() == [0, 1]
    assert (tmp_path / "ds" / "plan" / "gen-0000.parquet").read_bytes() == before


def test_truth_of_the_film_world_does_not_reach_the_dataset(films):
    for found in list_sources([str(films)]):
        row = source_row(found)
        assert "shots" not in row["metadata_json"]
        assert "licence" in row["metadata_json"]


def test_an_argument_that_names_nothing_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="nosuch"):
        list_sources([str(tmp_path / "nosuch")])


def test_a_file_that_changed_after_it_was_planned_is_named(films, tmp_path, capsys):
    footage = tmp_path / "footage"
    footage.mkdir()
    first, second = sorted(path for path in films.iterdir() if path.suffix == ".mp4")[:2]
    shutil.copy(first, footage / "a.mp4")
    dataset = Dataset.create(str(tmp_path / "ds"))
    make_plan(dataset, list_sources([str(footage)]), PlanConfig(), here)
    shutil.copy(second, footage / "a.mp4")
    assert make_plan(dataset, list_sources([str(footage)]), PlanConfig(), here) == []
    assert "a.mp4 has changed" in capsys.readouterr().err


def two_films(films, folder):
    folder.mkdir()
    chosen = sorted(path for path in films.iterdir() if path.suffix == ".mp4")[:2]
    for path in chosen:
        shutil.copy(path, folder / path.name)
    return [folder / path.name for path in chosen]


def test_footage_that_was_moved_is_known_by_its_bytes_and_goes_on_from_where_it_lies(films, tmp_path):
    two_films(films, tmp_path / "old")
    dataset = Dataset.create(str(tmp_path / "ds"))
    make_plan(dataset, list_sources([str(tmp_path / "old")]), PlanConfig(), here)
    (tmp_path / "old").rename(tmp_path / "new")
    again = make_plan(dataset, list_sources([str(tmp_path / "new")]), PlanConfig(), here)
    assert {(row["status"], row["reason"]) for row in again} == {("dropped", "exact_duplicate")}
    ingest_here(tmp_path / "new", tmp_path / "ds")
    clips = scans.table(dataset, "clips").to_pylist()
    assert clips and {Path(row["uri"]).parent.name for row in clips} == {"new"}
    assert not scans.table(dataset, "failures").num_rows
    assert scans.table(dataset, "latents").num_rows == len(clips)


def test_a_file_that_is_another_of_the_same_size_is_not_made_under_the_old_id(films, tmp_path, capsys):
    first, second = two_films(films, tmp_path / "f")
    dataset = Dataset.create(str(tmp_path / "ds"))
    make_plan(dataset, list_sources([str(tmp_path / "f")]), PlanConfig(), here)
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)  # another file of the same size
    os.utime(second, (1, 1))  # the same file, touched
    assert make_plan(dataset, list_sources([str(tmp_path / "f")]), PlanConfig(), here) == []
    said = capsys.readouterr().err
    assert f"{first.name} has changed" in said and second.name not in said
    ingest_here(tmp_path / "f", tmp_path / "ds")
    failures = {Path(row["uri"]).name: row["error"] for row in scans.table(dataset, "failures").to_pylist()}
    assert failures == {first.name: "source_changed"}
    assert {Path(row["uri"]).name for row in scans.table(dataset, "clips").to_pylist()} == {second.name}


def test_a_limit_takes_the_same_files_at_each_run(films, tmp_path):
    files = list_sources([str(films)])
    dataset = Dataset.create(str(tmp_path / "ds"))
    first = make_plan(dataset, files, PlanConfig(limit=3), here)
    assert [row["uri"] for row in first] == [found.uri for found in files[:3]]
    assert make_plan(dataset, files, PlanConfig(limit=3), here) == []
    earlier = sorted([*files, Found(str(tmp_path / "0.mp4"))], key=lambda found: found.uri)
    assert make_plan(dataset, earlier, PlanConfig(limit=3), here) == []
    more = make_plan(dataset, files, PlanConfig(limit=5), here)
    assert [row["uri"] for row in more] == [found.uri for found in files[3:5]]


def test_a_limit_counts_planned_files_that_are_gone_and_no_others(films, tmp_path):
    folder = tmp_path / "films"
    shutil.copytree(films, folder)
    files, dataset = list_sources([str(folder)]), Dataset.create(str(tmp_path / "ds"))
    assert len(make_plan(dataset, files[:2], PlanConfig(limit=2), here)) == 2
    assert len(make_plan(dataset, files[2:4], PlanConfig(limit=2), here)) == 2  # others of the same folder
    Path(files[0].uri).unlink()
    left = list_sources([str(folder)])
    assert make_plan(dataset, left, PlanConfig(limit=4), here) == []
    assert len(make_plan(dataset, left, PlanConfig(limit=5), here)) == 1
