"""`rushes launch`: a verb as a Ray Train job, one process a worker: `torchrun` on a Ray cluster.

Ray Train starts the workers and joins them in a process group; the verb finds the group and takes its
share of the work. When a worker dies, the whole group is restarted, up to `retries` times, and the verb
resumes from its own last checkpoint. Signals reach only the launching process; workers poll an actor.
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from learning.stopping import ask_to_stop, stop_on_signals
from manifests import cli
from manifests.cli.ranges import COUNT_OR_NONE, NOT_NEGATIVE, WORKERS, Ranges
from manifests.errors import RushesError, UsageError
from pipeline.engine.cluster import beside_me, go_to, session

SHARED_VERBS = ("fit", "sample", "train-captioner", "train-vae")
"""Verbs whose work several processes share."""
SAVES_WHEN_ASKED = {"fit"}
"""Verbs that save when they are asked to stop; others resume from their last regular checkpoint."""
POLL_S = 0.5


class StopFlag:
    """An actor that holds the signal by which the run is asked to stop; empty: it goes on."""

    def __init__(self) -> None:
        self.signal_name = ""

    def put(self, signal_name: str) -> None:
        self.signal_name = signal_name

    def get(self) -> str:
        return self.signal_name


def _watch(flag: Any, is_over: threading.Event) -> None:
    """Ask the verb in this process to stop once the flag is set."""
    import ray

    while not is_over.wait(POLL_S):
        if name := ray.get(flag.get.remote()):
            ask_to_stop(name)
            return


def work(job: dict[str, Any]) -> None:
    """Run a verb in a worker, inside the process group.

    Raises:
        RushesError: it failed.
    """
    go_to(job["folder"])
    is_over = threading.Event()
    threading.Thread(target=_watch, args=(job["stop_flag"], is_over), daemon=True).start()
    try:
        code = cli.run(job["arguments"])
    finally:
        is_over.set()
    if code not in {cli.DONE, cli.INTERRUPTED}:
        raise RushesError(f"rushes {' '.join(job['arguments'])}", f"ended with exit code {code}")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Run a verb (fit, sample, train-captioner, train-vae) on several Ray workers.

    Example: rushes launch --workers 4 --gpus 1 -- train-captioner OUT --films 0 --data DATASET
    """

    ranges: ClassVar[Ranges] = {
        "workers": WORKERS,
        **dict.fromkeys(("least_workers", "retries"), COUNT_OR_NONE),
        **dict.fromkeys(("cpus", "gpus"), NOT_NEGATIVE),
    }

    command: Annotated[tuple[str, ...], tyro.conf.Positional]
    """The verb with its options, as behind `rushes`; put -- before it."""
    workers: int = 2
    """Processes."""
    least_workers: int = 0
    """Go on with as few as this when nodes are lost, and with more when they come back, each time from the
    last checkpoint; 0: wait for all."""
    cpus: float = 1.0
    """CPUs of each."""
    gpus: float = 0.0
    """GPUs of each."""
    retries: int = 3
    """How often the group is started anew after a worker died."""

    def run(self) -> int:
        if not self.command or self.command[0] not in SHARED_VERBS:
            raise UsageError(
                f"command {' '.join(self.command)}",
                "is no verb that several workers share",
                f"Verbs: {', '.join(SHARED_VERBS)}.",
            )
        cli.check_options(self.command)
        with session():
            return self._until_done(*self._job())

    def _job(self) -> tuple[Any, Any]:
        """The Ray Train job, and the flag by which it is asked to stop."""
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        each = {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}
        count: Any = (self.least_workers, self.workers) if self.least_workers else self.workers
        flag = ray.remote(num_cpus=0)(StopFlag).options(scheduling_strategy=beside_me()).remote()
        job = {"arguments": list(self.command), "stop_flag": flag, "folder": str(Path.cwd())}
        trainer = TorchTrainer(
            work,
            train_loop_config=job,
            scaling_config=ScalingConfig(num_workers=count, use_gpu=self.gpus > 0, resources_per_worker=each),
            run_config=RunConfig(failure_config=FailureConfig(max_failures=self.retries)),
        )
        return trainer, flag

    def _until_done(self, trainer: Any, flag: Any) -> int:
        """Run the job in a thread; this one receives signals and passes them on."""
        failed: list[Exception] = []

        def run() -> None:
            try:
                trainer.fit()
            except Exception as error:  # noqa: BLE001 - raised again below, in the thread that is waited for
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        with stop_on_signals() as stop:
            thread.start()
            while thread.is_alive() and not stop.signal_name:
                time.sleep(POLL_S)
            if stop.signal_name and self.command[0] not in SAVES_WHEN_ASKED:
                raise KeyboardInterrupt
            if stop.signal_name:
                flag.put.remote(stop.signal_name)
            while thread.is_alive():
                thread.join(POLL_S)
        if failed:
            words = [line.strip() for line in str(failed[0]).splitlines() if line.strip()]
            raise RushesError(
                f"rushes {' '.join(self.command)}",
                f"failed on its workers ({words[-1] if words else type(failed[0]).__name__})",
                "Their logs are in Ray's folder; the same command goes on from what is there.",
            ) from failed[0]
        return cli.INTERRUPTED if stop.signal_name == signal.SIGINT.name else cli.DONE
