"""`python -m trainer fit`: the options of a training run, and how it is started."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from learning.launching import run_processes, without
from learning.stopping import Interrupted
from manifests import cli
from manifests.errors import UsageError
from manifests.layout import Dataset
from trainer.options import RunOptions

_OF_THE_LAUNCH = ("--launch", "--workers", "--least-workers", "--gpus")


@dataclass(frozen=True, kw_only=True)
class Fit(RunOptions):
    """Train. Run the same command again to resume; Ctrl-C and SIGTERM save first. On several devices: under
    torchrun, or with --launch ray.

    Examples:
      python -m trainer fit tiny --data DATASET --steps 500 --out runs/tiny
      python -m trainer fit xl --data DATASET --out runs/xl --packs-per-step 8 --launch processes --workers 8
      --optimizer muon --async-saving True
      torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST -m trainer fit xl --data
      DATASET --out runs/xl --packs-per-step 32
      python -m trainer fit xl --data DATASET --out runs/xl --packs-per-step 16 --launch ray --workers 16
      --gpus 1
    """

    out: Path | None = None
    """Run folder; DATASET/training/PRESET if left out."""
    optimizer: Literal["adamw", "muon"] | None = None
    """muon: for the matrices of the blocks, AdamW for the rest."""
    schedule: Literal["flat-cosine", "cosine", "constant"] | None = None
    """Of the learning rate after the warm-up."""
    ema_more: tuple[float, ...] | None = None
    """Decays of further averages, each exported as a model."""
    save_every: int | None = None
    """Steps between checkpoints."""
    async_saving: bool | None = None
    """Go on training while a checkpoint is written."""
    validate_every: int | None = None
    """Steps between validations."""
    sample_every: int | None = None
    """Steps between sheets of samples in the run folder."""
    spike_factor: float | None = None
    """Skip a step whose loss is this many times the median of the last 64."""
    roll_back_after: int | None = None
    """Skipped steps in a row after which the weights go back to the last checkpoint; 0: never."""
    bf16: bool | None = None
    """Compute in bfloat16."""
    checkpointing: bool | None = None
    """Recompute activations in the backward pass."""
    compile: bool | None = None
    """Compile each block."""
    shard_size: int | None = None
    """Processes that share one copy of the weights (HSDP); all if left out."""
    sequence_parallel: int | None = None
    """Processes that share each pack (Ulysses), for clips too long for one."""
    tensorboard: bool | None = None
    """Write TensorBoard's files."""
    wandb: str | None = None
    """Project of Weights & Biases to report to as well."""
    peak_tflops: float | None = None
    """Peak of one device, for MFU."""
    cache: Path | None = None
    """Folder on the local disk that keeps what was read of a dataset on an object store."""
    cache_gb: float = 100.0
    """Most that it holds, over the processes of a machine."""
    tars: tuple[str, ...] = ()
    """Plain WebDataset tars to stream instead of a dataset (`python -m manifests export` makes them);
    several, or one pattern such as 'tars/{000000..000009}.tar'."""
    threads: int = 2
    """CPU threads."""
    launch: Literal["here", "processes", "ray"] = "here"
    """processes: several on this machine, which a SIGTERM ends with 0 once they have saved; ray: workers of a
    Ray cluster, started anew when one dies (`python -m pipeline launch`). Under torchrun: here."""
    workers: int = 2
    """Processes, or workers on Ray."""
    least_workers: int = 0
    """Workers with which a Ray cluster that lost nodes goes on; 0: all are waited for."""
    gpus: float = 0.0
    """GPUs of each worker on Ray."""

    def run(self) -> int:
        if (
            self.threads < 1
            or self.workers < 1
            or self.cache_gb <= 0
            or not 0 <= self.least_workers <= self.workers
        ):
            raise UsageError(
                "--threads, --workers, --cache-gb",
                "must be more than 0, and --least-workers no more than --workers",
            )
        if self.launch == "processes":
            return run_processes(
                [sys.executable, "-m", "trainer", *without(sys.argv[1:], _OF_THE_LAUNCH)], self.workers
            )
        if self.launch == "ray":
            self._on_ray()
        from glob import glob

        import torch
        from braceexpand import braceexpand

        from manifests.reading import RangeCache
        from trainer.run.fit import fit, fit_tars

        torch.set_num_threads(self.threads)
        if self.out is None and ("://" in self.data or not self.data):
            raise UsageError("--out", "is needed where no local dataset is read", "Give a local run folder.")
        if bool(self.tars) == bool(self.data):
            raise UsageError(
                "--data, --tars", "give one of the two", "--data for a dataset, --tars for plain tars."
            )
        out = self.out or Path(self.data) / "training" / self.preset
        names = (
            "optimizer",
            "schedule",
            "ema_more",
            "save_every",
            "validate_every",
            "sample_every",
            "spike_factor",
            "roll_back_after",
            "shard_size",
            "sequence_parallel",
            "wandb",
            "peak_tflops",
        )
        more = {name: getattr(self, name) for name in names} | {
            "is_bf16": self.bf16,
            "is_checkpointed": self.checkpointing,
            "is_compiled": self.compile,
            "is_tensorboard": self.tensorboard,
            "is_async_saving": self.async_saving,
        }
        config = self.config(**more)
        # each process of a machine keeps to its part of the whole
        cache = (
            RangeCache(self.cache, round(self.cache_gb * 1e9 / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
            if self.cache
            else None
        )
        try:
            if self.tars:
                fit_tars(
                    [
                        url
                        for pattern in self.tars
                        for one in braceexpand(pattern)
                        for url in sorted(glob(one)) or [one]
                    ],
                    config,
                    out,
                )
            else:
                fit(Dataset(self.data), self.view, config, out, cache)
        except Interrupted as stopped:
            return cli.INTERRUPTED if str(stopped) == "SIGINT" else cli.DONE
        print(out)
        return cli.DONE

    def _on_ray(self) -> NoReturn:
        """Become the pipeline's launcher of the same command, so that what is sent to this process reaches
        the run.
        """
        launch = [
            "--workers",
            str(self.workers),
            "--least-workers",
            str(self.least_workers),
            "--gpus",
            str(self.gpus),
        ]
        os.execv(
            sys.executable,
            [
                sys.executable,
                "-m",
                "pipeline",
                "launch",
                *launch,
                "--",
                "trainer",
                *without(sys.argv[1:], _OF_THE_LAUNCH),
            ],
        )
