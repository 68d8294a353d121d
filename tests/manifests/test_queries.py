import dataclasses
import json

import duckdb
import pytest
import webdataset

from manifests import cli
from manifests.cli.frame import main
from manifests.errors import IntegrityError, RushesError, UsageError
from manifests.exporting.webdataset import export_webdataset
from manifests.layout import Column, Dataset
from manifests.schemas import TABLES, to_table
from manifests.sql import queries
from manifests.tables import scans
from manifests.verbs import rows as row_verbs
from manifests.views import View


def test_every_clip_has_all_four_columns(dataset):
    view = View.load(dataset)
    clips = set(scans.table(dataset, "clips", view.column("preview"))["clip_id"].to_pylist())
    assert len(clips) >= 12
    for name in ("preview", "text", "latent"):
        keys = {
            member.key
            for _, members in scans.members(dataset, view.column(name)).values()
            for member in members
        }
        assert keys == clips, name


def test_manifests_read_with_plain_duckdb(dataset):
    [(plain,)] = duckdb.sql(f"select count(*) from '{dataset.uri}/tables/clips/*/*.parquet'").fetchall()
    assert plain == scans.table(dataset, "clips").num_rows


def test_sql_cannot_reach_other_files(dataset):
    with pytest.raises(RushesError, match=r"disabled|not allowed|permission|external"):
        queries.sql(dataset, "select * from read_csv('/etc/passwd')")


def test_a_view_is_a_predicate_and_recomputes_nothing(dataset):
    every = View.load(dataset)
    few = View(columns=every.columns, where="kind = 'image'")
    images = few.clips(dataset)
    assert 0 < images.num_rows < every.clips(dataset).num_rows
    assert set(images["kind"].to_pylist()) == {"image"}
    assert few.digest != every.digest


def test_a_missing_view_names_the_ones_there_are(dataset):
    with pytest.raises(UsageError, match="default"):
        View.load(dataset, "nosuch")


@pytest.mark.parametrize("name", ["../x", ".hidden", "a/b"])
def test_view_names_cannot_leave_the_dataset(dataset, name):
    with pytest.raises(UsageError):
        dataset.view_path(name)


def test_column_names_cannot_leave_the_dataset():
    with pytest.raises(UsageError):
        Column("../x", "abc")
    with pytest.raises(UsageError):
        Column.parse("preview@../../etc")


def test_export_joins_columns_for_plain_webdataset(dataset, tmp_path):
    tars, num_lacking = export_webdataset(dataset, View.load(dataset), tmp_path / "out")
    assert num_lacking == 0
    samples = [sample for tar in tars for sample in webdataset.WebDataset(str(tar), shardshuffle=False)]
    assert len(samples) == View.load(dataset).clips(dataset).num_rows
    for sample in samples:
        assert {"poster.jpg", "latent.safetensors", "text.safetensors", "txt", "json"} <= set(sample)
        assert json.loads(sample["json"])["captions"]
        assert sample["txt"]
    before = [tar.read_bytes() for tar in tars]
    assert [
        tar.read_bytes() for tar in export_webdataset(dataset, View.load(dataset), tmp_path / "out")[0]
    ] == before


def test_rows_with_unknown_fields_are_refused():
    with pytest.raises(ValueError, match="colour"):
        to_table("clips", [{"clip_id": "a", "colour": 1}])


def test_another_major_format_is_refused(tmp_path):
    (tmp_path / "dataset.json").write_text('{"format": "9.0"}')
    with pytest.raises(IntegrityError, match=r"9\.0"):
        Dataset(str(tmp_path))


def test_every_table_has_a_versioned_schema():
    for name in TABLES:
        assert to_table(name, []).schema.metadata[b"rushes.format"]


def test_a_dataset_cannot_be_made_where_a_file_is(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        Dataset.create(str(tmp_path / "file"))


def test_versions_of_a_column_are_not_added_up(dataset):
    found = scans.by_column(dataset, "clips")
    [preview] = [column for column in dataset.columns() if column.name == "preview"]
    assert {name: rows.num_rows for name, rows in found.items()} == {
        str(preview): scans.table(dataset, "clips", preview).num_rows
    }
    assert set(scans.by_column(dataset, "sources")) == {"plan"}


def test_an_export_over_an_earlier_one_leaves_no_clip_that_the_view_lost(dataset, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(arguments=["export", dataset.uri, "--out", str(out)]) == 0
    (out / "000099.tar").write_bytes(b"of a shard that is no longer there")
    (out / "holiday.tar").write_bytes(b"somebody else's")
    assert main(arguments=["export", dataset.uri, "--out", str(out)]) == 2
    assert main(arguments=["export", dataset.uri, "--out", str(out), "--overwrite"]) == 0
    told = capsys.readouterr().err
    assert "000099.tar: removed" in told and "holiday.tar: is not of this export" in told
    assert not (out / "000099.tar").exists() and (out / "holiday.tar").exists()


def test_an_answer_too_large_to_print_is_refused(dataset, capsys, monkeypatch):
    monkeypatch.setattr(row_verbs, "MOST_VALUES", 10)
    assert main(arguments=["query", dataset.uri, "SELECT * FROM range(11)"]) == cli.USAGE
    assert "11 rows, more than are printed" in capsys.readouterr().err
    assert main(arguments=["query", dataset.uri, "SELECT '\udcff'"]) == cli.USAGE
    assert "is no UTF-8" in capsys.readouterr().err


def test_an_export_of_nothing_is_refused(dataset, tmp_path):
    view = dataclasses.replace(View.load(dataset), where="false")
    with pytest.raises(UsageError, match="keeps no clip"):
        export_webdataset(dataset, view, tmp_path / "out")
