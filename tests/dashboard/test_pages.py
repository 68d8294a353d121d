"""The pages: each with its JSON twin, true to the tables, and safe against what comes from outside."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from dashboard.app import make_app
from dashboard.asking.filters import Filters
from dashboard.asking.later import Later
from dashboard.index.index import BusyError
from dashboard.pages.clips import COLUMNS
from dashboard.pages.exports import _parquet
from dashboard.report import page_of
from dashboard.security import Access
from dashboard.states import STATES
from manifests import cli
from manifests.layout import Column
from manifests.sql import queries
from manifests.tables import records, scans
from manifests.verdicts import take_in
from manifests.views import View
from tests.conftest import ROOT
from tests.dashboard.conftest import OTHER, add_training, run_events
from tests.pipeline.stages.test_score import scored

PAGES = ("/", "/shards", "/clips", "/drops", "/captions", "/train", "/map", "/runs", "/sql")


def twin(address: str) -> str:
    path, _, query = address.partition("?")
    return f"{'/now' if path == '/' else path}.json" + (f"?{query}" if query else "")


def digest(folder: str) -> str:
    found = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        found.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
    return found.hexdigest()


@pytest.mark.parametrize("address", PAGES)
def test_every_page_has_its_twin_and_nothing_inline(site, address):
    page, data = site.get(address), site.get(twin(address))
    assert page.status_code == data.status_code == 200, page.text
    assert isinstance(data.json(), dict)
    assert "<style" not in page.text and "style=" not in page.text and " onclick=" not in page.text
    assert not re.search(r"<script(?![^>]*src=)", page.text)
    assert f'href="{twin(address)}"' in page.text


def test_a_crawl_of_every_link_changes_no_byte_and_finds_no_broken_one(site, eventful):
    before, seen, todo, visits = digest(eventful.uri), set(), list(PAGES), Counter()
    while todo:
        address = todo.pop()
        path = address.partition("?")[0]
        if address in seen or address.startswith(("http", "#", "data:")) or visits[path] > 8:
            continue  # each page with a few of the filters that it links to
        visits[path] += 1
        seen.add(address)
        answer = site.get(address, headers={"accept": "text/html"})
        assert answer.status_code in (200, 206), (address, answer.text[-300:])
        if answer.headers["content-type"].startswith("text/html"):
            links = re.findall(r'(?:href|src|poster)="([^"]+)"', answer.text)
            todo += [link.replace("&amp;", "&").split("#")[0] for link in links if link[:1] == "/"]
    assert {"/shards/0", "/train/small"} <= {address.partition("?")[0] for address in seen}
    assert len(seen) > 100
    assert digest(eventful.uri) == before


def test_the_funnel_and_the_grid_equal_info(site, eventful):
    told = {row["column"]: row for row in site.get("/now.json?view=newest").json()["funnel"]}
    for column in eventful.columns():
        records = scans.table(eventful, "shards", column).to_pylist()
        if str(column) in told:
            row = told[str(column)]
            assert row["kept"] == sum(record["num_kept"] for record in records)
            assert row["in"] == row["kept"] + row["dropped"] + row["failed"]
    grid = site.get("/shards.json").json()
    for column in eventful.columns():
        counts = grid["counts"][str(column)]
        assert sum(counts.values()) == grid["num_shards"]
        assert sum(counts.get(name, 0) for name in STATES[3:]) == len(eventful.committed_shards(column))


def test_versions_are_not_added_up(site, eventful):
    rows = {row["version"]: row for row in site.get("/captions.json").json()["versions"]}
    for column in eventful.columns():
        if column.name == "caption":
            sources = scans.table(eventful, "captions", column)["source"].to_pylist()
            written = [source for source in sources if source not in ("alt", "ground_truth")]
            assert rows[str(column)]["captions"] == len(written) < len(sources)
    assert len(rows) == 2
    clips = site.get("/clips.json").json()
    assert clips["whole"] <= scans.table(eventful, "clips").num_rows
    assert "huge" not in json.dumps(clips["clips"])  # the view has the first version


def test_two_versions_are_compared_word_by_word(site, eventful):
    own = next(column for column in eventful.columns() if column.name == "caption" and column != OTHER)
    found = site.get("/captions.json", params={"a": str(own), "b": str(OTHER)}).json()["compared"]
    assert dict(found["gained"])["one"] > 0 and found["apart"][0]["disagreement"] > 0
    assert "<ins>" in json.dumps(found["apart"])
    clip_id = found["apart"][0]["clip_id"]
    page = site.get(f"/clips/{clip_id}").text
    assert "<ins>One" in page and "<del>" in page
    assert site.get("/captions?a=caption@none").status_code == 400


def test_a_clip_page_has_all_that_is_known(site, eventful):
    clip = next(row for row in scans.table(eventful, "clips").to_pylist() if row["num_frames"] > 1)
    data = site.get(f"/clips/{clip['clip_id']}.json").json()
    assert data["clip"]["num_frames"] == clip["num_frames"] and data["source"]["uri"] == clip["uri"]
    assert len(data["versions"]) == 2 and data["latents"] and data["has_filmstrip"]
    assert {"poster.jpg", "proxy.webm", "latent.png"} <= {row["field"] for row in data["members"]}
    for field in ("latent.png", "frame000.jpg"):
        assert site.get(f"/media/{clip['clip_id']}.{field}").status_code == 200
    assert site.get(f"/media/{clip['clip_id']}.latent.safetensors").status_code == 404
    assert site.get("/clips/nosuch").status_code == 404


def test_drops_have_a_threshold_that_can_be_moved_and_play_from_their_source(site, eventful, tmp_path):
    address = "/drops.json?view=newest&stage=text&reason=too_short"
    found = site.get(address).json()
    assert found["threshold"] == 0.25 and found["is_floor"] and len(found["items"]) == 12
    assert site.get(f"{address}&at=0.11").json()["would_keep"] == 6
    item = found["items"][0]
    whole = Path(item["uri"]).read_bytes()
    answer = site.get(f"/source/{item['source_id']}", headers={"range": "bytes=5-14"})
    assert (answer.status_code, answer.content) == (206, whole[5:15])
    strip = site.get(f"/source/{item['source_id']}/strip.jpg?start_s=0&end_s=0.5")
    assert strip.status_code == 200 and strip.content[:2] == b"\xff\xd8"
    page = site.get("/drops?view=newest&stage=text&reason=decode").text
    assert "the decoder &lt;b&gt;gave up&lt;/b&gt;" in page and "rushes retry" in page
    assert site.get("/source/..%2f..%2fetc%2fpasswd").status_code == 404
    secret = tmp_path / "notes.mp4"
    secret.write_bytes(b"no video" * 9)
    row = {"uri": str(secret), "size_bytes": 72, "container": "mov", "codec": "h264"}
    with pytest.MonkeyPatch.context() as patch:  # a dataset of others may claim anything
        patch.setattr("dashboard.sources.source_of", lambda *_: row)
        assert site.get(f"/source/{item['source_id']}").status_code == 415
    assert site.get("/drops?stage=text&reason=none").status_code == 400


def test_a_flipped_byte_and_a_missing_tar_are_on_the_grid_after_verify(copy, tmp_path):
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    columns = {column.name: column for column in copy.columns()}
    latent, _ = records.members_of_shard(copy, columns["latent"], 0)
    with open(latent, "r+b") as file:
        file.seek(2000)
        byte = file.read(1)
        file.seek(2000)
        file.write(bytes([byte[0] ^ 1]))
    text, _ = records.members_of_shard(copy, columns["text"], 1)
    Path(text).unlink()
    grid = client.get("/shards.json").json()
    state = {column: [grid["states"][cell] for cell in row] for column, row in grid["cells"].items()}
    assert state[str(columns["text"])][1] == "corrupt"  # a listing is enough
    assert state[str(columns["latent"])][0] == "committed"  # bytes are not read here
    assert cli.main(arguments=["verify", "--deep", copy.uri]) == cli.INTEGRITY
    client.app.state.site.grids._integrity._listed_at_s = -1e9
    grid = client.get("/shards.json").json()
    state = {column: [grid["states"][cell] for cell in row] for column, row in grid["cells"].items()}
    assert state[str(columns["latent"])][0] == "corrupt" and "verified" in state[str(columns["preview"])]
    assert "2 shard columns corrupt" in client.get("/").text
    assert any("sha256" in row["problem"] for row in grid["problems"])


@pytest.mark.parametrize(("age_s", "is_over"), [(3, False), (1000, False), (1000, True)])
def test_a_run_that_fell_silent_has_no_time_left(copy, tmp_path, age_s, is_over):
    run_events(copy, time.time() - age_s, is_over)
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    page, data = client.get("/").text, client.get("/now.json").json()
    is_dead = age_s > 60 and not is_over
    assert (" left;" in page) is (age_s == 3) and bool(data["left_s"]) is (age_s == 3)
    assert ("No sign of life since" in page) is is_dead


def test_a_run_whose_driver_was_killed_here_is_said_to_be_silent_at_once(copy, tmp_path):
    run_events(copy, time.time() - 3)
    code = (
        "import os, signal, sys\nfrom manifests.layout import Dataset\n"
        "from manifests.writing.lease import Lease\n"
        "with Lease(Dataset(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    assert "No sign of life since" not in client.get("/").text
    subprocess.run([sys.executable, "-c", code, copy.uri], cwd=ROOT, check=False)
    page, data = client.get("/").text, client.get("/now.json").json()
    assert "No sign of life since" in page and not data["left_s"]


def test_a_shard_that_was_committed_after_the_listing_is_not_corrupt(copy, tmp_path):
    column = next(column for column in copy.columns() if column.name == "latent")
    record = Path(copy.record_path(column, 0))
    tar, _ = records.members_of_shard(copy, column, 0)
    data, late = record.read_bytes(), Path(tar).read_bytes()
    record.unlink()
    Path(tar).unlink()
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    assert "missing" in client.get("/shards.json").json()["counts"][str(column)]
    Path(tar).write_bytes(late)
    record.write_bytes(data)
    client.app.state.site.index._looked_at_s = -1e9
    assert "corrupt" not in client.get("/shards.json").json()["counts"][str(column)]


def test_shards_in_work_and_in_the_queue_are_told_apart(copy, tmp_path):
    column = next(column for column in copy.columns() if column.name == "caption")
    for shard in copy.committed_shards(column):
        Path(copy.record_path(column, shard)).unlink()
    log = run_events(copy, time.time() - 2)
    log.write("job_started", "on here", "caption", 0)
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    grid = client.get("/shards.json").json()
    assert [grid["states"][cell] for cell in grid["cells"][str(column)]][:2] == ["running", "queued"]


def test_sql_answers_queries_and_refuses_the_rest(site, eventful, tmp_path):
    good = site.get("/sql.json", params={"q": "SELECT count(*) AS n FROM clips"}).json()
    assert good["rows"] == [[scans.table(eventful, "clips").num_rows]]
    for query, why in (
        ("SELECT * FROM read_text('/etc/passwd')", "disabled"),
        (f"COPY clips TO '{tmp_path}/out'", "no query"),
        ("DELETE FROM clips", "no query"),
        ("SELECT 1; SELECT 2", "statements"),
        ("ATTACH '/tmp/x.db'", "no query"),
        ("SELECT * FROM nosuch", "nosuch"),
    ):
        assert why in site.get("/sql.json", params={"q": query}).json()["error"], query
    assert not (tmp_path / "out").exists()
    lists = site.get("/sql.csv", params={"q": "SELECT [1, NULL, 2.5] AS a, [{'b': 1}] AS c"})
    assert lists.status_code == 200 and lists.text.splitlines()[1].startswith("1.0  2.5,")
    assert site.get("/sql.csv", params={"q": "SELECT * FROM clips"}).status_code == 200
    csv = site.get("/sql.csv", params={"q": "SELECT '=1+1' AS a, 2 AS b"}).text
    assert csv.splitlines() == ["a,b", "'=1+1,2"]


def test_a_query_without_end_is_ended(site, monkeypatch):
    monkeypatch.setattr("dashboard.pages.sql.PATIENCE_S", 3.0)
    begin = time.monotonic()
    found = site.get(
        "/sql.json", params={"q": "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b"}
    )
    assert "was ended" in found.json()["error"] and time.monotonic() - begin < 60


def test_lines_of_a_training_that_say_something_else_are_passed_over(copy, tmp_path):
    """As another program, or a later version, may write them."""
    scores = [None, {}, {"all": None}, {"all": {}}, {"all": {"loss": "low"}}]
    odd = [None, [], {"scores": {"all": {"loss": 1}}}, {"loss_by": [1]}]
    odd += [{"step": 2, "scores": own} for own in scores]
    lines = "".join(json.dumps(row) + "\n" for row in odd)
    small, other = add_training(copy, "small"), add_training(copy, "other")
    for name in ("validation.jsonl", "metrics.jsonl"):
        with open(small / name, "a") as file:
            file.write(lines)
        (other / name).write_text(lines)
    site = TestClient(make_app(copy.uri, tmp_path / "index"), base_url="http://127.0.0.1")
    for path in ("/train", "/train/small", "/train/other"):
        assert site.get(path).status_code == site.get(f"{path}.json").status_code == 200, path
    assert len(site.get("/train/small.json").json()["curves"]["validation"]["x"]) == 2
    assert site.get("/train/other.json").json()["curves"]["validation"]["x"] == []
    assert page_of(copy.uri, None).count("validation loss of") == 1


def test_a_training_shows_curves_what_it_has_eaten_and_samples(site, eventful):
    data = site.get("/train/small.json").json()
    points = data["curves"]["points"]
    assert points["x"] == list(range(60)) and points["loss"][0] == 2
    assert data["curves"]["cells"] == ["tall/0.35", "wide/0"] and data["curves"]["marks"]["skipped"] == [31]
    eaten = data["eaten"]
    assert (
        eaten["never"] >= 1
        and eaten["epochs"] == [0, 1, 2]
        and eaten["clips"] == sum(r["clips"] for r in eaten["strip"])
    )
    (step,) = data["samples"]
    video = site.get(f"/train/small/samples/40/{step['samples'][0]['file']}")
    assert video.status_code == 200 and video.content[:4] == b"\x1a\x45\xdf\xa3"
    for name in ("..%2f..%2fconfig.json", "nosuch.webm", "config.json"):
        assert site.get(f"/train/small/samples/40/{name}").status_code == 404
    lines = site.get("/train.json?runs=small,another").json()["lines"]
    assert len(lines["small"]["x"]) == 60 and len(lines["another"]["x"]) == 30
    assert site.get("/train.json?runs=none").status_code == 400


def test_runs_tell_what_was_set_otherwise_and_what_it_cost(site):
    newest = site.get("/runs.json").json()["runs"][0]
    assert newest["command"] == "rushes ingest" and newest["cpu_h"] == pytest.approx(4 * 8 / 3600)
    assert newest["cost"] == pytest.approx(0.04 * newest["cpu_h"])
    assert {"name": "plan.shard_s", "before": 12.0, "now": 7} in newest["changes"]


def test_captions_are_data(copy, tmp_path):
    column = Column("caption", "hostile")
    shard = 0
    rows = records.rows_of_shard(
        copy, "captions", next(c for c in copy.columns() if c.name == "caption"), shard
    )
    for row in rows:
        row["text"] = "<script>alert(1)</script> \u202eevil =cmd()"
    from manifests.writing.commit import Account, ShardCommit

    with ShardCommit(copy, column, shard, 0) as commit:
        commit.commit({"captions": rows}, Account(len(rows), len(rows), 0, 0))
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    page = client.get(f"/clips/{rows[0]['clip_id']}").text
    assert "<script>alert" not in page and "&lt;script&gt;" in page and "[U+202E]" in page


def test_views_that_cannot_be_used_are_named(copy, tmp_path):
    Path(copy.view_path("broken")).write_text('{"columns": {}, "where": "no_such_field > 1"}')
    Path(copy.view_path("spoilt")).write_text("{")
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    for name in ("broken", "spoilt"):
        page = client.get(f"/?view={name}")
        assert page.status_code == 200 and f"View {name}:" in page.text
    assert client.get("/?view=none").status_code == 400


def test_the_token_is_told_to_who_starts_the_server(eventful, tmp_path):
    """Once, whole, in the terminal: nobody could open the pages otherwise."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "rushes",
        "dashboard",
        eventful.uri,
        "--host",
        "0.0.0.0",
        "--port",
        "0",
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        try:
            told = next(line for line in server.stderr if "http" in line)
            port, token = re.search(r"http://[^:]+:(\d+)/\?token=([\w-]{20,}) ", told).groups()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"host": "localhost"}) as client:
                assert client.get("/").status_code == 401
                assert client.get(f"/?token={token}", follow_redirects=True).status_code == 200
        finally:
            server.kill()


def test_what_an_address_gives_wrongly_is_a_page_or_json(site):
    for address in ("/shards/x", "/check?seed=x"):
        page = site.get(address, headers={"accept": "text/html"})
        assert page.status_code in (400, 404) and "<html" in page.text and "int_parsing" not in page.text
    assert "cannot be read" in site.get("/shards/x.json").json()["error"]


def test_sql_of_a_page_asks_for_what_the_page_shows(copy, tmp_path):
    rows = scans.table(copy, "clips").to_pylist()
    longest = max(row["num_frames"] for row in rows)
    where = f"num_frames < {longest}"
    View(columns=View.load(copy).columns, where=where).save(copy, "short")
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    client.app.state.site.index.wait(60)
    asked = client.get("/clips/export.sql?view=short&num_frames=2..").text
    listed = list(client.get("/clips/export.jsonl?view=short&num_frames=2..").iter_lines())
    assert where in asked and queries.sql(copy, asked.strip().rstrip(";")).num_rows == len(listed) > 0


def test_elsewhere_than_on_loopback_a_token_is_asked_for(eventful, tmp_path):
    app = make_app(eventful.uri, tmp_path / "index", Access(("watch.example.org",), "secret-token"))
    client = TestClient(app, "http://watch.example.org")
    assert client.get("/").status_code == 401 and client.get("/media/x.poster.jpg").status_code == 401
    assert client.get("/?token=wrong").status_code == 401
    first = client.get("/clips?camera=static&token=secret-token", follow_redirects=False)
    assert first.status_code == 303 and "token" not in first.headers["location"]
    assert first.headers["location"] == "/clips?camera=static"
    away = client.get("//evil.com/?token=secret-token", follow_redirects=False)
    assert not away.headers.get("location", "/x").startswith("//")
    cookie = first.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert client.get("/").status_code == 200
    assert TestClient(app, "http://evil.com").get("/?token=secret-token").status_code == 421


def test_the_events_stream_tells_of_a_change(copy, tmp_path):
    import asyncio

    log = run_events(copy, time.time() - 3)
    site = make_app(copy.uri, tmp_path / "index").state.site

    async def told() -> list[str]:
        changes = site.tail.changes("", lambda: {"done": site.tail.pace().done})
        first = await asyncio.wait_for(anext(changes), 60)
        account = {"num_in": 3, "num_kept": 3, "num_dropped": 0, "num_failed": 0}
        log.write("committed", "3 kept", "caption", 5, seconds=9.0, footage_s=10.0, **account)
        second = await asyncio.wait_for(anext(changes), 60)
        await changes.aclose()
        return [first, second]

    first, second = asyncio.run(told())
    assert first.startswith("id: 99991231") and '"done": 4' in first and '"done": 5' in second
    assert site.tail.listeners == 0


def test_a_report_is_one_file_with_everything_in_it(eventful, tmp_path):
    page = tmp_path / "report.html"
    assert (
        cli.main(arguments=["report", eventful.uri, "--html", str(page), "--cpu-price", "0.04"]) == cli.DONE
    )
    text = page.read_text()
    for said in (
        "Funnel",
        "Integrity",
        "Captions",
        "Training small",
        "polyline",
        "rushes ingest",
        "cost",
        "a ball",
    ):
        assert said in text, said
    assert "data:image/jpeg;base64," in text and "data:video/webm;base64," in text
    assert "http://" not in text and "https://" not in text and 'src="/' not in text and "<script" not in text
    run = Path(eventful.uri) / "training" / "small"
    assert cli.main(arguments=["report", str(run), "--html", str(tmp_path / "run.html")]) == cli.DONE
    assert "Training small" in (tmp_path / "run.html").read_text()
    assert cli.main(arguments=["report", str(run), "--html", str(tmp_path / "run.html")]) == cli.USAGE
    assert cli.main(arguments=["report", str(run)]) == cli.DONE


def test_with_hidden_paths_no_page_tells_a_folder(eventful, tmp_path):
    app = make_app(eventful.uri, tmp_path / "index", hide_paths=True)
    client = TestClient(app, "http://127.0.0.1")
    folder = str(Path(scans.table(eventful, "sources").to_pylist()[0]["uri"]).parent)
    clip_id = scans.table(eventful, "clips").to_pylist()[0]["clip_id"]
    more = (
        "/shards/0",
        f"/clips/{clip_id}",
        "/drops?view=newest&stage=text&reason=too_short",
        "/train/small",
    )
    for address in (*PAGES[:-1], *more, "/clips/export.csv"):
        for place in (address, *([] if "export" in address else [twin(address)])):
            answer = client.get(place)
            assert answer.status_code == 200, place
            for hidden in (folder, str(Path(eventful.uri).parent)):
                assert hidden not in answer.text, place
    assert client.get("/sql?q=SELECT+uri+FROM+sources").status_code == 400


def test_hidden_paths_leave_pictures_and_diffs_whole_and_hide_errors_too(eventful, tmp_path):
    client = TestClient(make_app(eventful.uri, tmp_path / "index", hide_paths=True), "http://127.0.0.1")
    assert '<svg class="histogram"' in client.get("/clips").text
    assert "<ins>" in client.get("/captions?view=newest").text
    source = scans.table(eventful, "sources").to_pylist()[0]
    Path(eventful.view_path("lost")).write_text('{"columns": {}, "where": "x(\'/secret place/a\') > 1"}')
    try:
        client.app.state.site.scopes._looked_at_s = -1e9
        for address in ("/?view=lost", "/now/live?view=lost"):
            assert "/secret place/" not in client.get(address).text
    finally:
        Path(eventful.view_path("lost")).unlink()
    assert str(Path(source["uri"]).parent) not in client.get("/now/live").text


def test_a_view_that_is_asked_for_is_kept_by_links(site):
    for address in (
        "/?view=newest",
        "/shards?view=newest",
        "/captions?view=newest",
        "/clips?view=newest&kind=video",
    ):
        text = site.get(address).text
        links = re.findall(r'href="(/(?:clips|shards|drops|captions|map)(?:[/?][^"]*)?)"', text)
        assert links and all("view=" in link for link in links if "export" not in link), address


def test_a_run_that_has_only_begun_and_one_that_was_resumed_on_fewer_processes(copy, tmp_path):
    from tests.dashboard.conftest import add_training

    folder = add_training(copy)
    begun = Path(copy.uri) / "training" / "begun"
    begun.mkdir()
    (begun / "config.json").write_text("{}")
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    assert client.get("/train").status_code == 200 and client.get("/train/begun").status_code == 200
    lines = (folder / "consumed.jsonl").read_text().splitlines(keepends=True)
    (folder / "consumed.jsonl").write_text("".join(lines[::2]))
    (folder / "consumed-1.jsonl").write_text("".join(lines[1::2]))

    def shown():
        strip = client.get("/train/small.json").json()["eaten"]["strip"]
        return sum(round(count * row["clips"]) for row in strip for count in row["shown"])

    whole = shown()
    assert shown() == whole  # looked at twice, counted once
    for name in ("consumed.jsonl", "consumed-1.jsonl"):
        kept = (folder / name).read_text().splitlines(keepends=True)[:20]
        (folder / name).write_text("".join(kept))
    assert shown() == pytest.approx(whole * 40 / 60, abs=4)


def test_the_predicate_that_is_handed_out_means_the_same_in_the_tables(site, eventful):
    columns = {column.name: column for column in eventful.columns() if column.name in ("preview", "dedup")}
    for query in (
        "seconds=1..&kind=video",
        "motion=0.01..&palette=blue,grey",
        "has_audio=false&aspect=..1.2",
    ):
        data = site.get(f"/clips.json?view=newest&{query}").json()
        text = site.get(f"/clips/export.sql?view=newest&{query}").text
        found = queries.sql(eventful, text.rstrip().rstrip(";"), columns)
        assert found.num_rows == data["count"], query


def test_a_predicate_that_is_several_statements_or_without_end_is_a_problem_of_its_view(
    copy, tmp_path, monkeypatch
):
    monkeypatch.setattr("dashboard.index.left_out._MOST_PREDICATE_S", 1.0)
    several = "true), false); DELETE FROM memory.main.clips; SELECT ((true"
    endless = "(SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b) > 0"
    for name, where in (("several", several), ("endless", endless)):
        Path(copy.view_path(name)).write_text(json.dumps({"columns": {}, "where": where}))
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    for name in ("several", "endless"):
        begin = time.monotonic()
        page = client.get(f"/?view={name}")
        assert page.status_code == 200 and "cannot be used" in page.text and time.monotonic() - begin < 120
    assert client.get("/clips.json").json()["count"] > 0


def test_a_view_that_asks_for_scores_and_verdicts_is_shown(copy, tmp_path):
    """Predicates over tables that the pages themselves have no use for."""
    stage, _ = scored(copy, "tests.pipeline.stages.scorers:Redness")
    captions = [row for row in scans.table(copy, "captions").to_pylist() if row["kind"] == "dense"]
    said = {"who": "ann", "caption_id": captions[0]["caption_id"], "verdict": "wrong"}
    (tmp_path / "verdicts.jsonl").write_text(json.dumps(said) + "\n")
    column, *_ = take_in(copy, tmp_path / "verdicts.jsonl")
    columns = View.load(copy).columns | {"score": stage.column, "verdict": column}
    where = "clip_id IN (SELECT clip_id FROM scores WHERE value > 0)"
    View(columns=columns, where=where).save(copy, "red")
    right = "clip_id NOT IN (SELECT clip_id FROM verdicts WHERE verdict = 'wrong')"
    View(columns=columns, where=right).save(copy, "right")
    site = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    for name in ("red", "right"):
        page = site.get(f"/clips.json?view={name}")
        assert page.status_code == 200 and "cannot be used" not in page.text
        kept = View.load(copy, name).kept(copy)
        assert page.text.count('"clip_id"') >= len(kept) > 0
    assert "cannot be used" not in site.get("/shards?view=red").text


def test_clips_are_taken_along_as_parquet_and_as_a_folder_that_needs_no_server(site):
    wanted = [json.loads(line) for line in site.get("/clips/export.jsonl?camera=static").text.splitlines()]
    table = pq.read_table(io.BytesIO(site.get("/clips/export.parquet?camera=static").content))
    assert table["clip_id"].to_pylist() == [row["clip_id"] for row in wanted] and wanted
    assert table.to_pylist()[0] == wanted[0]
    with zipfile.ZipFile(io.BytesIO(site.get("/clips/export.zip?camera=static").content)) as archive:
        assert archive.testzip() is None
        page = archive.read("clips/index.html").decode()
        files = set(archive.namelist())
    linked = re.findall(r'(?:src|poster)="([^"]+)"', page)
    assert linked and all(f"clips/{name}" in files for name in linked)
    assert all(row["clip_id"] in page for row in wanted) and "http" not in page
    none = pq.read_table(io.BytesIO(site.get("/clips/export.parquet?q=nosuchwordatall").content))
    assert none.num_rows == 0
    assert site.get("/clips/export.xls").status_code == 404


def test_a_shard_and_a_clip_tell_which_training_read_them(site, eventful):
    shard = site.get("/shards/0.json").json()
    ids = {row["clip_id"] for row in site.get("/clips.json?shard=0").json()["clips"]}
    lines = (Path(eventful.uri) / "training" / "small" / "consumed.jsonl").read_text().splitlines()
    read = [(row["step"], row["epoch"], clip) for row in map(json.loads, lines) for clip, _ in row["samples"]]
    own = [item for item in read if item[2] in ids]
    (told,) = (row for row in shard["read"] if row["name"] == "small")
    assert told["times"] == len(own) and told["clips"] == len({clip for *_, clip in own})
    assert told["epochs"] == sorted({epoch for _, epoch, _ in own}) and told["of"] == len(ids)
    clip = own[0][2]
    (told,) = (row for row in site.get(f"/clips/{clip}.json").json()["read"] if row["name"] == "small")
    steps = sorted({step for step, _, name in own if name == clip})
    assert told["num_steps"] == len(steps) and told["steps"] == steps[-12:]


def test_a_full_disk_is_an_alert(site, monkeypatch):
    usage = shutil.disk_usage("/")._replace(total=int(1e12), free=int(1e9))
    monkeypatch.setattr("dashboard.pages.now.shutil.disk_usage", lambda _: usage)
    assert any("disk is nearly full" in alert for alert in site.get("/now.json").json()["alerts"])


def test_what_takes_long_is_made_beside_the_page_and_then_kept(site, monkeypatch):
    later = Later(site.app.state.site.index)
    later._index.wait(10)  # all is in: nothing changes on the way
    monkeypatch.setattr("dashboard.asking.later.FEW_COMMITS", -1)
    begun, go_on, made = threading.Event(), threading.Event(), []

    def work() -> int:
        begun.set()
        assert go_on.wait(20)
        made.append(1)
        return len(made)

    assert later.ask("key", work) is None and begun.is_set()
    assert later.ask("key", work) is None
    go_on.set()
    assert later.ask("key", work, is_patient=True) == 1 and later.ask("key", work) == 1 and made == [1]

    def fails() -> None:
        raise ValueError("no")

    for _ in range(2):  # the second time it is not tried again
        with pytest.raises(ValueError, match="no"):
            later.ask("other", fails, is_patient=True)
    with pytest.raises(ValueError, match="no"):
        later.ask("other", lambda: 3)
    monkeypatch.setattr("dashboard.asking.later._AGAIN_AFTER_S", 0.0)
    monkeypatch.setattr("dashboard.asking.later._TIMES", 0)  # whatever it took on a busy machine
    assert later.ask("other", lambda: 3, is_patient=True) == 3
    for number in range(100):
        later.ask(number, lambda: 1, is_patient=True)
    assert len(later._held) <= 64


def test_a_first_count_is_all_or_says_that_it_is_not(site):
    told = site.get("/clips/count.json?camera=static").json()
    assert told == {"count": site.get("/clips/side.json?camera=static").json()["count"], "is_all": True}
    kept, scope = site.app.state.site.kept, site.app.state.site.scopes.named("default")
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("dashboard.asking.counts._SHARDS_AT_FIRST", 1)
        number, is_all = kept.at_least(scope, Filters(), budget_s=0.0)
        assert not is_all and 0 < number < kept.number(scope, Filters())


def test_a_column_that_begins_without_values_is_exported_and_none_has_all_columns():
    names = COLUMNS.replace(" ", "").split(",")
    rows = [dict.fromkeys(names) | {"clip_id": str(at), "caption": ""} for at in range(3)]
    rows[2] |= {"motion": 0.5, "palette": ["red"]}
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr("dashboard.pages.exports._BATCH", 2)
        made = io.BytesIO()
        _parquet(iter(rows), made)
    assert pq.read_table(made)["motion"].to_pylist() == [None, None, 0.5]
    empty = io.BytesIO()
    _parquet(iter(()), empty)
    assert pq.read_table(empty).schema.names == [*names, "caption"]


def test_an_export_that_cannot_be_asked_is_no_empty_file(site, monkeypatch):
    def busy(*_):
        raise BusyError

    monkeypatch.setattr("dashboard.pages.exports.some_clips", busy)
    for kind in ("csv", "jsonl", "parquet", "zip"):
        assert site.get(f"/clips/export.{kind}").status_code == 503


def test_forms_keep_the_filters_that_they_do_not_show(site):
    page = site.get("/map?view=mapped&camera=static").text
    assert 'name="camera" value="static"' in page and 'name="view" value="mapped"' in page
    page = site.get("/clips?view=mapped&lasso=0,0;1,0;1,1&shard=0").text
    assert 'name="lasso" value="0,0;1,0;1,1"' in page and 'name="shard" value="0"' in page


def test_an_error_that_nobody_thought_of_has_the_policy_too(eventful, tmp_path, monkeypatch):
    monkeypatch.setattr("dashboard.pages.clips.some_clips", lambda *_: 1 / 0)
    client = TestClient(make_app(eventful.uri, tmp_path), "http://127.0.0.1", raise_server_exceptions=False)
    answer = client.get("/clips")
    assert answer.status_code == 500 and "default-src 'none'" in answer.headers["content-security-policy"]


def test_connections_are_used_again_and_closed(site):
    index = site.app.state.site.index
    threads = [threading.Thread(target=index.rows, args=("SELECT 1 AS x",)) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(index._cursors) <= 8
