"""`rushes fit`: the options of a training run, and how it is started."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from learning.launching import USUAL_WORKERS, become_ray_job, run_here
from learning.stopping import Interrupted
from manifests import cli
from manifests.cli.ranges import COUNT_OR_NONE, NOT_NEGATIVE, POSITIVE, WORKERS, Ranges
from manifests.errors import UsageError
from manifests.layout import Dataset, parted
from trainer.config_files import load_config
from trainer.options import RunOptions

if TYPE_CHECKING:
    from manifests.store.reading import RangeCache
    from trainer.config import FitConfig


KERNELS_KEPT = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
"""On a CPU, products in half precision get a kernel for each shape, and every pack has others. oneDNN keeps
1,024 by default, so that most would be made anew in each step."""


_OF_A_DATASET = ("view", "mix", "balance", "image_share", "stages", "long_clips", "cache")
"""Options that choose among the samples of a dataset, or keep what is read of it."""
_OF_A_PLAN = ("mix", "balance", "image_share", "stages")
"""Of these, settings of a run, which files of settings may hold."""


@dataclass(frozen=True, kw_only=True)
class Fit(RunOptions):
    """Train a diffusion transformer. Run the same command again to resume; Ctrl-C and SIGTERM save first.

    Examples:
      rushes fit tiny --data DATASET --out RUN --steps 500
      rushes fit xl --data DATASET --out RUN --packs-per-step 8 --launch processes --workers 8
      rushes fit xl --data DATASET --out RUN --packs-per-step 16 --launch ray --workers 16 --gpus 1
      torchrun --nnodes 4 --nproc-per-node 8 -m rushes fit xl --data DATASET --out RUN --packs-per-step 32
    """

    essential: ClassVar[tuple[str, ...]] = (
        *("data", "out", "view", "steps", "tokens", "packs_per_step", "lr", "bf16", "compile"),
        *("launch", "workers", "gpus", "set"),
    )
    ranges: ClassVar[Ranges] = {
        "cache_gb": POSITIVE,
        **dict.fromkeys(("threads", "workers", "devices"), WORKERS),
        **dict.fromkeys(("gpu_gib", "tflops"), POSITIVE),
        "least_workers": COUNT_OR_NONE,
        "gpus": NOT_NEGATIVE,
    }

    out: Path | None = None
    """Run folder; DATASET/training/PRESET if left out."""
    init: str | None = None
    """Model to begin from, with its sizes: a run, an exported model, or a name under weights/."""
    init_fresh: tuple[str, ...] | None = None
    """Weights that begin anew all the same, by the beginnings of their names: text null_text."""
    lora_rank: int | None = None
    """Train adapters of this rank beside the weights of --init (peft), not the weights."""
    optimizer: Literal["adamw", "muon"] | None = None
    """muon: for the matrices of the blocks, AdamW for the rest."""
    schedule: Literal["flat-cosine", "cosine", "constant"] | None = None
    """Of the learning rate after the warm-up."""
    ema_more: tuple[float, ...] | None = None
    """Decays of further averages, each exported as a model."""
    save_every: int | None = None
    """Steps between checkpoints."""
    checkpoints: str | None = None
    """Folder on an object store that gets a copy of each checkpoint: a run whose own folder is gone goes on
    from there."""
    async_saving: bool | None = None
    """Go on training while a checkpoint is written."""
    validate_every: int | None = None
    """Steps between validations."""
    sample_every: int | None = None
    """Steps between sheets of samples in the run folder."""
    spike_factor: float | None = None
    """Skip a step whose loss is this many times the usual one; 0: take it."""
    roll_back_after: int | None = None
    """Skipped steps in a row after which the weights go back to the last calm checkpoint; 0: never."""
    bf16: bool | None = None
    """Compute in bfloat16."""
    checkpointing: bool | None = None
    """Recompute activations in the backward pass."""
    checkpoint_keeps: Literal["auto", "nothing", "attention", "widest"] | None = None
    """What is kept of a block that is recomputed: results of attention, the product into the MLP too, or what
    memory allows."""
    half_stream: bool | None = None
    """Keep the residual stream in half precision too."""
    noise: Literal["host", "device"] | None = None
    """Where noise is drawn."""
    compile: bool | None = None
    """Compile each block."""
    shard_size: int | None = None
    """Processes that share one copy of the weights (HSDP); all if left out."""
    sequence_parallel: int | None = None
    """Processes that share each pack, for clips too long for one."""
    ring: int | None = None
    """Parts in a row that these make of it, exchanging keys; within a part they deal the heads (Ulysses)."""
    tensorboard: bool | None = None
    """Write TensorBoard's files."""
    wandb: str | None = None
    """Project of Weights & Biases to report to as well."""
    peak_tflops: float | None = None
    """Peak of one device, for MFU."""
    new_data: bool = False
    """Where the dataset has changed since the run began: begin its next epoch on what there is now."""
    profile: str | None = None
    """Steps to trace, as 10:13: a trace for Perfetto and a table of the dearest operations in RUN/profile."""
    cache: Path | None = None
    """Folder on the local disk that keeps what was read of a dataset on an object store."""
    cache_gb: float = 100.0
    """Most that it holds, over the processes of a machine."""
    tars: tuple[str, ...] = ()
    """Plain WebDataset tars to stream instead of a dataset (`rushes export` makes them);
    several, or one pattern such as 'tars/{000000..000009}.tar'."""
    reads: int | None = None
    """Samples fetched at once; by where the dataset lies if left out."""
    threads: int = 2
    """CPU threads."""
    dry_run: bool = False
    """Tell what the run needs of each device and how long it takes, and end; no data is read."""
    devices: int = 1
    """Devices that --dry-run counts with."""
    gpu_gib: float = 79.0
    """Memory of one, for --dry-run: 79 of a card that is sold as 80 GB."""
    tflops: float = 300.0
    """TFLOP/s that one sustains, its peak times the share that is used, for --dry-run."""
    launch: Literal["here", "processes", "ray"] = "here"
    """processes: several on this machine; ray: workers of a Ray cluster, restarted when one dies. Under
    torchrun: here."""
    workers: int | None = None
    """Processes, or workers on Ray; 2 if left out."""
    least_workers: int = 0
    """Workers with which a Ray cluster that lost nodes goes on; 0: all are waited for."""
    gpus: float = 0.0
    """GPUs of each worker on Ray."""

    def _check_idle(self) -> None:
        """Refuse options that would have no effect.

        Raises:
            UsageError: there is one.
        """
        usual = {own.name: own.default for own in fields(self)}
        is_ray, is_dry = self.launch == "ray", self.dry_run
        idle = [
            ("workers", self.launch == "here", "--launch processes or --launch ray"),
            ("least_workers", not is_ray, "--launch ray"),
            ("gpus", not is_ray, "--launch ray; --dry-run counts with --devices"),
            ("devices", not is_dry, "--dry-run"),
            ("gpu_gib", not is_dry, "--dry-run"),
            ("tflops", not is_dry, "--dry-run"),
            ("cache_gb", self.cache is None, "--cache"),
            *((name, bool(self.tars), "--data: tars are streamed as they lie") for name in _OF_A_DATASET),
        ]
        for name, is_idle, needs in idle:
            if is_idle and getattr(self, name) != usual[name]:
                raise UsageError(f"--{name.replace('_', '-')}", "has no effect here", f"It is of {needs}.")

    def run(self) -> int:
        self._check_idle()
        if self.dry_run:
            return self._tell_needs()
        if self.lora_rank and not self.init and not (self._checked_out() / "config.json").exists():
            raise UsageError("--lora-rank", "needs --init", "Adapters are trained beside trained weights.")
        if self.init_fresh and not self.init:
            raise UsageError("--init-fresh", "needs --init", "Without it every weight begins anew.")
        workers = self.workers or USUAL_WORKERS
        if not 0 <= self.least_workers <= workers:
            raise UsageError(f"--least-workers {self.least_workers}", "is not from 0 to --workers")
        if self.launch == "processes":
            return run_here(workers)
        if self.launch == "ray":
            become_ray_job(workers, self.gpus, self.least_workers)
        os.environ.setdefault(*KERNELS_KEPT)
        import torch

        from trainer.config import check_begun
        from trainer.run.fit import fit, fit_tars
        from trainer.state.beginning import check_alike

        torch.set_num_threads(self.threads)
        out, config = self._checked_out(), self.config()
        if self.tars and (idle := [name for name in _OF_A_PLAN if getattr(config, name)]):
            raise UsageError(f"{idle[0]} of the settings", "has no effect on --tars", "Leave it out.")
        if not (out / "config.json").exists():
            check_begun(config)
            if self.init:  # a run that is begun has its weights
                check_alike(config, self.init)
        try:
            if self.tars:
                fit_tars(self._tar_urls(), config, out, self.new_data)
            else:
                fit(Dataset(self.data), self.view, config, out, self._cache(), self.new_data)
        except Interrupted as stopped:
            return stopped.code
        print(out)
        return cli.DONE

    def _tell_needs(self) -> int:
        """What `--dry-run` prints.

        Raises:
            UsageError: it does not fit.
        """
        from trainer.reports.memory import GIB, check_fits, kept_within

        config = self.config()
        if config.is_checkpointed and config.checkpoint_keeps == "auto":
            config = replace(
                config,
                checkpoint_keeps=kept_within(config, self.devices, self.gpu_gib * GIB),  # type: ignore[arg-type]
            )
        found = check_fits(config, self.devices, self.gpu_gib * GIB)
        rows = [[name, f"{value / GIB:.1f} GiB"] for name, value in found.parts.items()]
        rows += [
            ["in all", f"{found.total / GIB:.1f} GiB of {self.gpu_gib:g}"],
            ["blocks recomputed", f"keeping {config.checkpoint_keeps}" if config.is_checkpointed else "no"],
            ["parameters", f"{found.parameters / 1e6:.1f} M"],
            ["steps", f"{config.steps:,} of {config.packs_per_step} x {config.tokens:,} tokens"],
            ["tokens", f"{config.steps * config.packs_per_step * config.tokens / 1e9:.1f} G"],
            [
                "hours",
                f"{found.pflops * 1e3 / self.tflops / self.devices / 3600:,.0f} at {self.tflops:g} TFLOP/s",
            ],
        ]
        cli.print_table(f"{self.preset} on {self.devices} device(s)", ["", ""], rows)
        return cli.DONE

    def base(self) -> FitConfig:
        """The settings of the run that `out` holds, so that it goes on when a default has changed; else the
        preset's.
        """
        is_new = self.dry_run and not self.data and not self.tars
        saved = Path() if is_new else self._checked_out() / "config.json"
        if saved.is_file():
            found = load_config(saved)
            if found.preset == self.preset:
                return found
        if self.init:
            from trainer.state.beginning import sizes_of

            return sizes_of(self.init, super().base())
        return super().base()

    def _checked_out(self) -> Path:
        """The run folder.

        Raises:
            UsageError: it is not given where it must be, or there is nothing to train on, or two things.
        """
        if bool(self.tars) == bool(self.data):
            raise UsageError(
                "--data, --tars", "give one of the two", "--data for a dataset, --tars for plain tars."
            )
        if self.out is None and ("://" in self.data or not self.data):
            raise UsageError("--out", "is needed where no local dataset is read", "Give a local run folder.")
        if self.out:
            cli.check_lasting(str(self.out))
        return self.out or Path(parted(self.data)[0]) / "training" / self.preset

    def _tar_urls(self) -> list[str]:
        from glob import glob

        from braceexpand import braceexpand

        names = [name for pattern in self.tars for name in braceexpand(pattern)]
        return [url for name in names for url in sorted(glob(name)) or [name]]

    def _cache(self) -> RangeCache | None:
        """This process's part of the cache on the local disk."""
        if self.cache is None:
            return None
        from manifests.store.reading import RangeCache

        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return RangeCache(self.cache, round(self.cache_gb * 1e9 / processes))
