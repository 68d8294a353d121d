"""Checkpoints by torch's distributed checkpoint into safetensors: each process writes its own shards, and any number of processes reads them.

A checkpoint is a folder `step-<n>` that appears by a rename when all of it is written. It holds no pickle: torch's own format keeps its index in one, its safetensors
format does not.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from manifests.errors import UsageError
from trainer.parallel import Ranks

_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


@dataclass(frozen=True)
class TrainState:
    """Where a run stands: `step` steps are done; `digest` names the data and the plan; `recent` losses, for the guard against spikes."""

    step: int
    digest: str
    recent: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds: the weights, their average, the optimizer."""

    model: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer

    def tensors(self) -> dict[str, Tensor]:
        """Everything as (sharded) tensors by name; an optimizer that has not stepped yet is given its first state."""
        optimizer: dict[str, Any] = get_optimizer_state_dict(self.model, self.optimizer, options=_FLAT)
        found: dict[str, Any] = {f"model.{name}": value for name, value in get_model_state_dict(self.model).items()}
        found |= {f"ema.{name}": value for name, value in get_model_state_dict(self.ema).items()}
        return found | {f"optimizer.{name}": value for name, value in optimizer.items() if isinstance(value, Tensor)}

    def take(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave and a checkpoint filled."""

        def part(name: str) -> dict[str, Any]:
            return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}

        set_model_state_dict(self.model, part("model"))
        set_model_state_dict(self.ema, part("ema"))
        state: dict[str, Any] = get_optimizer_state_dict(self.model, self.optimizer, options=_FLAT)
        state.update(part("optimizer"))
        set_optimizer_state_dict(self.model, self.optimizer, state, options=_FLAT)


def save_checkpoint(folder: Path, trained: Trained, state: TrainState, keep: int, ranks: Ranks) -> Path:
    """Write a checkpoint under `folder` and remove all but the newest `keep`. Every process must call."""
    final = folder / f"step-{state.step:08d}"
    temporary = folder / f".{final.name}.tmp"
    if ranks.is_first:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    ranks.wait()
    tensors = {name: value.detach() for name, value in trained.tensors().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that one process is one process
        dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(temporary), save_distributed=True), no_dist=ranks.size == 1)
    ranks.wait()
    if ranks.is_first:
        (temporary / "state.json").write_text(json.dumps({"step": state.step, "digest": state.digest, "recent": state.recent}))
        for path in temporary.iterdir():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    ranks.wait()
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").exists())


def load_checkpoint(path: Path, trained: Trained, digest: str, ranks: Ranks) -> TrainState:
    """Restore everything in place, whatever the number of processes that wrote it. Every process must call.

    Raises:
        UsageError: the checkpoint was made from other data or another plan.
    """
    stored = json.loads((path / "state.json").read_text())
    if stored["digest"] != digest:
        raise UsageError(
            str(path),
            f"was trained on data and plan {stored['digest']}, this run reads {digest}",
            "Give another --out, or the same data and settings.",
        )
    tensors = trained.tensors()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=ranks.size == 1)
    trained.take(tensors)
    return TrainState(stored["step"], stored["digest"], stored["recent"])
