"""A view's tables as Lance and as Iceberg, opened by their own libraries."""

from __future__ import annotations

import fcntl
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from manifests import cli
from manifests.exporting.lakehouse import NAMESPACE
from manifests.tables import records, scans
from manifests.views import View
from manifests.writing.removing import remove
from tests.conftest import ROOT


@pytest.fixture
def half(copy):
    """A dataset with a view of the videos alone."""
    base = View.load(copy)
    View(columns=base.columns, where="kind = 'video'").save(copy, "videos")
    return copy, View.load(copy, "videos")


def opened(to: str, out: Path) -> dict[str, list[dict]]:
    if to == "lance":
        import lance

        return {path.stem: lance.dataset(str(path)).to_table().to_pylist() for path in out.glob("*.lance")}
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog(NAMESPACE, uri=f"sqlite:///{out / 'catalog.db'}", warehouse=out.as_uri())
    names = [name for _, name in catalog.list_tables(NAMESPACE)]
    return {name: catalog.load_table(f"{NAMESPACE}.{name}").scan().to_arrow().to_pylist() for name in names}


@pytest.mark.parametrize("to", ["lance", "iceberg"])
def test_rows_are_those_of_the_view_and_bytes_are_found(half, tmp_path, capsys, to):
    dataset, view = half
    words = ["export", dataset.uri, "--view", "videos", "--to", to, "--out", str(tmp_path / "out")]
    assert cli.main(arguments=words) == cli.DONE
    found, kept = opened(to, tmp_path / "out"), view.kept(dataset)
    assert {row["clip_id"] for row in found["clips"]} == kept and len(found["clips"]) == len(kept)
    before = {
        row["clip_id"]: row for row in scans.table(dataset, "clips", view.column("preview")).to_pylist()
    }
    for row in found["clips"]:
        assert row == before[row["clip_id"]]
    assert {row["clip_id"] for row in found["captions"]} == kept
    seen = {row["source_id"] for row in found["clips"]}
    assert seen == {row["source_id"] for row in found["sources"]}, "of others nothing is handed on"
    assert len(seen) < scans.table(dataset, "sources").num_rows
    for name in ("segments", "drops", "failures", "duplicates"):
        assert {row["source_id"] for row in found.get(name, ()) if "source_id" in row} <= seen
    latent = next(row for row in found["members"] if row["name"] == "latent.safetensors")
    data = Path(latent["tar"]).read_bytes()[latent["offset"] : latent["offset"] + latent["size_bytes"]]
    tar, members = records.members_of_shard(
        dataset, view.column("latent"), before[latent["clip_id"]]["shard"]
    )
    own = next(one for one in members if one.name == f"{latent['clip_id']}.latent.safetensors")
    assert latent["tar"] == tar and data == Path(tar).read_bytes()[own.offset : own.offset + own.size_bytes]
    assert "clips" in capsys.readouterr().out
    assert cli.main(arguments=words) == cli.USAGE
    assert "exists" in capsys.readouterr().err
    assert cli.main(arguments=[*words, "--overwrite"]) == cli.DONE
    assert {row["clip_id"] for row in opened(to, tmp_path / "out")["clips"]} == kept


@pytest.mark.parametrize("to", ["webdataset", "lance", "iceberg"])
def test_a_view_that_keeps_nothing_is_refused_whatever_it_is_for(half, tmp_path, capsys, to):
    dataset, view = half
    View(columns=view.columns, where="false").save(dataset, "none")
    words = ["export", dataset.uri, "--view", "none", "--to", to, "--out", str(tmp_path / "out")]
    assert cli.main(arguments=words) == cli.USAGE
    assert "view predicate 'false': keeps no clip" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_library_that_is_missing_is_named(half, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lance", None)
    dataset, _ = half
    assert (
        cli.main(arguments=["export", dataset.uri, "--to", "lance", "--out", str(tmp_path / "o")])
        == cli.USAGE
    )
    assert "extra `lance`" in capsys.readouterr().err


@pytest.mark.parametrize(("to", "name"), [("lance", "theirs.lance"), ("iceberg", "rushes")])
def test_what_is_not_ours_is_never_replaced(half, tmp_path, to, name):
    dataset, _ = half
    theirs = tmp_path / "out" / name / "file"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("of somebody else")
    words = ["export", dataset.uri, "--to", to, "--out", str(tmp_path / "out"), "--overwrite"]
    assert cli.main(arguments=words) == (cli.USAGE if to == "iceberg" else cli.DONE)
    assert theirs.read_text() == "of somebody else"


@pytest.mark.parametrize("to", ["lance", "iceberg"])
@pytest.mark.parametrize("fails", ["view", "disk"])
def test_an_export_that_is_not_made_leaves_the_one_before(copy, tmp_path, monkeypatch, to, fails):
    import lance
    from pyiceberg.table import Table

    words = ["export", copy.uri, "--to", to, "--out", str(tmp_path / "out")]
    assert cli.main(arguments=words) == cli.DONE
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    if fails == "view":
        view = Path(copy.path("views", "default.json"))
        view.write_text(json.dumps({**json.loads(view.read_text()), "where": "no_such < 3"}))
    else:

        def full(*values, **options):
            raise OSError("No space left on device (os error 28)")

        monkeypatch.setattr(lance, "write_dataset", full)
        monkeypatch.setattr(Table, "append", full)
    assert cli.main(arguments=[*words, "--overwrite"]) not in (cli.DONE, cli.INTERRUPTED)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("to", ["lance", "iceberg"])
def test_what_a_takedown_has_begun_to_take_is_not_exported(copy, tmp_path, to):
    source = scans.table(copy, "sources").to_pylist()[0]
    note = {"sources": {source["source_id"]: [source["uri"]]}, "reason": "", "read_by": []}
    path = Path(copy.path("removed", "pending.json"))
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(note))
    assert cli.main(arguments=["export", copy.uri, "--to", to, "--out", str(tmp_path / "out")]) == cli.DONE
    found = opened(to, tmp_path / "out")
    assert found["sources"] and found["segments"]
    ids = {row.get("source_id") for rows in found.values() for row in rows}
    assert source["source_id"] not in ids


@pytest.mark.parametrize(
    ("said", "limit", "line"),
    [
        ("(sqlite3.OperationalError) database or disk is full", -1, "no space left on device"),
        ("(sqlite3.OperationalError) disk I/O error", 8192, "file too large"),
        ("(sqlite3.OperationalError) disk I/O error", -1, "input/output error"),
    ],
)
def test_what_sqlite_says_of_a_disk_is_told_in_one_line(
    copy, tmp_path, monkeypatch, capsys, said, limit, line
):
    from pyiceberg.table import Table

    monkeypatch.setattr("manifests.exporting.lakehouse.resource.getrlimit", lambda _: (limit, -1))

    def full(*values, **options):
        raise RuntimeError(said)

    monkeypatch.setattr(Table, "append", full)
    words = ["export", copy.uri, "--to", "iceberg", "--out", str(tmp_path / "out")]
    assert cli.main(arguments=words) == cli.FAILED
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"error {tmp_path / 'out'}: {line}.")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("to", ["lance", "iceberg"])
def test_of_an_export_that_meets_a_full_disk_nothing_is_left(copy, tmp_path, monkeypatch, capsys, to):
    import lance
    from pyiceberg.table import Table

    owner, name = (lance, "write_dataset") if to == "lance" else (Table, "append")
    real, calls = getattr(owner, name), []

    def full(*values, **options):
        calls.append(1)
        if len(calls) == 3:
            raise OSError("lanceError(IO): No space left on device (os error 28), /home/runner/writer.rs:254")
        return real(*values, **options)

    monkeypatch.setattr(owner, name, full)
    words = ["export", copy.uri, "--to", to, "--out", str(tmp_path / "out")]
    assert cli.main(arguments=words) == cli.FAILED
    line = capsys.readouterr().err.strip().splitlines()[-1]
    step = "Free some space and run the same command again."
    assert line == f"error {tmp_path / 'out'}: no space left on device. {step}"
    assert not list((tmp_path / "out").iterdir())
    assert cli.main(arguments=words) == cli.DONE


def test_a_tar_that_meets_a_full_disk_is_named_and_gone(copy, tmp_path, monkeypatch, capsys):
    import errno

    from manifests.store.shards import TarWriter

    real = TarWriter.add

    def full(self, name, data):
        if name.endswith(".json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, name, data)

    monkeypatch.setattr(TarWriter, "add", full)
    words = ["export", copy.uri, "--out", str(tmp_path / "out")]
    assert cli.main(arguments=words) == cli.FAILED
    assert str(tmp_path / "out" / "000000.tar") in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".rushes-export"], "no footage already"


KILLED = """
import os, sys
from manifests.cli import main
from manifests.exporting import lakehouse
lakehouse._members = lambda *_: os._exit(9)
sys.exit(main(arguments=sys.argv[1:]))
"""


@pytest.mark.parametrize("to", ["lance", "iceberg"])
def test_one_that_was_killed_is_begun_anew_by_the_same_command(copy, tmp_path, to):
    words = ["export", copy.uri, "--to", to, "--out", str(tmp_path / "out")]
    command = [sys.executable, "-c", KILLED, *words]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 9
    assert opened(to, tmp_path / "out")
    assert cli.main(arguments=words) == cli.DONE
    whole = opened(to, tmp_path / "out")
    assert whole["members"] and cli.main(arguments=words) == cli.USAGE
    assert (
        subprocess.run([*command, "--overwrite"], cwd=ROOT, capture_output=True, check=False).returncode == 9
    )
    assert cli.main(arguments=words) == cli.USAGE  # the one before is back
    assert opened(to, tmp_path / "out") == whole
    assert {path.name for path in (tmp_path / "out").glob(".*")} == set()


def test_two_do_not_export_to_one_folder(copy, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "clips.lance").mkdir()
    folder = os.open(out, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert cli.main(arguments=["export", copy.uri, "--to", "lance", "--out", str(out)]) == cli.USAGE
    os.close(folder)
    assert "is being exported to by another" in capsys.readouterr().err
    assert (out / "clips.lance").is_dir()


def test_a_killed_one_of_the_other_kind_takes_nothing_of_the_users(copy, tmp_path):
    out = tmp_path / "out"
    words = ["export", copy.uri, "--out", str(out), "--to"]
    command = [sys.executable, "-c", KILLED, *words, "lance"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 9
    (out / "rushes").mkdir()
    (out / "rushes" / "film.mov").write_bytes(b"mine")
    assert cli.main(arguments=[*words, "iceberg"]) == cli.USAGE
    assert [path.name for path in out.iterdir()] == ["rushes"]
    assert (out / "rushes" / "film.mov").read_bytes() == b"mine"
    (out / ".rushes-unfinished").write_text("mine too")
    assert cli.main(arguments=[*words, "lance"]) == cli.USAGE
    assert (out / ".rushes-unfinished").read_text() == "mine too"


STOPPED_AT = """
import os, sys
from manifests.exporting import lakehouse
left = int(sys.argv.pop(1))
def counted(real):
    def step(*given, **more):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return real(*given, **more)
    return step
lakehouse.os.replace, lakehouse._gone = counted(os.replace), counted(lakehouse._gone)
lakehouse._note, lakehouse._written = counted(lakehouse._note), counted(lakehouse._written)
from manifests.cli import main
sys.exit(main(arguments=sys.argv[1:]))
"""


def test_killed_at_any_step_an_export_is_the_one_before_or_the_new_one(copy, tmp_path):
    """Also where what goes on from a killed one is killed itself."""
    out = tmp_path / "out"
    words = ["export", copy.uri, "--to", "lance", "--out", str(out)]
    assert cli.main(arguments=words) == cli.DONE
    whole, chance = opened("lance", out), random.Random(3)
    for step in (*range(0, 34, 3), *(chance.randrange(34) for _ in range(4))):
        command = [sys.executable, "-c", STOPPED_AT, str(step), *words, "--overwrite"]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert cli.main(arguments=words) == cli.USAGE
    assert opened("lance", out) == whole
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("name", ["my tables", "ä 'b' +c"])
def test_iceberg_lies_in_the_folder_that_was_named(half, tmp_path, name):
    dataset, view = half
    out = tmp_path / "of" / name
    words = ["export", dataset.uri, "--view", "videos", "--to", "iceberg", "--out", str(out)]
    assert cli.main(arguments=words) == cli.DONE
    assert [path.name for path in (tmp_path / "of").iterdir()] == [name]
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog(NAMESPACE, uri=f"sqlite:///{out / 'catalog.db'}")
    rows = catalog.load_table(f"{NAMESPACE}.clips").scan().to_arrow().to_pylist()
    assert {row["clip_id"] for row in rows} == view.kept(dataset)
    assert cli.main(arguments=[*words, "--overwrite"]) == cli.DONE


@pytest.mark.parametrize("name", ["what?", "a#b", "a%20b"])
def test_iceberg_in_a_folder_that_its_addresses_cannot_name_is_refused(half, tmp_path, capsys, name):
    dataset, _ = half
    (tmp_path / name).mkdir()
    words = ["export", dataset.uri, "--to", "iceberg", "--out", str(tmp_path / name)]
    assert cli.main(arguments=words) == cli.USAGE
    assert "Name another folder" in capsys.readouterr().err and not list((tmp_path / name).iterdir())


@pytest.mark.parametrize("to", ["lance", "iceberg", "webdataset"])
@pytest.mark.parametrize("place", ["ds/tables/own", "link/own", "ds"])
def test_nothing_is_exported_into_a_dataset(copy, tmp_path, capsys, to, place):
    """A takedown would not reach it."""
    (tmp_path / "link").symlink_to(Path(copy.uri) / "views")
    before = sorted(path for path in Path(copy.uri).rglob("*"))
    words = ["export", copy.uri, "--to", to, "--out", str(tmp_path / place)]
    assert cli.main(arguments=words) == cli.USAGE
    assert "lies in the dataset" in capsys.readouterr().err
    assert sorted(path for path in Path(copy.uri).rglob("*")) == before


def test_a_file_of_that_name_makes_no_dataset_of_a_folder(copy, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dataset.json").write_text("{}")
    words = ["export", copy.uri, "--to", "lance", "--out", str(tmp_path / "mine" / "out")]
    assert cli.main(arguments=words) == cli.DONE


def test_a_name_that_leads_out_of_a_dataset_again_is_none_in_it(copy, tmp_path):
    out = Path(copy.uri) / ".." / "beside"
    assert cli.main(arguments=["export", copy.uri, "--to", "lance", "--out", str(out)]) == cli.DONE
    assert (tmp_path / "beside" / "clips.lance").is_dir()


@pytest.mark.parametrize("verb", [["export"], ["export", "--to", "lance"], ["card"]])
def test_an_address_is_no_folder(copy, tmp_path, monkeypatch, capsys, verb):
    monkeypatch.chdir(tmp_path)
    for address in ("s3://bucket/tars", "gs://b/x", "file:///tmp/x"):
        words = [verb[0], copy.uri, *verb[1:], "--out", address]
        assert cli.main(arguments=words) == cli.USAGE
        assert "is an address" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ds"]


@pytest.mark.parametrize("to", ["webdataset", "lance", "iceberg"])
def test_a_takedown_while_it_is_exported_is_told_and_the_next_export_has_nothing_of_it(
    copy, tmp_path, capsys, monkeypatch, to
):
    """It had ended, and the export held the clips all the same."""
    row = scans.table(copy, "segments", None, ["source_id", "uri"]).slice(0, 1).to_pylist()[0]
    module = "webdataset" if to == "webdataset" else "lakehouse"
    name = "_places" if to == "webdataset" else "_members"
    real, taken = getattr(sys.modules[f"manifests.exporting.{module}"], name), []

    def slow(*given):
        found = real(*given)
        if not taken:
            taken.append(remove(copy, {row["source_id"]: row["uri"]}, "asked for"))
        return found

    words = ["export", copy.uri, "--to", to, "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(f"manifests.exporting.{module}.{name}", slow)
        assert cli.main(arguments=words) == cli.USAGE
    said = capsys.readouterr().err
    assert "taken down while it was exported" in said or "by a takedown" in said
    assert cli.main(arguments=words) == cli.DONE
    held = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert row["source_id"].encode() not in held and held
