"""The runner: one row per shard flows through the stage actors on Ray Data, while the driver watches.

Ray does scheduling, retries, autoscaling and back-pressure. A row holds a shard's number, never pixels.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy

from manifests.cli import say
from manifests.layout import Column, Dataset
from manifests.runs.events import Aim, EventLog, new_run_id
from manifests.store import storage
from manifests.tables import planned
from manifests.text import shown_json
from manifests.writing.commit import Account
from media.bytes.sealed import secret_if_there
from pipeline.config import Resources
from pipeline.engine.actor import REFUSED, StageActor
from pipeline.engine.cluster import beside_me
from pipeline.engine.hub import EventHub
from pipeline.engine.outdated import lacking
from pipeline.engine.watcher import Watcher
from pipeline.stages.protocol import Stage

LIGHT_CPUS, SHARDS_AN_ACTOR = 0.5, 4
"""Of a light stage: with fewer, another actor does not pay for its start."""


@dataclass
class Outcome:
    """How a run of the stages ended."""

    accounts: dict[str, Account] = field(default_factory=dict)
    shard_errors: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run_stages(
    dataset: Dataset,
    stages: list[Stage],
    shards: list[tuple[int, int]],
    run_id: str,
    actors: dict[str, int],
    resources: dict[str, Resources],
    wanted: Mapping[str, Collection[int]] | None = None,
) -> Outcome:
    """Make every missing column of every shard.

    Args:
        stages: in the order their columns depend on each other.
        shards: (shard, generation) pairs.
        actors: most actors of each stage; one always runs.
        resources: of one actor of each stage.
        wanted: by stage the shards to make it for; others are passed over.
    """
    known = [shard for shard, _ in shards]
    missing = lacking(dataset, stages, known)
    if wanted is not None:
        missing = {name: own & set(wanted[name]) for name, own in missing.items()}
    to_make = {name: [shard for shard in known if shard in own] for name, own in missing.items()}
    pending = [pair for pair in shards if any(pair[0] in own for own in missing.values())]
    num_jobs, begin = sum(map(len, to_make.values())), time.monotonic()
    if not pending:
        return _nothing_to_make(EventLog(dataset, run_id))
    actors = {
        name: worth_starting(actors[name], len(left), resources[name]) for name, left in to_make.items()
    }
    say(
        f"ingest: {num_jobs} shard columns to make for {len(pending)} shards "
        f"({', '.join(str(stage.column) for stage in stages)})"
    )
    log, footage = EventLog(dataset, run_id), footage_by_shard(dataset)
    log.write(
        "run_started",
        f"{num_jobs} shard columns",
        num_jobs=num_jobs,
        stages=_told_of(to_make, footage, actors),
    )
    hub = EventHub.options(scheduling_strategy=beside_me()).remote()  # type: ignore[attr-defined]
    jobs = {(name, shard) for name, left in to_make.items() for shard in left}
    watcher = Watcher(hub, log, footage, jobs)
    watcher.start()
    passed = {
        shard: " ".join(name for name, own in missing.items() if shard not in own) for shard, _ in pending
    }
    flow = _flow(dataset, stages, pending, passed, run_id, hub, actors, resources)
    outcome = Outcome()
    try:
        outcome.shard_errors += _errors_of(flow, hub)
    finally:
        try:
            watcher.stop()
        finally:
            ray.kill(hub)
    outcome.accounts, outcome.seconds = watcher.accounts, time.monotonic() - begin
    ended = {
        "event": "run_ended",
        "text": f"{len(outcome.shard_errors)} shard errors in {outcome.seconds:.1f} s",
        "seconds": outcome.seconds,
        "shard_errors": outcome.shard_errors,
    }
    watcher.write(ended, is_last=True)
    return outcome


def _nothing_to_make(log: EventLog) -> Outcome:
    log.write("run_started", "nothing to make", num_jobs=0, stages={})
    log.write("run_ended", "all of it was there", seconds=0.0, shard_errors=[])
    log.flush(is_last=True)
    return Outcome()


def _errors_of(flow: ray.data.Dataset, hub: Any) -> list[str]:
    """Run the flow of shards to its end; what shards failed of.

    Raises:
        UsageError: a stage refused the whole run; the hub knows why.
        OSError: a disk is full.
    """
    errors = []
    try:
        for row in flow.iter_rows():
            if row["error"] == REFUSED and (why := ray.get(hub.refusal.remote())):
                raise why
            if row["full"]:
                raise OSError(row["full"], os.strerror(row["full"]), row["error"])
            if row["error"]:
                errors.append(f"shard {row['shard']}: {row['error']}")
    except ray.exceptions.RayError as error:
        if why := ray.get(hub.refusal.remote()):
            raise why from error
        raise
    return errors


def worth_starting(most: int, num_shards: int, of_one: Resources) -> int:
    """Most actors of a stage: of a light one no more than its shards pay for.

    To start one takes as long as many a shard of captions or texts, and Ray starts what rows wait for while
    the first one starts.
    """
    is_light = of_one.num_cpus <= LIGHT_CPUS and not of_one.num_gpus
    return max(1, min(most, num_shards // SHARDS_AN_ACTOR)) if is_light else most


def _flow(
    dataset: Dataset,
    stages: list[Stage],
    pending: list[tuple[int, int]],
    passed: dict[int, str],
    run_id: str,
    hub: Any,
    actors: dict[str, int],
    resources: dict[str, Resources],
) -> ray.data.Dataset:
    """The shards as rows that go through the actors of each stage, but for those they pass over."""
    rows = [
        {
            "shard": shard,
            "generation": generation,
            "passed": passed[shard],
            "error": "",
            "lacks": "",
            "full": 0,
        }
        for shard, generation in pending
    ]
    flow: ray.data.Dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    for stage in stages:
        flow = flow.map_batches(
            StageActor,
            batch_size=1,
            fn_constructor_args=(
                stage,
                dataset.uri,
                run_id,
                hub,
                str(Path.cwd()),
                resources[stage.name].num_gpus,
                secret_if_there(),
            ),
            compute=ActorPoolStrategy(
                min_size=1, max_size=max(1, actors[stage.name]), max_tasks_in_flight_per_actor=2
            ),
            num_cpus=resources[stage.name].num_cpus,
            num_gpus=resources[stage.name].num_gpus or None,
        )
    return flow


def _told_of(
    to_make: dict[str, list[int]], footage: dict[int, float], actors: dict[str, int]
) -> dict[str, dict[str, float]]:
    """What a run's first event says of each stage: jobs, seconds of footage in them, most actors."""
    return {
        name: {
            "jobs": len(shards),
            "footage_s": round(sum(footage.get(shard, 0.0) for shard in shards), 3),
            "actors": max(1, actors[name]),
        }
        for name, shards in to_make.items()
    }


def footage_by_shard(dataset: Dataset) -> dict[int, float]:
    """Seconds of footage that the plan gives each shard."""
    rows = planned.segments(dataset, fields=["shard", "start_s", "end_s"])
    lengths = pc.subtract(pc.coalesce(rows["end_s"], 0.0), pc.coalesce(rows["start_s"], 0.0))
    table = pa.table({"shard": rows["shard"], "length_s": pc.max_element_wise(lengths, 0.0)})
    sums = table.group_by("shard").aggregate([("length_s", "sum")])
    return dict(zip(sums["shard"].to_pylist(), sums["length_s_sum"].to_pylist(), strict=True))


def _whole(word: str) -> str:
    """A word of a command, with the whole path where it names something here: one spelling of each file."""
    try:
        is_path = Path(word).is_file() or (os.sep in word and Path(word).exists())
    except (OSError, ValueError):
        return word
    return str(Path(word).absolute()) if is_path else word


def start_run(
    dataset: Dataset,
    command: list[str],
    config: dict,
    versions: dict[str, str],
    where: str,
    makes: Sequence[Column] = (),
    aim: Aim = Aim(),  # noqa: B008 - frozen
) -> str:
    """Record what runs: `runs/<run id>/run.json`. Returns the run id.

    Args:
        makes: the columns that its stages make.
        aim: the view that is to point at them.
    """
    run_id = new_run_id(dataset)
    record = {
        "run_id": run_id,
        "command": [_whole(word) for word in command],
        "config": config,
        "versions": versions,
        "ray": where,
        "started_s": time.time(),
        "makes": [str(column) for column in makes],
    }
    record = shown_json(record) | {"aim": aim.to_dict()}  # a predicate is used again as it is
    storage.write_bytes(
        dataset.filesystem,
        dataset.path("runs", run_id, "run.json"),
        json.dumps(record, indent=2, default=str).encode(),
    )
    return run_id
