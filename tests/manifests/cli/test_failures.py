"""What a user can cause ends in one line, with file, cause and next step, never in a traceback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tarfile
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from manifests import cli
from manifests.cli.failures import failure_of
from manifests.layout import Dataset
from manifests.runs.events import run_ids
from tests.e2e.commands import ROOT
from vae.folder import DEFAULT_WEIGHTS


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit code and the one line of a command that fails."""
    code = cli.main(arguments=[str(word) for word in words])
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error ")
    return code, lines[0]


def parts_of(dataset: Dataset, table: str) -> list[Path]:
    return sorted(Path(dataset.uri, "tables", table).rglob("*.parquet"))


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff", '"x"'])
def test_a_damaged_dataset_json(text, copy, capsys):
    Path(copy.uri, "dataset.json").write_bytes(text.encode("latin-1"))
    for verb in ("info", "status", "verify", "ls"):
        code, line = told(capsys, verb, copy.uri)
        assert code == cli.INTEGRITY
        assert "dataset.json" in line


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"columns": [], "where": 1}'])
def test_a_cut_view(text, copy, tmp_path, capsys):
    Path(copy.uri, "views", "default.json").write_text(text)
    code, line = told(capsys, "export", copy.uri, "--out", tmp_path / "tars")
    assert code == cli.INTEGRITY
    assert "default.json" in line
    code, line = told(capsys, "plan-training", "--data", copy.uri)
    assert code == cli.INTEGRITY
    assert "default.json" in line


@pytest.mark.parametrize("table", ["clips", "sources", "shards", "captions", "latents"])
@pytest.mark.parametrize("keep", [0, 7, -20])
def test_a_cut_part_is_named(table, keep, copy, capsys):
    path = parts_of(copy, table)[0]
    path.write_bytes(path.read_bytes()[:keep])
    code, line = told(capsys, "ls", copy.uri, table)
    assert code == cli.INTEGRITY
    assert path.name in line
    assert table in line


def test_a_cut_plan_is_named(copy, capsys):
    path = Path(copy.uri, "plan", "gen-0000.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    code, line = told(capsys, "status", copy.uri)
    assert code == cli.INTEGRITY
    assert "gen-0000.parquet" in line


def test_damaged_events_and_run_records_are_named(copy, capsys):
    run = Path(copy.uri, "runs", run_ids(copy)[-1])
    (run / "events.jsonl").write_text('{"event": \nnot json\n')
    code, line = told(capsys, "status", copy.uri)
    assert code == cli.INTEGRITY
    assert "events.jsonl line 1" in line
    (run / "run.json").write_text("")
    code, line = told(capsys, "retry", copy.uri, "--dry-run")
    assert code == cli.INTEGRITY
    assert "run.json" in line


def test_sql_that_is_none_and_tables_that_are_none(dataset, capsys):
    assert told(capsys, "query", dataset.uri, "selec 1")[0] == cli.USAGE
    code, line = told(capsys, "ls", dataset.uri, "clipz")
    assert code == cli.USAGE
    assert "clips" in line


@pytest.mark.parametrize(
    "query",
    [
        "",
        "-- nothing",
        "select 1; select 2",
        "drop view clips",
        "create table x as select 1",
        "copy clips to 'x'",
    ],
)
def test_a_query_is_one_and_reads(dataset, capsys, tmp_path, monkeypatch, query):
    monkeypatch.chdir(tmp_path)
    code, line = told(capsys, "query", dataset.uri, query)
    assert code == cli.USAGE
    assert "SQL" in line
    assert not list(tmp_path.iterdir())


def test_columns_of_one_name_are_told_apart(dataset, capsys):
    query = "SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a"
    assert cli.main(arguments=["query", dataset.uri, "--json", query]) == cli.DONE
    assert json.loads(capsys.readouterr().out) == [{"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}]


def test_an_answer_that_no_memory_holds_is_refused(dataset, capsys, monkeypatch):
    monkeypatch.setattr("manifests.sql.queries.MOST_BYTES", 1 << 20)
    code, line = told(capsys, "query", dataset.uri, "SELECT * FROM range(100000000000)")
    assert code == cli.USAGE
    assert "rows" in line and "LIMIT" in line


def test_names_that_are_empty_are_refused(dataset, capsys):
    assert told(capsys, "info", "")[0] == cli.USAGE
    assert told(capsys, "show", dataset.uri, "")[0] == cli.USAGE


def test_verify_reads_views_too(copy, capsys):
    path = Path(copy.uri, "views", "default.json")
    path.write_bytes(path.read_bytes()[:-9])
    assert cli.main(arguments=["verify", copy.uri]) == cli.INTEGRITY
    assert "default.json" in capsys.readouterr().out


def test_no_events_are_none(dataset, capsys):
    assert cli.main(arguments=["status", dataset.uri, "--events", "0", "--json"]) == cli.DONE
    assert json.loads(capsys.readouterr().out)["events"] == []


def test_a_port_that_is_taken_and_addresses_that_are_none(dataset, capsys):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        code, line = told(capsys, "dashboard", dataset.uri, "--port", port)
    assert code == cli.FAILED
    assert f"--port {port}" in line
    for words in (["--host", "foo"], ["--port", 99999]):
        assert told(capsys, "dashboard", dataset.uri, *words)[0] == cli.USAGE
    assert (
        told(capsys, "dashboard", dataset.uri, "--host", "192.0.2.1")[0] == cli.FAILED
    )  # not this machine's


def test_places_one_may_not_write_to(dataset, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    code, line = told(capsys, "export", dataset.uri, "--out", tmp_path / "file" / "tars")
    assert code == cli.USAGE
    assert "file" in line
    monkeypatch.setattr("manifests.cli.files.os.access", lambda *_: False)
    code, line = told(capsys, "make-films", tmp_path / "films", "--films", 1, "--stills", 0)
    assert code == cli.USAGE
    assert "may not be written to" in line


def test_outputs_that_exist_are_kept(dataset, tmp_path, capsys):
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "000000.tar").write_bytes(b"mine")
    code, line = told(capsys, "export", dataset.uri, "--out", tmp_path / "tars")
    assert code == cli.USAGE
    assert "--overwrite" in line
    assert (tmp_path / "tars" / "000000.tar").read_bytes() == b"mine"
    (tmp_path / "x.safetensors").write_bytes(b"mine")
    code, line = told(capsys, "encode", tmp_path / "none.mp4", tmp_path / "x.safetensors")
    assert code == cli.USAGE
    assert (tmp_path / "x.safetensors").read_bytes() == b"mine"
    assert cli.main(arguments=["export", dataset.uri, "--out", str(tmp_path / "tars"), "--overwrite"]) == 0


def test_names_are_shown_escaped(tmp_path, capsys):
    name = tmp_path / "a\x1b[2J\nb"
    code, line = told(capsys, "info", name)
    assert code == cli.USAGE
    assert "\\x1b[2J\\nb" in line


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "/x/y"),
        OSError(28, "No space left on device", "/x/y"),
        FileNotFoundError(2, "No such file or directory", "/x/y"),
        OSError(36, "File name too long", "/x/y"),
        IsADirectoryError(21, "Is a directory", "/x/y"),
    ],
)
def test_errors_of_the_operating_system_name_file_cause_and_next_step(error):
    line, code = failure_of(error)
    assert code == cli.FAILED
    assert line.startswith("/x/y: ")
    assert line.endswith(".")
    assert line.count(". ") == 1


def test_a_process_that_died_is_one_line_with_a_next_step():
    line, code = failure_of(BrokenProcessPool("A process in the process pool was terminated abruptly"))
    assert code == cli.FAILED
    assert "died" in line and "--workers" in line


def test_errors_of_ours_keep_their_traceback():
    assert failure_of(KeyError("x")) is None


@pytest.mark.skipif(shutil.which("setpriv") is None or os.getuid() != 0, reason="needs root and setpriv")
def test_a_dataset_in_a_folder_one_may_not_enter(tmp_path):
    """As root everything may be read, so the rights are dropped in a process of its own."""
    import subprocess
    import sys

    from tests.e2e.commands import ROOT, environment

    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(0)
    caps = "-dac_override,-dac_read_search"
    drop = ["setpriv", "--bounding-set", caps, "--inh-caps", caps]
    for words in (["info", "locked/ds"], ["make-films", "locked/films", "--films", "1"]):
        command = [*drop, sys.executable, "-m", "rushes", *words]
        env = environment(PYTHONPATH=str(ROOT))
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode in {cli.FAILED, cli.USAGE}, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert "locked" in done.stderr


@pytest.fixture
def run_folder(tmp_path):
    with tarfile.open(ROOT / "tests" / "compat" / "7c235aa.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\x00\xff"])
def test_a_damaged_model_is_named(text, run_folder, tmp_path, capsys):
    for name in ("model.json", "model.safetensors"):
        path = run_folder / "model" / name
        sound = path.read_bytes()
        path.write_bytes(text.encode("latin-1"))
        code, line = told(capsys, "sample", run_folder, "--frames", 1, "--out", tmp_path / "a.png")
        assert code == cli.INTEGRITY
        assert name in line
        path.write_bytes(sound)
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("text", ["x\n", "[]\n", '{"a": 1}\n'])
def test_damaged_validation_rows_are_named(text, run_folder, capsys):
    (run_folder / "validation.jsonl").write_text(text)
    code, line = told(capsys, "report", run_folder)
    assert code == cli.INTEGRITY
    assert "validation.jsonl line 1" in line


@pytest.mark.parametrize("verb", ["encode", "eval-vae", "latent-stats"])
def test_damaged_weights_of_a_vae_are_named(verb, tmp_path, capsys):
    shutil.copytree(DEFAULT_WEIGHTS, tmp_path / "vae")
    words = {
        "encode": [tmp_path / "none.mp4", tmp_path / "x.safetensors", "--weights", tmp_path / "vae"],
        "eval-vae": [tmp_path / "vae"],
        "latent-stats": [tmp_path / "vae"],
    }[verb]
    (tmp_path / "vae" / "config.json").write_text('{"model": "causal-vae/1"}')
    code, line = told(capsys, verb, *words)
    assert code == cli.INTEGRITY
    assert "config.json" in line
    shutil.copy(DEFAULT_WEIGHTS / "config.json", tmp_path / "vae")
    weights = tmp_path / "vae" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, line = told(capsys, verb, *words)
    assert code == cli.INTEGRITY
    assert "model.safetensors" in line


def test_a_check_of_outputs_makes_nothing(tmp_path, capsys):
    code, _ = told(capsys, "export-model", tmp_path / "nosuch")
    assert code == cli.USAGE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["eval-vae", "--footage", "nosuch"],
        ["train-vae", "out", "--films", 0],
        ["train-vae", "out", "--footage", "nosuch"],
        ["caption", "nosuch"],
        ["decode", "nosuch", "x.mp4"],
        ["plan-training", "--data", "nosuch"],
        ["dashboard", "nosuch"],
        ["sample", "nosuch", "--out", "x.mp4"],
        ["report", "nosuch"],
        ["launch", "--", "info", "x"],
        ["replay", "preview", 0, "--dataset", "nosuch"],
    ],
    ids=lambda words: words[0],
)
def test_what_does_not_exist_is_refused_before_any_work(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told(capsys, *words)[0] == cli.USAGE
    assert list(tmp_path.iterdir()) == []
