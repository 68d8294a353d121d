"""`python -m pipeline launch`: a training command of another package as a Ray Train job, one process a worker; what `torchrun` does, on a Ray cluster.

Ray Train starts the workers and joins them in a process group; the command finds it and takes its share. A worker that dies takes the group down, and the group is
started anew up to `retries` times: the command itself goes on from its own last checkpoint.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from manifests import cli
from manifests.errors import RushesError, UsageError
from pipeline.cluster import connect

PACKAGES = ("captioner", "trainer", "vae")


def work(job: dict[str, Any]) -> None:
    """What a worker runs: `python -m PACKAGE ARGUMENTS`, inside the group.

    Raises:
        RushesError: the command failed.
    """
    verbs = importlib.import_module(f"{job['package']}.__main__").VERBS
    code = cli.main(f"python -m {job['package']}", "", verbs, job["arguments"])
    if code not in {cli.DONE, cli.INTERRUPTED}:
        raise RushesError(f"python -m {job['package']} {' '.join(job['arguments'])}", f"ended with exit code {code}")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Run a training command on several Ray workers.

    Example: python -m pipeline launch --workers 4 --gpus 1 captioner train OUT --films 0 --data DATASET
    """

    command: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Package, verb and options, as behind `python -m`; put -- before it where it has options."""
    workers: int = 2
    """Processes."""
    cpus: float = 1.0
    """CPUs of each."""
    gpus: float = 0.0
    """GPUs of each."""
    retries: int = 3
    """How often the group is started anew after a worker died."""

    def run(self) -> int:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        if not self.command or self.command[0] not in PACKAGES:
            raise UsageError(f"command {' '.join(self.command)}", "is not a training command", f"Packages: {', '.join(PACKAGES)}.")
        connect()
        scaling = ScalingConfig(
            num_workers=self.workers, use_gpu=self.gpus > 0, resources_per_worker={"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}
        )
        job = {"package": self.command[0], "arguments": list(self.command[1:])}
        TorchTrainer(
            work, train_loop_config=job, scaling_config=scaling, run_config=RunConfig(failure_config=FailureConfig(max_failures=self.retries))
        ).fit()
        return cli.DONE
