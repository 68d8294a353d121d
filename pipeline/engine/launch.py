"""`python -m pipeline launch`: a training command of another package as a Ray Train job, one process a
worker; what `torchrun` does, on a Ray cluster.

Ray Train starts the workers and joins them in a process group; the command finds it and takes its share. A
worker that dies takes the group down, and the group is
started anew up to `retries` times: the command itself goes on from its own last checkpoint. Signals reach
only this process; the workers hear of them through an actor.
"""

from __future__ import annotations

import importlib
import signal
import threading
import time
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from learning.stopping import ask_to_stop, stop_on_signals
from manifests import cli
from manifests.errors import RushesError, UsageError
from pipeline.engine.cluster import connect

PACKAGES = ("captioner", "trainer", "vae")
SAVES_WHEN_ASKED = {"trainer"}
"""Trainings that save when they are asked to stop; the others are interrupted, and go on from their last
checkpoint."""
POLL_S = 0.5


class Wish:
    """An actor that knows whether the run is to stop, and for what signal."""

    def __init__(self) -> None:
        self.name = ""

    def say(self, name: str) -> None:
        self.name = name

    def heard(self) -> str:
        return self.name


def _listen(wish: Any, is_over: threading.Event) -> None:
    """Hand on what was wished for to the training in this process."""
    import ray

    while not is_over.wait(POLL_S):
        if name := ray.get(wish.heard.remote()):
            ask_to_stop(name)
            return


def work(job: dict[str, Any]) -> None:
    """What a worker runs: `python -m PACKAGE ARGUMENTS`, inside the group.

    Raises:
        RushesError: the command failed.
    """
    is_over = threading.Event()
    threading.Thread(target=_listen, args=(job["wish"], is_over), daemon=True).start()
    verbs = importlib.import_module(f"{job['package']}.__main__").VERBS
    try:
        code = cli.main(f"python -m {job['package']}", "", verbs, job["arguments"])
    finally:
        is_over.set()
    if code not in {cli.DONE, cli.INTERRUPTED}:
        raise RushesError(
            f"python -m {job['package']} {' '.join(job['arguments'])}", f"ended with exit code {code}"
        )


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Run a training command on several Ray workers.

    Example: python -m pipeline launch --workers 4 --gpus 1 captioner train OUT --films 0 --data DATASET
    """

    command: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Package, verb and options, as behind `python -m`; put -- before it where it has options."""
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
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        if not self.command or self.command[0] not in PACKAGES:
            raise UsageError(
                f"command {' '.join(self.command)}",
                "is not a training command",
                f"Packages: {', '.join(PACKAGES)}.",
            )
        connect()
        each = {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}
        count: Any = (self.least_workers, self.workers) if self.least_workers else self.workers
        wish = ray.remote(num_cpus=0)(Wish).remote()
        job = {"package": self.command[0], "arguments": list(self.command[1:]), "wish": wish}
        trainer = TorchTrainer(
            work,
            train_loop_config=job,
            scaling_config=ScalingConfig(num_workers=count, use_gpu=self.gpus > 0, resources_per_worker=each),
            run_config=RunConfig(failure_config=FailureConfig(max_failures=self.retries)),
        )
        return self._until_done(trainer, wish)

    def _until_done(self, trainer: Any, wish: Any) -> int:
        """Run the job beside this thread, which alone hears signals, and pass on what it hears."""
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
                wish.say.remote(stop.signal_name)
            while thread.is_alive():
                thread.join(POLL_S)
        if failed:
            raise failed[0]
        return cli.INTERRUPTED if stop.signal_name == signal.SIGINT.name else cli.DONE
