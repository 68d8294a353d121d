"""One stage in one process on Ray: shard by shard, and what became of each is told to the hub.

An actor that dies is restarted and its row tried again; the stage's journal sees to it that an item which
kills its process twice is passed over, so trying again always ends.
"""

from __future__ import annotations

import errno
import os
import socket
import time
import traceback
from typing import Any

import ray

from manifests.errors import RushesError
from manifests.layout import Dataset
from media.bytes.sealed import use_secret
from pipeline.blame import HopelessError
from pipeline.engine.cluster import go_to
from pipeline.engine.hub import MAX_SETUPS, event_row
from pipeline.stages.journal import Node
from pipeline.stages.protocol import Stage, run_stage

_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Where one shard cannot be written no other can: a full disk, a place that may not be written to.
The run ends."""
_ITS_OWN = (
    "Look at the weights and settings it is given: see `rushes ingest --help-all` for those of this stage."
)
REFUSED = "refused"
"""The error of a row whose stage cannot be set up; the hub knows why."""
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
        except (Exception, SystemExit) as error:  # noqa: BLE001 - of libraries that read weights
            said = f"cannot be set up ({type(error).__name__}: {' '.join(str(error).split())[:500]})"
            own = RushesError(f"stage {stage.name}", said, _ITS_OWN)
            ray.get(self.hub.refuse.remote(error if isinstance(error, RushesError) else own))
            self.is_refused = True
            return
        ray.get(self.hub.end_setup.remote(actor))

    def _tell(self, event: str, text: str, shard: int, **value: Any) -> None:
        self.hub.put.remote(event_row(event, self.stage.name, text, shard, **value))

    def _failed(self, batch: dict, failure: Exception) -> dict:
        if isinstance(failure, HopelessError):
            ray.get(self.hub.refuse.remote(failure))
            self.is_refused = True
            return {**batch, "error": [REFUSED]}
        shard, text = int(batch["shard"][0]), f"{type(failure).__name__}: {failure}"
        self._tell("shard_failed", text, shard, trace=traceback.format_exc())
        errors = [*filter(None, [str(batch["error"][0])]), f"{self.stage.name}: {text}"]
        return self._lacking({**batch, "error": ["; ".join(errors)]})

    def _lacking(self, batch: dict) -> dict:
        """The row of a shard that lacks this stage's column: what needs it is left out."""
        return {**batch, "lacks": [f"{batch['lacks'][0]} {self.stage.column}".strip()]}

    def __call__(self, batch: dict) -> dict:
        """Work on a row, unless its shard passes this stage over."""
        return batch if self.stage.name in str(batch["passed"][0]).split() else self._work(batch)

    def _work(self, batch: dict) -> dict:
        shard, generation, error = int(batch["shard"][0]), int(batch["generation"][0]), str(batch["error"][0])
        if self.is_refused or error == REFUSED or batch["full"][0]:
            return {**batch, "error": [error if batch["full"][0] else REFUSED]}
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
