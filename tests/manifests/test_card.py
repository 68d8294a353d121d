"""The card says what the tables say."""

from __future__ import annotations

import json
from pathlib import Path

from manifests import cli
from manifests.exporting.dataset_card import dataset_card
from manifests.layout import Dataset
from manifests.tables import scans
from manifests.views import View
from pipeline.config import PlanConfig
from pipeline.footage.sources import list_sources, source_row
from pipeline.plan import make_plan


def test_it_counts_what_the_tables_hold(dataset, tmp_path, capsys):
    text = dataset_card(dataset)
    clips = scans.table(dataset, "clips")
    assert f"It keeps {View.load(dataset).clips(dataset).num_rows:,} clips" in text
    for kind in ("video", "image"):
        count = clips["kind"].to_pylist().count(kind)
        assert f"| {kind} | {count} |" in text
    for column in dataset.columns():
        assert str(column) in text
    assert "not stated" in text and "Cannot be told" not in text
    out = tmp_path / "CARD.md"
    assert cli.main(arguments=["card", dataset.uri, "--out", str(out)]) == cli.DONE
    assert out.read_text() == text
    assert cli.main(arguments=["card", dataset.uri, "--out", str(out)]) == cli.USAGE
    assert "exists" in capsys.readouterr().err


def test_licences_and_origins_come_from_sidecars_and_can_be_asked_for(films, tmp_path):
    film = next(path for path in sorted(films.iterdir()) if path.suffix in {".mp4", ".mkv", ".webm"})
    folder = tmp_path / "footage"
    folder.mkdir()
    for name, said in (
        ("a", {"License": "CC-BY-4.0", "url": "https://example.org/a"}),
        ("b", {}),
        ("c", {"rights": 7, "author": "Jane Doe"}),
    ):
        data = film.read_bytes() + name.encode()
        (folder / f"{name}{film.suffix}").write_bytes(data)
        (folder / f"{name}.json").write_text(json.dumps(said))
    dataset = Dataset.create(str(tmp_path / "ds"))
    rows = make_plan(
        dataset, list_sources([str(folder)]), PlanConfig(), lambda files: [source_row(one) for one in files]
    )
    assert {Path(row["uri"]).stem: row["licence"] for row in rows} == {"a": "CC-BY-4.0", "b": None, "c": "7"}
    text = dataset_card(dataset)
    assert (
        "| CC-BY-4.0 | 1 |" in text
        and "| example.org | 1 |" in text
        and "| Jane Doe | 1 |" in text
        and "not stated" in text
    )


def test_what_a_retry_found_counts_and_not_what_it_was_tried_for(films, tmp_path, capsys):
    film = next(path for path in sorted(films.iterdir()) if path.suffix == ".mp4")
    (tmp_path / "list.txt").write_text(f"{film}\n{tmp_path}/late.mp4\n")
    dataset = Dataset.create(str(tmp_path / "ds"))

    def plan():
        footage = list_sources([str(tmp_path / "list.txt")])
        probe = lambda files: [source_row(one) for one in files]  # noqa: E731
        make_plan(dataset, footage, PlanConfig(), probe, retries_failed=True)

    plan()
    assert "| failed | plan | missing | 1 |" in dataset_card(dataset)
    (tmp_path / "late.mp4").write_bytes(film.read_bytes() + b"late")
    plan()
    assert scans.table(dataset, "sources").num_rows == 3
    text = dataset_card(dataset)
    assert "| kept | video | 2 |" in text and "missing" not in text
    assert cli.main(arguments=["info", dataset.uri, "--json"]) == cli.DONE
    assert json.loads(capsys.readouterr().out)["sources"] == {"kept": 2}


def test_drops_of_versions_that_the_view_does_not_have_are_not_added_up(dataset):
    said = dataset_card(dataset).partition("What became")[2].partition("How it was made")[0]
    dropped = sum(
        scans.table(dataset, "drops", column).num_rows for column in View.load(dataset).columns.values()
    )
    rows = [line.split("|") for line in said.splitlines() if line.startswith("| dropped | ")]
    assert sum(int(row[4]) for row in rows if row[2].strip() != "plan") == dropped


def test_a_card_of_a_view_that_is_not_there_is_refused(dataset, capsys):
    assert cli.main(arguments=["card", dataset.uri, "--view", "nosuch"]) == cli.USAGE
    assert "view nosuch: does not exist" in capsys.readouterr().err
