"""Verdicts of people: kept outside the dataset, none lost without a word, none given by a key that was meant
otherwise."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from dashboard.app import make_app
from manifests.errors import UsageError
from manifests.tables import scans
from manifests.verdicts import latest
from manifests.writing import lease
from tests.dashboard.test_pages import digest


def test_two_versions_are_compared_blind(eventful, tmp_path):
    before, path = digest(eventful.uri), tmp_path / "v.jsonl"
    client = TestClient(make_app(eventful.uri, tmp_path / "index", verdicts=path), "http://127.0.0.1")
    a, b = client.get("/check.json?view=newest").json()["versions"][:2]
    address, seen, sides = f"view=newest&a={a}&b={b}", [], Counter()
    texts = {
        row["caption_id"]: (version, row["text"])
        for version, rows in scans.by_column(eventful, "captions").items()
        for row in rows.to_pylist()
    }
    while (data := client.get(f"/check.json?{address}").json())["pair"]:
        pair = data["pair"]
        assert pair["clip_id"] not in seen and pair["left"]["text"] != pair["right"]["text"]
        assert a not in json.dumps(pair) and b not in json.dumps(pair), "blind"
        seen.append(pair["clip_id"])
        version = {side: texts[pair[side]["caption_id"]][0] for side in ("left", "right")}
        assert sorted(version.values()) == sorted((a, b))
        better = next(side for side, own in version.items() if own == a)
        sides[better] += 1
        choice = better if len(seen) != 2 else "alike"
        given = {side: pair[side]["caption_id"] for side in ("left", "right")} | {
            "verdict": choice,
            "who": "me",
        }
        assert client.post("/check", json=given).status_code == 200
    assert len(seen) > 3 and len(sides) == 2, "sides are drawn"
    found = data["preferred"]
    assert (found["one"], found["other"], found["alike"]) == (len(seen) - 1, 0, 1)
    assert found["low"] > 0.4 and found["high"] == pytest.approx(1.0)
    assert client.post("/check", json=given | {"verdict": "undone"}).status_code == 200
    assert client.get(f"/check.json?{address}").json()["pair"]["clip_id"] == seen[-1]
    assert client.post("/check", json=given | {"verdict": "best"}).status_code == 400
    assert client.post("/check", json=given | {"left": given["right"]}).status_code == 404
    for odd in ("a=x&b=y", f"a={a}&b={a}", f"a={a}"):
        assert client.get(f"/check?view=newest&{odd}").status_code == 400
    assert latest(path.read_text().splitlines()) == [], "no verdicts on single captions"
    assert "Compare captions" in client.get(f"/check?{address}").text and digest(eventful.uri) == before


def test_captions_are_judged_outside_the_dataset(eventful, tmp_path):
    before = digest(eventful.uri)
    client = TestClient(
        make_app(eventful.uri, tmp_path / "index", verdicts=tmp_path / "v.jsonl"), "http://127.0.0.1"
    )
    judged = []
    for verdict in ("right", "wrong", "minor"):
        item = client.get("/check.json?view=newest").json()["item"]
        assert item["caption_id"] not in judged
        judged.append(item["caption_id"])
        given = {
            "caption_id": item["caption_id"],
            "verdict": verdict,
            "tags": ["camera"],
            "who": "me",
            "seed": "1",
        }
        assert client.post("/check?view=newest", json=given).status_code == 200
    data = client.get("/check.json?view=newest").json()
    assert data["done"] == 3 and sum(row["wrong"] for row in data["by_version"]) == 1
    low, high = (data["by_version"][0][name] for name in ("low", "high"))
    assert 0 <= low < 1 / 3 < high <= 1
    undo = {"caption_id": judged[0], "verdict": "undone", "who": "me"}
    assert client.post("/check?view=newest", json=undo).status_code == 200
    assert client.get("/check.json?view=newest").json()["done"] == 2
    for bad, code in (({"verdict": "perfect"}, 400), ({"caption_id": "nosuch"}, 404), ({"tags": ["x"]}, 400)):
        given = {"caption_id": judged[1], "verdict": "right", "who": "me", **bad}
        assert client.post("/check?view=newest", json=given).status_code == code
    for body in (b'{"caption_id":"\\ud800","verdict":"wrong"}', b"[" * 3000):
        answer = client.post("/check?view=newest", content=body)
        assert answer.status_code in (400, 404), answer.text
    with open(tmp_path / "v.jsonl", "ab") as file:
        file.write(b"\xff\xfe\n")
    assert client.get("/check.json?view=newest").json()["done"] == 2
    for header in ({"origin": "http://evil.com"}, {"sec-fetch-site": "cross-site"}):
        assert client.post("/check", json={}, headers=header).status_code == 403
    assert digest(eventful.uri) == before
    with pytest.raises(Exception, match="lies in the dataset"):
        make_app(eventful.uri, tmp_path / "index2", verdicts=Path(eventful.uri) / "v.jsonl")


@pytest.fixture
def judging(eventful, tmp_path):
    """A client of the page, and the file that it keeps."""
    path = tmp_path / "v.jsonl"
    return TestClient(make_app(eventful.uri, tmp_path / "index", verdicts=path), "http://127.0.0.1"), path


def test_a_verdict_of_another_tab_is_not_written_over_nor_taken_back(judging):
    client, path = judging
    caption = client.get("/check.json?view=newest").json()["item"]["caption_id"]

    def judge(verdict, **more):
        given = {"caption_id": caption, "verdict": verdict, "who": "me", **more}
        return client.post("/check?view=newest", json=given)

    first = judge("right", expects=None)
    assert first.status_code == 200
    late = judge("wrong", expects=None)  # by a tab that was served the same caption
    assert late.status_code == 409 and "another tab" in late.json()["error"]
    assert [row["verdict"] for row in latest(path.read_text().splitlines())] == ["right"]
    time.sleep(0.002)
    assert judge("minor").status_code == 200  # who expects nothing of it writes over it
    assert judge("undone", expects=first.json()["time_s"]).status_code == 409
    assert [row["verdict"] for row in latest(path.read_text().splitlines())] == ["minor"]
    own = latest(path.read_text().splitlines())[0]["time_s"]
    assert judge("undone", expects=own).status_code == 200
    assert judge("wrong", expects=None).status_code == 200
    for odd in ("soon", [1], float("nan")):
        body = json.dumps({"caption_id": caption, "verdict": "right", "who": "me", "expects": odd})
        assert client.post("/check?view=newest", content=body).status_code == 400


def test_a_choice_of_another_tab_is_not_written_over(judging):
    client, path = judging
    a, b = client.get("/check.json?view=newest").json()["versions"][:2]
    pair = client.get(f"/check.json?view=newest&a={a}&b={b}").json()["pair"]
    given = {name: pair[name]["caption_id"] for name in ("left", "right")} | {"who": "me", "expects": None}
    assert client.post("/check", json=given | {"verdict": "left"}).status_code == 200
    assert client.post("/check", json=given | {"verdict": "right"}).status_code == 409
    assert len(path.read_text().splitlines()) == 1


def test_a_choice_is_kept_under_the_name_that_is_asked_for_and_odd_ones_are_none(judging):
    client, path = judging
    a, b = client.get("/check.json?view=newest").json()["versions"][:2]
    asked = f"/check.json?view=newest&a={a}&b={b}&who=ann"
    pair = client.get(asked).json()["pair"]
    given = {name: pair[name]["caption_id"] for name in ("left", "right")}
    assert client.post("/check", json=given | {"verdict": "left", "who": " ann "}).status_code == 200
    assert [json.loads(line)["who"] for line in path.read_text().splitlines()] == ["ann"]
    then = client.get(asked).json()["pair"]
    assert then is None or then["left"]["caption_id"] not in given.values()
    body = '{"left": "\\ud800", "right": "x", "verdict": "left"}'
    assert client.post("/check", content=body).status_code in (400, 404)


def test_a_file_that_cannot_be_written_is_told_before_a_verdict_is_given(eventful, tmp_path, judging):
    with pytest.raises(UsageError, match="cannot be written"):
        make_app(eventful.uri, tmp_path / "other", verdicts=Path("/proc/nope/v.jsonl"))
    client, path = judging
    caption = client.get("/check.json?view=newest").json()["item"]["caption_id"]
    path.unlink()
    path.mkdir()  # as a disk that was full, or went away
    answer = client.post(
        "/check?view=newest",
        json={"caption_id": caption, "verdict": "right", "who": "me"},
        headers={"accept": "application/json"},
    )
    assert answer.status_code == 400 and "cannot be written" in answer.json()["error"]
    given = {"caption_id": caption, "verdict": "right", "who": "me", "expects": None}
    answer = client.post("/check?view=newest", json=given, headers={"accept": "application/json"})
    assert answer.status_code == 400 and "cannot be read" in answer.json()["error"]


def test_where_nothing_can_be_judged_it_is_not_said_to_be_done(judging, monkeypatch):
    client, _ = judging
    assert client.get("/check.json?view=newest").json()["num"] > 0
    monkeypatch.setattr("dashboard.pages.check._JUDGED", "s.source = 'nobody'")
    text = client.get("/check?view=newest").text
    assert "No caption of this view was written by a captioner" in text and "is judged by" not in text


def test_a_writer_that_has_begun_no_run_is_told(copy, tmp_path, monkeypatch):
    monkeypatch.setattr("dashboard.live._LOCAL_LOOK_S", 0.0)
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    assert "No ingest has run" in client.get("/now.json").json()["sentence"]
    with lease.Lease(copy, "rushes ingest"):
        said = TestClient(make_app(copy.uri, tmp_path / "other"), "http://127.0.0.1").get("/now.json").json()
        assert "no stage has begun yet" in said["sentence"] and "rushes ingest" in said["sentence"]
        assert lease.working(copy) is not None
        hidden = make_app(copy.uri, tmp_path / "hidden", hide_paths=True)
        said = TestClient(hidden, "http://127.0.0.1").get("/now.json").json()["sentence"]
        assert "rushes ingest" in said and lease.working(copy).host not in said
    assert lease.working(copy) is None
    with lease.Lease(copy, "rushes compact"):
        said = TestClient(make_app(copy.uri, tmp_path / "third"), "http://127.0.0.1").get("/now.json").json()
        assert "rushes compact" in said["sentence"] and "stage" not in said["sentence"]
    (Path(copy.uri) / "lease.json").unlink()
    (Path(copy.uri) / "lease.json").mkdir()  # as one that may not be read
    assert lease.working(copy) is None


def test_a_line_whose_word_is_none_holds_nobody_up(judging):
    client, path = judging
    caption = client.get("/check.json?view=newest").json()["item"]["caption_id"]
    path.write_text(json.dumps({"who": "me", "caption_id": caption, "verdict": "good", "time_s": 5.0}) + "\n")
    given = {"caption_id": caption, "verdict": "right", "who": "me", "expects": None}
    assert client.post("/check?view=newest", json=given).status_code == 200
    huge = json.dumps(given)[:-1].replace('"expects": null', f'"expects": 1{"0" * 400}') + "}"
    assert client.post("/check?view=newest", content=huge).status_code == 400
