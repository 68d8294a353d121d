"""Datasets that are not as usual: words with commas, versions that share clips, verdicts that came later."""

import html
import io
import json
import math
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from dashboard.app import make_app
from dashboard.asking.filters import Filters, joined, listed
from dashboard.asking.scope import Scopes
from dashboard.index import coding
from dashboard.index.build import build
from dashboard.index.index import Index
from dashboard.pages.captions import compared
from dashboard.pages.drops import reasons
from dashboard.security import Access
from dashboard.site import Site
from dashboard.sql_child import MOST_BYTES, answer
from manifests.layout import Column, Dataset
from manifests.tables import records, scans
from manifests.verify import verify
from manifests.views import View
from manifests.writing.commit import Account, ShardCommit
from manifests.writing.compact import compact
from manifests.writing.removing import remove
from pipeline.config import PlanConfig
from pipeline.footage.sources import Found, failed_row
from pipeline.plan import make_plan


@pytest.fixture
def copy(eventful, tmp_path) -> Dataset:
    folder = tmp_path / "ds"
    shutil.copytree(eventful.uri, folder)
    return Dataset(str(folder))


@pytest.fixture
def index(copy, tmp_path):
    made = Index(copy, tmp_path / "index")
    yield made
    made.close()


def captions(dataset: Dataset, fingerprint: str, rows: list[dict], shard: int = 0) -> Column:
    column = Column("caption", fingerprint)
    whole = [
        {"caption_id": f"{fingerprint}{at}", "shard": shard, "status": "accepted", "num_words": 2, **row}
        for at, row in enumerate(rows)
    ]
    with ShardCommit(dataset, column, shard, 0) as made:
        made.commit({"captions": whole}, Account(len(whole), len(whole), 0, 0))
    return column


def clip_ids(dataset: Dataset) -> list[str]:
    rows = records.rows_of_shard(dataset, "clips", View.load(dataset).column("preview"), 0)
    return [row["clip_id"] for row in rows]


@pytest.mark.parametrize("words", [("a,b", "c"), ("50%", "%2C", "x, y"), ("contradicts:camera, measured",)])
def test_words_with_commas_come_back_from_an_address(words):
    assert tuple(listed(joined(words))) == words
    filters = Filters(words={"reasons": words})
    from urllib.parse import parse_qsl

    assert Filters.parse(parse_qsl(filters.query())) == filters


def test_versions_are_compared_by_what_they_wrote_and_once_a_clip(copy, index):
    some = clip_ids(copy)[:2]

    def rows(word: str) -> list[dict]:
        own = [
            {"clip_id": name, "kind": "dense", "source": "coca", "text": f"a {word} ball"} for name in some
        ]
        given = [
            {"clip_id": name, "kind": "dense", "source": "ground_truth", "text": "étoile 红色"}
            for name in some
        ]
        return own + given

    one, other = captions(copy, "oneversion", rows("red")), captions(copy, "twoversion", rows("blue"))
    index.wait(10)
    found = compared(Site(copy, index), str(one), str(other))
    assert found["num_compared"] == 2
    assert found["mean_disagreement"] == pytest.approx(0.5)
    assert (found["gained"], found["lost"]) == ([("blue", 2)], [("red", 2)])


def test_what_verify_found_outlives_a_compaction(copy, index, tmp_path):
    site = Site(copy, index)
    column = View.load(copy).column("preview")
    [record] = records.rows_of_shard(copy, "shards", column, 0)
    tar = Path(copy.path(*record["tar"].split("/")))
    data = bytearray(tar.read_bytes())
    data[record["members"][0]["offset"] + 3] ^= 4
    tar.write_bytes(data)
    found = verify(copy, deep=True)
    assert not found.is_sound
    lines = [json.dumps(checked.__dict__) for checked in found.checked]
    Path(copy.path("runs")).mkdir(exist_ok=True)
    Path(copy.path("runs", "verify-99999999.jsonl")).write_text("\n".join(lines) + "\n")
    compact(copy)
    index.wait(10)
    end_s = time.monotonic() + 20  # what verify wrote is looked for every few seconds
    while time.monotonic() < end_s:
        grid = site.grids.of(Scopes(index).named("default"))
        cells = dict(zip(grid.shards, grid.cells[str(column)], strict=True))
        if cells[0] == "corrupt":
            break
        time.sleep(0.1)
    assert cells[0] == "corrupt"
    assert all(state == "verified" for shard, state in cells.items() if shard)


def test_a_source_that_was_mended_is_failed_no_more(copy, index, tmp_path):
    def failing(files):
        return [failed_row(file, "missing", "gone") for file in files]

    def dropping(files):
        return [failed_row(file, "not_media_file", "no") | {"status": "dropped"} for file in files]

    late = [Found(str(tmp_path / "late.mp4"))]
    make_plan(copy, late, PlanConfig(), failing)
    index.wait(10)
    site = Site(copy, index)

    def counts(kind: str) -> dict[str, int]:
        scope = Scopes(index).named("default")
        return {row["reason"]: row["count"] for row in reasons(site, scope) if row["kind"] == kind}

    assert counts("failed")["missing"] == 1
    make_plan(copy, late, PlanConfig(), dropping, retries_failed=True)
    index.wait(10)
    assert "missing" not in counts("failed") and counts("dropped")["not_media_file"] >= 1


def test_a_takedown_that_goes_on_is_left_out_as_the_trainer_leaves_it_out(copy, index):
    [source_id] = {row["source_id"] for row in scans.table(copy, "clips").to_pylist()[:1]}
    before = index.value(f"{Scopes(index).named('default').tables} SELECT count(*) FROM clips")
    folder = Path(copy.path("removed"))
    folder.mkdir()
    (folder / "pending.json").write_text(json.dumps({"sources": {source_id: []}}))
    scope = Scopes(index).named("default")
    after = index.value(f"{scope.tables} SELECT count(*) FROM clips")
    assert after == View.load(copy).clips(copy).num_rows < before


def test_outliers_are_what_lies_beyond_and_not_what_most_have(index):
    scope = Scopes(index).named("default")
    site = Site(index.dataset, index)
    assert site.kept.number(scope, Filters()) > 1
    index._root.execute("UPDATE clips SET frozen_share = 0")
    assert site.kept.number(scope, Filters(outliers="frozen_share")) == 0


def test_a_measure_that_is_one_value_up_to_an_estimates_last_bits_has_limits():
    def ask(_):
        return [([0.0, 2.2250738585072014e-308], 0.0, 3e-310) * len(coding.fields_of("clips"))]

    found = coding.limits_in(ask, "clips", "")
    assert found
    for low, high in found.values():
        assert math.isfinite(coding.BINS / (high - low))


def test_a_store_that_does_not_answer_shows_what_was_known(index, monkeypatch):
    scopes = Scopes(index)
    names = scopes.names()

    def away(dataset):
        raise OSError("the store is away")

    monkeypatch.setattr(View, "names", away)
    scopes._looked_at_s = -1e9
    assert scopes.names() == names
    assert Scopes(index).names() == ["newest"]


def test_hosts_are_known_whatever_their_case():
    access = Access(("MyHost.Example",))
    assert access.knows("myhost.example:8000") and access.knows("LOCALHOST:8000")


def test_a_page_elsewhere_may_not_ask_what_costs_much(dataset, tmp_path):
    client = TestClient(make_app(dataset.uri, tmp_path), "http://127.0.0.1")
    for elsewhere in ("cross-site", "same-site"):
        assert client.get("/sql.json?q=SELECT 1", headers={"sec-fetch-site": elsewhere}).status_code == 403
    assert client.get("/sql.json?q=SELECT 1", headers={"sec-fetch-site": "same-origin"}).status_code == 200
    assert client.get(f"/clips?q={'a' * 20_000}").status_code == 414
    assert client.get("/clips.json", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_answers_of_sql_are_cut_by_their_size():
    query = "SELECT repeat('x', 20000) FROM range(2000)"
    found = answer(None, {"query": query, "views": {}, "tables": []}, {})
    assert found["is_cut"] and len(json.dumps(found["rows"])) < 2 * MOST_BYTES


def test_sql_asks_the_file_that_its_index_has_open(copy, tmp_path):
    build(copy, tmp_path / "index.duckdb")
    index = Index(copy, tmp_path)
    index.wait(10)
    count = index.value("SELECT count(*) FROM captions")
    some = clip_ids(copy)[0]
    captions(copy, "newversion", [{"clip_id": some, "kind": "short", "source": "x", "text": "a"}])
    index.wait(10)
    path, given = index.handed("SELECT count(*) FROM captions")
    build(copy, tmp_path / "index.duckdb")  # the builder of another dashboard, in this moment
    line, _, rest = given.partition(b"\n")
    request, stream = json.loads(line), io.BytesIO(rest)
    held = {name: pa.ipc.open_stream(stream).read_all() for name in request["tables"]}
    assert answer(path, request, held)["rows"] == [[count + 1]]
    index.close()
    assert [path.name for path in tmp_path.glob("*.duckdb")] == ["index.duckdb"]


def test_the_predicate_offered_keeps_what_the_view_leaves_out(dataset, tmp_path):
    client = TestClient(make_app(dataset.uri, tmp_path), "http://127.0.0.1")
    page = html.unescape(client.get("/clips?camera=static&caption_kind=dense").text)
    assert f"({View.load(dataset).where}) AND (" in page
    assert "clip_id IN (SELECT clip_id FROM captions" in page


def test_media_are_of_the_version_that_a_view_pins(copy, tmp_path):
    view = View.load(copy)
    old = view.columns["preview"]
    rows = records.rows_of_shard(copy, "clips", old, 0)
    with ShardCommit(copy, Column("preview", "newversion"), 0, 0) as made:
        for row in rows:
            made.add(f"{row['clip_id']}.poster.jpg", b"\xff\xd8 of another version")
        made.commit({"clips": rows}, Account(len(rows), len(rows), 0, 0))
    client = TestClient(make_app(copy.uri, tmp_path), "http://127.0.0.1")
    name = rows[0]["clip_id"]
    page = client.get(f"/clips/{name}?view=default", headers={"accept": "text/html"}).text
    address = f"/media/{name}.poster.jpg?v=preview%40{old.fingerprint}"
    assert address in page
    assert client.get(address).content != client.get(f"/media/{name}.poster.jpg").content
    assert client.get(f"/media/{name}.poster.jpg").content == b"\xff\xd8 of another version"
    assert client.get(f"/media/{name}.poster.jpg?v=preview@nosuch").status_code == 404
    assert "?v=" not in client.get(f"/clips/{name}?view=newest", headers={"accept": "text/html"}).text


def test_a_dataset_that_is_gone_is_said_on_the_page(copy, tmp_path):
    client = TestClient(make_app(copy.uri, tmp_path), "http://127.0.0.1", raise_server_exceptions=False)
    assert client.get("/", headers={"accept": "text/html"}).status_code == 200
    shutil.rmtree(copy.uri)
    answer = client.get("/", headers={"accept": "text/html"})
    assert answer.status_code == 200 and "is not there any more" in html.unescape(answer.text)


def test_takedowns_are_told_with_who_had_read_of_them(eventful, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(eventful.uri, copy)
    dataset = Dataset(str(copy))
    here = TestClient(make_app(str(copy), tmp_path / "cache"), "http://127.0.0.1")
    assert here.get("/drops.json").json()["takedowns"] == []
    [row] = scans.table(dataset, "sources").slice(0, 1).to_pylist()
    remove(dataset, {row["source_id"]: row["uri"]}, "licence ended", ["/runs/<b>big</b>"])
    [told] = here.get("/drops.json").json()["takedowns"]
    assert (told["num_sources"], told["reason"]) == (1, "licence ended")
    page = here.get("/drops").text
    assert "licence ended" in page and "/runs/&lt;b&gt;big&lt;/b&gt;" in page
    note = {"sources": {"0123456789abcdef": []}, "reason": "", "read_by": []}
    (copy / "removed" / "pending.json").write_text(json.dumps(note))
    assert "A takedown of 1 sources has not ended" in here.get("/drops").text
    (copy / "removed" / "pending.json").write_text("{")
    assert "takedowns are not known" in here.get("/drops").text
