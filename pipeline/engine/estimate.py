"""Hours and cost of an ingest, from rates measured on earlier runs or on a sample of footage."""

from __future__ import annotations

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from manifests import cli
from manifests.layout import Column, Dataset
from manifests.runs.events import read_events, run_ids
from manifests.store.json_files import read_object
from manifests.tables import planned, scans
from manifests.writing.commit import commit_generation
from pipeline.config import IngestConfig, Resources
from pipeline.engine.cluster import preflight
from pipeline.engine.run import build_stages
from pipeline.engine.runner import worth_starting
from pipeline.plan import IMAGE_COST_S
from pipeline.stages.protocol import run_stage

SAMPLE_SEGMENTS, SAMPLE_S = 6, 10.0
_SAMPLED = "a few sampled segments, run here"


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a cluster costs."""

    cpu_hour: float = 0.04
    """One CPU core for an hour."""
    gpu_hour: float = 2.5
    """One GPU for an hour."""


def seconds_of(segments: list[dict]) -> float:
    """Seconds of footage; an image counts as half a second."""
    return sum(max(row["end_s"] - row["start_s"], IMAGE_COST_S) for row in segments)


def _footage(dataset: Dataset) -> dict[int, float]:
    """Seconds of footage by shard, as `seconds_of` counts them."""
    rows = planned.segments(dataset, fields=["shard", "start_s", "end_s"])
    cost_s = pc.max_element_wise(pc.subtract(rows["end_s"], rows["start_s"]), IMAGE_COST_S)
    table = pa.table({"shard": rows["shard"], "cost_s": cost_s})
    sums = table.group_by("shard").aggregate([("cost_s", "sum")])
    return dict(zip(sums["shard"].to_pylist(), sums["cost_s_sum"].to_pylist(), strict=True))


@dataclass(frozen=True)
class Rate:
    """What a stage takes for a second of footage: of an actor, and of processors at work."""

    actor_s: float = 0.0
    cpu_s: float = 0.0


def rates_of_runs(dataset: Dataset, columns: Collection[Column]) -> dict[str, Rate]:
    """What the stage of each column took, from the shards that earlier runs of the same version committed.

    Another model or other settings have another rate, which says nothing.
    """
    by_shard, wanted = _footage(dataset), {str(column): column.name for column in columns}
    spent = defaultdict[str, list[float]](lambda: [0.0] * 3)
    for run_id in run_ids(dataset):
        record = read_object(dataset.filesystem, dataset.path("runs", run_id, "run.json"))
        made = {wanted[name] for name in record.get("makes", ()) if name in wanted}
        for event in read_events(dataset, run_id) if made else ():
            is_ours = event["stage"] in made and event["shard"] in by_shard
            if event["event"] == "committed" and is_ours:
                took = [float(event["value"].get(name, 0.0)) for name in ("seconds", "cpu_s")]
                took.append(by_shard[event["shard"]])
                spent[event["stage"]] = [
                    one + more for one, more in zip(spent[event["stage"]], took, strict=True)
                ]
    return {
        stage: Rate(actor_s / footage_s, cpu_s / footage_s)
        for stage, (actor_s, cpu_s, footage_s) in spent.items()
        if footage_s
    }


def rates_of_sample(dataset: Dataset, config: IngestConfig) -> dict[str, Rate]:
    """The same, from the first seconds of a few segments spread over the plan, run here and thrown away."""
    segments = planned.segments(dataset)
    spread = segments.take(
        [
            round(index * (len(segments) - 1) / max(1, SAMPLE_SEGMENTS - 1))
            for index in range(min(SAMPLE_SEGMENTS, len(segments)))
        ]
    ).to_pylist()
    unique = {row["segment_id"]: row for row in spread}
    chosen = [
        {
            **row,
            "shard": 0,
            "generation": 0,
            "source_row": None,
            "end_s": min(row["end_s"], row["start_s"] + SAMPLE_S),
        }
        for row in unique.values()
    ]
    ids = [row["source_id"] for row in chosen]
    sources = scans.table(dataset, "sources", where=pc.field("source_id").isin(ids)).to_pylist()
    with tempfile.TemporaryDirectory(prefix="rushes-estimate-") as folder:
        sample = Dataset.create(str(Path(folder) / "sample"))
        commit_generation(sample, 0, chosen, {"sources": sources, "drops": [], "failures": []})
        rates: dict[str, Rate] = {}
        clips: list[dict] = []
        for stage in build_stages(
            replace(
                config, curate=replace(config.curate, max_clip_s=min(config.curate.max_clip_s, SAMPLE_S / 2))
            )
        ):
            stage.setup()
            cpu_s = time.process_time()
            _, seconds = run_stage(stage, sample, "estimate", 0, 0, lambda _: None)
            if (
                stage.name == "preview"
            ):  # a shot is followed past its segment's end, so what was read is more than was asked for
                clips = scans.table(sample, "clips").to_pylist()
            footage_s = max(seconds_of(clips), seconds_of(chosen))
            rates[stage.name] = Rate(seconds / footage_s, (time.process_time() - cpu_s) / footage_s)
    return rates


@dataclass(frozen=True)
class Job:
    """A stage's work: hours of one actor, actors there are, what each asks of Ray."""

    name: str
    actor_h: float
    actors: int
    on: Resources


def to_halve(jobs: Sequence[Job], cpus: float, gpus: float) -> str:
    """What to add to a cluster so that the work takes half as long, in words; empty where none is left.

    Args:
        cpus, gpus: that the cluster has.
    """
    work_cpu_h = sum(job.actor_h * job.on.num_cpus for job in jobs)
    hours = max([work_cpu_h / max(cpus, 1e-9), *(job.actor_h / job.actors for job in jobs)]) / 2
    if not hours:
        return ""
    more = {job.name: math.ceil(job.actor_h / hours - 1e-9) - job.actors for job in jobs}
    words = [f"{count} more actors of {name}" for name, count in more.items() if count > 0]
    needed = {job.name: job.actors + max(0, more[job.name]) for job in jobs}
    lacking_cpus = math.ceil(
        max(work_cpu_h / hours, sum(needed[job.name] * job.on.num_cpus for job in jobs)) - cpus
    )
    lacking_gpus = math.ceil(sum(needed[job.name] * job.on.num_gpus for job in jobs) - gpus)
    words += [f"{lacking_cpus} CPUs to the cluster"] if lacking_cpus > 0 else []
    words += [f"{lacking_gpus} GPUs to the cluster"] if lacking_gpus > 0 else []
    return ", ".join(words)


def print_estimate(dataset: Dataset, config: IngestConfig, prices: Prices) -> None:
    """Print rate, actors, hours and cost of each stage for what is not committed yet, then the whole.

    Stages run side by side.
    """
    footage = _footage(dataset)
    if not footage:
        cli.say("estimate: the plan is empty")
        return
    stages = build_stages(config)
    on = config.resources()
    most = preflight({stage.name: on[stage.name] for stage in stages})
    actors = dict[str, int]()
    rates, how = rates_of_runs(dataset, [stage.column for stage in stages]), "earlier runs of this dataset"
    if unknown := [stage.name for stage in stages if stage.name not in rates]:
        how = ("earlier runs and, for " + ", ".join(unknown) + ", " if rates else "") + _SAMPLED
        rates = rates_of_sample(dataset, config) | rates
    rows, left = list[list[Any]](), dict[str, float]()
    slowest_h, work_cpu_h, cost = 0.0, 0.0, 0.0
    for stage in stages:
        done = set(dataset.committed_shards(stage.column))
        left_s = sum(length_s for shard, length_s in footage.items() if shard not in done)
        needs, rate = on[stage.name], rates.get(stage.name, Rate())
        actors[stage.name] = worth_starting(most[stage.name], len(footage.keys() - done), needs)
        actor_h = left[stage.name] = left_s * rate.actor_s / 3600
        # a stage may work more than it asks for, and holds what it asks for
        cpu_h = max(actor_h * needs.num_cpus, left_s * rate.cpu_s / 3600)
        money = cpu_h * prices.cpu_hour + actor_h * needs.num_gpus * prices.gpu_hour
        rows.append(
            [
                stage.name,
                f"{left_s / 3600:.3g}",
                f"{rate.actor_s:.4f}",
                actors[stage.name],
                f"{actor_h / actors[stage.name]:.3g}",
                f"{cpu_h:.3g}",
                f"{actor_h * needs.num_gpus:.3g}",
                f"{money:.3g}",
            ]
        )
        slowest_h, work_cpu_h, cost = (
            max(slowest_h, actor_h / actors[stage.name]),
            work_cpu_h + cpu_h,
            cost + money,
        )
    cpus = float(ray.cluster_resources().get("CPU", 1))
    gpus = float(ray.cluster_resources().get("GPU", 0))
    jobs = [Job(stage.name, left[stage.name], actors[stage.name], on[stage.name]) for stage in stages]
    names = ["stage", "footage_h", "actor_s_per_s", "actors", "hours", "cpu_h", "gpu_h", "cost"]
    cli.print_table("estimate", names, rows)
    print(
        f"estimate: about {max(slowest_h, work_cpu_h / cpus):.3g} h and {cost:.3g} (in the prices' "
        f"currency) on {cpus:g} CPUs, from {how}"
    )
    if words := to_halve(jobs, cpus, gpus):
        print(f"to halve the time: {words}")
