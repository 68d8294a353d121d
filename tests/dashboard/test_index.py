"""The index: it says what the tables say, follows what is committed, and leaves the dataset be."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from dashboard.index import tables
from dashboard.index.build import build
from dashboard.index.index import Index
from manifests.tables import records, scans
from manifests.views import View


def _opened(dataset, folder: Path) -> Index:
    index = Index(dataset, folder)
    index._every_s = 0.0
    return index


def _digest(folder: str) -> str:
    found = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        found.update(str(path).encode())
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


@pytest.mark.parametrize("is_built", [False, True])
def test_it_has_the_rows_of_the_tables_in_memory_or_in_its_file(dataset, tmp_path, is_built):
    before = _digest(dataset.uri)
    if is_built:
        build(dataset, tmp_path / "index.duckdb")
    index = _opened(dataset, tmp_path)
    for name in ("clips", "captions", "latents", "duplicates", "drops", "failures", "sources", "shards"):
        assert index.value(f"SELECT count(*) FROM {name}") == scans.table(dataset, name).num_rows, name
    members = sum(len(row["members"]) for row in scans.table(dataset, "shards").to_pylist())
    assert index.value("SELECT count(*) FROM members") == members
    assert index.value("SELECT count(*) FROM unreadable") == 0
    assert bool(index._delta) is not is_built
    index.close()
    assert _digest(dataset.uri) == before


@pytest.mark.parametrize("is_built", [False, True])
def test_a_commit_that_is_taken_back_and_made_again_is_followed(copy, tmp_path, is_built):
    folder = tmp_path / "index"
    folder.mkdir()
    if is_built:
        build(copy, folder / "index.duckdb")
    index = _opened(copy, folder)
    count = "SELECT count(*) FROM captions"
    everything = index.value(count)
    column = next(column for column in copy.columns() if column.name == "caption")
    record = Path(copy.record_path(column, 0))
    data = record.read_bytes()
    record.unlink()
    fewer = index.value(count)
    assert 0 < fewer < everything
    assert index.value("SELECT count(*) FROM shards WHERE version = ? AND shard = 0", [str(column)]) == 0
    record.write_bytes(data)
    assert index.value(count) == everything
    index.close()


def test_a_damaged_part_is_named_and_the_rest_is_there(copy, tmp_path):
    column = next(column for column in copy.columns() if column.name == "caption")
    path = Path(records.part_of(copy, records.record_of(copy, column, 0), "captions"))
    path.write_bytes(b"no parquet")
    index = _opened(copy, tmp_path / "index")
    assert path.name in index.value("SELECT problem FROM unreadable")
    assert index.value("SELECT count(*) FROM captions WHERE shard <> 0") > 0
    index.close()


def test_many_commits_are_built_into_a_file_by_a_child(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("dashboard.index.index.FEW_COMMITS", 1)
    index = _opened(dataset, tmp_path)
    assert index.wait(60)
    assert index.path.exists()
    assert index.value("SELECT count(*) FROM clips") == scans.table(dataset, "clips").num_rows
    assert set(tables.NAMES) <= {row["name"] for row in index.rows("SHOW TABLES")}
    index.close()


def test_queries_reach_no_file_and_no_setting(dataset, tmp_path):
    index = _opened(dataset, tmp_path)
    for query in ("SELECT * FROM read_text('/etc/passwd')", "SET enable_external_access = true"):
        with pytest.raises(Exception, match=r"disabled|locked"):
            index.rows(query)
    index.close()


@pytest.mark.parametrize("spoil", ["bytes", "older"])
def test_a_file_that_does_not_fit_is_thrown_away(dataset, tmp_path, spoil):
    path = tmp_path / "index.duckdb"
    if spoil == "bytes":
        path.write_bytes(b"no database" * 1000)
    else:
        build(dataset, path)
        with duckdb.connect(str(path)) as connection:
            connection.execute("ALTER TABLE clips DROP COLUMN seconds")
    index = _opened(dataset, tmp_path)
    assert not path.exists()
    assert index.value("SELECT count(seconds) FROM clips") == scans.table(dataset, "clips").num_rows
    index.close()


def test_a_part_that_is_missing_is_named(copy, tmp_path):
    column = next(column for column in copy.columns() if column.name == "caption")
    path = Path(records.part_of(copy, records.record_of(copy, column, 0), "captions"))
    path.unlink()
    index = _opened(copy, tmp_path / "index")
    assert path.name in index.value("SELECT problem FROM unreadable")
    index.close()


def test_a_builder_that_fails_is_told_and_not_started_again_at_once(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dashboard.index.index.FEW_COMMITS", 1)
    index = _opened(dataset, tmp_path)
    index.refresh()
    index._builder._child.kill()
    index._builder._child.wait()
    index.refresh()
    index.refresh()
    assert not index._builder.is_at_work
    assert capsys.readouterr().err.count("could not be built") == 1
    index.close()


def test_a_folder_that_is_deleted_meanwhile_is_made_again_and_nothing_is_taken_for_empty(
    dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr("dashboard.index.index.FEW_COMMITS", 1)
    folder = tmp_path / "index"
    index = _opened(dataset, folder)
    index.refresh()
    os.kill(index._builder._child.pid, signal.SIGSTOP)
    shutil.rmtree(folder)
    os.kill(index._builder._child.pid, signal.SIGCONT)
    assert index._builder._child.wait(60) == 1
    index._looked_at_s = -1e9
    index.refresh()
    assert index.progress is not None and "could not be built" in index.trouble
    index._builder._not_before_s = 0.0
    assert index.wait(60)
    assert index.progress is None and not index.trouble
    assert index.value("SELECT count(*) FROM clips") == scans.table(dataset, "clips").num_rows
    index.close()


def test_what_dead_processes_left_is_removed_and_what_lives_stays(dataset, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    gone = [tmp_path / f"whole{child.pid}.duckdb", tmp_path / f"whole{child.pid}.duckdb.wal"]
    stay = [tmp_path / f"whole{os.getpid()}.duckdb", tmp_path / "notes.txt"]
    for path in (*gone, *stay):
        path.write_bytes(b"x")
    (tmp_path / f"spill-{child.pid}").mkdir()
    Index(dataset, tmp_path).close()
    assert not any(path.exists() for path in gone) and not (tmp_path / f"spill-{child.pid}").exists()
    assert all(path.exists() for path in stay)


def test_codings_of_before_are_dropped(copy, tmp_path):
    index = Index(copy, tmp_path / "index")
    index.wait(10)
    for _ in range(12):
        index.changes += 3
        index.coded("clips", str(View.load(copy).column("preview")))
    names = [row[0] for row in index.tuples("SELECT table_name FROM duckdb_tables()")]
    assert sum(name.startswith("coded_") for name in names) <= 4
    index.close()
