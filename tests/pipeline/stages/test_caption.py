"""The caption stage with real backends: every clip accounted for through a server's faults, provenance in
each row, two versions side by side.
"""

import json

import pytest
import torch

from captioner.backends import server as module
from captioner.coca.checkpoint import save_stage
from captioner.coca.folder import stage_digest, write_folder
from captioner.coca.model import VideoCoCa
from captioner.coca.tokenizer import CaptionTokenizer
from captioner.protocol import BudgetSpentError
from manifests import cli
from manifests.tables import records, scans
from manifests.views import View
from pipeline.config import CaptionConfig, TextConfig
from pipeline.stages.caption import CaptionStage
from pipeline.stages.caption_summary import caption_summary
from pipeline.stages.protocol import run_stage
from pipeline.stages.text import TextStage
from tests.captioner.backends.chat_server import ANSWER, ChatServer
from tests.captioner.coca.small import SMALL
from trainer.data.catalogue.catalog import load_catalog
from trainer.presets import preset


def calm(request):
    """An answer that no measurement contradicts."""
    return json.dumps(ANSWER | {"dense": "A red ball lies over a meadow in clear light.", "camera": ""})


def caption(dataset, config, run_id="again"):
    """Run the caption and text stages over all shards. Returns the stages and the account of the captions."""
    base = View.load(dataset)
    stages = [
        stage := CaptionStage(config, base.column("preview")),
        TextStage(TextConfig(), stage.column, base.column("preview")),
    ]
    total = None
    for one in stages:
        one.setup()
        for shard in dataset.committed_shards(base.column("preview")):
            account, _ = run_stage(one, dataset, run_id, shard, 0, lambda text: None)
            if one is stage and account is not None:
                total = account if total is None else total + account
    View(columns={**base.columns, "caption": stage.column, "text": stages[1].column}, where=base.where).save(
        dataset, "second"
    )
    return stages, total


def test_a_server_that_fails_loses_no_clip_and_doubles_none(copy, monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.01)
    clips = scans.table(copy, "clips").num_rows
    with ChatServer(answer=calm) as server:
        server.faults = ["429", "500", "half", "refusal", "401", "repeat", "timeout"]
        config = CaptionConfig(
            captioner="openai", server=server.url, model="tiny", timeout_s=0.8, concurrency=2, batch=4
        )
        stages, account = caption(copy, config)
    assert account.num_in == clips
    assert account.num_failed == 1
    [failure] = scans.table(copy, "failures", stages[0].column).to_pylist()
    assert failure["error"] == "no_answer"
    assert "told to fail with 401" in failure["cause"]
    rows = [
        row
        for row in scans.table(copy, "captions", stages[0].column).to_pylist()
        if row["source"] == "openai"
    ]
    accepted = [(row["clip_id"], row["kind"]) for row in rows if row["status"] == "accepted"]
    assert len(set(accepted)) == len(accepted) == 3 * (clips - 1)
    assert len({row["caption_id"] for row in rows}) == len(rows)
    assert {row["status"] for row in rows} == {"accepted", "rejected"}
    for row in rows:
        assert row["model"] == "tiny"
        assert len(row["prompt_sha256"]) == 16
        assert len(row["frame_times_s"]) == len(row["frame_indices"]) > 0
    summary = caption_summary(copy, stages[0].column, "again")
    assert summary["accepted"] == len(accepted)
    assert summary["num_requests"] >= clips - 1
    assert summary["output_tokens_per_accepted"] > 0


def test_two_versions_stand_side_by_side_and_the_trainer_reads_either(copy, tmp_path, capsys):
    with ChatServer(answer=calm) as server:
        caption(copy, CaptionConfig(captioner="openai", server=server.url, model="tiny", batch=8))
    first, second = (
        load_catalog(copy, [View.load(copy, name)], preset("tiny")) for name in ("default", "second")
    )
    assert first.digest != second.digest
    assert {source for rows in second.views[0].captions.values() for _, _, source in rows} >= {
        "openai",
        "ground_truth",
        "alt",
    }
    assert "measured" not in {source for rows in second.views[0].captions.values() for _, _, source in rows}
    variants = [
        name
        for rows in second.views[0].captions.values()
        for name, kind, source in rows
        if kind == "structured" and "~" in name
    ]
    assert variants
    sheet = str(tmp_path / "c.png")
    code = cli.main(arguments=["compare-captions", copy.uri, "default", "second", "--json", "--sheet", sheet])
    assert code == cli.DONE
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == scans.table(copy, "clips").num_rows
    begin = "A red ball lies over a meadow in clear light."
    assert all(row["b"][0].startswith(begin) and row["b"] != row["a"] for row in rows)
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    assert cli.main(arguments=["compare-captions", copy.uri, "default", "caption@0000000000"]) == cli.USAGE


def test_a_new_prompt_or_model_is_a_new_column_and_the_number_of_requests_at_once_is_not(copy):
    preview = View.load(copy).column("preview")

    def column(**changes):
        return CaptionStage(
            CaptionConfig(
                **({"captioner": "openai", "server": "http://127.0.0.1:9/v1", "model": "a"} | changes)
            ),
            preview,
        ).column

    assert (
        column() == column(concurrency=2) == column(timeout_s=5.0) == column(server="http://127.0.0.1:10/v1")
    )
    assert (
        len(
            {
                str(column()),
                str(column(model="b")),
                str(column(prompt="plain-1")),
                str(column(seed=1)),
                str(column(temperature=0.5)),
            }
        )
        == 5
    )


def test_the_projects_own_captioner_gives_the_same_bytes_twice_and_says_where_they_came_from(copy, tmp_path):
    words = CaptionTokenizer.train(["A small red ball that moves up."] * 40, SMALL.vocab_size)
    folder = write_folder(tmp_path / "weights", SMALL, words)
    torch.manual_seed(0)
    for stage in ("short", "dense"):
        save_stage(folder, stage, VideoCoCa(SMALL).state_dict(), {})
    config = CaptionConfig(captioner="coca", model=str(tmp_path / "weights"), max_tokens=12, retries=0)
    stages, account = caption(copy, config)
    assert account.num_in == account.num_kept  # what footage came with is kept, whatever random weights say
    rows = [
        row for row in scans.table(copy, "captions", stages[0].column).to_pylist() if row["source"] == "coca"
    ]
    assert {row["weights"] for row in rows} == {
        stage_digest(tmp_path / "weights", stage) for stage in ("short", "dense")
    }
    assert all(json.loads(row["scores_json"])["mean_logprob"] < 0 for row in rows)
    assert all("cut_off" in row["reasons"] for row in rows if row["finish_reason"] == "length")
    parts = {
        path: path.read_bytes()
        for path in (tmp_path / "ds" / "tables" / "captions" / str(stages[0].column)).iterdir()
    }
    for path in (tmp_path / "ds" / "tables" / "shards" / str(stages[0].column)).iterdir():
        path.unlink()
    caption(copy, config)
    assert {path: path.read_bytes() for path in parts} == parts


def test_a_budget_that_ends_within_a_shard_keeps_what_is_paid_for(copy):
    base = View.load(copy)
    shards = [
        shard
        for shard in copy.committed_shards(base.column("preview"))
        if len(records.rows_of_shard(copy, "clips", base.column("preview"), shard)) > 3
    ]
    with ChatServer(answer=calm) as server:
        config = CaptionConfig(
            captioner="openai", server=server.url, model="tiny", concurrency=2, budget_requests=3, retries=0
        )
        stage = CaptionStage(config, base.column("preview"))
        stage.setup()
        account, _ = run_stage(stage, copy, "again", shards[0], 0, lambda text: None)
        assert account.num_kept == 3 and account.num_failed == account.num_in - 3
        with pytest.raises(BudgetSpentError):  # nothing of this one is paid for
            run_stage(stage, copy, "again", shards[1], 0, lambda text: None)
    assert copy.committed_shards(stage.column) == [shards[0]] and len(server.requests) == 3
