"""Requests that no page makes, and views whose predicates the index cannot answer as the dataset does."""

import json
import shutil
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from dashboard.app import make_app
from dashboard.asking.filters import Filters
from dashboard.asking.scope import Scopes
from dashboard.index.index import Index
from dashboard.live import Tail
from dashboard.pages.clips import saved_as
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.runs.events import EventLog
from manifests.tables import scans
from manifests.views import View
from manifests.writing.removing import remove

BIG = "9" * 60


@pytest.fixture
def copy(eventful, tmp_path) -> Dataset:
    shutil.copytree(eventful.uri, tmp_path / "ds")
    return Dataset(str(tmp_path / "ds"))


@pytest.mark.parametrize(
    "query",
    [
        "after=" + "[" * 6000,
        'after=[true,"a"]',
        'sort=motion&after=[true,"a"]',
        f'after=[{BIG},"a"]',
        f'sort=motion&after=[-{BIG},"a"]',
        r'after=[1,"\ud800"]',
        'after=["x","a"]',
        "after=[1,2]",
        "motion=inf..",
        "motion=..-Infinity",
        "seconds=1..inf",
    ],
)
def test_what_no_page_writes_into_an_address_is_refused_by_its_name(site, query):
    for page in ("clips", "clips.json"):
        answer = site.get(f"/{page}?{query}")
        assert answer.status_code == 400 and query.rpartition("&")[2].partition("=")[0] in answer.text


def test_infinite_keys_that_pages_write_are_read(site):
    assert site.get('/clips.json?sort=motion&after=["inf","a"]').status_code == 200


@pytest.mark.parametrize("asked", [f"bytes={BIG * 90}-", f"bytes=0-{BIG * 90}", f"bytes=-{BIG * 90}"])
def test_ranges_of_thousands_of_digits_are_none(site, eventful, asked):
    clip = scans.table(eventful, "clips").slice(0, 1).to_pylist()[0]["clip_id"]
    found = site.get(f"/media/{clip}.proxy.webm", headers={"Range": asked})
    assert found.status_code == 200 and int(found.headers["content-length"]) == len(found.content)


PREDICATES = [
    "source_id IN (SELECT source_id FROM segments WHERE end_s > .5)",
    "clip_id IN (SELECT clip_id FROM text)",
    "clip_id IN (SELECT clip_id FROM hashes)",
    "clip_id IN (SELECT clip_id FROM latents WHERE len(slab_crc32) >= 0)",
    "EXISTS (SELECT * FROM captions WHERE captions.clip_id = clips.clip_id)",
    "source_id IN (SELECT source_id FROM sources WHERE metadata_json IS NULL OR metadata_json = '')",
    "coalesce(timed_captions_json, '') = ''",
    "list_contains(list_transform([1], lambda x : x + shard), 1)",
    "licence IS NULL OR licence = ''",
    "clip_id IN (SELECT clip_id FROM captions WHERE len(text) % 2 = 0)",
    "num_frames > 8 AND camera IS NOT NULL",
]


@pytest.mark.parametrize("where", PREDICATES)
def test_a_view_keeps_on_the_dashboard_what_it_keeps_in_a_training(copy, tmp_path, where):
    view = View(columns=View.load(copy).columns, where=where)
    view.save(copy, "own")
    index = Index(copy, tmp_path / "index")
    try:
        scope = Scopes(index).named("own")
        assert not scope.problem
        shown = {name for (name,) in index.tuples(f"{scope.tables} SELECT clip_id FROM clips")}
        assert shown == view.kept(copy)
    finally:
        index.close()


def test_tables_of_views_as_they_were_are_dropped(copy, tmp_path):
    index = Index(copy, tmp_path / "index")
    try:
        scopes, columns = Scopes(index), View.load(copy).columns
        for number in range(60):
            where = f"clip_id IN (SELECT clip_id FROM text WHERE shard > -{number + 1})"
            View(columns=columns, where=where).save(copy, f"own{number}")
        for number in range(60):
            scope = scopes.named(f"own{number}")
            assert not scope.problem
            assert index.value(f"{scope.tables} SELECT count(*) FROM clips") > 0
        tables = [name for (name,) in index.tuples("SELECT table_name FROM duckdb_tables()")]
        assert len([name for name in tables if name.startswith(("out_", "kept_"))]) <= 2 * 41
    finally:
        index.close()


@pytest.mark.parametrize(
    "where",
    [
        "seconds > 1",
        "key > 0",
        "clip_id IN (SELECT clip_id FROM members)",
        "shard IN (SELECT number FROM commits)",
    ],
)
def test_a_predicate_over_what_the_index_alone_has_is_no_view(copy, tmp_path, where):
    view = View(columns=View.load(copy).columns, where=where)
    view.save(copy, "own")
    with pytest.raises(UsageError):
        view.kept(copy)
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    found = client.get("/clips.json?view=own")
    assert found.json()["count"] == 0
    assert "View own:" in client.get("/clips?view=own").text


def test_outliers_of_a_view_are_saved_as_outliers_of_it(copy, tmp_path):
    base = View.load(copy)
    where = "width_px > height_px AND coalesce(camera, '?') <> 'what?'"
    View(columns=base.columns, where=where).save(copy, "wide")
    index = Index(copy, tmp_path / "index")
    try:
        scope, number = Scopes(index).named("wide"), 0
        for name in ("sharpness", "seconds", "luma_mean", "noise", "num_frames", "saturation"):
            filters = Filters.parse([("outliers", name)])
            meant, values = filters.where()
            rows = index.tuples(f"{scope.tables} SELECT clip_id FROM clips WHERE {meant}", values)
            saved = View(columns=base.columns, where=f"({where}) AND ({saved_as(filters, where)})")
            assert {clip for (clip,) in rows} == saved.kept(copy)
            of_all = View(columns=base.columns, where=f"({where}) AND ({saved_as(filters)})")
            number += of_all.kept(copy) != saved.kept(copy)
        assert number, "of all clips others are outermost"
    finally:
        index.close()


def test_shards_whose_only_source_was_taken_down_are_in_no_count(copy, tmp_path):
    rows = scans.table(copy, "segments", None, ["source_id", "uri", "shard"]).to_pylist()
    remove(copy, {row["source_id"]: row["uri"] for row in rows if row["shard"] == 0}, "asked for")
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    rows = client.get("/now.json").json()["funnel"]
    assert all(row["shards"] <= row["of"] for row in rows), rows


def test_a_new_run_is_followed_after_a_time_and_not_after_so_many_looks(copy, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("dashboard.live.time.monotonic", lambda: now[0])
    tail = Tail(copy)
    tail.look()
    run_id = "99991231-235959-000000"
    EventLog(copy, run_id).write("started", "ingest")
    (Path(copy.uri) / "runs" / run_id / "run.json").write_text("{}")
    now[0] += 60  # somebody looks once a minute
    tail.look()
    assert tail.run_id == run_id


def test_data_of_a_dataset_that_is_gone_says_so(copy, tmp_path):
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    assert "away" not in client.get("/now.json").json()
    Path(copy.uri).rename(tmp_path / "elsewhere")
    for page in ("now", "clips", "drops"):
        assert "not there any more" in client.get(f"/{page}.json").json()["away"]
    assert "nothing corrupt" not in json.dumps(client.get("/now.json").json())


@pytest.mark.parametrize("text", ["{bad", '{"columns": {}, "where": "no_such_field > 1"}'])
def test_data_of_a_view_that_cannot_be_used_says_why_it_is_empty(copy, tmp_path, text):
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    for page in ("clips", "clips/count", "now", "clips/side"):
        assert "problem" not in client.get(f"/{page}.json").json()
    Path(copy.view_path("mine")).write_text(text)
    time.sleep(2.1)  # views are looked up anew every two seconds
    for page in ("clips", "clips/count", "now", "clips/side"):
        assert client.get(f"/{page}.json?view=mine").json()["problem"], page
