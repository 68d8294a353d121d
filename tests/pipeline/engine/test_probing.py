"""Probing on Ray: a file is blamed for what it does, and for nothing else."""

import os
import time
from types import SimpleNamespace

import pytest
import ray

from manifests.errors import UsageError
from manifests.layout import Column
from pipeline.engine import actor, cluster, probing, runner
from pipeline.engine.probing import probe_on_ray

pytestmark = pytest.mark.ray


@pytest.fixture
def one_cpu():
    with cluster.session(1):
        yield


def answer(file):
    if file == "hangs":
        time.sleep(60)
    if file == "kills":
        os._exit(1)
    return {"uri": file, "status": "kept"}


def failed(file, reason, cause):
    return {"uri": file, "status": "failed", "reason": reason, "detail": cause}


@pytest.mark.slow
def test_a_file_that_hangs_or_kills_is_a_row_and_its_neighbours_are_kept(one_cpu):
    files = ["a", "hangs", "b", "kills", "c"]
    rows = {row["uri"]: row for row in probe_on_ray(answer, failed, limit_s=2)(files)}
    assert {name for name, row in rows.items() if row["status"] == "kept"} == {"a", "b", "c"}
    for name in ("hangs", "kills"):
        assert rows[name]["reason"] == "poison" and "2 times" in rows[name]["detail"]


@pytest.mark.slow
def test_a_fault_of_the_settings_ends_the_run_and_blames_no_file(one_cpu):
    def refusing(file):
        raise UsageError("RUSHES_HTTP_READ_S=30s", "is no number", "Give seconds.")

    with pytest.raises(UsageError, match="is no number"):
        probe_on_ray(refusing, failed, limit_s=5)(["a", "b"])


@pytest.mark.slow
def test_a_cluster_without_a_free_cpu_is_no_files_fault(one_cpu, monkeypatch, capsys):
    monkeypatch.setattr(probing, "_TELL_EVERY_S", 1.0)

    @ray.remote(num_cpus=1)
    def occupy():
        time.sleep(6)

    busy = occupy.remote()
    time.sleep(0.5)
    rows = probe_on_ray(answer, failed, limit_s=1)(["a", "b"])
    ray.get(busy)
    assert [row["status"] for row in rows] == ["kept", "kept"]
    assert "2 files to probe; 0 CPUs of the cluster are free" in capsys.readouterr().err


class FullDisk:
    """A stage that writes to a full disk."""

    name = "preview"
    needs: tuple[Column, ...] = ()
    column = Column("preview", "a")

    def setup(self):
        pass

    def process(self, *_):
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_told_apart_from_a_shards_own_fault(dataset, monkeypatch):
    told = []
    monkeypatch.setattr(actor, "run_stage", lambda stage, *_, **__: stage.process())
    monkeypatch.setattr(actor.StageActor, "_set_up", lambda *_: None)
    monkeypatch.setattr(actor.ray, "get_runtime_context", lambda: None)
    running = actor.StageActor(FullDisk(), dataset.uri, "run", None, ".", 0.0, None)
    running.node = None
    running._tell = lambda event, *_, **__: told.append(event)
    batch = {"shard": [0], "generation": [0], "passed": [""], "error": [""], "lacks": [""], "full": [0]}
    assert running(batch)["full"] == [28] and told == ["job_started"]
    monkeypatch.setattr(FullDisk, "process", lambda *_: 1 / 0)
    broken = running(batch)
    assert (
        broken["full"] == [0] and "ZeroDivisionError" in broken["error"][0] and told[2:] == ["shard_failed"]
    )
    monkeypatch.setattr(FullDisk, "process", lambda *_: (None, 0.0))
    del told[:]
    monkeypatch.setattr(FullDisk, "needs", (Column("caption", "a"),))
    assert running({**broken, "lacks": ["latent@b"]})["lacks"] == ["latent@b"], "it needs another column"
    passed = {**batch, "passed": [f"text {FullDisk.name}"]}
    assert running(passed) == passed, "a shard that passes the stage over"
    left_out = running({**broken, "lacks": ["caption@a"]})
    assert left_out["lacks"] == [f"caption@a {FullDisk.column}"] and told[-1] == "skipped"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Error while deserializing\nheader"), "cannot be set up (RuntimeError: Error while "),
        (OSError("no file named model.safetensors"), "cannot be set up (OSError: no file named"),
        (SystemExit(3), "cannot be set up (SystemExit: 3)"),
        (UsageError("--text.model x", "is no folder"), "--text.model x: is no folder"),
    ],
)
def test_a_stage_that_cannot_be_set_up_refuses_the_run_with_one_line(dataset, monkeypatch, error, said):
    refused = []

    def fails(self):
        raise error

    hub = SimpleNamespace(
        **{
            name: SimpleNamespace(remote=work)
            for name, work in (("begin_setup", lambda *_: 0), ("refuse", refused.append))
        }
    )
    context = SimpleNamespace(get_actor_id=lambda: "a", get_node_id=lambda: "n")
    monkeypatch.setattr(FullDisk, "setup", fails, raising=False)
    monkeypatch.setattr(actor.ray, "get", lambda answer: answer)
    monkeypatch.setattr(actor.ray, "get_runtime_context", lambda: context)
    running = actor.StageActor(FullDisk(), dataset.uri, "run", hub, ".", 0.0, None)
    assert running.is_refused and len(refused) == 1
    assert said in str(refused[0]) and "\n" not in str(refused[0])


class Fragile(FullDisk):
    """Dies while it sets up, as one that does not fit into memory does."""

    def setup(self):
        os._exit(1)


@pytest.mark.slow
def test_a_stage_that_dies_while_it_sets_up_ends_the_run_with_its_name_and_a_few_events(dataset, tmp_path):
    from manifests.errors import RushesError
    from manifests.layout import Column, Dataset
    from manifests.runs.events import read_events

    copy = Dataset.create(str(tmp_path / "ds"))
    stage = Fragile()
    stage.column, stage.needs = Column("preview", "0"), ()
    with cluster.session(1), pytest.raises(RushesError, match="died 3 times while it set up"):
        runner.run_stages(copy, [stage], [(0, 0)], "run", {"preview": 1}, {"preview": cluster.Resources()})
    told = [event["text"] for event in read_events(copy, "run") if event["event"] == "died"]
    assert [text[-12:] for text in told] == ["1 of 3 times", "2 of 3 times", "3 of 3 times"]


@pytest.mark.slow
def test_a_full_disk_ends_the_run_at_once(films, tmp_path):
    from manifests.layout import Column, Dataset
    from tests.conftest import ingest_here

    dataset = ingest_here(films, tmp_path / "ds", shard_s=4)
    shards = [(shard, 0) for shard in range(6)]
    stage = FullDisk()
    stage.column, stage.needs = Column("preview", "0"), ()
    with cluster.session(1), pytest.raises(OSError, match="No space left"):
        runner.run_stages(
            Dataset(dataset.uri), [stage], shards, "run", {"preview": 1}, {"preview": cluster.Resources()}
        )
