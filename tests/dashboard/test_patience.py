"""A store that is away keeps no page waiting, and is told on every page; so is a folder that is gone."""

from __future__ import annotations

import errno
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from dashboard.app import make_app
from dashboard.index import patience
from dashboard.index.patience import AwayError, Patience
from manifests.layout import Dataset
from manifests.store import storage
from manifests.store.objects import ObjectStore
from manifests.views import View


@pytest.fixture
def store(tmp_path, monkeypatch) -> Patience:
    dataset = Dataset.create(str(tmp_path / "ds"))
    monkeypatch.setattr(storage, "is_local", lambda filesystem: False)
    monkeypatch.setattr(patience, "PATIENCE_S", 0.2)
    return Patience(dataset)


def until(condition):
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_who_waits_in_vain_waits_once_and_a_late_answer_is_taken(store, monkeypatch):
    gate, asked = threading.Event(), []

    def slow():
        asked.append(1)
        gate.wait(30)
        return "all of it"

    monkeypatch.setattr(store, "_dataset", Away(store._dataset, gate))
    begin = time.monotonic()
    with pytest.raises(AwayError, match="does not answer"):
        store.ask(slow, "views")
    assert 0.35 < time.monotonic() - begin < 5
    begin = time.monotonic()
    for key in ("views", "events", ""):
        with pytest.raises(AwayError):
            store.ask(slow, key)
    assert time.monotonic() - begin < 0.1, "nobody waits again"
    assert "does not answer; what is shown was known before" in store.trouble()
    gate.set()
    until(lambda: "views" in store._late)
    assert store.ask(slow, "views") == "all of it" and len(asked) == 1
    assert store.trouble() == "" and store.ask(lambda: 3) == 3


class Away:
    """A dataset of which a small question waits as well."""

    def __init__(self, dataset, gate):
        self.uri, self.path, self.filesystem = dataset.uri, dataset.path, self
        self.gate = gate

    def get_file_info(self, path):
        self.gate.wait(30)


def test_a_slow_question_does_not_make_the_store_one_that_is_away(store):
    gate = threading.Event()

    def slow():
        gate.wait(30)
        return "a long list"

    with pytest.raises(AwayError, match="has not answered yet"):
        store.ask(slow, "tars")
    assert store.trouble() == "" and store.ask(lambda: 3) == 3 and store.ask(lambda: 4, "views") == 4
    with pytest.raises(AwayError):
        store.ask(slow, "tars")
    threading.Timer(1.0, gate.set).start()
    assert store.ask(slow) == "a long list", "a member is waited for as long as others are answered"
    until(lambda: "tars" in store._late)
    assert store.ask(slow, "tars") == "a long list"


def test_an_answer_that_came_late_does_not_stay_one(store, monkeypatch):
    gate = threading.Event()
    with pytest.raises(AwayError):
        store.ask(lambda: gate.wait(30) and "old", "runs")
    gate.set()
    until(lambda: "runs" in store._late)
    monkeypatch.setattr(patience, "_KEPT_S", 0.0)
    assert store.ask(lambda: "new", "runs") == "new"


def test_a_late_error_is_no_answer(store, monkeypatch):
    gate = threading.Event()

    def fails():
        gate.wait(30)
        raise OSError(errno.EIO, "it was away")

    with pytest.raises(AwayError):
        store.ask(fails, "view default")
    gate.set()
    until(lambda: not store._owed)
    store.problem = ""
    assert store.ask(lambda: "well again", "view default") == "well again"


def test_errors_are_raised_where_they_are_asked_and_those_of_a_store_that_is_away_are_told(store):
    def fails(error):
        def work():
            raise error

        return work

    with pytest.raises(FileNotFoundError):
        store.ask(fails(FileNotFoundError(errno.ENOENT, "no such key")))
    assert store.trouble() == ""
    with pytest.raises(OSError, match="refused"):
        store.ask(fails(OSError(errno.EIO, "connection refused")), "views")
    assert "cannot be read" in store.trouble()


def clips_in(page):
    return sorted(set(re.findall(r"/clips/([0-9a-f]{16}-\d{8})", page)))


@pytest.mark.timeout(300)
def test_pages_of_a_store_that_freezes_come_and_say_so(eventful, bucket, tmp_path, monkeypatch):
    address, client = bucket
    for path in sorted(item for item in Path(eventful.uri).rglob("*") if item.is_file()):
        client.upload_file(str(path), "rushes", f"frozen/{path.relative_to(eventful.uri)}")
    app = make_app(address("frozen"), tmp_path / "cache")
    far = TestClient(app, "http://127.0.0.1")
    index = app.state.site.index
    assert index.wait(60)
    page = far.get("/clips").text
    assert "does not answer" not in page
    for name in ("_LOCAL_LOOK_S", "_REMOTE_LOOK_S"):
        monkeypatch.setattr(f"dashboard.live.{name}", 0.0)
    index._every_s = app.state.site.scopes._kept_s = app.state.site.tail._look_s = 0.0
    monkeypatch.setattr(patience, "PATIENCE_S", 0.3)
    frozen = threading.Event()

    def waits(self, *_, **__):
        frozen.wait(60)
        raise OSError(errno.EIO, "the store is away")

    for name in ("get_file_info", "get_file_info_selector", "open_input_file", "open_input_stream"):
        monkeypatch.setattr(ObjectStore, name, waits)
    begin = time.monotonic()
    told = [far.get(path) for path in ("/", "/clips", "/shards", "/drops", "/captions")]
    unknown = far.get("/runs.json")
    took_s = time.monotonic() - begin
    print(f"six pages of a frozen store: {took_s:.1f} s")
    assert [answer.status_code for answer in told] == [200] * 5 and unknown.status_code == 503
    assert took_s < 20
    assert all("does not answer; what is shown was known before" in answer.text for answer in told[1:])
    assert clips_in(told[1].text) == clips_in(page), "those that were known"
    frozen.set()
    monkeypatch.setattr(index, "changes", index.changes + 1)  # scopes are made anew
    monkeypatch.setattr(View, "load", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "refused")))
    index.store.problem = ""
    assert clips_in(far.get("/clips").text) == clips_in(page), "of a store that errs at once, too"
    monkeypatch.setattr(
        "dashboard.pages.runs.run_ids", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no"))
    )
    index.store.problem = ""
    assert far.get("/runs").status_code == 503
    monkeypatch.undo()
    index.store._since_s = -1e9
    until(lambda: "does not answer" not in far.get("/clips").text)
    assert clips_in(far.get("/clips").text) == clips_in(page)
    until(lambda: far.get("/runs.json").status_code == 200)
    assert far.get("/runs.json").json()["num_runs"] > 0


def test_every_page_of_a_dataset_that_is_gone_says_so(eventful, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(eventful.uri, copy)
    app = make_app(str(copy), tmp_path / "cache")
    here = TestClient(app, "http://127.0.0.1")
    assert app.state.site.index.wait(60)
    assert "is not there any more" not in here.get("/clips").text
    copy.rename(tmp_path / "moved")
    for path in ("/", "/clips", "/shards", "/drops", "/captions", "/runs", "/train"):
        assert f"{copy} is not there any more" in here.get(path).text, path
    (tmp_path / "moved").rename(copy)
    assert "is not there any more" not in here.get("/clips").text
