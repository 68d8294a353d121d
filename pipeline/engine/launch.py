"""`rushes launch`: a verb as a Ray Train job, one process a worker: `torchrun` on a Ray cluster.

Ray Train starts the workers and joins them in a process group; the verb finds the group and takes its
share of the work. When a worker dies, the whole group is restarted, up to `retries` times, and the verb
resumes from its own last checkpoint. Signals reach only the launching process; workers poll an actor, which
passes on what the first of them prints.
"""

from __future__ import annotations

import contextlib
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
from pipeline.engine.relay import POLL_S, Bulletin, check_refused, print_told, relayed

SHARED_VERBS = ("fit", "sample", "train-captioner", "train-vae")
"""Verbs whose work several processes share."""
SAVES_WHEN_ASKED = {"fit", "train-vae", "train-captioner"}
"""Verbs that save when they are asked to stop; others resume from their last regular checkpoint."""


def _watch(bulletin: Any, is_over: threading.Event) -> None:
    """Ask the verb in this process to stop once the launching one says so."""
    import ray

    while not is_over.wait(POLL_S):
        if name := ray.get(bulletin.state.remote())[0]:
            ask_to_stop(name)
            return


def work(job: dict[str, Any]) -> None:
    """Run a verb in a worker, inside the process group; what the first one prints is passed on.

    Raises:
        RushesError: it failed.
    """
    import ray
    from ray.train import get_context

    bulletin = job["bulletin"]
    if ray.get(bulletin.state.remote())[1]:  # begun anew for nothing: the command makes no sense
        return
    go_to(job["folder"])
    is_over = threading.Event()
    threading.Thread(target=_watch, args=(bulletin, is_over), daemon=True).start()
    is_first = get_context().get_world_rank() == 0
    try:
        with relayed(bulletin) if is_first else contextlib.nullcontext():
            code = cli.run(job["arguments"])
    except UsageError as error:
        ray.get(bulletin.refuse.remote((error.subject, error.cause, error.next_step)))
        raise
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
        if self.least_workers > self.workers:
            raise UsageError(f"--least-workers {self.least_workers}", "is more than --workers")
        cli.check_options(self.command)
        with session():
            return self._until_done(*self._job())

    def _job(self) -> tuple[Any, Any]:
        """The Ray Train job, and the actor by which it is spoken with."""
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        each = {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}
        count: Any = (self.least_workers, self.workers) if self.least_workers else self.workers
        bulletin = ray.remote(num_cpus=0)(Bulletin).options(scheduling_strategy=beside_me()).remote()
        job = {"arguments": list(self.command), "bulletin": bulletin, "folder": str(Path.cwd())}
        trainer = TorchTrainer(
            work,
            train_loop_config=job,
            scaling_config=ScalingConfig(num_workers=count, use_gpu=self.gpus > 0, resources_per_worker=each),
            run_config=RunConfig(failure_config=FailureConfig(max_failures=self.retries)),
        )
        return trainer, bulletin

    def _until_done(self, trainer: Any, bulletin: Any) -> int:
        """Run the job in a thread; this one receives signals and passes them on, and prints what is told."""
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
                print_told(bulletin)
            if stop.signal_name and self.command[0] not in SAVES_WHEN_ASKED:
                raise KeyboardInterrupt
            if stop.signal_name:
                bulletin.stop.remote(stop.signal_name)
            while thread.is_alive():
                thread.join(POLL_S)
                print_told(bulletin)
        print_told(bulletin)
        check_refused(bulletin)
        if failed:
            words = [line.strip() for line in str(failed[0]).splitlines() if line.strip()]
            raise RushesError(
                f"rushes {' '.join(self.command)}",
                f"failed on its workers ({words[-1] if words else type(failed[0]).__name__})",
                "Their logs are in Ray's folder; the same command goes on from what is there.",
            ) from failed[0]
        return cli.INTERRUPTED if stop.signal_name == signal.SIGINT.name else cli.DONE
