"""A captioner's weights on disk: a safetensors file in its folder for each stage (base, short and dense)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captioner.coca.folder import CaptionerFolder, update_record
from captioner.coca.model import VideoCoCa
from learning.weights import fill, read_weights, write_weights
from manifests.errors import UsageError


def save_stage(folder: CaptionerFolder, stage: str, state: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write a stage's weights in half precision, then say in `config.json` how they came about."""
    halves = {name: value.detach().cpu().to(torch.float16) for name, value in state.items()}
    write_weights(halves, folder.path / f"{stage}.safetensors")
    update_record(folder.path, stage, record)


def load_stage(folder: CaptionerFolder, stage: str) -> VideoCoCa:
    """A stage's model, in float32 and evaluation mode.

    Raises:
        UsageError: the stage has not been trained.
    """
    weights = folder.path / f"{stage}.safetensors"
    if not weights.exists():
        raise UsageError(
            str(folder.path),
            f"has no stage {stage}",
            f"Train it with `rushes train-captioner {folder.path} --stage {stage}`.",
        )
    model = VideoCoCa(folder.config)
    fill(model, {name: value.float() for name, value in read_weights(weights).items()}, weights)
    return model.eval().requires_grad_(False)
