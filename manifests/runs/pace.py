"""How far a run is and how long it may still take, from its events alone: the same for a terminal and a page.

What is left of each stage is footage over the pace of its own last jobs. All of it is divided by how many
jobs have been in work at once, and no stage can end before its own actors have done its share and the stages
after it one job more. The range comes from drawing the measured jobs again and again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

MEASURED_JOBS = 3
"""Of each stage, or all it has, before a time is named."""
_RECENT_JOBS, _DRAWS = 30, 60
_UNFORESEEN = 0.28
"""Deviation of the logarithm of what is left beside what jobs measured so far explain: those to come are
other files, and actors come and go. Set so that recorded runs end within the range as often as it says."""
_OUTER = 1.28
"""Deviations within which the middle 80 % of a normal distribution lie."""
_FAR_OUT = 6
"""Times the median: as long as a job may take for its footage to count in full."""
_PATIENCE_S = 60.0
_FIRST_PATIENCE_S = 600.0
"""Before a job is done: models are being loaded."""
_MINUTE_S = 60.0
NONE, MEASURING, RUNNING, SILENT, OVER = "none", "measuring", "running", "silent", "over"


@dataclass
class StagePace:
    """One stage of a run.

    Attributes:
        jobs, done, failed: shards that it has to make, has made, and could not make.
        running: shards in work, by when each began [unix time].
        actors: most that may work at once.
        began_s: when its first job began [unix time]; 0: none has.
        footage_s, footage_done_s: seconds of footage in all its jobs, and in those that are done.
        kept, dropped, lost: items.
        busy_s, cpu_s, gpu_s: seconds of its done jobs: of actors, of processors, of GPUs held.
    """

    stage: str
    jobs: int = 0
    done: int = 0
    failed: int = 0
    actors: int = 1
    began_s: float = 0.0
    footage_s: float = 0.0
    footage_done_s: float = 0.0
    kept: int = 0
    dropped: int = 0
    lost: int = 0
    busy_s: float = 0.0
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    at_once: int = 1
    """Most that were seen in work together."""
    running: dict[int, float] = field(default_factory=dict)
    took: list[tuple[float, float, float]] = field(default_factory=list)
    """Of each done job: seconds, seconds of footage, and when it ended [unix time]."""

    @property
    def left(self) -> int:
        return max(0, self.jobs - self.done - self.failed)

    def footage_rate(self, now_s: float, begin_s: float, last_s: float | None = None) -> float:
        """Seconds of footage a second: from its first job on to its last, or of the run's last seconds."""
        if last_s is None:
            end_s = self.took[-1][2] if self.took and not self.left else now_s
            return self.footage_done_s / max(end_s - (self.began_s or begin_s), 1e-9)
        span_s = max(min(last_s, now_s - begin_s), 1.0)  # a young run has no whole minute behind it
        return sum(footage for _, footage, at_s in self.took if now_s - at_s <= last_s) / span_s

    def left_s(self, jobs: list[tuple[float, float, float]], now_s: float) -> float:
        """Actor-seconds that are left, at the pace of these jobs.

        Jobs in work count with the time that they have taken: the long ones among them are not done yet.
        """
        if not self.left or not jobs:
            return 0.0
        elapsed = sum(max(0.0, now_s - at_s) for at_s in self.running.values())
        among = min(len(jobs), self.done) / max(1, self.done)
        each = (sum(job[0] for job in jobs) + elapsed * among) / len(jobs)
        footage = sum(job[1] for job in jobs)
        if footage > 0 and self.footage_s > 0:  # shards with more footage take longer
            left = (self.footage_s - self.footage_done_s) * self.left / max(1, self.jobs - self.done)
            each *= max(0.0, left) / self.left / (footage / len(jobs))
        return each * self.left - sum(
            min(max(0.0, now_s - at_s), 0.9 * each) for at_s in self.running.values()
        )


@dataclass(frozen=True)
class Pace:
    """A run as a whole.

    Attributes:
        state: none | measuring | running | silent | over.
        left_s: shortest and longest seconds that it may still take; None but while it runs and is measured.
        silent_since_s: of a run that gives no sign of life, its last one [unix time].
        stages: in the order of the pipeline.
    """

    state: str
    stages: list[StagePace]
    begin_s: float = 0.0
    now_s: float = 0.0
    left_s: tuple[float, float] | None = None
    silent_since_s: float | None = None

    @property
    def done(self) -> int:
        return sum(stage.done for stage in self.stages)

    @property
    def jobs(self) -> int:
        return sum(stage.jobs for stage in self.stages)

    @property
    def share(self) -> float:
        """Of the work that is done, each stage weighed by the time its jobs take; else of the jobs."""
        weights = [stage.busy_s / stage.done if stage.done else 0.0 for stage in self.stages]
        if not all(weights):
            return self.done / max(1, self.jobs)
        whole = sum(weight * stage.jobs for weight, stage in zip(weights, self.stages, strict=True))
        left = sum(weight * stage.left for weight, stage in zip(weights, self.stages, strict=True))
        return 1 - left / whole if whole else 0.0

    @property
    def bottleneck(self) -> StagePace | None:
        """The stage whose actors have most left to do, by what has been measured."""
        found = [stage for stage in self.stages if stage.took]
        return max(found, key=lambda s: s.busy_s / s.done * max(s.left, 0.01) / s.actors, default=None)


class Meter:
    """Follows a run by its events, in the order in which they were written."""

    def __init__(self) -> None:
        self._stages: dict[str, StagePace] = {}
        self._begin_s, self._last_s, self._num_jobs = 0.0, 0.0, 0
        self._is_begun = self._is_over = False

    def add(self, event: dict[str, Any]) -> None:
        """Take the next event in."""
        if not self._is_begun:
            self._is_begun, self._begin_s = True, event["time_s"]
        self._last_s = event["time_s"]
        if event["event"] == "run_started":
            self._begin_s, self._num_jobs = event["time_s"], event["value"].get("num_jobs", 0)
            for name, told in event["value"].get("stages", {}).items():
                self._stages[name] = StagePace(name, **told)
        elif event["event"] == "run_ended":
            self._is_over = True
        elif event["stage"]:
            self._note(self._stages.setdefault(event["stage"], StagePace(event["stage"])), event)

    def _note(self, stage: StagePace, event: dict[str, Any]) -> None:
        value, shard = event["value"], event["shard"]
        footage_s = float(value.get("footage_s", 0.0))
        if event["event"] == "job_started":
            stage.running[shard] = event["time_s"]
            stage.began_s = stage.began_s or event["time_s"]
            stage.at_once = max(stage.at_once, len(stage.running))
            return
        if event["event"] not in ("committed", "skipped", "shard_failed"):
            return
        stage.running.pop(shard, None)
        if event["event"] == "skipped":
            stage.failed += bool(value.get("lacks"))  # what it needs has failed
            if value.get("was_to_do"):  # made by another writer in the meantime
                stage.jobs, stage.footage_s = stage.jobs - 1, stage.footage_s - footage_s
        elif event["event"] == "shard_failed":
            stage.failed += 1
        else:
            stage.done += 1
            stage.took.append((float(value.get("seconds", 0.0)), footage_s, event["time_s"]))
            stage.busy_s, stage.footage_done_s = (
                stage.busy_s + stage.took[-1][0],
                stage.footage_done_s + footage_s,
            )
            stage.cpu_s += float(value.get("cpu_s", 0.0))
            stage.gpu_s += float(value.get("gpu_s", 0.0))
            stage.kept += value.get("num_kept", 0)
            stage.dropped += value.get("num_dropped", 0)
            stage.lost += value.get("num_failed", 0)

    def at(self, now_s: float, is_abandoned: bool = False) -> Pace:
        """How the run stands [unix time]."""
        stages = list(self._stages.values())
        if self._num_jobs and stages and not any(stage.jobs for stage in stages):
            for stage in stages:  # runs of before tell all jobs alone; each stage has as many as the others
                stage.jobs = max(stage.done + stage.failed, -(-self._num_jobs // len(stages)))
        if not self._is_begun:
            return Pace(NONE, [])
        if self._is_over:
            return Pace(OVER, stages, self._begin_s, self._last_s)
        if is_abandoned or now_s - self._last_s > patience_s(stages):
            return Pace(SILENT, stages, self._begin_s, now_s, silent_since_s=self._last_s)
        if not stages or any(stage.done < min(MEASURED_JOBS, stage.jobs - stage.failed) for stage in stages):
            return Pace(MEASURING, stages, self._begin_s, now_s)
        return Pace(RUNNING, stages, self._begin_s, now_s, _range(stages, self._begin_s, now_s))


def pace(events: Iterable[dict[str, Any]], now_s: float) -> Pace:
    """How a run stands at a time [unix time], from its events up to then."""
    meter = Meter()
    for event in events:
        meter.add(event)
    return meter.at(now_s)


def patience_s(stages: Iterable[StagePace]) -> float:
    """How long a run may be silent before it is taken for dead: three median jobs, a minute at least."""
    took = [seconds for stage in stages for seconds, _, _ in stage.took[-_RECENT_JOBS:]]
    return max(_PATIENCE_S, 3 * median(took)) if took else _FIRST_PATIENCE_S


def _range(stages: list[StagePace], begin_s: float, now_s: float) -> tuple[float, float]:
    """Shortest and longest seconds left: the middle 80 % of what drawn jobs give."""
    chance = random.Random(len(stages) + sum(stage.done for stage in stages))
    recent = [_measured(stage) for stage in stages]
    working = _at_once(stages, begin_s, now_s)
    found = sorted(
        _left_s(
            stages, [chance.choices(jobs, k=len(jobs)) if jobs else [] for jobs in recent], working, now_s
        )
        for _ in range(_DRAWS)
    )
    low, middle, high = (max(found[at], 1e-3) for at in (_DRAWS // 10, _DRAWS // 2, -1 - _DRAWS // 10))
    below, above = (
        math.exp(math.hypot(math.log(one / other), _OUTER * _UNFORESEEN))
        for one, other in ((middle, low), (high, middle))
    )
    return middle / below, middle * above


def _measured(stage: StagePace) -> list[tuple[float, float, float]]:
    """Its last jobs, without the first of each actor, which waits for weights; what stands far out is cut."""
    jobs = stage.took[min(stage.at_once, max(0, stage.done - 2)) :][-_RECENT_JOBS:]
    most = _FAR_OUT * median(seconds / (footage or 1.0) for seconds, footage, _ in jobs) if jobs else 0.0
    return [(min(seconds, most * (footage or 1.0)), footage, at_s) for seconds, footage, at_s in jobs]


def _at_once(stages: list[StagePace], begin_s: float, now_s: float) -> float:
    """Jobs in work at once, mean over the last quarter of the run so far."""
    from_s = now_s - (now_s - min(_begins(stages), default=begin_s)) / 4
    busy = sum(
        max(0.0, min(at_s, now_s) - max(at_s - seconds, from_s))
        for s in stages
        for seconds, _, at_s in s.took
    )
    busy += sum(now_s - max(at_s, from_s) for stage in stages for at_s in stage.running.values())
    return max(0.5, busy / max(now_s - from_s, 1e-9))


def _begins(stages: list[StagePace]) -> Iterable[float]:
    """When the first job of each stage began, and those in work."""
    for stage in stages:
        yield from (at_s - seconds for seconds, _, at_s in stage.took[:1])
        yield from stage.running.values()


def _left_s(
    stages: list[StagePace], drawn: list[list[tuple[float, float, float]]], working: float, now_s: float
) -> float:
    work = [stage.left_s(jobs, now_s) if jobs else 0.0 for stage, jobs in zip(stages, drawn, strict=True)]
    each = [sum(job[0] for job in jobs) / len(jobs) if jobs else 0.0 for jobs in drawn]
    least = sum(work) / working
    for index, stage in enumerate(stages):
        if stage.left:
            actors = max(1, min(stage.actors, stage.left))
            longest = max((job[0] for job in drawn[index][:actors]), default=0.0)
            tail = (1 - 1 / actors) * longest / 2  # the last jobs do not end together
            least = max(least, work[index] / actors + tail + sum(each[index + 1 :]))
    return least


def told_range(left_s: tuple[float, float] | None) -> str:
    """A range of seconds for people, such as `2 h 40 min to 3 h 10 min`; empty for none."""
    if left_s is None:
        return ""
    low, high = (told_duration(seconds) for seconds in left_s)
    return low if low == high else f"{low} to {high}"


def told_duration(seconds: float) -> str:
    """Seconds for people: to the second under a minute and a half, then coarser."""
    if seconds < 1.5 * _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 90 * _MINUTE_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    minutes = round(seconds / 600) * 10
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{seconds / 86400:.1f} days"
