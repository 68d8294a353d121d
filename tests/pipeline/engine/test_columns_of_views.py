"""What made a view is found by its columns, whatever ran since; exports of what is only half made go on."""

import json
import shutil
from pathlib import Path

import pytest

from manifests.errors import UsageError
from manifests.exporting.webdataset import export_webdataset
from manifests.layout import Column, Dataset
from manifests.runs.events import Aim, ingest_settings, run_ids
from manifests.tables import records
from manifests.views import View
from manifests.writing.commit import Account, ShardCommit
from pipeline.engine.again import retry
from pipeline.engine.again.aims import aim_of, stages_of_run


@pytest.fixture
def copy(dataset, tmp_path) -> Dataset:
    shutil.copytree(dataset.uri, tmp_path / "copy")
    return Dataset(str(tmp_path / "copy"))


def run_again(dataset: Dataset, columns: dict[str, str], **sections: dict) -> None:
    """A later run, as its record and its summary tell of it."""
    [first] = sorted(Path(dataset.path("runs")).glob("*/run.json"))[:1]
    record = json.loads(first.read_text())
    for name, changes in sections.items():
        record["config"][name] |= changes
    folder = Path(dataset.path("runs", "99999999-000000-000000"))
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(record))
    funnel = [{"stage": name, "column": column} for name, column in columns.items()]
    (folder / "summary.json").write_text(json.dumps({"funnel": funnel}))


def test_retry_takes_the_run_that_made_the_view_and_not_the_newest(copy):
    view = View.load(copy)
    run_again(copy, {}, caption={"captioner": "given"})
    newest, _ = stages_of_run(copy)
    stages, _ = stages_of_run(copy, aim_of(copy, "default").columns.values())
    made = {stage.name: stage.column for stage in stages}
    assert {name: made[name] for name in ("preview", "caption", "latent")} == {
        name: view.columns[name] for name in ("preview", "caption", "latent")
    }
    assert made["caption"] not in {stage.column for stage in newest}


def test_what_runs_made_in_turns_is_put_together(copy):
    """Clips are captioned again by a run whose record has other settings of encoding."""
    view = View.load(copy)
    run_again(copy, {}, caption={"captioner": "given"}, encode={"audit_share": 0.5, "max_pixels": 4096})
    newest, config = stages_of_run(copy)
    made = {stage.name: stage.column for stage in newest}
    assert made["latent"] != view.columns["latent"] and made["caption"] != view.columns["caption"]
    mixed = {**view.columns, "caption": made["caption"], "text": made["text"]}
    stages, both = stages_of_run(copy, list(mixed.values()))
    found = {stage.name: stage.column for stage in stages}
    assert all(found[name] == column for name, column in mixed.items() if name in found)
    assert both.caption == config.caption and both.encode != config.encode


def test_a_run_that_no_settings_make_is_refused_by_its_columns(copy):
    with pytest.raises(UsageError, match="caption@nosuch"):
        stages_of_run(copy, [Column("caption", "nosuch")])


def test_a_masked_server_is_refused_before_anything_is_taken_back(copy):
    _, config = stages_of_run(copy)
    from dataclasses import replace

    for server in ("http://***@host:8000/v1", "https://host/v1?..."):
        masked = replace(config, caption=replace(config.caption, server=server))
        with pytest.raises(UsageError, match="had a user or a query"):
            retry._refuse_masked(masked, "default")
    retry._refuse_masked(replace(config, caption=replace(config.caption, server="http://host/v1")), "v")


def test_the_vae_of_a_view_is_that_of_its_latents(copy):
    view = View.load(copy)
    [first] = Path(copy.path("runs")).glob("*/run.json")
    funnel = [{"column": str(column)} for column in view.columns.values()]
    (first.parent / "summary.json").write_text(json.dumps({"funnel": funnel}))
    own = ingest_settings(copy, view.columns.values())
    run_again(copy, {"caption": "caption@other"}, encode={"vae": "somebody-elses"})
    assert ingest_settings(copy, view.columns.values()) == own
    assert ingest_settings(copy, [])["vae"] == "somebody-elses"


def test_windows_and_shards_without_latents_are_left_out_of_an_export(copy, tmp_path):
    view = View.load(copy)
    whole, lacking = export_webdataset(copy, view, tmp_path / "whole")
    assert lacking == 0
    caption = view.columns["caption"]
    rows = records.rows_of_shard(copy, "captions", caption, 0)
    window = {**rows[0], "caption_id": "w", "kind": "window", "status": "accepted"}
    Path(copy.record_path(caption, 0)).unlink()
    with ShardCommit(copy, caption, 0, 0) as made:
        made.commit({"captions": [*rows, window]}, Account(len(rows), len(rows), 0, 0))
    shards = sorted(copy.committed_shards(view.columns["latent"]))
    Path(copy.record_path(view.columns["latent"], shards[-1])).unlink()
    tars, lacking = export_webdataset(Dataset(copy.uri), view, tmp_path / "part")
    assert len(tars) == len(whole) - 1 and lacking > 0


def aimed(dataset, number, aim):
    """A run with the settings of the first, that worked for something."""
    record = json.loads(Path(dataset.path("runs", run_ids(dataset)[0], "run.json")).read_text())
    folder = Path(dataset.path("runs", f"99999999-00000{number}-000000"))
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(record | {"aim": aim.to_dict()}))


def test_retry_means_what_the_last_run_worked_for(copy):
    view = View.load(copy)
    assert aim_of(copy) == Aim(view="default", columns=view.columns, where=view.where)
    # captions of another view, whose shards had errors: the view was never written
    new = {**view.columns, "caption": Column("caption", "0123456789")}
    aimed(copy, 1, Aim(view="vlm", columns=new, where="kind = 'video'"))
    assert aim_of(copy) == aim_of(copy, "vlm") == Aim(view="vlm", columns=new, where="kind = 'video'")
    assert aim_of(copy, "default").columns == view.columns
    # a stage that ran on its own
    score = {"score": Column("score", "0123456789")}
    aimed(copy, 2, Aim(columns=score))
    assert aim_of(copy) == Aim(columns=score)
    assert aim_of(copy, "vlm").columns == new


def test_a_run_that_did_not_come_to_its_view_is_what_retry_means(copy):
    view = View.load(copy)
    new = {"caption": Column("caption", "0123456789")}
    aimed(copy, 1, Aim(view="default", columns={**view.columns, **new}))
    assert aim_of(copy).columns["caption"] == new["caption"]
    assert aim_of(copy, "default").columns == view.columns
