"""Verdicts of people become a column that a view asks for, and go with what they are of."""

from __future__ import annotations

import json

import pytest

from manifests import cli
from manifests.tables import scans
from manifests.verdicts import unread
from manifests.verify import verify
from manifests.views import View
from manifests.writing.removing import remove


@pytest.fixture
def judged(copy, tmp_path):
    """The dataset, a file of verdicts, and the clip that is wrong."""
    rows = [row for row in scans.table(copy, "captions").to_pylist() if row["kind"] == "dense"]
    captions = list({row["clip_id"]: row for row in rows}.values())
    said = [
        {"who": "ann", "caption_id": captions[0]["caption_id"], "verdict": "right"},
        {"who": "ann", "caption_id": captions[0]["caption_id"], "verdict": "wrong", "tags": ["camera"]},
        {"who": "ben", "caption_id": captions[1]["caption_id"], "verdict": "right"},
        {"who": "ben", "caption_id": captions[2]["caption_id"], "verdict": "wrong"},
        {"who": "ben", "caption_id": captions[2]["caption_id"], "verdict": "undone"},
        {"who": "ben", "caption_id": "of-elsewhere", "verdict": "wrong"},
    ]
    path = tmp_path / "verdicts.jsonl"
    odd = [{"who": "x", "caption_id": value, "verdict": "wrong"} for value in (5, None, ["a"], "\ud800")]
    odd += [{"who": "x", "caption_id": captions[3]["caption_id"], "verdict": "wrong", "tags": 5}, [], 3, {}]
    odd += [{"who": None, "caption_id": captions[3]["caption_id"], "verdict": "wrong"}]
    lines = [json.dumps(row) + "\n" for row in said + odd]
    path.write_text("".join(lines) + '{"who": "ann", "capt')
    return copy, path, captions[0]["clip_id"]


def test_a_view_asks_for_them(judged, capsys):
    dataset, path, wrong = judged
    before = View.load(dataset).kept(dataset)
    assert cli.main(arguments=["verdicts", dataset.uri, str(path)]) == cli.DONE
    out = capsys.readouterr()
    assert "2 verdicts, view default has them" in out.out and "2 are of captions that are not here" in out.err
    rows = scans.table(dataset, "verdicts").to_pylist()
    assert [(row["who"], row["verdict"]) for row in rows if row["clip_id"] == wrong] == [("ann", "wrong")]
    view = View.load(dataset)
    where = "clip_id NOT IN (SELECT clip_id FROM verdicts WHERE verdict = 'wrong')"
    View(columns=view.columns, where=where).save(dataset, "right")
    assert View.load(dataset, "right").kept(dataset) == before - {wrong}
    assert verify(dataset, deep=True).problems == []
    assert cli.main(arguments=["verdicts", dataset.uri, str(path)]) == cli.DONE  # the same again
    assert scans.table(dataset, "verdicts").num_rows == 2


def test_they_go_with_what_they_are_of(judged):
    dataset, path, wrong = judged
    assert cli.main(arguments=["verdicts", dataset.uri, str(path)]) == cli.DONE
    source_id = wrong.rpartition("-")[0]
    remove(dataset, {source_id: ""})
    assert wrong not in {row["clip_id"] for row in scans.table(dataset, "verdicts").to_pylist()}
    assert verify(dataset, deep=True).problems == []


def test_what_is_no_file_of_verdicts_is_refused(copy, tmp_path, capsys):
    assert cli.main(arguments=["verdicts", copy.uri, str(tmp_path / "none.jsonl")]) == cli.USAGE
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n[]\n3\n')
    assert cli.main(arguments=["verdicts", copy.uri, str(tmp_path / "other.jsonl")]) == cli.USAGE
    assert "has no verdict on a caption" in capsys.readouterr().err


def test_lines_that_hold_none_are_told(judged, capsys):
    dataset, path, _ = judged
    lines = path.read_text().splitlines()
    assert cli.main(arguments=["verdicts", dataset.uri, str(path)]) == cli.DONE
    said = capsys.readouterr().err
    assert (
        f"{len(lines) - 7} lines of {path} hold none (line 7, 8, " in said
    )  # the six, and one with odd signs
    assert "right, minor, wrong, unsure" in said


def test_choices_between_versions_lie_in_the_same_file_and_are_no_bad_lines():
    choice = {"who": "ann", "clip_id": "c", "versions": ["a", "b"], "choice": "left", "better": "a"}
    odd = json.dumps({**choice, "choice": 3})
    assert unread([json.dumps(choice), odd, "{}", "[]", "", "nonsense"]) == [2, 3, 4, 6]
