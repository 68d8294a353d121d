"""How fast the stages of a run were, how busy, and for what they waited: from its events.

A stage's steady state is from when all of the actors that it had are at work for the first time until its
last job is handed out: before it they come up, after it they run out of work. Of that time each actor works
or waits; it waits for its input where no shard is ready that the stage before has made, else for Ray to hand
a ready one to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StageRate:
    """One stage of a run.

    Attributes:
        jobs, actors: shards it made, and the most that it made at once.
        items_per_s, footage_per_s: while it was at work, all actors together; seconds of footage a second.
        cpu_s, gpu_s: processors and GPUs held, in seconds, by its jobs.
        steady_s: length of its steady state; 0 where there was none (few jobs).
        busy, input_wait, hand_wait: shares of its actors' time in the steady state.
    """

    stage: str
    jobs: int
    actors: int
    items_per_s: float
    footage_per_s: float
    cpu_s: float
    gpu_s: float
    steady_s: float
    busy: float
    input_wait: float
    hand_wait: float


@dataclass(frozen=True)
class _Job:
    shard: int
    begin_s: float
    end_s: float
    items: int
    footage_s: float
    cpu_s: float
    gpu_s: float


def rates(events: Iterable[dict[str, Any]]) -> list[StageRate]:
    """Each stage of a run that made something, in the order in which shards go through them."""
    order, jobs, ended = list[str](), dict[str, list[_Job]](), dict[str, dict[int, float]]()
    for event in events:
        if event["event"] == "run_started":
            order = list(event["value"].get("stages", {}))
        if event["event"] not in ("committed", "skipped"):
            continue
        stage, value, end_s = event["stage"], event["value"], event["time_s"]
        ended.setdefault(stage, {})[event["shard"]] = end_s
        if event["event"] == "committed":
            begin_s = end_s - float(value.get("seconds", 0.0))
            used = (float(value.get(name, 0.0)) for name in ("footage_s", "cpu_s", "gpu_s"))
            job = _Job(event["shard"], begin_s, end_s, int(value.get("num_in", 0)), *used)
            jobs.setdefault(stage, []).append(job)
    order += [stage for stage in jobs if stage not in order]
    found = []
    for number, stage in enumerate(order):
        if own := jobs.get(stage):
            before = ended.get(order[number - 1], {}) if number else {}
            found.append(_rate(stage, own, before))
    return found


def _rate(stage: str, jobs: list[_Job], ready_at: dict[int, float]) -> StageRate:
    """A stage's rate; `ready_at`: when the stage before was done with each shard."""
    marks = sorted([(job.begin_s, 1) for job in jobs] + [(job.end_s, -1) for job in jobs])
    level = actors = 0
    first_s = marks[0][0]
    for time_s, change in marks:
        level += change
        if level > actors:
            actors, first_s = level, time_s
    last_s = max(job.begin_s for job in jobs)
    busy_s = sum(max(0.0, min(job.end_s, last_s) - max(job.begin_s, first_s)) for job in jobs)
    steady_s = max(0.0, last_s - first_s) if len(jobs) > 2 * actors else 0.0
    idle_s = max(0.0, actors * steady_s - busy_s)
    handed_s = min(idle_s, _with_ready(jobs, ready_at, actors, first_s, last_s))
    whole_s, span_s = actors * steady_s, max(marks[-1][0] - marks[0][0], 1e-9)
    return StageRate(
        stage,
        len(jobs),
        actors,
        sum(job.items for job in jobs) / span_s,
        sum(job.footage_s for job in jobs) / span_s,
        sum(job.cpu_s for job in jobs),
        sum(job.gpu_s for job in jobs),
        steady_s,
        min(1.0, busy_s / whole_s) if steady_s else 0.0,
        (idle_s - handed_s) / whole_s if steady_s else 0.0,
        handed_s / whole_s if steady_s else 0.0,
    )


def _with_ready(
    jobs: list[_Job], ready_at: dict[int, float], actors: int, first_s: float, last_s: float
) -> float:
    """Seconds of idle actors for which a shard was ready; what was ready before the first job always was."""
    marks = [(ready_at.get(job.shard, first_s), 1, 0) for job in jobs]
    marks += [(job.begin_s, -1, 1) for job in jobs] + [(job.end_s, 0, -1) for job in jobs]
    ready = working = 0
    found, at_s = 0.0, first_s
    for time_s, is_ready, is_working in sorted(marks):
        now_s = min(max(time_s, first_s), last_s)
        found += (now_s - at_s) * max(0, min(ready, actors - working))
        at_s, ready, working = max(at_s, now_s), ready + is_ready, working + is_working
    return found
