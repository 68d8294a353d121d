"""What is said of a source holds for its clips wherever they are read: also where it is said of a copy, by a
later command; an edited view stays as it was edited; a query may ask one version."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pyarrow as pa

from manifests import cli
from manifests.exporting.webdataset import _said_of_sources
from manifests.layout import Column, Dataset
from manifests.sql import queries
from manifests.tables import scans
from manifests.verdicts import unread
from manifests.views import View
from manifests.writing.commit import Account, ShardCommit
from pipeline.config import PlanConfig
from pipeline.engine.run import save_view
from pipeline.footage.listing import list_sources
from pipeline.footage.sources import source_row
from pipeline.plan import make_plan


def test_a_copy_fills_in_and_never_replaces_what_is_said_of_the_one_that_is_kept(films, tmp_path):
    film = next(path for path in sorted(films.iterdir()) if path.suffix == ".mp4")
    dataset = Dataset.create(str(tmp_path / "ds"))
    for name, said in (
        ("one", {"licence": "CC0"}),
        ("two", {"licence": "Proprietary", "url": "https://other.example/x"}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.mp4").write_bytes(film.read_bytes())
        (folder / "a.json").write_text(json.dumps(said))
        files = list_sources([str(folder)])
        make_plan(dataset, files, PlanConfig(), lambda files: [source_row(one) for one in files])
    sources = scans.table(dataset, "sources").to_pylist()
    assert [row["reason"] for row in sources] == ["", "exact_duplicate"]
    (own,) = _said_of_sources(dataset).values()
    assert own == {"licence": "CC0", "origin": "https://other.example/x"}
    clips = pa.table({"source_id": [sources[0]["source_id"]]})
    asked = queries.with_licences("SELECT * FROM clips", "sources")
    found = queries.sql(dataset, asked, instead={"clips": clips}).to_pylist()
    assert [(row["licence"], row["origin"]) for row in found] == [("CC0", "https://other.example/x")]


def test_an_edited_view_is_not_made_as_it_was(copy):
    view = View.load(copy)
    dedup = Column("dedup", "0123456789")
    stages = [SimpleNamespace(name="preview", column=view.column("preview"))]
    for where in ("black_share < 0.9", "duration_s > 2"):
        View(columns=view.columns | {"dedup": dedup}, where=where).save(copy)
        assert save_view(copy, stages, "default", dedup).where == where
    without = {name: column for name, column in view.columns.items() if name != "dedup"}
    View(columns=without, where="black_share < 0.9").save(copy)  # of before there was a search for copies
    assert "is_kept" in save_view(copy, stages, "default", dedup).where


def test_a_query_may_ask_a_views_own_versions(copy, capsys):
    other = Column("caption", "anothervoice")
    rows = scans.table(copy, "captions").to_pylist()
    with ShardCommit(copy, other, 0, 0) as commit:
        commit.commit({"captions": rows}, Account(len(rows), len(rows), 0, 0))
    asked = "select count(*) n from captions"

    def count(*words):
        assert cli.main(arguments=["query", copy.uri, asked, "--json", *words]) == cli.DONE
        said = capsys.readouterr()
        return json.loads(said.out)[0]["n"], said.err

    whole, said = count()
    assert whole == 2 * len(rows) and "2 of caption" in said
    one, said = count("--view", "default")
    assert one == len(rows) and "versions" not in said


def test_lines_of_a_file_of_verdicts_end_where_json_lines_do():
    text = json.dumps({"who": "ann\u2028lee", "caption_id": "1", "verdict": "wrong"}, ensure_ascii=False)
    assert unread(f"{text}\nnone\n".split("\n")) == [2]
