"""A trained model as it is read for sampling; `trainer.state.export` writes it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from learning.weights import fill, read_weights
from manifests.errors import UsageError
from manifests.store.json_files import read_local_object
from trainer.config import FlowConfig, ModelConfig
from trainer.data.patches import FACTORS
from trainer.model.dit import DiT

FORMAT = "rushes-dit/1"
RECORD = "model.json"


class TrainedModel:
    """A model ready to sample with."""

    def __init__(self, dit: DiT, flow: FlowConfig, mean: Tensor, std: Tensor, record: dict) -> None:
        self.dit, self.flow, self.mean, self.std, self.record = dit, flow, mean, std, record
        self.factors: tuple[int, int, int] = tuple(record.get("factors", FACTORS))  # type: ignore[assignment]


def load_model(run: Path, device: str = "cpu") -> TrainedModel:
    """The exported model of a run folder, or of a model folder itself.

    Raises:
        UsageError: there is none.
    """
    folder = run / "model" if (run / "model" / "model.safetensors").exists() else run
    if not (folder / "model.safetensors").exists() or not (folder / RECORD).exists():
        raise UsageError(
            str(run),
            "holds no exported model",
            "Train one with `rushes fit`; `rushes export-model` makes one of a checkpoint.",
        )
    record = read_local_object(
        folder / RECORD, keys=("format", "model", "flow", "latent_mean", "latent_std", "text_encoder", "vae")
    )
    if record.get("format") != FORMAT:
        raise UsageError(str(folder), f"has format {record.get('format')}, this sampler knows {FORMAT}")
    dit = DiT(ModelConfig(**record["model"] | {"patch": tuple(record["model"]["patch"])}))
    fill(dit, read_weights(folder / "model.safetensors"), folder / "model.safetensors")
    dit.to(device).eval().requires_grad_(False)
    mean, std = torch.tensor(record["latent_mean"]), torch.tensor(record["latent_std"]).clamp_min(1e-4)
    return TrainedModel(dit, FlowConfig(**record["flow"]), mean, std, record)
