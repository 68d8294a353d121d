"""A store that is away keeps no page waiting, and is told on every page; so is a folder that is gone."""

from __future__ import annotations

import errno
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


@pytest.fixture
def store(tmp_path, monkeypatch) -> Patience:
    dataset = Dataset.create(str(tmp_path / "ds"))
    monkeypatch.setattr(storage, "is_local", lambda filesystem: False)
    monkeypatch.setattr(patience, "PATIENCE_S", 0.2)
    return Patience(dataset)


def test_who_waits_in_vain_waits_once_and_a_late_answer_is_taken(store, monkeypatch):
    gate, asked = threading.Event(), []

    def slow():
        asked.append(1)
        gate.wait(30)
        return "all of it"

    begin = time.monotonic()
    with pytest.raises(AwayError, match="does not answer"):
        store.ask(slow, "views", patience_s=0.2)
    assert 0.15 < time.monotonic() - begin < 5
    begin = time.monotonic()
    for key in ("views", "events", ""):
        with pytest.raises(AwayError):
            store.ask(slow, key)
    assert time.monotonic() - begin < 0.1, "nobody waits again"
    assert "does not answer; what is shown was known before" in store.trouble()
    gate.set()
    end = time.monotonic() + 10
    while "views" not in store._late and time.monotonic() < end:
        time.sleep(0.01)
    assert store.ask(slow, "views") == "all of it" and len(asked) == 1
    assert store.trouble() == "" and store.ask(lambda: 3) == 3


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
    told = [far.get(path) for path in ("/", "/clips", "/shards", "/drops", "/captions", "/runs")]
    took_s = time.monotonic() - begin
    frozen.set()
    print(f"six pages of a frozen store: {took_s:.1f} s")
    assert [answer.status_code for answer in told] == [200] * 6
    assert took_s < 20
    assert all("does not answer; what is shown was known before" in answer.text for answer in told[1:])


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
