"""How far a run is, where users of Ray look: gauges that its agents export to Prometheus.

`deploy/grafana-rushes.json` is a board of them.
"""

from __future__ import annotations

from ray.util.metrics import Gauge

from manifests.runs.pace import Pace

_TAGS = ("run", "stage")
_OF_STAGES = {
    "rushes_shards_done": ("shards of a stage that are made", "done"),
    "rushes_shards_all": ("shards of a stage in all", "jobs"),
    "rushes_shards_failed": ("shards of a stage that could not be made", "failed"),
    "rushes_items_kept": ("items that a stage kept", "kept"),
    "rushes_items_dropped": ("items that a stage left out on purpose", "dropped"),
    "rushes_items_failed": ("items that a stage lost by accident", "lost"),
    "rushes_footage_seconds": ("seconds of footage in the shards that are made", "footage_done_s"),
    "rushes_actor_seconds": ("seconds that actors worked on shards that are made", "busy_s"),
    "rushes_cpu_seconds": ("seconds of processors in them", "cpu_s"),
    "rushes_gpu_seconds": ("seconds for which GPUs were held in them", "gpu_s"),
}


class Gauges:
    """The gauges of one run."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._gauges = {name: Gauge(name, about, _TAGS) for name, (about, _) in _OF_STAGES.items()}
        self._working = Gauge("rushes_shards_in_work", "shards of a stage in work", _TAGS)
        self._left = Gauge("rushes_seconds_left", "seconds that a run may still take, most likely", ("run",))

    def show(self, pace: Pace) -> None:
        """Set all of them."""
        for stage in pace.stages:
            tags = {"run": self._run_id, "stage": stage.stage}
            for name, (_, attribute) in _OF_STAGES.items():
                self._gauges[name].set(float(getattr(stage, attribute)), tags)
            self._working.set(float(len(stage.running)), tags)
        if pace.left_s is not None:
            self._left.set(sum(pace.left_s) / 2, {"run": self._run_id})
