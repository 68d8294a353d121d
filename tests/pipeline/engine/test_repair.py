"""Retry, replay and estimate: failed work is done again and nothing else, a column is a function of its
inputs, and rates are measured.
"""

import json
import shutil
from pathlib import Path

import pytest

from manifests import cli
from manifests.layout import Column, Dataset
from manifests.runs.events import EventLog
from manifests.tables import planned, scans
from manifests.writing.withdrawn import forget
from pipeline.config import EncodeConfig, IngestConfig, PlanConfig
from pipeline.engine import estimate
from pipeline.engine.again import replay
from pipeline.engine.again.aims import stages_of_run
from pipeline.engine.again.replay import Replay
from pipeline.engine.outdated import shards_to_retry, take_back
from pipeline.engine.run import build_stages, funnel
from pipeline.engine.runner import start_run
from pipeline.footage.sources import list_sources, source_row
from pipeline.plan import make_plan
from tests.conftest import ingest_here
from tests.e2e.commands import committed


def probe_here(files):
    return [source_row(file) for file in files]


def test_settings_come_back_from_a_run_as_they_were():
    config = IngestConfig(plan=PlanConfig(shard_s=7), encode=EncodeConfig(max_pixels=None))
    assert IngestConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(TypeError):
        IngestConfig.from_dict({**config.to_dict(), "nosuch": {}})


def test_a_replay_gives_the_committed_bytes_and_touches_nothing(films, tmp_path, capsys):
    dataset = ingest_here(films, tmp_path / "ds")
    before = committed(tmp_path / "ds")
    for stage in ("preview", "text", "latent"):
        assert Replay(stage=stage, shard=1, dataset=dataset.uri).run() == cli.DONE
        assert "the same bytes as committed" in capsys.readouterr().out
    assert committed(tmp_path / "ds") == before


def test_a_replay_names_what_differs(films, tmp_path, capsys, monkeypatch):
    dataset = ingest_here(films, tmp_path / "ds")
    real = replay.run_stage

    def changed(stage, beside, *arguments, **options):
        import pipeline.curate.sampling

        monkeypatch.setattr(pipeline.curate.sampling, "JPEG_QUALITY", 60)
        return real(stage, beside, *arguments, **options)

    monkeypatch.setattr(replay, "run_stage", changed)
    assert Replay(stage="preview", shard=0, dataset=dataset.uri).run() == cli.INTEGRITY
    assert "frame000.jpg" in capsys.readouterr().out


def test_only_shards_with_failures_are_retried_and_what_reads_them(films, tmp_path, monkeypatch):
    from pipeline.curate import stage as curate

    victim = sorted(path for path in films.glob("film-*") if path.suffix != ".json")[2]
    real = curate.pieces

    def fragile(segment, source, config, beat):
        if segment["uri"] == str(victim):
            raise ZeroDivisionError("odd file")
        yield from real(segment, source, config, beat)

    monkeypatch.setattr(curate, "pieces", fragile)
    dataset = ingest_here(films, tmp_path / "ds")
    [failure] = scans.table(dataset, "failures").to_pylist()
    stages, _ = stages_of_run(dataset)
    assert shards_to_retry(dataset, stages) == {failure["shard"]: ["preview", "caption", "text", "latent"]}


def test_failed_sources_are_tried_again_and_counted_once(films, tmp_path):
    footage = tmp_path / "footage"
    footage.mkdir()
    good = sorted(path for path in films.glob("film-*.mp4"))[:2]
    shutil.copy(good[0], footage / "a.mp4")
    (footage / "b.mp4").write_bytes(b"\0" * 500)
    dataset = Dataset.create(str(tmp_path / "ds"))
    config = PlanConfig()
    make_plan(dataset, list_sources([str(footage)]), config, probe_here)
    failed = [str(footage / "b.mp4")]
    assert make_plan(dataset, list_sources(failed), config, probe_here) == []
    assert len(make_plan(dataset, list_sources(failed), config, probe_here, retries_failed=True)) == 1
    assert dataset.generations() == [0]  # as bad as before: nothing is written
    shutil.copy(good[1], footage / "b.mp4")
    make_plan(dataset, list_sources(failed), config, probe_here, retries_failed=True)
    assert dataset.generations() == [0, 1]
    [step] = funnel(dataset, [])
    assert (step["in"], step["kept"], step["failed"]) == (2, 2, 0)


def test_rates_are_measured_on_a_sample_or_taken_from_runs(films, tmp_path):
    dataset = Dataset.create(str(tmp_path / "ds"))
    config = IngestConfig(encode=EncodeConfig(max_pixels=1024))
    make_plan(dataset, list_sources([str(films)]), config.plan, probe_here)
    before = committed(tmp_path / "ds")
    rates = estimate.rates_of_sample(dataset, config)
    assert set(rates) == {stage.name for stage in build_stages(config)}
    assert all(0 < rate.actor_s < 100 for rate in rates.values())
    assert committed(tmp_path / "ds") == before
    columns = [stage.column for stage in build_stages(config)]
    assert estimate.rates_of_runs(dataset, columns) == {}


def test_rates_of_another_version_say_nothing(films, tmp_path):
    """Of the same stage with another model."""
    dataset = Dataset.create(str(tmp_path / "ds"))
    make_plan(dataset, list_sources([str(films)]), IngestConfig().plan, probe_here)
    made = [Column("preview", "0123456789"), Column("caption", "0123456789")]
    log = EventLog(dataset, start_run(dataset, ["rushes"], {}, {}, "embedded", makes=made))
    for column in made:
        log.write("committed", "", column.name, 0, seconds=2.0, cpu_s=1.0)
    assert set(estimate.rates_of_runs(dataset, made)) == {"preview", "caption"}
    others = [made[0], Column("caption", "abcdef0123")]
    assert set(estimate.rates_of_runs(dataset, others)) == {"preview"}


def but_for_groups(folder):
    """What is committed, without the near-duplicates: those found among fewer clips stay as a version."""
    return {name: digest for name, digest in committed(folder).items() if "/dedup@" not in name}


class Unwell:
    """A captioner that has no answer for one clip, until it is well; counts what it is asked for."""

    at_once = 1

    def __init__(self, real, victim):
        self.real, self.victim, self.is_well, self.asked = real, victim, False, []
        self.name, self.version = real.name, real.version

    def setup(self):
        self.real.setup()

    def caption(self, clips, attempt=0):
        self.asked += [clip.clip_id for clip in clips]
        if not self.is_well and self.victim in {clip.clip_id for clip in clips}:
            raise ZeroDivisionError("no answer")
        return self.real.caption(clips, attempt)


def test_a_retry_makes_what_failed_and_copies_the_rest_byte_for_byte(films, dataset, tmp_path, monkeypatch):
    """One film that cannot be decoded and one clip that kills its batch of captions: in the end every byte is
    that of a dataset which never failed, and nothing is made twice.
    """
    from pipeline.curate import stage as curate
    from pipeline.stages import caption
    from pipeline.stages.encoding.latents import ShardWriter
    from pipeline.stages.protocol import run_stage

    clips = scans.table(dataset, "clips").to_pylist()
    lost, mute = clips[0]["uri"], next(row["clip_id"] for row in clips if row["uri"] != clips[0]["uri"])
    unwell = Unwell(caption.make_captioner(IngestConfig().caption), mute)
    monkeypatch.setattr(caption, "make_captioner", lambda config: unwell)
    read, encoded, broken = [], [], {lost}
    real_pieces, real_add = curate.pieces, ShardWriter._add

    def pieces(segment, *arguments):
        read.append(segment["uri"])
        if segment["uri"] in broken:
            raise ZeroDivisionError("odd file")
        return real_pieces(segment, *arguments)

    def add(writer, picked, *arguments):
        encoded.append(picked.clip["clip_id"])
        return real_add(writer, picked, *arguments)

    monkeypatch.setattr(curate, "pieces", pieces)
    monkeypatch.setattr(ShardWriter, "_add", add)
    made = ingest_here(films, tmp_path / "ds")
    failed = {(row["stage"], row["error"]) for row in scans.table(made, "failures").to_pylist()}
    assert failed == {("preview", "ZeroDivisionError"), ("caption", "ZeroDivisionError")}
    assert scans.table(made, "captions").num_rows > 0  # of those in the batch of the one that failed
    assert committed(tmp_path / "ds") != committed(Path(dataset.uri))

    broken.clear()
    unwell.is_well, unwell.asked[:], read[:], encoded[:] = True, [], [], []
    stages, config = stages_of_run(made)
    take_back(made, stages, shards_to_retry(made, stages))
    generations = {row["shard"]: row["generation"] for row in planned.segments(made).to_pylist()}
    for stage in stages:
        stage.setup()
        for shard, generation in sorted(generations.items()):
            run_stage(stage, made, "retry", shard, generation, lambda _: None)
    forget(made, [stage.column for stage in stages])
    again = {row["clip_id"] for row in clips if row["uri"] == lost}
    assert set(read) == {lost} and set(encoded) == again
    assert set(unwell.asked) == again | {mute}
    assert but_for_groups(tmp_path / "ds") == but_for_groups(Path(dataset.uri))
    assert not scans.table(made, "failures").num_rows and config
