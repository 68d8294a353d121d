"""The runner: one row per shard flows through the stage actors on Ray Data, while the driver watches.

Ray does scheduling, retries, autoscaling and back-pressure. A row holds a shard's number, never pixels. An
actor that dies is restarted and its row tried again; the stage's journal sees to it that an item which kills
its process twice is passed over, so trying again always ends.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy

from manifests.cli import say
from manifests.errors import RushesError
from manifests.layout import Column, Dataset
from manifests.runs.events import Aim, EventLog, stamp
from manifests.store import storage
from manifests.tables import planned
from manifests.text import shown_json
from manifests.writing.commit import Account
from media.bytes.sealed import secret_if_there, use_secret
from pipeline.blame import HopelessError
from pipeline.config import Resources
from pipeline.engine.cluster import beside_me, go_to
from pipeline.engine.hub import MAX_SETUPS, EventHub, event_row
from pipeline.engine.watcher import Watcher
from pipeline.stages.journal import Node
from pipeline.stages.protocol import Stage, run_stage

_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Where one shard cannot be written no other can: a full disk, a place that may not be written to.
The run ends."""
LIGHT_CPUS, SHARDS_AN_ACTOR = 0.5, 4
"""Of a light stage: with fewer, another actor does not pay for its start."""
_REFUSED = "refused"  # the error of a row whose stage cannot be set up; the hub knows why
_PROGRESS_EVERY_S = 5.0


def is_node_gone(name: str) -> bool:
    """Whether a node of this cluster, by its id, is there no more."""
    return not any(node["NodeID"] == name and node["Alive"] for node in ray.nodes())


class StageActor:
    """Runs one stage, shard by shard, in one process."""

    def __init__(
        self,
        stage: Stage,
        dataset_uri: str,
        run_id: str,
        hub: Any,
        folder: str,
        num_gpus: float,
        secret: bytes | None,
    ) -> None:
        use_secret(secret)
        go_to(folder)  # for models that are named by a relative path
        self.stage, self.dataset, self.run_id, self.hub = stage, Dataset(dataset_uri), run_id, hub
        self.num_gpus, self.is_refused = num_gpus, False
        self._set_up(ray.get_runtime_context())

    def _set_up(self, context: Any) -> None:
        """Set the stage up; where it cannot be, tell the hub, and refuse all work.

        An error would be told by Ray, at length and several times.
        """
        stage, actor = self.stage, context.get_actor_id()
        self.node = Node(context.get_node_id(), is_node_gone)
        deaths = ray.get(self.hub.begin_setup.remote(stage.name, actor))
        if deaths >= MAX_SETUPS:
            why = RushesError(
                f"stage {stage.name}",
                f"its process died {deaths} times while it set up",
                "Look for memory: the weights may not fit. The node's log of the worker says more.",
            )
            ray.get(self.hub.refuse.remote(why))
            self.is_refused = True
            return
        try:
            stage.setup()
        except RushesError as error:
            ray.get(self.hub.refuse.remote(error))
            self.is_refused = True
            return
        ray.get(self.hub.end_setup.remote(actor))

    def _tell(self, event: str, text: str, shard: int, **value: Any) -> None:
        self.hub.put.remote(event_row(event, self.stage.name, text, shard, **value))

    def _failed(self, batch: dict, failure: Exception) -> dict:
        if isinstance(failure, HopelessError):
            ray.get(self.hub.refuse.remote(failure))
            self.is_refused = True
            return {**batch, "error": [_REFUSED]}
        shard, text = int(batch["shard"][0]), f"{type(failure).__name__}: {failure}"
        self._tell("shard_failed", text, shard, trace=traceback.format_exc())
        errors = [*filter(None, [str(batch["error"][0])]), f"{self.stage.name}: {text}"]
        return self._lacking({**batch, "error": ["; ".join(errors)]})

    def _lacking(self, batch: dict) -> dict:
        """The row of a shard that lacks this stage's column: what needs it is left out."""
        return {**batch, "lacks": [f"{batch['lacks'][0]} {self.stage.column}".strip()]}

    def __call__(self, batch: dict) -> dict:
        shard, generation, error = int(batch["shard"][0]), int(batch["generation"][0]), str(batch["error"][0])
        if self.is_refused or error == _REFUSED or batch["full"][0]:
            return {**batch, "error": [error if batch["full"][0] else _REFUSED]}
        if not set(map(str, self.stage.needs)).isdisjoint(str(batch["lacks"][0]).split()):
            self._tell("skipped", "what it needs was not made", shard, lacks=True)
            return self._lacking(batch)
        told_s, cpu_s = time.monotonic(), _cpu_s()
        self._tell("job_started", f"on {socket.gethostname()}", shard, node=socket.gethostname())

        def progress(text: str) -> None:
            nonlocal told_s
            if time.monotonic() - told_s > _PROGRESS_EVERY_S:
                told_s = time.monotonic()
                self._tell("progress", text, shard)

        try:
            account, seconds = run_stage(
                self.stage,
                self.dataset,
                self.run_id,
                shard,
                generation,
                progress,
                node=self.node,
                on_death=lambda text: self._tell("died", text, shard),
            )
        except OSError as failure:
            number = errno.EACCES if isinstance(failure, PermissionError) else failure.errno
            if number not in _HOPELESS:
                return self._failed(batch, failure)
            named = failure.filename or (str(failure).partition(": ")[0] if failure.errno is None else "")
            return {**batch, "error": [str(named or self.dataset.uri)], "full": [number]}
        except Exception as failure:  # noqa: BLE001
            # told, returned in the row and counted by the driver: a shard that cannot be written must not
            # take the others with it
            return self._failed(batch, failure)
        if account is not None:
            text = (
                f"{account.num_kept} kept, {account.num_dropped} dropped, {account.num_failed} failed in "
                f"{seconds:.1f} s"
            )
            used = {"cpu_s": round(_cpu_s() - cpu_s, 3), "gpu_s": round(seconds * self.num_gpus, 3)}
            self._tell("committed", text, shard, seconds=seconds, **used, **vars(account))
        else:
            self._tell("skipped", "it was there, or another writer was first", shard)
        return batch


def _cpu_s() -> float:
    """Seconds of processors that this process and the ones it waited for have used."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


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
) -> Outcome:
    """Make every missing column of every shard.

    Args:
        stages: in the order their columns depend on each other.
        shards: (shard, generation) pairs.
        actors: most actors of each stage; one always runs.
        resources: of one actor of each stage.
    """
    committed = {stage.name: set(dataset.committed_shards(stage.column)) for stage in stages}
    pending = [
        (shard, generation)
        for shard, generation in shards
        if any(shard not in done for done in committed.values())
    ]
    to_make = {
        stage.name: [shard for shard, _ in pending if shard not in committed[stage.name]] for stage in stages
    }
    num_jobs, begin = sum(map(len, to_make.values())), time.monotonic()
    if not pending:
        log = EventLog(dataset, run_id)
        log.write("run_started", "nothing to make", num_jobs=0, stages={})
        log.write("run_ended", "all of it was there", seconds=0.0, shard_errors=[])
        log.flush(is_last=True)
        return Outcome()
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
    flow = _flow(dataset, stages, pending, run_id, hub, actors, resources)
    outcome = Outcome()
    try:
        for row in flow.iter_rows():
            if row["error"] == _REFUSED and (why := ray.get(hub.refusal.remote())):
                raise why
            if row["full"]:
                raise OSError(row["full"], os.strerror(row["full"]), row["error"])
            if row["error"]:
                outcome.shard_errors.append(f"shard {row['shard']}: {row['error']}")
    except ray.exceptions.RayError as error:
        if why := ray.get(hub.refusal.remote()):
            raise why from error
        raise
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
    run_id: str,
    hub: Any,
    actors: dict[str, int],
    resources: dict[str, Resources],
) -> ray.data.Dataset:
    """The shards as rows that go through the actors of each stage."""
    rows = [
        {"shard": shard, "generation": generation, "error": "", "lacks": "", "full": 0}
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
    run_id = stamp()
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
