"""The time left: replayed runs of known length, and what is said of runs that cannot be measured."""

import json
import random
from pathlib import Path
from statistics import median

import pytest

from manifests.runs import pace as paces
from manifests.runs.pace import Meter, pace, told_duration, told_range

STAGES = ("preview", "caption", "text", "latent")


def simulated(
    shards: int, means: list[float], actors: list[int], seed: int, spread: float, warm_s: float = 0.0
):
    """Events of a run whose jobs take drawn times per second of footage, with a queue before each stage."""
    chance = random.Random(seed)
    footage = {shard: chance.uniform(30, 90) for shard in range(shards)}
    began = dict.fromkeys(STAGES, 0)
    free = {name: [0.0] * number for name, number in zip(STAGES, actors, strict=True)}
    events, ready = [], dict.fromkeys(footage, 0.0)
    for name, mean in zip(STAGES, means, strict=True):
        for shard in sorted(ready, key=ready.get):
            slot = min(range(len(free[name])), key=free[name].__getitem__)
            begin = max(free[name][slot], ready[shard])
            took = mean * footage[shard] / 60 * chance.lognormvariate(-(spread**2) / 2, spread)
            took += warm_s if began[name] < len(free[name]) else 0.0
            began[name] += 1
            free[name][slot] = ready[shard] = begin + took
            value = {"seconds": took, "footage_s": footage[shard], "num_kept": 1}
            events += [
                row(begin, "job_started", name, shard),
                row(begin + took, "committed", name, shard, value),
            ]
    of = {
        name: {"jobs": shards, "footage_s": sum(footage.values()), "actors": number}
        for name, number in zip(STAGES, actors, strict=True)
    }
    events.sort(key=lambda event: event["time_s"])
    end_s = events[-1]["time_s"]
    beats = [row(10.0 * number, "heartbeat") for number in range(1, int(end_s / 10))]
    started = row(0.0, "run_started", value={"num_jobs": shards * len(STAGES), "stages": of})
    return [started, *sorted(events + beats, key=lambda event: event["time_s"])], end_s


def row(time_s, event, stage="", shard=None, value=None):
    return {
        "time_s": time_s,
        "event": event,
        "stage": stage,
        "shard": shard,
        "text": "",
        "value": value or {},
    }


def replayed(events, end_s):
    """Errors of the middle of the range over what was really left, from 20 % on; how often it was named, and
    how often the truth lay within it."""
    meter, errors, within, asked, every = Meter(), [], [], 0, max(1, len(events) // 60)
    for number, event in enumerate(events):
        meter.add(event)
        if number % every == 0 and 0.2 * end_s <= event["time_s"] - events[0]["time_s"] < end_s:
            asked += 1
            left = meter.at(event["time_s"]).left_s
            true = end_s - (event["time_s"] - events[0]["time_s"])
            if left:
                errors.append(abs((left[0] * left[1]) ** 0.5 - true) / true)
                within.append(left[0] <= true <= left[1])
    return errors, len(errors) / asked, sum(within) / len(within)


@pytest.mark.parametrize(
    ("means", "actors"),
    [
        ([20, 4, 1, 12], [1, 1, 1, 1]),
        ([20, 4, 1, 12], [4, 1, 1, 2]),
        ([5, 20, 1, 30], [2, 4, 1, 2]),
        ([60, 1, 1, 1], [8, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("spread", [0.1, 0.8])
@pytest.mark.parametrize("warm_s", [0.0, 20.0])
def test_the_time_left_is_right_within_a_quarter(means, actors, spread, warm_s):
    medians = []
    for seed in range(3):
        errors, share, _ = replayed(*simulated(60, means, actors, seed, spread, warm_s))
        medians.append(median(errors))
        assert share > 0.5
    assert median(medians) < 0.25, medians


def test_runs_that_were_recorded_are_told_right_within_a_quarter():
    for path in sorted((Path(__file__).parent / "recorded").glob("*.jsonl")):
        events = [json.loads(line) for line in path.read_text().splitlines()]
        errors, _, within = replayed(events[:-1], events[-1]["time_s"] - events[0]["time_s"])
        assert errors and median(errors) < 0.25, (path.name, median(errors))
        assert within > 0.6, (path.name, within)


def test_nothing_is_said_before_three_jobs_of_each_stage_nor_of_a_silent_run_nor_after_the_end():
    events, end_s = simulated(20, [20, 4, 1, 12], [1, 1, 1, 1], 0, 0.1)
    early = [event for event in events if event["time_s"] < 30]
    assert pace(early, 30).state == paces.MEASURING and pace(early, 30).left_s is None
    half = [event for event in events if event["time_s"] < end_s / 2]
    at_s = half[-1]["time_s"]
    assert pace(half, at_s).state == paces.RUNNING and pace(half, at_s).left_s
    silent = pace(half, at_s + 1000)
    assert (silent.state, silent.left_s, silent.silent_since_s) == (paces.SILENT, None, at_s)
    over = pace([*events, row(end_s, "run_ended")], end_s + 1e6)
    assert over.state == paces.OVER and over.left_s is None
    assert pace([], 0.0).state == paces.NONE


def test_a_shard_that_fails_is_not_waited_for_by_the_stages_that_need_it():
    stages = {name: {"jobs": 4, "footage_s": 40.0, "actors": 1} for name in STAGES}
    events = [row(0, "run_started", value={"num_jobs": 16, "stages": stages})]
    events += [row(5, "job_started", "caption", 1), row(9, "shard_failed", "caption", 1)]
    events += [row(9, "skipped", "text", 1, value={"lacks": True})]
    found = {stage.stage: stage.left for stage in pace(events, 9).stages}
    assert found == {"preview": 4, "caption": 3, "text": 3, "latent": 4}


def test_the_order_is_the_pipelines_and_shares_reach_one():
    events, end_s = simulated(10, [20, 4, 1, 12], [1, 1, 1, 1], 0, 0.1)
    shares = []
    meter = Meter()
    for event in events:
        meter.add(event)
        shares.append(meter.at(event["time_s"]).share)
    assert [stage.stage for stage in meter.at(end_s).stages] == list(STAGES)
    assert shares[-1] == pytest.approx(1) and meter.at(end_s).bottleneck.stage in STAGES


def test_durations_are_told_as_people_do():
    assert [told_duration(seconds) for seconds in (0, 59, 600, 9600, 400_000)] == [
        "0 s",
        "59 s",
        "10 min",
        "2 h 40 min",
        "4.6 days",
    ]
    assert told_range((9600, 11400)) == "2 h 40 min to 3 h 10 min"
    assert told_range((30, 30)) == "30 s" and told_range(None) == ""
