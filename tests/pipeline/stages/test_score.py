"""Scores: a user's own, a linear head on open_clip, and text that RapidOCR reads; in views and captions."""

from __future__ import annotations

import itertools
import shutil

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from manifests import cli
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.tables import planned, records, scans
from manifests.verify import verify
from manifests.views import View
from manifests.writing.commit import Account, ShardCommit
from manifests.writing.withdrawn import withdraw
from media.writer import write_video
from pipeline.blame import HopelessError
from pipeline.config import CaptionConfig, IngestConfig, ScoreConfig
from pipeline.engine.run import build_stages, chosen, save_view
from pipeline.footage.sources import list_sources, source_row
from pipeline.plan import make_plan
from pipeline.scores.registry import make_scorers
from pipeline.scores.words import Words
from pipeline.stages import score
from pipeline.stages.journal import Journal
from pipeline.stages.protocol import run_stage
from pipeline.stages.score import ScoreStage, words_of
from tests.e2e.commands import run
from tests.pipeline.dedup.test_stage import tiny_clip
from tests.pipeline.stages.scorers import Picky, Redness

OWN = "tests.pipeline.stages.scorers"


def scored(dataset: Dataset, *use: str, batch: int = 4) -> tuple[ScoreStage, list[dict]]:
    """The stage run over all shards, and its rows."""
    preview = View.load(dataset).column("preview")
    stage = ScoreStage(ScoreConfig(use=use, batch=batch), preview)
    stage.setup()
    for shard in dataset.committed_shards(preview):
        run_stage(stage, dataset, "test", shard, 0, lambda text: None)
    return stage, scans.table(dataset, "scores", stage.column).to_pylist()


def test_a_scorer_of_ones_own_is_a_column_that_a_view_asks_for(copy):
    stage, rows = scored(copy, f"{OWN}:Redness")
    clips = {row["clip_id"] for row in scans.table(copy, "clips").to_pylist()}
    assert {row["clip_id"] for row in rows} == clips and len(rows) == len(clips)
    assert {row["scorer"] for row in rows} == {"redness"}
    base = View.load(copy)
    where = "clip_id IN (SELECT clip_id FROM scores WHERE scorer = 'redness' AND value > 0)"
    View(columns={**base.columns, "score": stage.column}, where=where).save(copy, "red")
    expected = {row["clip_id"] for row in rows if row["value"] > 0}
    assert 0 < len(expected) < len(clips)
    assert set(View.load(copy, "red").clips(copy)["clip_id"].to_pylist()) == expected
    assert verify(copy, deep=True).problems == []


def test_another_scorer_beside_it_copies_what_is_there(copy):
    _, before = scored(copy, f"{OWN}:Redness")
    Redness.seen.clear()
    stage, rows = scored(copy, f"{OWN}:Redness", f"{OWN}:Frames")
    assert Redness.seen == []
    mine = [row for row in rows if row["scorer"] == "redness"]
    assert {row["clip_id"]: row["value"] for row in mine} == {
        row["clip_id"]: row["value"] for row in before if row["clip_id"] in {own["clip_id"] for own in mine}
    }
    failures = {row["item_id"]: row for row in scans.table(copy, "failures", stage.column).to_pylist()}
    stills = {row["clip_id"] for row in scans.table(copy, "clips").to_pylist() if row["kind"] == "image"}
    assert stills and stills <= failures.keys()
    assert {failures[name]["cause"] for name in stills} == {"frames: a clip of one frame"}
    others = {row["clip_id"] for row in rows if row["scorer"] == "frames"}
    assert others and not others & failures.keys()  # a batch that fails takes none of its neighbours along
    assert {row["value"] for row in rows if row["scorer"] == "frames"} == {3.0}


def test_a_scorer_that_fails_takes_nothing_from_the_others_and_a_retry_asks_it_alone(copy):
    stage, rows = scored(copy, f"{OWN}:Picky", f"{OWN}:Redness")
    clips = {row["clip_id"] for row in scans.table(copy, "clips").to_pylist()}
    assert {row["clip_id"] for row in rows if row["scorer"] == "redness"} == clips
    failures = scans.table(copy, "failures", stage.column).to_pylist()
    failed = {row["item_id"] for row in failures}
    assert 0 < len(failed) < len(clips)
    assert {row["clip_id"] for row in rows if row["scorer"] == "picky"} == clips - failed
    assert all("picky: " in row["cause"] and "not this one" in row["cause"] for row in failures)
    assert verify(copy, deep=True).problems == []
    Redness.seen.clear()
    Picky.is_mended = True
    withdraw(copy, stage.column, sorted(copy.committed_shards(stage.column)))
    _, again = scored(copy, f"{OWN}:Picky", f"{OWN}:Redness")
    Picky.is_mended = False
    assert len(again) == 2 * len(clips) and sum(Redness.seen) == len(failed)  # `Picky` counts there, too


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Careless", "no Score"),
        ("Wordy", "no Score"),
        ("Silent", "None, which is no list of Score"),
        ("Lettered", "'a', which is no number"),
        ("Complex", "which is no number"),
        ("Leaving", "it called sys.exit(3)"),
        ("Refusing", "OSError: cannot identify image file"),
        ("Full", "MemoryError"),
        ("Breaking", "GeneratorExit: over"),
        ("Endless", "scores for"),
    ],
)
def test_answers_that_are_no_scores_name_the_scorer(copy, name, said):
    stage, rows = scored(copy, f"{OWN}:{name}")
    failures = scans.table(copy, "failures", stage.column).to_pylist()
    assert not rows and failures
    assert all(f"{name.lower()}: " in row["cause"] and said in row["cause"] for row in failures)


def test_a_scorer_that_ends_its_process_with_every_clip_ends_the_run(copy, monkeypatch):
    """And not after each clip of each shard; one that has scored some goes on."""
    preview = View.load(copy).column("preview")
    stage = ScoreStage(ScoreConfig(use=(f"{OWN}:Redness",), batch=1), preview)
    stage.setup()
    shard = copy.committed_shards(preview)[0]
    clips = records.rows_of_shard(copy, "clips", preview, shard)
    monkeypatch.setattr(score, "MOST_DEADLY", most := 3)
    assert len(clips) > most
    order = score.spread_order(len(clips))
    names = [f"{clips[index]['clip_id']} redness" for index in order]

    def run(deadly):
        journal = Journal(copy, f"run{deadly[0]}", stage.column, shard)
        journal._state |= {"deaths": dict.fromkeys(deadly, 9), "why": dict.fromkeys(deadly, "it died")}
        return stage.process(copy, shard, 0, journal, lambda text: None)

    with pytest.raises(HopelessError, match=f"scorer redness.*each of {most} clips"):
        run(names[:most])
    first = [f"{clip['clip_id']} redness" for clip in clips[:most]]  # those of an odd file lie side by side
    assert set(first) != set(names[:most])
    account = run(first)
    assert (account.num_kept, account.num_failed) == (len(clips) - most, most)
    copy.filesystem.delete_file(copy.record_path(stage.column, shard))
    other = ShardCommit(copy, stage.column, 1 + max(copy.committed_shards(preview)), 0)
    row = {"clip_id": "elsewhere", "shard": other.shard, "scorer": "redness", "value": 1.0, "words": []}
    other.commit({"scores": [row]}, Account(1, 1, 0, 0))
    assert run(names[:most]).num_failed == most, "it scores clips of other shards"


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 33])
def test_clips_in_the_order_they_are_scored_do_not_lie_side_by_side(count):
    order = score.spread_order(count)
    assert sorted(order) == list(range(count))
    if count > 6:
        assert min(abs(one - other) for one, other in itertools.combinations(order[:3], 2)) >= count // 4


def test_a_scorer_that_writes_into_its_pictures_fails_alone(copy):
    _, alone = scored(copy, f"{OWN}:Redness")
    stage, beside = scored(copy, f"{OWN}:Blackening", f"{OWN}:Frames", f"{OWN}:Redness")
    values = [
        {row["clip_id"]: row["value"] for row in rows if row["scorer"] == "redness"}
        for rows in (alone, beside)
    ]
    assert values[0] == values[1] and any(values[0].values())
    failures = scans.table(copy, "failures", stage.column).to_pylist()
    assert failures and all(
        "blackening: " in row["cause"] and "read-only" in row["cause"] for row in failures
    )


@pytest.mark.ray
def test_a_scorer_that_cannot_be_set_up_ends_an_ingest_with_one_line(copy):
    arguments = ["--only", "score", "--score.use", f"{OWN}:Unready"]
    footage = scans.table(copy, "sources")["uri"].to_pylist()[0]
    done = run("ingest", footage, "--out", copy.uri, *arguments, check=2)
    assert "Traceback" not in done.stderr + done.stdout
    assert "scorer unready: cannot be set up (OSError: no weights)" in done.stderr.splitlines()[-1]


def test_a_scorer_that_cannot_be_set_up_is_one_line(copy):
    with pytest.raises(UsageError, match=r"scorer unready: cannot be set up .*no weights"):
        scored(copy, f"{OWN}:Unready")


def test_a_view_that_asks_a_table_it_lacks_is_refused_however_it_is_spelt(copy):
    stage, _ = scored(copy, f"{OWN}:Redness")
    base = View.load(copy)
    for ask in (
        "clip_id IN (SELECT clip_id FROM scores)",
        'clip_id NOT IN (SELECT clip_id FROM "main".scores WHERE value > 0)',
        "clip_id NOT IN (SELECT s.clip_id FROM clips c, scores s)",
        "clip_id IN (SELECT c.clip_id FROM clips c JOIN scores s ON c.clip_id = s.clip_id)",
    ):
        with pytest.raises(UsageError, match="asks the table scores"):
            View(columns=base.columns, where=ask).clips(copy)
        View(columns={**base.columns, "score": stage.column}, where=ask).clips(copy)


@pytest.mark.parametrize("where", ["width_px > 0) OR (width_px > 1", "a; b", "", "width_px > 1, true"])
def test_a_predicate_is_one_expression(copy, where):
    with pytest.raises(UsageError, match="is not one SQL expression"):
        View(columns=View.load(copy).columns, where=where).clips(copy)
    assert View(columns=View.load(copy).columns, where="true -- all").clips(copy).num_rows


def test_a_linear_head_on_open_clip(copy, tmp_path):
    head = tmp_path / "head"
    head.mkdir()
    tiny_clip(head / "open_clip")
    weight = np.random.default_rng(0).normal(size=(1, 16)).astype(np.float32)
    save_file({"weight": weight, "bias": np.array([0.5], np.float32)}, head / "head.safetensors")
    _, rows = scored(copy, f"aesthetic={head}")
    assert len({row["value"] for row in rows}) > 3 and all(row["scorer"] == "aesthetic" for row in rows)
    limit = 0.5 + float(np.abs(np.linalg.norm(weight)))
    assert all(abs(row["value"]) <= limit for row in rows)
    one = make_scorers((f"aesthetic={head}",))[0]
    one.setup()
    picture = np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8)
    alone, twice = (one.score([lot])[0].value for lot in ([picture], [picture, picture]))
    assert alone == pytest.approx(twice, abs=1e-5)
    save_file({"weight": weight[:, :8], "bias": np.zeros(1, np.float32)}, head / "head.safetensors")
    other = make_scorers((f"aesthetic={head}",))[0]
    assert other.version != one.version
    other.setup()
    with pytest.raises(UsageError, match="8 values"):
        other.score([[picture]])
    assert torch.get_num_threads() >= 1


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (("nothing",), "is no scorer"),
        (("no.such.module:Thing",), "cannot be made"),
        ((f"{OWN}:Absent",), "cannot be made"),
        ((f"{OWN}:Nameless",), "has the name 'Not A Name'"),
        ((f"{OWN}:Raising",), "cannot be made"),
        ((f"{OWN}:Odd",), "has the name 5"),
        ((f"{OWN}:Unversioned",), "has the version 1"),
        ((f"{OWN}:Doubtful",), "has the frames True"),
        (("aesthetic=/no/such",), "open_clip/ and head.safetensors"),
        ((f"{OWN}:Redness", f"{OWN}:Redness"), "more than once"),
        (("os;rm:x",), "is no scorer"),
    ],
)
def test_what_is_no_scorer_is_refused_before_any_work(use, said):
    with pytest.raises(UsageError, match=said):
        make_scorers(use)


def lettered(text: str, size=(448, 256)) -> np.ndarray:
    rgb = np.full((size[1], size[0], 3), (40, 80, 60), np.uint8)
    if text:
        cv2.putText(rgb, text, (24, 140), cv2.FONT_HERSHEY_SIMPLEX, 1.4, (255, 255, 255), 3, cv2.LINE_AA)
    return rgb


def test_text_is_read_and_its_share_of_the_picture_measured():
    scorer = Words()
    scorer.setup()
    plain, half, large = scorer.score(
        [[lettered("")], [lettered("EXIT 42"), lettered("")], [lettered("EXIT 42")]]
    )
    assert (plain.value, plain.words) == (0.0, ())
    assert large.words == half.words == ("EXIT 42",)
    assert half.value == pytest.approx(large.value / 2) and 0.03 < large.value < 0.2


def test_words_of_a_video_reach_its_captions(tmp_path):
    folder = tmp_path / "footage"
    folder.mkdir()
    write_video(folder / "sign.mp4", [lettered("EXIT 42")] * 16, 8.0)
    config = IngestConfig(score=ScoreConfig(use=("text",)), caption=CaptionConfig())
    dataset = Dataset.create(str(tmp_path / "ds"))
    make_plan(
        dataset, list_sources([str(folder)]), config.plan, lambda files: [source_row(file) for file in files]
    )
    stages = chosen(build_stages(config), ["preview", "score", "caption"])
    for stage in stages:
        stage.setup()
        for shard in planned.shards(dataset):
            run_stage(stage, dataset, "test", shard, 0, lambda text: None)
    [score] = scans.table(dataset, "scores").to_pylist()
    assert score["words"] == ["EXIT 42"]
    captions = scans.table(dataset, "captions").to_pylist()
    [dense] = [row["text"] for row in captions if row["kind"] == "dense" and row["status"] == "accepted"]
    assert dense.endswith("The text “EXIT 42” can be read.")
    assert words_of(dataset, {"score": stages[1].column}) == (stages[1].column, stages[1].versions["text"])
    assert words_of(dataset, {}) == (None, "")
    more = IngestConfig(score=ScoreConfig(use=("text", f"{OWN}:Redness")))
    assert chosen(build_stages(more), ["caption"])[0].column == stages[2].column  # another scorer beside it
    plain = chosen(build_stages(IngestConfig()), ["caption"])[0]
    assert plain.column != stages[2].column and plain.needs == stages[2].needs[:1]


def test_the_command_line_refuses_a_scorer_that_is_none(films, tmp_path, capsys):
    arguments = ["ingest", str(films), "--out", str(tmp_path / "ds"), "--score.use", "nothing", "--dry-run"]
    assert cli.main(arguments=arguments) == cli.USAGE
    assert "--score.use nothing: is no scorer" in capsys.readouterr().err


def test_an_ingest_leaves_in_a_view_what_others_put_there(copy):
    """A predicate that asks scores must not find their table empty after the next ingest."""
    stage, rows = scored(copy, f"{OWN}:Redness")
    base = View.load(copy)
    where = "clip_id NOT IN (SELECT clip_id FROM scores WHERE value < 0)"
    View(columns=base.columns | {"score": stage.column}, where=where).save(copy)
    kept = View.load(copy).kept(copy)
    view = save_view(copy, build_stages(IngestConfig()), "default")
    assert view.columns["score"] == stage.column and view.where == where
    assert 0 < len(kept) < len(rows)
    View(columns=base.columns, where=where).save(copy, "without")
    with pytest.raises(UsageError, match="the view has no column score"):
        View.load(copy, "without").kept(copy)


def test_rows_are_the_same_whatever_was_copied(copy, tmp_path):
    other = Dataset(str(shutil.copytree(copy.uri, tmp_path / "other")))
    scored(copy, f"{OWN}:Redness")
    _, by_steps = scored(copy, f"{OWN}:Redness", f"{OWN}:Lengths")
    _, at_once = scored(other, f"{OWN}:Redness", f"{OWN}:Lengths")
    assert by_steps == at_once


def test_on_two_processors_a_run_with_all_stages_fits():
    sums = sum(need.num_cpus for need in IngestConfig().resources().values())
    assert sums <= 2.0 + 1e-9
