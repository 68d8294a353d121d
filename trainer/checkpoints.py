"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all.

`checkpoints/step-00000123/`: model, ema and optimizer tensors, and state.json with the step and what the run was reading. All randomness is a
function of the step, so this is all there is to resume exactly.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from manifests.errors import UsageError


@dataclass(frozen=True)
class TrainState:
    """Where a run stands: `step` steps are done; `digest` names the data and the plan."""

    step: int
    digest: str


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    found = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            found[f"{index}.{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return found


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    saved = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})


def save_checkpoint(folder: Path, model: nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer, state: TrainState, keep: int) -> Path:
    """Write a checkpoint under `folder` and remove all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{state.step:08d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for name, tensors in (("model", model.state_dict()), ("ema", ema), ("optimizer", _optimizer_tensors(optimizer))):
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary / f"{name}.safetensors")
    (temporary / "state.json").write_text(json.dumps({"step": state.step, "digest": state.digest}))
    for path in temporary.iterdir():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").exists())


def load_checkpoint(path: Path, model: nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer, digest: str) -> TrainState:
    """Restore everything in place.

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
    model.load_state_dict(load_file(path / "model.safetensors"))
    for key, value in load_file(path / "ema.safetensors").items():
        ema[key].copy_(value)
    _load_optimizer(optimizer, load_file(path / "optimizer.safetensors"))
    return TrainState(stored["step"], stored["digest"])
