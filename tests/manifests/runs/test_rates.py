"""Rates and waits of a run's stages, from events whose times are known."""

from __future__ import annotations

import pytest

from manifests.runs.rates import rates


def run(stages: dict[str, list[tuple[int, float, float]]]) -> list[dict]:
    """Events of a run: of each stage (shard, begin, end)."""
    told = {name: {"jobs": len(jobs), "actors": 2} for name, jobs in stages.items()}
    found = [{"event": "run_started", "stage": "", "shard": None, "time_s": 0.0, "value": {"stages": told}}]
    for name, jobs in stages.items():
        for shard, begin_s, end_s in jobs:
            used = {"seconds": end_s - begin_s, "num_in": 5, "footage_s": 30.0, "cpu_s": 1.0, "gpu_s": 0.5}
            row = {"stage": name, "shard": shard, "time_s": end_s, "event": "committed", "value": used}
            found.append(row)
    return sorted(found, key=lambda event: event["time_s"])


def test_a_stage_without_a_gap_is_busy() -> None:
    jobs = [(shard, 10.0 * (shard // 2), 10.0 * (shard // 2) + 10) for shard in range(10)]
    [found] = rates(run({"preview": jobs}))
    assert (found.jobs, found.actors, found.steady_s) == (10, 2, 40.0)
    assert (found.busy, found.input_wait, found.hand_wait) == pytest.approx((1, 0, 0))
    assert found.items_per_s == pytest.approx(1.0) and found.footage_per_s == pytest.approx(6.0)
    assert (found.cpu_s, found.gpu_s) == (10.0, 5.0)


def test_a_stage_that_starves_waits_for_its_input() -> None:
    first = [(shard, 10.0 * shard, 10.0 * shard + 10) for shard in range(10)]
    second = [(shard, 10.0 * shard + 10, 10.0 * shard + 14) for shard in range(10)]
    slow, fast = rates(run({"preview": first, "latent": second}))
    assert slow.busy == pytest.approx(1) and fast.busy == pytest.approx(0.4)
    assert fast.input_wait == pytest.approx(0.6) and fast.hand_wait == pytest.approx(0)


def test_a_stage_that_is_handed_nothing_though_shards_are_ready() -> None:
    first = [(shard, 0.0, 1.0) for shard in range(10)]
    second = [(shard, 10.0 * shard + 1, 10.0 * shard + 6) for shard in range(10)]
    found = rates(run({"preview": first, "latent": second}))[1]
    assert (found.busy, found.input_wait, found.hand_wait) == pytest.approx((0.5, 0, 0.5))


def test_few_jobs_have_no_steady_state_and_nothing_is_no_stage() -> None:
    [found] = rates(run({"preview": [(0, 0.0, 5.0)], "latent": []}))
    assert found.steady_s == found.busy == 0.0 and found.jobs == 1
    assert rates([]) == []
