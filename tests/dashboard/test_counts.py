"""Counts are those of a plain reading, wherever rows are: in the index's file, come since, or taken back."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from dashboard.asking.filters import Filters
from dashboard.asking.scope import Scopes
from dashboard.index import build as building
from dashboard.index import profiles
from dashboard.index.commits import committed
from dashboard.index.index import Index
from dashboard.site import Site
from manifests.layout import Dataset
from manifests.tables import records, scans
from manifests.views import View
from manifests.writing.commit import Account, ShardCommit

ASKED = [
    [],
    [("motion", "0.01..")],
    [("motion", "0.01.."), ("kind", "video")],
    [("caption_kind", "dense")],
    [("q", "ball")],
    [("words", "8.."), ("status", "accepted")],
]


@pytest.fixture
def copy(eventful, tmp_path) -> Dataset:
    folder = tmp_path / "ds"
    shutil.copytree(eventful.uri, folder)
    return Dataset(str(folder))


def opened(dataset: Dataset, folder: Path, left: str, monkeypatch) -> Index:
    """An index with a file that was built before some commits.

    Args:
        left: begins the versions of which each odd shard came later; empty: none; `all`: there is no file.
    """
    folder.mkdir()
    if left != "all":
        later = {
            one for one in committed(dataset) if left and one.version.startswith(left) and one.number % 2
        }
        assert bool(later) == bool(left)
        monkeypatch.setattr(building, "committed", lambda dataset: committed(dataset) - later)
        building.build(dataset, folder / "index.duckdb")
    index = Index(dataset, folder)
    assert index.wait(30)
    return index


def counts(index: Index, given: list[tuple[str, str]]) -> tuple[int, dict, dict]:
    """All counts: of clips, by word of each facet, in each histogram."""
    site, scope = Site(index.dataset, index), Scopes(index).named("default")
    with site.kept.counting(scope, Filters.parse(given)) as counting:
        number, words, drawn = counting.counted(["seconds", "words", "tokens", "psnr"])
    of_words = {name: {word: count for word, count in found if count} for name, found in words.items()}
    return number, of_words, {one.field.name: (one.whole, one.chosen) for one in drawn}


def summed(told: tuple[int, dict, dict]) -> tuple[int, dict, dict]:
    """The same without which bin a clip is in."""
    return *told[:2], {name: (sum(whole), sum(chosen)) for name, (whole, chosen) in told[2].items()}


@pytest.mark.parametrize("left", ["", "caption", "latent", "preview"])
def test_a_file_counts_as_memory_does(copy, tmp_path, monkeypatch, left):
    inside = opened(copy, tmp_path / "inside", "all", monkeypatch)
    index = opened(copy, tmp_path / "index", left, monkeypatch)
    for given in ASKED:
        expected, found = counts(inside, given), counts(index, given)
        if left:  # bins lie as those of the file do
            expected, found = summed(expected), summed(found)
        assert found == expected, given
    assert bool(index._delta) == bool(left)
    index.close()
    inside.close()


@pytest.mark.parametrize("left", ["all", "", "caption"])
def test_captions_are_counted_with_their_clips(copy, tmp_path, monkeypatch, left):
    view = View.load(copy)
    meant = {row["clip_id"] for row in view.clips(copy).to_pylist() if row["motion"] >= 0.01}
    said = [
        row
        for row in scans.table(copy, "captions", view.column("caption")).to_pylist()
        if row["clip_id"] in meant
    ]
    index = opened(copy, tmp_path / "index", left, monkeypatch)
    number, words, drawn = counts(index, [("motion", "0.01..")])
    assert number == len(meant)
    assert words["caption_kind"] == Counter(row["kind"] for row in said)
    assert words["status"] == Counter(row["status"] for row in said)
    assert words["reasons"] == Counter(reason for row in said for reason in row["reasons"] or ())
    assert sum(drawn["words"][1]) == len(said)
    index.close()


def test_what_was_taken_back_is_counted_no_more(copy, tmp_path, monkeypatch):
    index = opened(copy, tmp_path / "index", "", monkeypatch)
    before = counts(index, [])
    Path(copy.record_path(View.load(copy).column("caption"), 0)).unlink()
    assert index.wait(10)
    after = counts(index, [])
    inside = opened(copy, tmp_path / "inside", "all", monkeypatch)
    assert summed(after) == summed(counts(inside, [])) != summed(before)
    index.close()
    inside.close()


@pytest.mark.parametrize("most", [0, 1])
def test_fields_of_too_many_profiles_are_joined(copy, tmp_path, monkeypatch, most):
    """And clips may come without captions, captions without clips, and several of one kind."""
    monkeypatch.setattr(profiles, "MOST", most)
    view = View.load(copy)
    rows = records.rows_of_shard(copy, "captions", view.column("caption"), 0)
    stray = {**rows[0], "clip_id": "nowhere-0-0", "caption_id": "stray"}
    twice = {**rows[0], "caption_id": "twice"}
    record = Path(copy.record_path(view.column("caption"), 0))
    record.unlink()
    with ShardCommit(copy, view.column("caption"), 0, 0) as commit:
        commit.commit({"captions": [*rows[1:], stray, twice]}, Account(len(rows), len(rows), 0, 0))
    inside = opened(copy, tmp_path / "inside", "all", monkeypatch)
    index = opened(copy, tmp_path / "index", "", monkeypatch)
    for given in ASKED:
        assert counts(index, given) == counts(inside, given)
    index.close()
    inside.close()
