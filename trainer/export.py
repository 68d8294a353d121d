"""The exported model: averaged weights in safetensors and all that sampling needs to know, in JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from manifests.errors import UsageError
from trainer.catalog import Catalog
from trainer.config import FitConfig, FlowConfig, ModelConfig
from trainer.dit import DiT
from trainer.patches import FACTORS

FORMAT = "rushes-dit/1"


def save_model(folder: Path, weights: dict[str, Tensor], config: FitConfig, catalog: Catalog, made_by: dict) -> None:
    """Write the model for sampling, with its latent statistics and shift rule; `made_by` names the columns, the text encoder and the VAE."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    record = {
        "format": FORMAT,
        "model": asdict(config.model),
        "flow": asdict(config.flow),
        "factors": list(catalog.factors),
        "latent_mean": catalog.mean,
        "latent_std": catalog.std,
        **made_by,
    }
    (folder / "model.json").write_text(json.dumps(record, indent=2) + "\n")


class TrainedModel:
    """A model ready to sample with."""

    def __init__(self, dit: DiT, flow: FlowConfig, mean: Tensor, std: Tensor, record: dict) -> None:
        self.dit, self.flow, self.mean, self.std, self.record = dit, flow, mean, std, record
        self.factors: tuple[int, int, int] = tuple(record.get("factors", FACTORS))  # type: ignore[assignment]


def load_model(run: Path) -> TrainedModel:
    """The exported model of a run folder, or of a model folder itself.

    Raises:
        UsageError: there is none.
    """
    folder = run / "model" if (run / "model" / "model.json").exists() else run
    if not (folder / "model.json").exists():
        raise UsageError(str(run), "holds no exported model", "Train one with `python -m trainer fit`.")
    record = json.loads((folder / "model.json").read_text())
    if record.get("format") != FORMAT:
        raise UsageError(str(folder), f"has format {record.get('format')}, this sampler knows {FORMAT}")
    dit = DiT(ModelConfig(**record["model"] | {"patch": tuple(record["model"]["patch"])}))
    dit.load_state_dict(load_file(folder / "model.safetensors"))
    dit.eval().requires_grad_(False)
    mean, std = torch.tensor(record["latent_mean"]), torch.tensor(record["latent_std"]).clamp_min(1e-4)
    return TrainedModel(dit, FlowConfig(**record["flow"]), mean, std, record)
