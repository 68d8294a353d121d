"""Gauges: every one is on the board for Grafana, and has what the pace of the run says."""

import json
import time

from manifests.runs.pace import Meter
from pipeline.engine import gauges
from tests.e2e.commands import ROOT


def test_gauges_tell_the_pace_and_the_board_shows_each_of_them(monkeypatch):
    told = {}

    class Held:
        def __init__(self, name, about, tags):
            self.name, self.tags = name, tags
            assert about

        def set(self, value, tags):
            assert set(tags) == set(self.tags)
            told[self.name, tags.get("stage", "")] = value

    monkeypatch.setattr(gauges, "Gauge", Held)
    meter = Meter()
    stages = {"caption": {"jobs": 4, "footage_s": 40.0, "actors": 1}}
    now_s = time.time()
    rows = [("run_started", "", None, {"num_jobs": 4, "stages": stages})]
    for shard in range(3):
        used = {"seconds": 2.0, "footage_s": 10.0, "cpu_s": 1.0, "gpu_s": 0.5, "num_kept": 5, "num_failed": 1}
        rows += [("job_started", "caption", shard, {}), ("committed", "caption", shard, used)]
    rows.append(("job_started", "caption", 3, {}))
    for event, stage, shard, value in rows:
        row = {"time_s": now_s, "event": event, "stage": stage, "shard": shard, "text": "", "value": value}
        meter.add(row)
    gauges.Gauges("run-1").show(meter.at(now_s))
    assert told["rushes_shards_done", "caption"] == 3 and told["rushes_shards_in_work", "caption"] == 1
    assert told["rushes_items_failed", "caption"] == 3 and told["rushes_gpu_seconds", "caption"] == 1.5
    assert told["rushes_seconds_left", ""] > 0
    board = (ROOT / "deploy" / "grafana-rushes.json").read_text()
    assert json.loads(board)["panels"]
    not_on_it = {"rushes_actor_seconds"}
    assert all(f"ray_{name}" in board for name, _ in told if name not in not_on_it)
