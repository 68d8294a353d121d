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
        ("c", {"rights": 7}),
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
    assert "| CC-BY-4.0 | 1 |" in text and "| example.org | 1 |" in text and "not stated" in text
