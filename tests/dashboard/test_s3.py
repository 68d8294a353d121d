"""The dashboard over an object store: the same pages, by few requests."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from dashboard.app import make_app
from manifests.tables import scans

FEW_A_MINUTE = 40
"""Requests of a page that is looked at twice a second, while nothing changes."""


@pytest.mark.timeout(600)
def test_pages_are_the_same_and_an_idle_minute_asks_little(eventful, bucket, tmp_path, monkeypatch):
    address, client = bucket
    for path in Path(eventful.uri).rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "rushes", f"ds/{path.relative_to(eventful.uri)}")
    here = TestClient(make_app(eventful.uri, tmp_path / "here"), "http://127.0.0.1")
    far = TestClient(make_app(address("ds"), tmp_path / "far"), "http://127.0.0.1")
    for page in ("/clips.json", "/captions.json", "/drops.json"):
        assert far.get(page).json() == here.get(page).json(), page
    funnel = [row["kept"] for row in far.get("/now.json").json()["funnel"]]
    assert funnel == [row["kept"] for row in here.get("/now.json").json()["funnel"]]
    clip = next(row for row in scans.table(eventful, "clips").to_pylist() if row["num_frames"] > 1)
    video = far.get(f"/media/{clip['clip_id']}.proxy.webm", headers={"range": "bytes=0-99"})
    assert video.status_code == 206 and len(video.content) == 100

    asked = requests_of(monkeypatch)
    begin = time.monotonic()
    while time.monotonic() - begin < 10:
        assert far.get("/now/live").status_code == 200
        time.sleep(0.5)
    a_minute = len(asked) * 6
    print(f"{a_minute} requests a minute: {sorted(set(asked))}")
    assert a_minute < FEW_A_MINUTE


def requests_of(monkeypatch) -> list[str]:
    """Every call to the store from now on: a listing of few objects is one request."""
    from manifests.store import storage

    asked: list[str] = []
    for name in ("list_files", "exists", "read_bytes", "read_range"):
        own = getattr(storage, name)

        def counted(*given, own=own, name=name, **more):
            asked.append(name)
            return own(*given, **more)

        monkeypatch.setattr(storage, name, counted)
    return asked
