"""Columns of before what they read was made again: found by their accounts, made by whatever runs next."""

import contextlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from manifests import cli
from manifests.errors import UsageError
from manifests.layout import Column, Dataset
from manifests.runs.events import Aim, run_ids
from manifests.schemas import to_table
from manifests.tables import records, scans
from manifests.verify import verify
from manifests.views import View
from manifests.writing.commit import parquet_bytes
from pipeline.engine.again import retry
from pipeline.engine.again.aims import aim_of, stages_of_run
from pipeline.engine.again.retry import Retry
from pipeline.engine.outdated import outdated, shards_to_retry, take_back
from tests.e2e.commands import run


@pytest.fixture
def copy(dataset, tmp_path) -> Dataset:
    shutil.copytree(dataset.uri, tmp_path / "copy")
    return Dataset(str(tmp_path / "copy"))


def less(dataset: Dataset, column: Column, shard: int) -> None:
    """A commit as it was when what it reads held one clip less."""
    record = records.record_of(dataset, column, shard)
    record |= {"num_in": record["num_in"] - 1, "num_kept": record["num_kept"] - 1}
    Path(dataset.record_path(column, shard)).write_bytes(parquet_bytes(to_table("shards", [record])))


def test_what_was_made_of_less_is_found_with_what_reads_it(copy):
    stages, _ = stages_of_run(copy)
    assert outdated(copy, stages) == {} == shards_to_retry(copy, stages)
    view = View.load(copy)
    shard = copy.committed_shards(view.columns["caption"])[0]
    less(copy, view.columns["caption"], shard)
    copy.refresh()
    assert outdated(copy, stages) == {shard: ["caption", "text"]} == shards_to_retry(copy, stages)
    assert outdated(copy, [stage for stage in stages if stage.name == "latent"]) == {}
    take_back(copy, stages, outdated(copy, stages))
    assert shard not in copy.committed_shards(view.columns["caption"])
    assert outdated(copy, stages) == {}


def of_parts(dataset: Dataset, *parts: tuple[str, ...]) -> dict[str, Column]:
    """Runs of single stages with the settings of the dataset's own, one after the other."""
    columns = View.load(dataset).columns
    record = json.loads(Path(dataset.path("runs", run_ids(dataset)[0], "run.json")).read_text())
    shutil.rmtree(dataset.path("runs"))
    Path(dataset.path("views", "default.json")).unlink()
    for number, names in enumerate(parts):
        aim = Aim(columns={name: columns[name] for name in names})
        folder = Path(dataset.path("runs", f"20260101-00000{number}-000000"))
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(record | {"aim": aim.to_dict()}))
    return columns


def test_retry_of_single_stages_means_all_that_were_run_so(copy):
    columns = of_parts(copy, ("preview",), ("caption", "text"), ("preview",), ("text",))
    assert aim_of(copy) == Aim(columns={name: columns[name] for name in ("text", "preview", "caption")})


def test_a_view_that_is_none_is_refused_before_any_work(copy, capsys):
    before = sorted(path for path in Path(copy.uri).rglob("*"))
    for options in ({}, {"dry_run": True}):
        with pytest.raises(UsageError, match=r"--view typoo: is no view of this dataset\. There are: def"):
            Retry(dataset=copy.uri, view="typoo", **options).run()
    assert sorted(path for path in Path(copy.uri).rglob("*")) == before
    of_parts(copy, ("preview",))
    with pytest.raises(UsageError, match="There are: none; `rushes ingest` makes one"):
        Retry(dataset=copy.uri, view="default").run()


def test_nothing_to_retry_starts_nothing(copy, capsys, monkeypatch):
    ended(copy)
    monkeypatch.setattr(retry, "session", lambda: pytest.fail("nothing is to be done"))
    assert Retry(dataset=copy.uri).run() == cli.DONE
    assert capsys.readouterr().out.splitlines()[-1].split() == ["0", "0", "0"]


def test_a_run_that_died_before_its_view_was_written_is_brought_to_its_end(copy, monkeypatch):
    calls = executed(monkeypatch)
    Path(copy.path("views", "default.json")).unlink()
    assert Retry(dataset=copy.uri).run() == cli.DONE
    assert calls == [{"view": "default", "wanted": {}}]


def executed(monkeypatch) -> list[dict]:
    """What is handed to Ray, in its place."""
    calls = []

    def noted(dataset, stages, config, *_, view, wanted, aim, **__):
        calls.append({"view": view, "wanted": {name: own for name, own in wanted.items() if own}})
        return cli.DONE

    monkeypatch.setattr(retry, "session", contextlib.nullcontext)
    monkeypatch.setattr(retry, "execute", noted)
    return calls


def ended(dataset, exit_code=0):
    """Its last run has written its view and its summary."""
    run_id = run_ids(dataset)[-1]
    Path(dataset.path("runs", run_id, "summary.json")).write_text(json.dumps({"exit_code": exit_code}))


def test_a_view_that_was_edited_since_its_run_ended_stays(copy, monkeypatch):
    ended(copy)
    path = Path(copy.path("views", "default.json"))
    view = json.loads(path.read_text())
    view["where"] = "kind = 'video'"
    path.write_text(json.dumps(view))
    calls = executed(monkeypatch)
    assert Retry(dataset=copy.uri).run() == cli.DONE
    assert calls == [] and json.loads(path.read_text()) == view
    # columns that no run makes, as those of a search for duplicates, have other names by now
    record = Path(copy.path("runs", run_ids(copy)[-1], "run.json"))
    said = json.loads(record.read_text())
    said["aim"]["columns"] |= {"dedup": "dedup@0000000000"}
    record.write_text(json.dumps(said))
    assert Retry(dataset=copy.uri).run() == cli.DONE
    assert calls == []


def test_what_lacks_its_input_is_left_and_said(copy, monkeypatch, capsys):
    """The last run was of captions; a shard has no previews, as their run ended with an error."""
    columns = of_parts(copy, ("preview",), ("caption",))
    shard = copy.committed_shards(columns["preview"])[0]
    for name in ("preview", "caption"):
        Path(copy.record_path(columns[name], shard)).unlink()
    copy.refresh()
    calls = executed(monkeypatch)
    assert Retry(dataset=copy.uri).run() == cli.DONE
    assert calls == [], "nothing can be made"
    assert "1 shard columns lack what they read" in capsys.readouterr().err
    of_preview = aim_of(copy)
    assert set(of_preview.columns) == {"caption", "preview"}


def test_sources_that_only_a_hand_can_mend_still_are_failures(copy, monkeypatch, capsys):
    ended(copy)
    real = scans.newest_sources

    def one_more(dataset, fields):
        rows = real(dataset, fields)
        row = rows.slice(0, 1).to_pylist()[0] | {"uri": "/odd", "status": "failed", "reason": "no_name"}
        return pa.concat_tables([rows, pa.Table.from_pylist([row], rows.schema)])

    monkeypatch.setattr(scans, "newest_sources", one_more)
    assert Retry(dataset=copy.uri, json=True).run() == cli.FAILED_ITEMS
    said = capsys.readouterr()
    assert json.loads(said.out)["exit_code"] == cli.FAILED_ITEMS
    assert "1 sources fail until a file or a list is mended" in said.err


@pytest.mark.slow
def test_a_clip_that_came_back_reaches_every_column_that_single_stages_made(films, tmp_path):
    """A file was away while previews were made; captions and latents were made without it."""
    footage = tmp_path / "footage"
    footage.mkdir()
    for path in sorted(films.glob("film-*"))[:4]:
        shutil.copy(path, footage)
    out, victim = str(tmp_path / "ds"), sorted(footage.glob("film-*.mp4"))[0]
    run("plan", str(footage), "--out", out)
    victim.rename(tmp_path / "away")
    run("ingest", str(footage), "--out", out, "--only", "preview", check=cli.FAILED_ITEMS)
    run("ingest", str(footage), "--out", out, "--only", "caption", "text", "latent")
    (tmp_path / "away").rename(victim)
    dataset = Dataset(out)
    lacking = scans.table(dataset, "clips").num_rows
    run("retry", out)
    dataset.refresh()
    clips = set(scans.table(dataset, "clips")["clip_id"].to_pylist())
    assert len(clips) > lacking
    assert set(scans.table(dataset, "captions")["clip_id"].to_pylist()) == clips
    assert set(scans.table(dataset, "latents")["clip_id"].to_pylist()) == clips
    assert not View.names(dataset), "what runs of single stages made has no view"
    assert verify(dataset, deep=True).is_sound
